"""4xx: what a quantization section says, whatever the tensors are."""

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import Version

from mmfmt.configs import CONFIG
from mmfmt.errors import MmfmtError
from mmfmt.model import MODELOPT, Model
from mmfmt.quantization import Quantization, method_of, parse_quantization
from mmfmt.quantization.arguments import Keys, late_keys, removed_orders, unknown_keys
from mmfmt.quantization.section import COMPRESSED, HF_KEY
from mmfmt.schemas import table
from mmfmt.verify.findings import REMOVE, Edit, Problem, explained, rule
from mmfmt.verify.modules import quantized_modules
from mmfmt.verify.rules.quantization import quantized_parameters
from mmfmt.verify.sections import (
    compressed_section,
    misplaced_section,
    moved,
    unreadable_section,
)
from mmfmt.verify.subject import Subject

# what AutoRound writes beside config.json
AUTOROUND = "quantization_config.json"


@rule("MMF409")
def invalid_quantization_section(subject: Subject) -> Iterator[Problem]:
    """A quantization section can be read: its method, format and arguments are known ones.

    transformers and vLLM stop at what they do not know ("Found unknown quantization",
    vllm#34028); where they do not, they take the tensors for something else.

    Repair: mend the place named. A method that mmfmt does not know cannot be verified.
    """
    for model in subject.models:
        if error := unreadable_section(model):
            file, colon, location = error.place.partition(": ")
            known = colon or model.repo.has(file)
            place = (file, location) if known else (model.config_file, file)
            yield Problem(*place, error.problem, error.fix or "mend or remove it")


@rule("MMF410")
def quantization_method_misspelled(subject: Subject) -> Iterator[Problem]:
    """quant_method is spelled as its readers spell it: compressed-tensors, fp8, gptq, awq.

    transformers knows no other spelling, nor did vLLM 0.15 in params.json (vllm#34028, #34104).

    Repair: write the spelling named.
    """
    for model in subject.models:
        if model.quantization:
            yield from _misspelled(model, model.quantization)


def _misspelled(model: Model, quantization: Quantization) -> Iterator[Problem]:
    said, method = quantization.body.get("quant_method", ""), quantization.method
    if method_of({"quant_method": said}) == method != said:
        keys = (model.quantization_key, "quant_method")
        message = f"{said!r}, expected {method!r}"
        edits = (Edit(model.config_file, keys, method),)
        yield Problem(model.config_file, ".".join(keys), message, f"write {method!r}", edits)


@rule("MMF411")
def quantization_under_wrong_key(subject: Subject) -> Iterator[Problem]:
    """The section stands under the key at which its readers look.

    That is quantization_config in config.json. In params.json vLLM takes `quantization` for
    compressed-tensors or Mistral's own FP8, stops at anything else there ("Found unknown
    quantization", vllm#34028), and passes quantization_config on as it is.

    Repair: move it.
    """
    for model in subject.models:
        if key := misplaced_section(model):
            message = f"readers look for this section under {HF_KEY}"
            yield Problem(model.config_file, key, message, f"move it to {HF_KEY}", moved(model))


@rule("MMF412")
def quantization_not_compressed(subject: Subject) -> Iterator[Problem]:
    """A compressed-tensors section in config.json has the status `compressed`.

    transformers builds modules for compressed weights only then; it takes packed tensors for
    unexpected ones otherwise, and runs on random weights.

    Repair: write "quantization_status": "compressed".
    """
    model = subject.hf
    if model not in subject.models or not compressed_section(model) or not quantized_modules(model):
        return
    said = compressed_section(model).get("quantization_status")
    if said != COMPRESSED:
        keys = (model.quantization_key, "quantization_status")
        edits = (Edit(CONFIG, keys, COMPRESSED),)
        message = f"{said!r}, though tensors are compressed"
        yield Problem(CONFIG, ".".join(keys), message, f"write {COMPRESSED!r}", edits)


@rule("MMF413", level="warning")
def quantization_format_differs(subject: Subject) -> Iterator[Problem]:
    """The format at the top of a section is that of its groups, or mixed-precision.

    Readers heed the groups' own formats, if they know them: compressed-tensors before 0.11 does
    not, and goes by the one at the top.

    Repair: write the groups' format at the top.
    """
    for model in subject.models:
        section = compressed_section(model)
        groups = section.get("config_groups") or {}
        said = sorted({group["format"] for group in groups.values() if group.get("format")})
        if said and section.get("format") not in (*said, "mixed-precision"):
            right = said[0] if len(said) == 1 else "mixed-precision"
            keys = (model.quantization_key, "format")
            message = f"{section.get('format')!r}, but groups say {' and '.join(said)}"
            edits = (Edit(model.config_file, keys, right),)
            yield Problem(model.config_file, ".".join(keys), message, f"write {right!r}", edits)


@rule("MMF414")
def unknown_quantization_key(subject: Subject) -> Iterator[Problem]:
    """Config groups and their arguments have no keys but those that compressed-tensors reads.

    It refuses every other ("Extra inputs are not permitted"): neither transformers nor vLLM
    loads the model.

    Repair: remove the key; mind its spelling.
    """
    for model in subject.models:
        for keys in unknown_keys(compressed_section(model)):
            yield _removable(model, keys, "compressed-tensors refuses keys that it does not know")


@rule("MMF415", level="warning")
def key_old_readers_refuse(subject: Subject) -> Iterator[Problem]:
    """Nothing that says nothing stops older readers.

    scale_dtype and zp_dtype, null in what compressed-tensors 0.13 to 0.19 wrote, are "Extra
    inputs" to 0.12 and before (llm-compressor#2057, #2234); an actorder beside a strategy
    without groups is refused before 0.16 (llm-compressor#2805). A config.json of transformers 5
    meets compressed-tensors 0.15 at least.

    Repair: remove the key.
    """
    for model in subject.models:
        for keys, version in late_keys(compressed_section(model), _oldest_reader(model)):
            yield _removable(model, keys, f"compressed-tensors before {version} refuses it")


def _oldest_reader(model: Model) -> str:
    """The oldest compressed-tensors that can meet a model's config file."""
    oldest: Mapping[str, str] = table("compressed_tensors")["oldest"]
    major = str(model.body.get("transformers_version", "")).partition(".")[0]
    return oldest.get(major, min(oldest.values(), key=Version))


def _removable(model: Model, keys: Keys, message: str) -> Problem:
    place = (model.quantization_key, *keys)
    edits = (Edit(model.config_file, place, REMOVE),)
    return Problem(model.config_file, ".".join(place), message, "remove it", edits)


@rule("MMF416")
def activation_order_removed(subject: Subject) -> Iterator[Problem]:
    """No actorder is `group`, `dynamic` or true.

    compressed-tensors has refused them since 0.19, and vLLM since 0.33 (vllm#48148).

    Repair: quantize again with actorder static, or none.
    """
    for model in subject.models:
        for keys, said in removed_orders(compressed_section(model)):
            place = ".".join((model.quantization_key, *keys))
            message = f"{said!r} is refused since compressed-tensors 0.19 and vLLM 0.33"
            yield Problem(model.config_file, place, message, "quantize again with static order")


@rule("MMF427", level="warning")
def quantization_file_differs(subject: Subject) -> Iterator[Problem]:
    """hf_quant_config.json and quantization_config.json say what config.json says.

    vLLM reads ModelOpt's file where config.json has no section, TensorRT-LLM reads it first, and
    AutoRound its own: which scheme a model gets is then a matter of the engine.

    Repair: write the same into both, or remove the file.
    """
    model = subject.hf
    if model not in subject.models or not model.body.get(HF_KEY) or not model.quantization:
        return
    files = [name for name in (MODELOPT, AUTOROUND) if model.repo.has(name)]
    if not files or explained(subject, [invalid_quantization_section, quantized_parameters]):
        return  # else it is config.json that is wrong
    here = _labels(model.quantization)
    for name in files:
        said = _schemes_in(model, name)
        if said != here:
            message = f"{' and '.join(said) or 'nothing'}, but {CONFIG} says {' and '.join(here)}"
            yield Problem(name, "", message, "write the same into both, or remove this one")


def _schemes_in(model: Model, name: str) -> list[str]:
    try:
        body: Mapping[str, Any] = model.repo.json(name)
        found = parse_quantization(body, f"{name}: {HF_KEY}", model.checkpoint.naming.family)
    except MmfmtError as error:
        return [error.problem]
    return _labels(found) if found else []


def _labels(quantization: Quantization) -> list[str]:
    """How the groups quantize, each way once."""
    return sorted({scheme.label for scheme in quantization.schemes})
