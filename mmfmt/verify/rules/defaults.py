"""5xx: what readers make of a config's silence, and what nobody reads."""

from collections.abc import Iterator

from mmfmt.checkpoint import FLOATS
from mmfmt.configs import ARCHITECTURES, CONFIG, HfConfig
from mmfmt.configs.fields import by_kind, json_path, rows, rows_of
from mmfmt.model import Model, usual_dtype
from mmfmt.verify.findings import REMOVE, Edit, Problem, rule
from mmfmt.verify.subject import Subject

# where readers look for a dtype
_DTYPES = [f"{part}{key}" for part in ("", "text.", "vision.") for key in ("dtype", "torch_dtype")]


@rule("MMF509", level="warning")
def surprising_default(subject: Subject) -> Iterator[Problem]:
    """config.json does not leave to a class's default, or take from it, what no model is made for.

    PixtralVisionConfig takes gelu where hidden_act is missing, and early configs of Small-3.1
    copied that (vllm#15212, #17270); every tower was trained with silu, which vLLM's native
    loader always takes. LlavaConfig takes features of the last layer but one. MistralConfig takes
    a sliding window of 4096 tokens, which only 7B-v0.1 has. With both layouts in a repo,
    params.json shows what is right: see MMF502 and MMF507.

    Repair: write the value that the weights were trained with.
    """
    if subject.dual or not (config := _config(subject)):
        return
    for row in (row for row in rows_of(config.kinds, "assumed") if "absent" in row):
        value = config.get(row["hf"], row["absent"])
        if row["absent"] not in row["values"] and value not in row["values"]:
            wanted = " or ".join(map(repr, row["values"]))
            message = f"{_stated(config, row['hf'])}{value!r}; every published model has {wanted}"
            yield Problem(CONFIG, config.place(row["hf"]), message, f"write {wanted}")
    for row in rows_of(config.kinds):
        default = by_kind(row.get("defaults", {}), config.kinds)
        if config.kinds & set(row.get("surprising", ())) and not config.states(row["hf"][0]):
            message = f"is missing: transformers takes {default!r}"
            yield Problem(CONFIG, config.place(row["hf"][0]), message, "write it, or null for none")


def _stated(config: HfConfig, path: str) -> str:
    return "" if config.get(path) is not None else "is missing, and transformers takes "


@rule("MMF510", level="warning")
def unstated_dtype(subject: Subject) -> Iterator[Problem]:
    """A config says its dtype where the float tensors of its layout are not all of one.

    vLLM guesses from all tensors of the folder: of BF16 and F32 it makes float32, which it takes
    for its own default (bfloat16 or float16, by device); of BF16 and F16 either, by chance.
    transformers takes the first one's. Calibrated scales in F32 are enough.

    Repair: write dtype.
    """
    for model in subject.models:
        if subject.repo.has(model.config_file) and not _says_dtype(model):
            entries = model.weights.tensors.values()
            found = sorted({entry.dtype for entry in entries if entry.dtype in FLOATS})
            usual = usual_dtype(model)
            if len(found) > 1:
                message = f"is missing, and tensors are {' and '.join(found)}"
                edits = (Edit(model.config_file, ("dtype",), usual),) if usual else ()
                yield Problem(model.config_file, "dtype", message, f"write {usual}", edits)


def _says_dtype(model: Model) -> bool:
    if model.native:
        return bool(model.body.get("dtype"))
    return any(model.hf_config.get(path) for path in _DTYPES)


@rule("MMF512", level="warning")
def stale_key(subject: Subject) -> Iterator[Problem]:
    """config.json has no keys that the class of its model never reads.

    Small-4's has an mlp_bias, which a person, or another tool, may take for a promise.

    Repair: remove the key.
    """
    if config := _config(subject):
        for row in rows("stale"):
            path = f"text.{row['key']}"
            if config.kinds & set(row["when"]) and config.states(path):
                keys = json_path(path, config.multimodal)
                message = f"no {config.text_type} class of transformers reads it"
                edits = (Edit(CONFIG, tuple(keys), REMOVE),)
                yield Problem(CONFIG, ".".join(keys), message, "remove it", edits)


@rule("MMF513")
def architecture_differs(subject: Subject) -> Iterator[Problem]:
    """config.json names the class of its model_type in `architectures`.

    transformers builds what model_type says, vLLM what architectures says: without one it stops
    ("No model architectures are specified"), with that of a part (MistralForCausalLM for a model
    with a vision tower) or of another model it builds that.

    Repair: write the class.
    """
    config = _config(subject)
    if not config or config.model_type not in ARCHITECTURES:
        return
    wanted, found = [ARCHITECTURES[config.model_type]], config.body.get("architectures")
    if found != wanted:
        message = f"{'missing' if found is None else found}, but model_type is {config.model_type}"
        edits = (Edit(CONFIG, ("architectures",), wanted),)
        yield Problem(CONFIG, "architectures", message, f"write {wanted}", edits)


def _config(subject: Subject) -> HfConfig | None:
    there = subject.hf in subject.models and subject.repo.has(CONFIG)
    return subject.hf.hf_config if there else None
