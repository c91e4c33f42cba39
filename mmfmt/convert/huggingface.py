"""Plan the way from the consolidated to the Hugging Face layout: pure functions on headers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmfmt.configs import CONFIG, to_config
from mmfmt.convert.files import (
    Companion,
    companions,
    documents,
    replaced,
    same_place,
    source_files,
    tokenizer_of,
)
from mmfmt.convert.plan import Plan
from mmfmt.convert.shards import index_text, json_text, plan_shards
from mmfmt.convert.source import source_reader
from mmfmt.convert.tensors import Layout, Transfer
from mmfmt.convert.tokenizer_files import (
    generation_config,
    image_section,
    processor_files,
    tokenizer_files,
)
from mmfmt.errors import MmfmtError
from mmfmt.layout import Family
from mmfmt.model import Model, check_model, native_model, usual_dtype
from mmfmt.naming import Naming, naming
from mmfmt.quantization import quantization_section
from mmfmt.repo import HF_STEM, Repo
from mmfmt.schemas import validate
from mmfmt.storage import Storage
from mmfmt.tokenizer import control_ids

# what transformers and vLLM read beside weights and config, taken over where present
COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    *("chat_template.json", "generation_config.json", "SYSTEM_PROMPT.txt"),
)


@dataclass(frozen=True)
class Request:
    """What to convert.

    `names` is the HF prefix generation of multimodal models; `reader` says whose row order the
    packed tensors have where the shards do not record it; `max_shard_bytes` None keeps the
    source's sharding.
    """

    source: Repo
    target: Storage
    names: str = "new"
    reader: str | None = None
    max_shard_bytes: int | None = None
    repack: bool = False


def plan_huggingface(request: Request) -> Plan:
    """The plan of a consolidated to HF conversion; MmfmtError where it cannot be exact."""
    model = native_model(request.source)
    check_model(model)
    transfer = _transfer(request, model)
    transfer.check()
    tokenizer = _tokenizer(request.source)
    config = hf_config(model, tokenizer)
    files, warnings = _made_files(model, tokenizer)
    metadata = (("format", "pt"),)
    shards = plan_shards(HF_STEM, transfer.groups(), metadata, request.max_shard_bytes)
    index = index_text(HF_STEM, shards, same_place(request.target, request.source.storage))
    plan = Plan(
        source=request.source.storage.address,
        target=request.target.label,
        sources=source_files(model.weights),
        shards=shards,
        texts=(*index, *files.items(), (CONFIG, json_text(config))),
        copies=companions(request.target, _companions(request)),
        dropped=transfer.dropped,
        warnings=(*transfer.warnings, *warnings),
    )
    return replace(plan, replaces=replaced(plan, request.target, HF_STEM))


def hf_config(model: Model, tokenizer: Path) -> dict[str, Any]:
    """The whole config.json, quantization included."""
    config = to_config(model.params, usual_dtype(model), control_ids(tokenizer))
    if model.quantization:
        key, body = quantization_section(model.quantization, model.checkpoint, "hf")
        config[key] = body
    validate(config, "config", CONFIG)
    return config


def _transfer(request: Request, model: Model) -> Transfer:
    source = Layout(model.checkpoint.naming, source_reader(model, request.reader, "--reader"))
    target = Layout(hf_naming(source.naming.family, request.names))
    return Transfer(model, source, target, request.repack)


def hf_naming(family: Family, names: str) -> Naming:
    """The HF naming of a multimodal family in the generation asked for, else in its first."""
    if not family.generations:
        problem = f"no Hugging Face layout is known for models of the {family.label} family"
        raise MmfmtError("consolidated", problem)
    known = family.multimodal and names in family.generations
    return naming(family, "hf", names if known else family.generations[0])


def _tokenizer(repo: Repo) -> Path:
    if not repo.tokenizer:
        problem = "holds no tekken.json (or tokenizer.model.v*)"
        raise MmfmtError(repo.storage.label, problem, "add the model's own")
    return repo.tokenizer


def _made_files(model: Model, tokenizer: Path) -> tuple[dict[str, str], list[str]]:
    """Files made from the tokenizer and params.json, those only that the repo has not got."""
    repo = model.repo
    texts, warnings = ({}, []) if repo.has("tokenizer.json") else tokenizer_files(tokenizer)
    texts |= processor_files(model.params, image_section(tokenizer)) | generation_config(tokenizer)
    return {name: text for name, text in texts.items() if not repo.has(name)}, warnings


def _companions(request: Request) -> Iterator[Companion]:
    source = request.source
    yield from tokenizer_of(source)
    yield from ((source, name) for name in COMPANIONS if source.has(name))
    yield from documents(request.target, source)
