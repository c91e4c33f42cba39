"""4xx: quantized tensors, and what the configs say of them."""

from collections.abc import Iterable, Iterator

from mmfmt.checkpoint import LINEAR_KINDS, Module
from mmfmt.configs import CONFIG, PARAMS
from mmfmt.ignore import IgnoreReader, fused_groups, ignore_reader, mixed_groups
from mmfmt.model import Model
from mmfmt.quantization import CT, module_faults
from mmfmt.reader import METADATA_KEY, reader, reader_labels
from mmfmt.schemas import table
from mmfmt.verify.findings import Problem, rule, some
from mmfmt.verify.subject import Subject


@rule("MMF401")
def quantized_parameters(subject: Subject) -> Iterator[Problem]:
    """A quantized module has exactly the parameters of its scheme, of the right dtype and shape.

    For pack-quantized: weight_packed I32 [out, ceil(in * bits / 32)], weight_scale
    [out, in / group_size], weight_shape [2], and weight_zero_point I32
    [ceil(out * bits / 32), in / group_size] if and only if the scheme is asymmetric. vLLM does
    not notice a missing one: it computes with uninitialised memory.

    Repair: export again; 3, 5, 6 or 7 bits written by compressed-tensors <= 0.17 are padded
    and need repacking.
    """
    for model in subject.models:
        for module in _quantized(model):
            scheme = model.scheme(module)
            if scheme and module.row.kind in LINEAR_KINDS:
                for suffix, fault in module_faults(module, scheme, model.symbols):
                    fix = f"{model.config_file} says {scheme.label}: export again or mend it"
                    yield Problem(_file(module), f"{module.name}.{suffix}", fault, fix)


@rule("MMF402")
def quantization_config_differs_from_tensors(subject: Subject) -> Iterator[Problem]:
    """Quantized tensors come with a config group that targets them, and the other way round.

    A repo whose config lacks the section is loaded as if it were not quantized (vllm#16128,
    llm-compressor#2842).

    Repair: write quantization_config (config.json) or quantization (params.json).
    """
    for model in subject.models:
        quantized = _quantized(model)
        for module in quantized:
            if not model.scheme(module):
                message = f"{module.name} is quantized, but no config group targets it"
                yield Problem(model.config_file, model.quantization_key, message, "add the group")
        if model.quantization and model.quantization.schemes and not quantized:
            message = "is there, but no tensor is quantized"
            yield Problem(model.config_file, model.quantization_key, message, "remove it")


@rule("MMF403")
def mixed_fused_group(subject: Subject) -> Iterator[Problem]:
    """q, k and v (and gate and up) are quantized alike, or not at all.

    vLLM makes one layer of them and stops with "Found different quantization schemes for the
    shards" (vllm#47507, #31623).

    Repair: quantize all of a group with one scheme, or none.
    """
    for model in subject.models:
        mixed = [*mixed_groups(model.checkpoint), *_unlike_groups(model)]
        for group in mixed:
            said = ", ".join(f"{m.name.rpartition('.')[2]}: {_how(model, m)}" for m in group)
            message = f"loaders fuse these modules, which are quantized unlike: {said}"
            yield Problem(_file(group[0]), group[0].name, message, "quantize them alike")


def _unlike_groups(model: Model) -> Iterator[list[Module]]:
    for group in fused_groups(model.checkpoint).values():
        quantized = all(module.quantized for module in group)
        if quantized and len({model.scheme(module) for module in group}) > 1:
            yield group


def _how(model: Model, module: Module) -> str:
    scheme = model.scheme(module) if module.quantized else None
    return scheme.label if scheme else "unquantized"


@rule("MMF404")
def ignore_list_differs_from_tensors(subject: Subject) -> Iterator[Problem]:
    """Each reader's view of the ignore list leaves out just the modules that are not quantized.

    transformers compares entries with new-generation module names (model.vision_tower...),
    vLLM with its own (vision_tower..., language_model.model.layers...), `re:` entries only
    from their start. Names of another generation, native names (layers.0.attention.wq), bare
    prefixes and anchored regexes match nothing, without a warning (vllm#54547, #51910,
    llm-compressor#3159).

    Repair: list new-generation names in config.json; in params.json what
    mmfmt convert hf-to-consolidated writes.
    """
    for model in subject.models:
        # nothing quantized at all is another rule's business
        if model.quantization and model.quantization.method == CT and _quantized(model):
            for label in table("ignore_readers"):
                reads = ignore_reader(label, model.checkpoint.naming.family)
                if reads.file == model.config_file:
                    yield from _ignore_problems(model, reads, model.quantization.ignore)


# the reader whose names are valid for every reader of the file
_SPELLING = {CONFIG: "transformers", PARAMS: "vllm-native"}


def _ignore_problems(
    model: Model, reads: IgnoreReader, entries: tuple[str, ...]
) -> Iterator[Problem]:
    spelling = ignore_reader(_SPELLING[model.config_file], model.checkpoint.naming.family)
    asked = [m for m in model.checkpoint.linears if reads.asks(m) and model.scheme(m)]
    unlike = [m for m in asked if reads.ignores(entries, m) == m.quantized]
    place = f"{model.quantization_key}.ignore"
    for quantized, said, fix in (
        (False, "not ignored, though not quantized", "add"),
        (True, "ignored, though quantized", "remove what means"),
    ):
        found = [module for module in unlike if module.quantized == quantized]
        if found:
            message = f"for {reads.label}, {some([reads.name(m) for m in found])}: {said}"
            repair = f"{fix} {some([spelling.name(m) for m in found])}"
            yield Problem(model.config_file, place, message, repair)


@rule("MMF405")
def quantized_unquantizable(subject: Subject) -> Iterator[Problem]:
    """A consolidated set has no quantized vision model, embeddings or output head.

    vLLM builds the native vision encoder, adapter and patch merger without a quantization
    config: their packed tensors are dropped silently and the tower stays uninitialised.

    Repair: leave the vision model unquantized, or publish the HF layout only.
    """
    for model in subject.models:
        if model.config_file == PARAMS:
            for module in _quantized(model):
                if module.row.unquantized:
                    message = f"is quantized, but {module.row.unquantized}"
                    yield Problem(_file(module), module.name, message, "leave it unquantized")


@rule("MMF406")
def scale_not_permuted_at_load(subject: Subject) -> Iterator[Problem]:
    """In a consolidated set for vLLM, per-channel scales of FP8 or INT8 wq/wk are qscale_weight.

    vLLM permutes the rows of wq/wk `weight` and `qscale_weight` at load, but not those of
    `weight_scale`: scale and rows part, nothing is said, answers are wrong.

    Repair: convert again with --reader vllm.
    """
    model = subject.native
    if model not in subject.models or _recorded_reader(model) != "vllm":
        return
    wanted = reader("vllm")
    for module in _quantized(model):
        for suffix, parameter in module.parameters.items():
            expected = wanted.suffix(module, suffix, parameter.entry.shape)
            if suffix != expected:
                message = f"vLLM leaves its rows as they are; it permutes {expected}"
                yield Problem(parameter.shard, parameter.name, message, "convert again")


@rule("MMF407")
def recorded_reader_unknown(subject: Subject) -> Iterator[Problem]:
    """The shards of a consolidated set were written for one and the same reader.

    mmfmt records in `__metadata__` whose row order the packed Q and K tensors have; shards of
    two conversions mixed in one set hold rows in two orders.

    Repair: convert again.
    """
    headers = subject.native.weights.headers if subject.native in subject.models else {}
    said = {shard: header.metadata.get(METADATA_KEY) for shard, header in headers.items()}
    for shard, label in said.items():
        if label is not None and label not in reader_labels():
            known = " or ".join(reader_labels())
            yield Problem(shard, METADATA_KEY, f"{label!r}, expected {known}", "convert again")
    if len(set(said.values())) > 1:
        shards = ", ".join(f"{shard}: {label}" for shard, label in said.items())
        yield Problem(
            next(iter(said)), METADATA_KEY, f"differs over shards: {shards}", "convert again"
        )


@rule("MMF408", level="warning")
def row_order_not_for_vllm(subject: Subject) -> Iterator[Problem]:
    """A consolidated set whose rows were ordered for another reader is not served by vLLM.

    vLLM leaves the rows of packed wq/wk as they lie in the file. In Mistral's own order they
    load without a word, and answers go from 62 of 64 right to 7.

    Repair: mmfmt convert reorder REPO --reader vllm --force, unless no vLLM is meant to read it.
    """
    model = subject.native
    if model not in subject.models or _recorded_reader(model) in ("vllm", ""):
        return
    recorded, vllm = reader(_recorded_reader(model)), reader("vllm")
    for module in _quantized(model):
        for suffix, parameter in module.parameters.items():
            orders = {r.wants_native_rows(module.row, suffix) for r in (recorded, vllm)}
            if len(orders) > 1 and table("suffixes")[suffix]["rows"] != "keep":
                message = f"its rows are ordered for the reader {recorded.label!r}, not for vLLM"
                yield Problem(
                    parameter.shard, parameter.name, message, "mmfmt convert reorder --reader vllm"
                )
                break


def _recorded_reader(model: Model) -> str:
    # where nothing is recorded, vLLM is what reads consolidated sets
    labels = {h.metadata.get(METADATA_KEY, "vllm") for h in model.weights.headers.values()}
    known = labels <= set(reader_labels())
    return labels.pop() if known and len(labels) == 1 else ""


def _quantized(model: Model) -> list[Module]:
    return [module for module in model.checkpoint.modules.values() if module.quantized]


def _file(module: Module) -> str:
    parameters: Iterable[str] = (p.shard for p in module.parameters.values())
    return next(iter(parameters))
