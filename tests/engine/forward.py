"""Give the log-probabilities of one prompt under each of several repos, in single precision.

Run by the vLLM environment's own python, from the folder above this one, with what conftest.py
sets in ENVIRONMENT:
python -m engine.forward LAYOUT:REPO ...
Reads the token ids in `prompt.json` of each repo, writes `logprobs.json` beside it.
"""

import gc
import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def log_probabilities(layout: str, repo: Path) -> list[float]:
    """The log-probability of every token after the first."""
    llm = LLM(
        model=str(repo),
        config_format=layout,
        load_format=layout,
        tokenizer_mode=layout,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=2,
        limit_mm_per_prompt={"image": 0, "audio": 0},
    )
    ids = json.loads((repo / "prompt.json").read_text())
    settings = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    (output,) = llm.generate({"prompt_token_ids": ids}, settings, use_tqdm=False)
    steps = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    return [step[token].logprob for token, step in steps]


def main() -> None:
    """One engine after another."""
    for job in sys.argv[1:]:
        layout, _, repo = job.partition(":")
        found = log_probabilities(layout, Path(repo))
        (Path(repo) / "logprobs.json").write_text(json.dumps(found))
        # Without this the next engine of the process finds the last one's state.
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
