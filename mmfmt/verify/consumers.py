"""Which tokenizer, model class and weights each consumer takes from a repo.

No finding: a good repo with both layouts has choices that fail in the wrong hands, too. The
table is `schemas/consumers.toml`; where loaders really ran, their pick stands in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from mmfmt.configs import CONFIG, PARAMS
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.repo import Repo
from mmfmt.schemas import table
from mmfmt.verify import probe
from mmfmt.verify.probe import Probe

MISMATCH = "Mismatch in `image` token count between text and `input_ids`"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """What a consumer takes; nothing where it takes nothing of the kind.

    `model` is the class of the model, or of the processor; `weights` a glob; `note` a known
    failure that the choice leads to, by its text.
    """

    consumer: str
    tokenizer: str
    model: str
    weights: str
    note: str = ""


@dataclass(frozen=True)
class _Files:
    """What the choices look at."""

    repo: Repo

    def has(self, glob: str) -> bool:
        return any(fnmatchcase(name, glob) for name in self.repo.names)

    def says(self, name: str, key: str) -> Any:
        """A field of a JSON file; None where there is none. Bad files are for rules to find."""
        try:
            return self.repo.json(name).get(key) if self.repo.has(name) else None
        except MmfmtError:
            return None

    @cached_property
    def images(self) -> bool:
        return any(self.says(name, key) for name, key in table("consumers")["images"].items())

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The fields of params.json, by path."""
        try:
            return flatten(self.repo.json(PARAMS)) if self.repo.has(PARAMS) else {}
        except MmfmtError:
            return {}

    def pick(self, rows: Sequence[Row]) -> str:
        """What the first row that fits takes."""
        return next((str(row["takes"]) for row in rows if self._fits(row)), "")

    def _fits(self, row: Row) -> bool:
        has, some = row.get("has", []), row.get("any", ["*"])
        present = "present" not in row or self.fields.get(row["present"]) is not None
        return all(map(self.has, has)) and any(map(self.has, some)) and present and self._say(row)

    def _say(self, row: Row) -> bool:
        """Whether the fields that a row names have one of its values."""
        return all(
            self.says(name, key) in values
            for name, fields in row.get("says", {}).items()
            for key, values in fields.items()
        )


def choices(repo: Repo, ran: Probe | None = None) -> tuple[Choice, ...]:
    """Every consumer's choice, of transformers first; `ran` is what its loaders really made."""
    files, rows = _Files(repo), table("consumers")
    ran = ran or Probe()
    picked = ran.picked(probe.AUTO) or files.pick(rows["auto_tokenizer"])
    hf = ran.picked(probe.FAST) or files.pick(_without_mistral(rows["auto_tokenizer"]))
    found = [_auto_tokenizer(files, picked, ran), _auto_processor(files, picked, ran)]
    found += [_vllm(files, row, hf, ran) for row in rows["vllm"]]
    return tuple(found)


def _without_mistral(rows: Sequence[Row]) -> list[Row]:
    """The rows with mistral_format=False: only a class that is named outright is still taken."""
    return [row for row in rows if CONFIG not in row.get("says", {})]


def _auto_tokenizer(files: _Files, picked: str, ran: Probe) -> Choice:
    said = {"kind": "auto_tokenizer", "tokenizer": picked, "images": files.images}
    return Choice(probe.AUTO, picked, "", "", _note(files, said, ran))


def _auto_processor(files: _Files, picked: str, ran: Probe) -> Choice:
    row = table("consumers")["auto_processor"]
    named = (files.says(name, "processor_class") for name in row["named"])
    by_type = row["by_model_type"].get(str(files.says(CONFIG, "model_type")), "")
    load = ran.loads.get(probe.PROCESSOR)
    if load and load.name:
        return Choice(probe.PROCESSOR, load.tokenizer or load.name, load.name, "")
    model = str(next(filter(None, named), by_type))
    return Choice(probe.PROCESSOR, row["own_tokenizer"].get(model, picked), model, "")


def _vllm(files: _Files, row: Row, hf: str, ran: Probe) -> Choice:
    auto, weights = table("consumers")["vllm_auto"], table("consumers")["vllm_weights"]
    mode = {name: row.get(name) or files.pick(auto[name]) for name in auto}
    tokenizer = "MistralTokenizer" if mode["tokenizer"] == "mistral" else hf
    model = _vllm_class(files, mode["config"])
    said = {"kind": "vllm", "config": mode["config"], "tokenizer_mode": mode["tokenizer"]}
    said |= {"weights_mode": mode["weights"], "tokenizer": tokenizer, "model": model}
    note = _note(files, {**said, "images": files.images}, ran)
    return Choice(row["name"], tokenizer, model, weights[mode["weights"]], note)


def _vllm_class(files: _Files, mode: str) -> str:
    if mode == "mistral":
        return files.pick(table("consumers")["vllm_native"]) if files.fields else ""
    named = files.says(CONFIG, "architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _note(files: _Files, said: Row, ran: Probe) -> str:
    fitting = (row for row in table("consumers")["note"] if _holds(row, files, said))
    text = next((str(row["text"]) for row in fitting), "")
    return text.replace("{mismatch}", ran.mismatch or MISMATCH)


def _holds(row: Row, files: _Files, said: Row) -> bool:
    fields = {key: value for key, value in row.items() if key not in ("text", "lacks")}
    return all(said.get(key) == value for key, value in fields.items()) and not any(
        map(files.has, row.get("lacks", []))
    )
