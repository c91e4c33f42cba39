"""Plan the way from the Hugging Face to the consolidated layout: pure functions on headers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from mmfmt.checkpoint import (
    Checkpoint,
    Module,
    Parameter,
    expected_modules,
    open_checkpoint,
    unknown_tensor,
)
from mmfmt.configs import CONFIG, PARAMS, HfConfig, open_config, to_params
from mmfmt.convert.plan import Copy, PackedRows, Plan, PlannedShard, PlannedTensor, Rows, Segment
from mmfmt.convert.quantization import native_quantization
from mmfmt.errors import MmfmtError
from mmfmt.header import Header
from mmfmt.layout import Symbols, flatten, native
from mmfmt.quantization import Quantization, Scheme, module_faults, parse_quantization
from mmfmt.reader import METADATA_KEY, Reader
from mmfmt.repo import NATIVE_STEM, Repo
from mmfmt.schemas import table, validate
from mmfmt.tokenizer import special_ids

# read by mistral-common or vLLM's native path beside the weights, where present
COMPANIONS = ("SYSTEM_PROMPT.txt",)


@dataclass(frozen=True)
class Request:
    """What to convert: `max_shard_bytes` None keeps the source's sharding."""

    source: Repo
    target: Path
    reader: Reader
    tokenizer_from: Repo | None = None
    max_shard_bytes: int | None = None


@dataclass(frozen=True)
class Model:
    """A HF checkpoint understood: matched tensors, their params, and the quantization."""

    checkpoint: Checkpoint
    config: HfConfig
    params: Mapping[str, Any]
    quantization: Quantization | None

    @cached_property
    def symbols(self) -> Symbols:
        return flatten(self.params)

    def scheme(self, module: Module) -> Scheme | None:
        """The scheme of a module; None where it is not quantized."""
        if not module.quantized:
            return None
        scheme = self.quantization and self.quantization.scheme_of(module)
        if not scheme:
            problem = "is quantized, but no config group of quantization_config targets it"
            raise MmfmtError(f"{CONFIG}: quantization_config", f"{module.name} {problem}")
        return scheme


def read_model(repo: Repo) -> Model:
    """Understand the HF half of a repo, and check every name, dtype and shape.

    Raises MmfmtError for the first thing that is wrong or not supported.
    """
    if not repo.hf.exists:
        raise MmfmtError(str(repo.path), "holds no model*.safetensors", "name a Hugging Face repo")
    config = open_config(repo.json(CONFIG))
    body = config.body.get("quantization_config")
    quantization = parse_quantization(body, f"{CONFIG}: quantization_config")
    checkpoint = open_checkpoint(repo.hf)
    for name in checkpoint.unknown:
        raise unknown_tensor(checkpoint, name)
    model = Model(checkpoint, config, to_params(config, checkpoint.has("output")), quantization)
    for place, fault in model_faults(model):
        raise MmfmtError(place, fault)
    return model


def model_faults(model: Model) -> Iterator[tuple[str, str]]:
    """(place, fault) for modules that are missing, superfluous, or of wrong parameters."""
    expected = set(expected_modules(model.checkpoint.naming, model.symbols))
    for row, slots in sorted(expected - model.checkpoint.modules.keys(), key=repr):
        yield model.checkpoint.naming.module(row, slots), "is missing from the weight files"
    for key, module in model.checkpoint.modules.items():
        if key not in expected:
            yield module.name, f"is not part of the model that {CONFIG} describes"
        elif module.quantized and module.row.unquantized:
            yield module.name, f"is quantized, which cannot be carried: {module.row.unquantized}"
        else:
            for suffix, fault in module_faults(module, model.scheme(module), model.symbols):
                yield f"{module.name}.{suffix}", fault


def plan_consolidated(request: Request) -> Plan:
    """The plan of a HF to consolidated conversion; MmfmtError where it cannot be exact."""
    model = read_model(request.source)
    tokenizer = _tokenizer(request)
    params = native_params(model, request.source, special_ids(tokenizer))
    tensors = {s: _shard_tensors(model, request.reader, s) for s in request.source.hf.shards}
    shards = tuple(_shards(request, tensors))
    plan = Plan(
        source=str(request.source.path),
        target=str(request.target),
        shards=shards,
        texts=tuple(_texts(shards, params)),
        copies=tuple(_companions(request, tokenizer)),
        warnings=tuple(_warnings(model)),
    )
    return replace(plan, replaces=_replaced(plan))


def _replaced(plan: Plan) -> tuple[str, ...]:
    """Files of an older consolidated set, and any other that the plan would overwrite."""
    target = Repo(Path(plan.target))
    names = {*target.native.on_disk, target.native.index_path.name, *plan.files}
    return tuple(sorted(name for name in names if (target.path / name).exists()))


def native_params(model: Model, repo: Repo, ids: Mapping[str, int]) -> dict[str, Any]:
    """The whole params.json: fields, image ids, largest image and quantization."""
    params = dict(model.params)
    if "vision_encoder" in params:
        largest = _max_image_size(repo)
        sizes = {} if largest is None else {"max_image_size": largest}
        params["vision_encoder"] = {**params["vision_encoder"], **_image_ids(model, ids), **sizes}
    if model.quantization:
        multimodal = model.config.multimodal
        body = native_quantization(model.quantization, model.checkpoint, multimodal)
        params["quantization"] = body
    validate(params, "params", PARAMS)
    return params


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


def _shard_tensors(model: Model, reader: Reader, shard: str) -> list[PlannedTensor]:
    header = model.checkpoint.weights.headers[shard]
    source = str(model.checkpoint.weights.path(shard))
    return [
        _tensor(model, reader, parameter, source, header)
        for parameter in model.checkpoint.shard(shard)
    ]


def _tensor(
    model: Model, reader: Reader, parameter: Parameter, source: str, header: Header
) -> PlannedTensor:
    match, entry = parameter.match, parameter.entry
    module = model.checkpoint.modules[match.row, match.slots]
    suffix = reader.suffix(module, parameter)
    copy = Copy(source, header.data_start + entry.start, entry.nbytes)
    moved = reader.wants_native_rows(match.row, suffix)
    return PlannedTensor(
        name=f"{native().module(match.row, match.slots)}.{suffix}",
        source_name=parameter.name,
        dtype=entry.dtype,
        shape=entry.shape,
        segment=_moved(model, module, parameter, copy) if moved else copy,
    )


def _moved(model: Model, module: Module, parameter: Parameter, copy: Copy) -> Segment:
    """The segment that brings a parameter of a rotary module into native row order."""
    action, shape = table("suffixes")[parameter.suffix]["rows"], parameter.entry.shape
    heads, head_dim = module.row.heads(model.symbols)
    if action == "keep" or (action != "gather" and copy.length == parameter.entry.itemsize):
        return copy
    if shape[0] == heads * head_dim:
        row_bytes = copy.length // shape[0]
        return Rows(copy.source, copy.offset, heads, head_dim, row_bytes)
    scheme = model.scheme(module)
    if action == "unpack" and scheme:
        columns = prod(shape[1:])
        return PackedRows(copy.source, copy.offset, heads, head_dim, scheme.bits, columns)
    raise MmfmtError(parameter.name, f"{list(shape)} has no exact image in native row order")


def _shards(request: Request, tensors: Mapping[str, list[PlannedTensor]]) -> Iterator[PlannedShard]:
    groups: list[list[PlannedTensor]] = list(tensors.values())
    if request.max_shard_bytes is not None:
        groups = _packed((t for group in groups for t in group), request.max_shard_bytes)
    metadata = (("format", "pt"), (METADATA_KEY, request.reader.label))
    for number, group in enumerate(groups, start=1):
        part = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        yield PlannedShard(f"{NATIVE_STEM}{part}.safetensors", tuple(group), metadata)


def _packed(tensors: Iterable[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    """Tensors in their order, in groups of at most `limit` bytes (or of one larger tensor)."""
    groups: list[list[PlannedTensor]] = []
    size = 0
    for tensor in tensors:
        if not groups or size + tensor.segment.length > limit:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.segment.length
    return groups


def _texts(
    shards: tuple[PlannedShard, ...], params: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    if len(shards) > 1:
        yield f"{NATIVE_STEM}.safetensors.index.json", _dumps(_index(shards))
    yield PARAMS, _dumps(params)


def _index(shards: tuple[PlannedShard, ...]) -> Mapping[str, Any]:
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(shard.data_bytes for shard in shards)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _dumps(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _tokenizer(request: Request) -> Path:
    for repo in (request.source, request.tokenizer_from):
        if repo and repo.tokenizer:
            return repo.tokenizer
    looked = [request.source, *([request.tokenizer_from] if request.tokenizer_from else [])]
    places = " and ".join(str(repo.path) for repo in looked)
    fix = "give the base model's repo with --tokenizer-from"
    raise MmfmtError(places, "no tekken.json (or tokenizer.model.v*), which readers need", fix)


def _companions(request: Request, tokenizer: Path) -> Iterator[tuple[str, str]]:
    """Companion files that the target does not hold already."""
    repos = [repo for repo in (request.source, request.tokenizer_from) if repo]
    found = [repo.path / name for name in COMPANIONS for repo in repos if repo.has(name)]
    for path in {path.name: path for path in reversed([tokenizer, *found])}.values():
        if path.resolve() != (request.target / path.name).resolve():
            yield path.name, str(path)
