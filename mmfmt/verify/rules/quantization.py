"""4xx: quantized tensors, and the schemes that the configs give them."""

from collections.abc import Iterator

from mmfmt.checkpoint import LINEAR_KINDS, Module
from mmfmt.configs import CONFIG
from mmfmt.entries import by_name
from mmfmt.ignore import IgnoreReader, fused_groups, mixed_groups, readers_of
from mmfmt.model import Model, kv_cache_faults
from mmfmt.quantization import (
    CT,
    G_IDX,
    columns_cut,
    foreign_suffixes,
    heads_cut,
    module_faults,
    packing_of,
    rows_cut,
)
from mmfmt.quantization.scheme import PADDED
from mmfmt.quantization.targets import CLASS
from mmfmt.schemas import table
from mmfmt.verify.findings import Problem, rule, some
from mmfmt.verify.modules import problems, quantized_modules, schemed_modules, shard_of
from mmfmt.verify.sections import compressed_section, misplaced_section
from mmfmt.verify.subject import Subject

_CACHE_SCALES = {"k_scale", "v_scale"}

Found = Iterator[tuple[str, str, str]]
"""(shard, location, message)"""


@rule("MMF401")
def quantized_parameters(subject: Subject) -> Iterator[Problem]:
    """A quantized module has exactly the parameters of its scheme, of the right dtype and shape.

    For pack-quantized: weight_packed I32 [out, ceil(in * bits / 32)], weight_scale
    [out, in / group_size], weight_shape [2], and weight_zero_point I32
    [ceil(out * bits / 32), in / group_size] if and only if the scheme is asymmetric. vLLM does
    not notice a missing one: it computes with uninitialised memory. Bits and group sizes that
    differ from the config's (auto-round#2174) end in a failed assertion, or in garbage.

    Repair: export again, or write into the config what the tensors are.
    """
    for model in subject.models:
        fix = f"export again, or mend the scheme in {model.config_file}"
        yield from problems(_parameter_faults(model), fix)


def _parameter_faults(model: Model) -> Found:
    for module, scheme in schemed_modules(model):
        if not foreign_suffixes(module, scheme, model.native):
            for suffix, fault in module_faults(module, scheme, model.symbols):
                if suffix != G_IDX:
                    place = f"{module.name}.{suffix}"
                    yield shard_of(module), place, f"{suffix} {fault}: {scheme.label}"


@rule("MMF402")
def quantization_config_differs_from_tensors(subject: Subject) -> Iterator[Problem]:
    """Quantized tensors come with a config group that targets them, and the other way round.

    A repo whose config lacks the section is loaded as if it were not quantized (vllm#16128,
    #16803, llm-compressor#2842).

    Repair: write quantization_config (config.json) or quantization (params.json).
    """
    for model in subject.models:
        for message, fix in _undeclared(model):
            yield Problem(model.config_file, model.quantization_key, message, fix)


def _undeclared(model: Model) -> Iterator[tuple[str, str]]:
    quantized = quantized_modules(model)
    if not model.quantization:
        if quantized and not misplaced_section(model):
            yield f"is missing, though {len(quantized)} modules are quantized", "add the section"
        return
    if not quantized and model.quantization.schemes:
        yield "is there, but no tensor is quantized", "remove it"
    if bare := [module for module in quantized if _untargeted(model, module)]:
        more = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        yield f"no config group targets {bare[0].name}{more}, though quantized", "add the group"


def _untargeted(model: Model, module: Module) -> bool:
    """Whether no config group means a module; the class Linear means no embeddings."""
    if module.row.kind in LINEAR_KINDS:
        return not model.scheme(module)
    section = model.quantization
    if module.row.kind != "embedding" or not section or section.method != CT:
        return False
    meant = by_name([target for scheme in section.schemes for target in scheme.targets])
    return not any(map(meant, [*section.known_names(module), "Embedding"]))


@rule("MMF403")
def mixed_fused_group(subject: Subject) -> Iterator[Problem]:
    """q, k and v (and gate and up) are quantized alike, or not at all.

    vLLM makes one layer of them and stops with "Found different quantization schemes for the
    shards" (vllm#47507, #31623).

    Repair: quantize all of a group with one scheme, or none.
    """
    for model in subject.models:
        for group in (*mixed_groups(model.checkpoint), *_unlike_groups(model)):
            said = ", ".join(f"{m.name.rpartition('.')[2]}: {_how(model, m)}" for m in group)
            message = f"loaders fuse these modules, which are quantized unlike: {said}"
            yield Problem(shard_of(group[0]), group[0].name, message, "quantize them alike")


def _unlike_groups(model: Model) -> Iterator[list[Module]]:
    for group in fused_groups(model.checkpoint).values():
        quantized = all(module.quantized for module in group)
        if quantized and len({model.scheme(module) for module in group}) > 1:
            yield group


def _how(model: Model, module: Module) -> str:
    scheme = model.scheme(module) if module.quantized else None
    return scheme.label if scheme else "unquantized"


@rule("MMF405")
def quantized_unquantizable(subject: Subject) -> Iterator[Problem]:
    """Nothing is quantized that its readers build without a quantization config.

    vLLM builds the native vision encoder, adapter and patch merger so: their packed tensors are
    dropped silently and the tower stays uninitialised. From the HF layout it takes a quantized
    tower, but no quantized patch merger, norm or, under the target Linear, output head
    (auto-round#1312).

    Repair: leave the module unquantized; a quantized vision model can be published in the HF
    layout only.
    """
    for model in subject.models:
        yield from problems(_unquantizable(model), "leave it unquantized")


def _unquantizable(model: Model) -> Found:
    readers = readers_of(CONFIG, model.checkpoint.naming.family)
    engines = [reader for reader in readers if reader.label == "vllm-hf"]
    for module in quantized_modules(model):
        why = module.row.unquantized if model.native else ""
        if not model.native and not all(_takes(model, each, module) for each in engines):
            why = "vLLM builds it unquantized"
        if why:
            yield shard_of(module), module.name, f"is quantized, but {why}"


def _takes(model: Model, reader: IgnoreReader, module: Module) -> bool:
    """Whether vLLM's HF loader has a quantized form of a module."""
    if module.row.kind in ("embedding", "attention"):
        return True
    if module.row.kind == "head":
        scheme, method = model.scheme(module), model.quantization and model.quantization.method
        return method != CT or not scheme or CLASS not in scheme.targets
    return reader.asks(module)


@rule("MMF421")
def kv_cache_scheme_differs(subject: Subject) -> Iterator[Problem]:
    """A calibrated kv_cache_scheme comes with k_scale and v_scale in every layer, and these with
    the scheme; it is one that vLLM has: symmetric float of 8 bits, by tensor or by head.

    vLLM takes 1 for a scale that is missing and never reads one that no scheme asks for; at
    other schemes it stops ("Currently supported kv cache quantization is num_bits=8, type=float").

    Repair: calibrate again, or remove scales and scheme together.
    """
    for model in subject.models:
        place = f"{model.quantization_key}.kv_cache_scheme"
        for fault in _cache_faults(model):
            yield Problem(model.config_file, place, fault, "calibrate again or remove both")


def _cache_faults(model: Model) -> Iterator[str]:
    section = compressed_section(model)
    if scheme := section.get("kv_cache_scheme"):
        for key, expected in table("compressed_tensors")["kv_cache"].items():
            if scheme.get(key) not in expected:
                known = " or ".join(map(repr, expected))
                yield f"{key} is {scheme.get(key)!r}, expected {known}"
        if missing := [place for place, _ in kv_cache_faults(model)]:
            yield f"asks for {some(missing)}, missing from the weight files"
    elif section:
        modules = model.checkpoint.modules.values()
        attention = (module for module in modules if module.row.kind == "attention")
        if held := [module for module in attention if _CACHE_SCALES & module.parameters.keys()]:
            yield f"is missing, though {some([m.name for m in held])} holds scales of the cache"


@rule("MMF422")
def parameters_of_another_format(subject: Subject) -> Iterator[Problem]:
    """The names of a module's scales are those of its format, in this layout.

    Mistral's FP8 has qscale_weight and qscale_act in a consolidated set, weight_scale_inv and
    activation_scale in the HF layout, and compressed-tensors weight_scale and input_scale:
    readers drop names that they do not know (vllm#39293, #38818). ModelOpt's weight_scale_2 is
    a multiplier, where weight_global_scale of compressed-tensors divides (imp#1433).

    Repair: export or convert again; renaming alone may invert values.
    """
    for model in subject.models:
        yield from problems(_foreign(model), "convert from the layout that is right")


def _foreign(model: Model) -> Found:
    for module, scheme in schemed_modules(model):
        for suffix in foreign_suffixes(module, scheme, model.native):
            parameter = module.parameters[suffix]
            message = f"{suffix} is no parameter of {scheme.format} in this layout"
            yield parameter.shard, parameter.name, message


@rule("MMF423", level="warning")
def old_packing(subject: Subject) -> Iterator[Problem]:
    """Values of 3, 5, 6 and 7 bits are packed across words.

    compressed-tensors before 0.18 left the ends of words empty; later ones, and vLLM, read the
    words as if they were full. Repos in the old packing load in old versions only.

    Repair: mmfmt convert with --repack.
    """
    for model in subject.models:
        yield from problems(_padded(model), "mmfmt convert ... --repack writes today's packing")


def _padded(model: Model) -> Found:
    for module, scheme in schemed_modules(model):
        if packing_of(module, scheme, model.symbols) == PADDED:
            parameter = module.parameters["weight_packed"]
            message = "is packed as by compressed-tensors <= 0.17, which today's readers misread"
            yield parameter.shard, parameter.name, message


@rule("MMF424")
def activation_order_tensors(subject: Subject) -> Iterator[Problem]:
    """There is no weight_g_idx.

    compressed-tensors wrote it for the activation order `group`, which it and vLLM have given
    up: their modules have no such parameter, and loading stops or columns are taken in the
    wrong order (vllm#35303, #48148).

    Repair: quantize again with actorder static or none. An index that names the groups in
    order may simply be removed.
    """
    for model in subject.models:
        yield from problems(_ordered(model), "quantize again without activation order `group`")


def _ordered(model: Model) -> Found:
    for module in quantized_modules(model):
        if parameter := module.parameters.get(G_IDX):
            message = "no reader since compressed-tensors 0.19 and vLLM 0.33 knows this parameter"
            yield parameter.shard, parameter.name, message


@rule("MMF425")
def block_cuts_module(subject: Subject) -> Iterator[Problem]:
    """Blocks of FP8 scales end where heads and fused modules end.

    vLLM fuses q, k and v (and gate and up) and refuses the layer when a part of it ends inside
    a block. From a consolidated set it also permutes the rows of wq and wk inside each head,
    but not their blocks: a block over parts of heads then scales the wrong rows.

    Repair: quantize with blocks whose rows divide the sizes, such as 128x128.
    """
    for model in subject.models:
        yield from problems(_rows_cut(model), "quantize with other blocks")


@rule("MMF426", level="warning")
def block_cuts_columns(subject: Subject) -> Iterator[Problem]:
    """Blocks of FP8 scales divide the columns of their module.

    vLLM refuses to split such a module over GPUs, and compressed-tensors warns when it writes
    one.

    Repair: quantize with blocks whose columns divide the sizes, such as 128x128.
    """
    for model in subject.models:
        yield from problems(_columns_cut(model), "quantize with other blocks")


def _rows_cut(model: Model) -> Found:
    for module in _joined(model):
        if scheme := model.scheme(module):
            for fault in rows_cut(module, scheme, model.symbols):
                yield shard_of(module), module.name, f"{fault}, to which vLLM joins others"
    for module, scheme in schemed_modules(model) if model.native else ():
        for fault in heads_cut(module, scheme, model.symbols):
            yield shard_of(module), module.name, f"{fault}, whose rows vLLM moves"


def _joined(model: Model) -> Iterator[Module]:
    """Quantized modules to which loaders join another one's rows."""
    order = {row: number for number, row in enumerate(model.checkpoint.naming.family.rows)}
    for group in fused_groups(model.checkpoint).values():
        *first, _ = sorted(group, key=lambda module: order[module.row])
        yield from (module for module in first if module.quantized)


def _columns_cut(model: Model) -> Found:
    for module, scheme in schemed_modules(model):
        for fault in columns_cut(module, scheme, model.symbols):
            yield shard_of(module), module.name, fault
