"""Serve checkpoints in vLLM and write down what the engine answers and holds.

Run by the vLLM environment's own python, from the folder above this one, with what conftest.py
sets in ENVIRONMENT:
python -m engine.serve --tasks FILE LAYOUT:REPO:OUT.json ...
"""

import argparse
import base64
import gc
import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from . import emulation, reference_kernel

BOS, INST, INST_END = 1, 3, 4
QUADRANT = 56  # pixels
SCORED_TEXTS = 8
ANSWER_TOKENS = 12  # an image answer is four words
Task = dict[str, Any]


def start(repo: str, layout: str) -> LLM:
    """Start an engine that reads one layout of a repository ("auto" lets vLLM choose)."""
    return LLM(
        model=repo,
        config_format=layout,
        load_format=layout,
        tokenizer_mode=layout,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=8,
        limit_mm_per_prompt={"image": 1},
    )


def prompt_ids(llm: LLM, task: Task) -> list[int]:
    """Give the token ids of a text task's question."""
    encoded = llm.get_tokenizer().encode(task["prompt"], add_special_tokens=False)
    return [BOS, INST, *encoded, INST_END]


def answer_ids(llm: LLM, task: Task) -> list[int]:
    """Give the token ids of the right answer."""
    return list(llm.get_tokenizer().encode(task["answer"], add_special_tokens=False))


def count_texts(llm: LLM, tasks: list[Task]) -> int:
    """Count the text tasks whose right answer comes back first."""
    answers = [answer_ids(llm, task) for task in tasks]
    prompts = [{"prompt_token_ids": prompt_ids(llm, task)} for task in tasks]
    settings = [SamplingParams(temperature=0, max_tokens=len(answer)) for answer in answers]
    outputs = llm.generate(prompts, settings, use_tqdm=False)
    given = [list(output.outputs[0].token_ids) for output in outputs]
    return sum(map(list.__eq__, given, answers))


def score_texts(llm: LLM, tasks: list[Task]) -> list[list[float]]:
    """Give the log-probability of every prompt and answer token of some text tasks."""
    texts = [prompt_ids(llm, task) + answer_ids(llm, task) for task in tasks]
    settings = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    prompts = [{"prompt_token_ids": ids} for ids in texts]
    outputs = llm.generate(prompts, settings, use_tqdm=False)
    return [
        [step[token].logprob for token, step in zip(ids[1:], out.prompt_logprobs[1:], strict=True)]
        for ids, out in zip(texts, outputs, strict=True)
    ]


def image_message(task: Task) -> list[dict[str, Any]]:
    """Draw the four quadrants of an image task and ask about them."""
    small = Image.new("RGB", (2, 2))
    small.putdata([tuple(colour) for colour in task["quadrants"]])
    picture = io.BytesIO()
    small.resize((2 * QUADRANT, 2 * QUADRANT), Image.Resampling.NEAREST).save(picture, "PNG")
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": task["prompt"]}]}]


def ask_images(llm: LLM, tasks: list[Task]) -> dict[str, Any]:
    """Ask the image tasks; give the right answers' number and the top 20 of every step."""
    settings = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS, logprobs=20)
    messages = [image_message(task) for task in tasks]
    answers = [out.outputs[0] for out in llm.chat(messages, settings, use_tqdm=False)]
    right = [
        answer.text.strip() == task["answer"].strip()
        for answer, task in zip(answers, tasks, strict=True)
    ]
    tops = [
        [{token: entry.logprob for token, entry in step.items()} for step in answer.logprobs]
        for answer in answers
    ]
    ids = [list(answer.token_ids) for answer in answers]
    return {"image_right": sum(right), "image_ids": ids, "image_logprobs": tops}


def digest(tensor: torch.Tensor) -> str:
    """Hash a tensor's type, shape and bytes."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(head + data.tobytes()).hexdigest()


def look_inside(model: torch.nn.Module) -> dict[str, Any]:
    """Hash the language model's parameters and buffers: both classes give them the same names."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    hashes = {
        name: digest(tensor)
        for name, tensor in tensors.items()
        if name.startswith("language_model.")
    }
    return {
        "model_class": type(model).__name__,
        "parameters": hashes,
        "reference_kernel": reference_kernel.is_used(model) or emulation.is_used(model),
    }


def serve(repo: str, layout: str, tasks: list[Task]) -> dict[str, Any]:
    """Ask one checkpoint everything."""
    texts = [task for task in tasks if task["kind"] == "text"]
    images = [task for task in tasks if task["kind"] == "image"]
    llm = start(repo, layout)
    [inside] = llm.apply_model(look_inside)
    return {
        **inside,
        "text_right": count_texts(llm, texts),
        "text_logprobs": score_texts(llm, texts[:SCORED_TEXTS]),
        **ask_images(llm, images),
    }


def run(job: str, tasks: list[Task]) -> None:
    """Serve one job, write its JSON file and print a line about it."""
    begin = time.monotonic()
    layout, repo, out = job.split(":")
    gc.freeze()  # a starting engine collects garbage again and again: not in what was imported
    result = serve(repo, layout, tasks)
    # Without this the next engine of the process finds the last one's state.
    gc.collect()
    cleanup_dist_env_and_memory()
    result["seconds"] = time.monotonic() - begin
    Path(out).write_text(json.dumps(result))
    right = f"text {result['text_right']}, image {result['image_right']}"
    print(f"{layout} {repo}: {right}, {result['seconds']:.0f} s", flush=True)


def main() -> None:
    """Serve every job in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", metavar="LAYOUT:REPO:OUT")
    parser.add_argument("--tasks", type=Path, required=True)
    arguments = parser.parse_args()
    if reference_kernel.is_missing():
        reference_kernel.install()
    emulation.install()
    tasks = [json.loads(line) for line in arguments.tasks.read_text().splitlines()]
    for job in arguments.jobs:
        run(job, tasks)


if __name__ == "__main__":
    main()
