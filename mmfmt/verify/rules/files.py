"""1xx: which files belong together, and which of them a loader picks up."""

from collections.abc import Iterator

from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.rules.headers import weight_files
from mmfmt.verify.rules.indexes import new_index
from mmfmt.verify.subject import Subject

WEIGHTS = ".safetensors"


@rule("MMF101")
def incomplete_consolidated_set(subject: Subject) -> Iterator[Problem]:
    """`consolidated*.safetensors`, `params.json` and `tekken.json` are there together, or not
    at all (a `tokenizer.model.v*` counts as tekken.json, which alone does no harm).

    vLLM decides separately about config, weights and tokenizer. A part of the set sends them
    different ways: without params.json it reads consolidated weights with the HF config and
    fails on images; without tekken.json it asks for --tokenizer-mode mistral; params.json
    without weights is a promise that mistral loaders run into (vllm#19953, #17132, #15027).

    Repair: add the missing file (mmfmt convert writes all of them), or remove the others.
    """
    weights = bool(subject.repo.native.on_disk) or subject.repo.native.has_index
    parts = {
        "consolidated*.safetensors": weights,
        "params.json": subject.repo.has("params.json"),
        "tekken.json": subject.repo.tokenizer_name is not None,
    }
    if parts["consolidated*.safetensors"] or parts["params.json"]:
        there = ", ".join(name for name, present in parts.items() if present)
        for name in (name for name, present in parts.items() if not present):
            yield Problem(name, "", f"missing, while {there} is there", "add it or remove the rest")


@rule("MMF102")
def incomplete_hf_set(subject: Subject) -> Iterator[Problem]:
    """`model*.safetensors` come with config.json, a tokenizer and, for images, a processor file.

    Without processor_config.json (or preprocessor_config.json) transformers falls back to a
    patch size of 16 and no merging, and counts image tokens wrongly without an error.

    Repair: copy the file from the base model.
    """
    if not subject.repo.hf.exists:
        return
    if not subject.repo.has("config.json"):
        yield Problem("config.json", "", "missing beside model*.safetensors", _COPY)
    if not subject.repo.has("tokenizer.json") and not subject.repo.tokenizer_name:
        yield Problem("tokenizer.json", "", "missing beside model*.safetensors", _COPY)
    processor = ("processor_config.json", "preprocessor_config.json")
    if _has_images(subject) and not any(map(subject.repo.has, processor)):
        yield Problem("processor_config.json", "", "missing from a model that takes images", _COPY)


_COPY = "copy it from the base model"


def _has_images(subject: Subject) -> bool:
    return subject.repo.has("config.json") and "vision_config" in subject.repo.json("config.json")


@rule("MMF110")
def both_sets_read(subject: Subject) -> Iterator[Problem]:
    """Beside a consolidated set, even a single model.safetensors has an index.

    Without one, vLLM's HF loader takes every *.safetensors of the folder for its own, reads the
    consolidated files too, and stops at the first name it does not know (vllm#40765, #14950,
    #9376, #20420, ms-swift#7074). mmfmt convert writes the index.

    Repair: write model.safetensors.index.json.
    """
    hf = subject.repo.hf
    if len(hf.on_disk) == 1 and not hf.has_index and subject.repo.native.on_disk:
        message = "missing, so that vLLM's HF loader reads consolidated*.safetensors too"
        yield Problem(hf.index_name, "", message, "write it from the headers", new_index(hf))


@rule("MMF112", level="warning")
def weights_of_no_set(subject: Subject) -> Iterator[Problem]:
    """Every *.safetensors at the top of a repo belongs to the HF or to the consolidated set.

    Loaders go by names: model*.safetensors, consolidated*.safetensors, as they are spelled here.
    Others (pytorch_model-00001-of-00002.safetensors, Consolidated.safetensors) are downloaded by
    everybody and read by nobody, or, where there is no index, by vLLM as part of the model.

    Repair: rename the file, move it into a folder, or remove it.
    """
    known = {*weight_files(subject.repo.hf), *weight_files(subject.repo.native)}
    for name in subject.repo.names:
        if name.lower().endswith(WEIGHTS) and name not in known:
            message = "belongs to no weight set that a loader looks for"
            yield Problem(name, "", message, "rename, move or remove it")
