"""8xx: what a release should not hold, or not be without."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.schemas import table
from mmfmt.verify.findings import REMOVE, Edit, Problem, rule, some
from mmfmt.verify.subject import Subject


@rule("MMF801")
def pickle(subject: Subject) -> Iterator[Problem]:
    """No file is a pickle: loading one runs whatever code is inside.

    pytorch_model.bin, consolidated.00.pth, optimizer.pt and training_args.bin are pickles. mmfmt
    never loads one; the Hub marks repos that hold them, and loaders that prefer them exist.

    Repair: save tensors as safetensors, and remove the file.
    """
    for name in subject.repo.storage.sizes:
        if name.lower().endswith(_suffixes("pickle")):
            message = "is a pickle, which runs code when it is loaded"
            yield Problem(name, "", message, "save its tensors as safetensors, or remove it")


@rule("MMF802", level="warning")
def remote_code(subject: Subject) -> Iterator[Problem]:
    """A repo brings no code of its own: no auto_map, no custom_pipelines, no Python files.

    With trust_remote_code the code runs on every user's machine, without it loaders ask or stop.
    The models that mmfmt knows have classes in transformers and vLLM.

    Repair: remove the key and the file.
    """
    for name in subject.repo.storage.sizes:
        if name.lower().endswith(_suffixes("remote_code")):
            yield Problem(name, "", "is code, which these models do not need", "remove it")
    for name, body in _bodies(subject):
        for key in table("hygiene")["remote_code"]["keys"]:
            if key in body:
                message = "asks loaders to run code of the repo"
                edits = (Edit(name, (key,), REMOVE),)
                yield Problem(name, key, message, "remove it", edits)


@rule("MMF803")
def refused_by_hub(subject: Subject) -> Iterator[Problem]:
    """The Hub takes every file: 500 GB at most, and 10,000 entries in a folder.

    An upload is refused at its end, after hours (huggingface.co/docs/hub/storage-limits).

    Repair: split the file (mmfmt convert --max-shard-size), or spread files over folders.
    """
    limits, sizes = table("hygiene")["refused"], subject.repo.storage.sizes
    for name, size in sizes.items():
        if size > limits["file_bytes"]:
            message = f"{size} bytes, the Hub takes {limits['file_bytes']}"
            yield Problem(name, "", message, "split it")
    paths = {path for name in sizes for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
    counts = Counter(str(path.parent) for path in paths if path.name)
    for folder, count in sorted(counts.items()):
        if count > limits["folder_entries"]:
            message = f"{count} entries in a folder, the Hub takes {limits['folder_entries']}"
            yield Problem(folder, "", message, "spread them over folders")


@rule("MMF804", level="warning")
def absolute_path(subject: Subject) -> Iterator[Problem]:
    """No JSON file names a place on the machine that made it.

    `_name_or_path: /home/somebody/...` tells a name and how the machine is laid out, and means
    nothing to anybody else.

    Repair: remove the key, or name the base model's repo.
    """
    facts = table("hygiene")["absolute_path"]
    pattern = re.compile(facts["pattern"])
    for name, body in _bodies(subject):
        for keys, text in _strings(body):
            if pattern.match(text):
                message = "is an absolute path of the machine that wrote it"
                edits = (Edit(name, keys, REMOVE),) if keys[-1] in facts["removable"] else ()
                yield Problem(name, ".".join(map(str, keys)), message, "remove it", edits)


def _strings(body: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(keys, text) of every text in a JSON value."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    while left:
        keys, value = left.pop()
        if isinstance(value, dict):
            left += [((*keys, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [((*keys, index), inner) for index, inner in enumerate(value)]
        elif isinstance(value, str):
            yield keys, value


@rule("MMF806", level="warning")
def leftover_file(subject: Subject) -> Iterator[Problem]:
    """A release holds no temporary files, caches, logs, editor backups or training state.

    Everybody downloads them. A checkpoint-500 folder or an optimizer state can be larger than the
    model; staging folders of broken conversions hold half of it.

    Repair: remove them.
    """
    pickles = _suffixes("pickle")
    for source, patterns in table("hygiene")["leftover"].items():
        found = [
            name
            for name in subject.repo.storage.sizes
            if _is_leftover(name, patterns) and not name.lower().endswith(pickles)
        ]
        if found:
            message = f"left over from {source}" + (f": {some(found)}" if found[1:] else "")
            yield Problem(found[0], "", message, "remove it")


def _is_leftover(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(part, p) for part in PurePosixPath(name).parts for p in patterns)


@rule("MMF807")
def secret(subject: Subject) -> Iterator[Problem]:
    """No text file holds a token, an API key or a private key.

    A notebook, a log, a .env or a training config with a Hub token in it is readable by everybody
    within minutes of the upload, and its history keeps it. Findings never show the secret.

    Repair: revoke it now, then remove it; removing is not enough once it was published.
    """
    facts = table("hygiene")["secret"]
    for name in subject.repo.storage.sizes:
        if PurePosixPath(name).suffix.lower() in facts["suffixes"]:
            content = subject.repo.storage.read(name, 0, facts["read_bytes"])
            for line, kind in _secrets(content.decode("utf-8", "replace")):
                message = f"holds what looks like a {kind}"
                yield Problem(name, f"line {line}", message, "revoke it, then remove it")


def _secrets(text: str) -> Iterator[tuple[int, str]]:
    """(line, kind) of each secret; examples such as hf_xxxx... are none."""
    facts = table("hygiene")["secret"]
    for kind, pattern in facts["patterns"].items():
        for found in re.finditer(pattern, text):
            if len(set(found[0])) >= facts["different_characters"]:
                yield text.count("\n", 0, found.start()) + 1, kind


@rule("MMF808", level="warning")
def hard_to_download(subject: Subject) -> Iterator[Problem]:
    """Users can fetch every file, on every system.

    Above 50 GB clients of the Hub without hf_xet stop; a header above 25 MB keeps huggingface_hub
    from reading any metadata of the file. Some names cannot exist on Windows, or differ from
    another in capitals only, which macOS and Windows take for one file.

    Repair: split the file (mmfmt convert --max-shard-size), or rename it.
    """
    sizes = subject.repo.storage.sizes
    if len(sizes) > table("hygiene")["hard"]["files"]:
        yield Problem("", "", f"{len(sizes)} files are slow to list and to fetch", "merge them")
    spelled: dict[str, str] = {}
    for name, size in sizes.items():
        twin = spelled.setdefault(name.lower(), name)
        fault = _size_fault(size) or _name_fault(name)
        if twin != name:
            fault = f"differs from {twin} in capitals only"
        if fault:
            yield Problem(name, "", fault, "split or rename it")
    yield from _header_problems(subject)


def _size_fault(size: int) -> str:
    facts = table("hygiene")
    limit, refused = facts["hard"]["download_bytes"], facts["refused"]["file_bytes"]
    return f"{size} bytes: clients without hf_xet take {limit}" if refused >= size > limit else ""


def _name_fault(name: str) -> str:
    facts = table("hygiene")["hard"]
    if any(re.search(facts["windows"], part) for part in PurePosixPath(name).parts):
        return "is no name for a file on Windows"
    if len(name) > facts["path_characters"]:
        return f"has {len(name)} characters in its path, too many for Windows"
    return ""


def _header_problems(subject: Subject) -> Iterator[Problem]:
    limit = table("hygiene")["hard"]["header_bytes"]
    for model in subject.models:
        with suppress(MmfmtError):  # damaged headers are another rule's business
            for shard, header in model.weights.headers.items():
                if header.data_start - 8 > limit:
                    message = f"header of {header.data_start - 8} bytes: the Hub reads {limit}"
                    yield Problem(shard, "", message, "split it into more shards")


def _suffixes(section: str) -> tuple[str, ...]:
    return tuple(table("hygiene")[section]["suffixes"])


def _bodies(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object at the top of the repo but the vocabularies, which are large.

    What is no JSON object is another rule's business.
    """
    large = table("hygiene")["vocabulary"]["files"]
    for name in subject.repo.names:
        if name.endswith(".json") and not any(fnmatchcase(name, pattern) for pattern in large):
            with suppress(MmfmtError):
                yield name, subject.repo.json(name)
