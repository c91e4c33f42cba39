"""Plan the way from the Hugging Face to the consolidated layout: pure functions on headers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmfmt.configs import CONFIG, PARAMS
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
from mmfmt.convert.shards import index_file, index_text, json_text, plan_shards
from mmfmt.convert.tensors import Layout, Transfer
from mmfmt.errors import MmfmtError
from mmfmt.model import Model, check_model, hf_model
from mmfmt.naming import native
from mmfmt.quantization import quantization_section
from mmfmt.reader import METADATA_KEY, Reader
from mmfmt.repo import HF_STEM, NATIVE_STEM, Repo
from mmfmt.schemas import validate
from mmfmt.storage import Storage
from mmfmt.tokenizer import special_ids

# read by mistral-common or vLLM's native path beside the weights, where present
COMPANIONS = ("SYSTEM_PROMPT.txt",)


@dataclass(frozen=True)
class Request:
    """What to convert: `max_shard_bytes` None keeps the source's sharding."""

    source: Repo
    target: Storage
    reader: Reader
    tokenizer_from: Repo | None = None
    max_shard_bytes: int | None = None
    repack: bool = False

    @property
    def repos(self) -> list[Repo]:
        """Where companion files are looked for, in this order."""
        return [self.source, *([self.tokenizer_from] if self.tokenizer_from else [])]


def plan_consolidated(request: Request) -> Plan:
    """The plan of a HF to consolidated conversion; MmfmtError where it cannot be exact."""
    model = hf_model(request.source)
    check_model(model)
    transfer = _transfer(request, model)
    transfer.check()
    params = native_params(model, _special_ids(_tokenizer(request)))
    metadata = (("format", "pt"), (METADATA_KEY, request.reader.label))
    shards = plan_shards(NATIVE_STEM, transfer.groups(), metadata, request.max_shard_bytes)
    plan = Plan(
        source=request.source.storage.address,
        target=request.target.label,
        sources=source_files(model.weights),
        shards=shards,
        texts=(
            *_index_of_source(request, model),
            *index_text(NATIVE_STEM, shards),
            (PARAMS, json_text(params)),
        ),
        copies=companions(request.target, _companions(request)),
        dropped=transfer.dropped,
        warnings=(*_warnings(model), *transfer.warnings),
    )
    return replace(plan, replaces=replaced(plan, request.target, NATIVE_STEM))


def _index_of_source(request: Request, model: Model) -> Iterator[tuple[str, str]]:
    """The index that the HF set lacks and needs beside the new set."""
    weights = model.weights
    if weights.index is None and same_place(request.target, request.source.storage):
        headers = weights.headers.items()
        weight_map = {name: shard for shard, header in headers for name in header.tensors}
        yield index_file(HF_STEM, weight_map, sum(e.nbytes for e in weights.tensors.values()))


def _transfer(request: Request, model: Model) -> Transfer:
    source = model.checkpoint.naming
    target = Layout(native(source.family), request.reader)
    return Transfer(model, Layout(source), target, request.repack)


def native_params(model: Model, ids: Mapping[str, int]) -> dict[str, Any]:
    """The whole params.json: fields, image ids, largest image and quantization."""
    params = dict(model.params)
    if "vision_encoder" in params:
        largest = _max_image_size(model.repo)
        sizes = {} if largest is None else {"max_image_size": largest}
        params["vision_encoder"] = {**params["vision_encoder"], **_image_ids(model, ids), **sizes}
    if model.quantization:
        key, body = quantization_section(model.quantization, model.checkpoint, "native")
        params[key] = body
    validate(params, "params", PARAMS)
    return params


def _special_ids(repo: Repo) -> Mapping[str, int]:
    assert repo.tokenizer
    return special_ids(repo.tokenizer)


def _image_ids(model: Model, ids: Mapping[str, int]) -> Mapping[str, int]:
    said = model.params["vision_encoder"]["image_token_id"]
    if ids.get("image_token_id") != said:
        found = ids.get("image_token_id", "no [IMG] token")
        problem = f"{said}, but the tokenizer has {found}"
        raise MmfmtError(f"{CONFIG}: image_token_index", problem, "use the model's own tokenizer")
    return ids


def _max_image_size(repo: Repo) -> int | None:
    """The longest image edge of the HF image processor, in pixels."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if repo.has(name):
            body = repo.json(name)
            size = _object(_object(body, "image_processor") or body, "size")
            if isinstance(size.get("longest_edge"), int):
                return int(size["longest_edge"])
    return None


def _object(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def _warnings(model: Model) -> Iterator[str]:
    eps = model.params["norm_eps"]
    if model.symbols.get("vision_encoder.add_pre_mm_projector_layer_norm") and eps != 1e-5:
        yield (
            f"{CONFIG}: rms_norm_eps is {eps}; vLLM's native loader takes 1e-5 for the norm "
            "before the projector"
        )


def _tokenizer(request: Request) -> Repo:
    for repo in request.repos:
        if repo.tokenizer_name:
            return repo
    places = " and ".join(repo.storage.label for repo in request.repos)
    fix = "give the base model's repo with --tokenizer-from"
    raise MmfmtError(places, "no tekken.json (or tokenizer.model.v*), which readers need", fix)


def _companions(request: Request) -> Iterator[Companion]:
    """Companion files by name, the source's own before those of the tokenizer's repo."""
    yield from tokenizer_of(_tokenizer(request))
    found = [(name, repo) for repo in request.repos for name in COMPANIONS if repo.has(name)]
    yield from ((repo, name) for name, repo in dict(reversed(found)).items())
    yield from documents(request.target, request.source)
