"""config.json, read by the paths of the field table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.configs.fields import SECTIONS, json_path, text_path
from mmfmt.errors import MmfmtError
from mmfmt.schemas import validate

CONFIG, PARAMS = "config.json", "params.json"
# fields of params.json that the classes of transformers have no place for
EXTRAS = "mistral_extras"
MULTIMODAL = {"mistral3", "llava", "voxtral", "voxtral_realtime"}
TEXT_TYPES = {"mistral", "ministral", "ministral3", "mixtral", "mistral4"}

# text model of a multimodal config that does not say (sub_configs_defaults of transformers)
DEFAULT_TEXT = {
    "mistral3": "mistral",
    "llava": "mistral",
    "voxtral": "llama",
    "voxtral_realtime": "voxtral_realtime_text",
}
_TEXT_TYPES_OF = {
    "mistral3": TEXT_TYPES - {"ministral"},
    "llava": TEXT_TYPES - {"ministral"},
    "voxtral": {"llama"},
    "voxtral_realtime": {"voxtral_realtime_text"},
}
_NO_PARAMS = {
    "mistral_large4": "stores native tensor names already, and no params.json is known for it",
}


@dataclass(frozen=True)
class HfConfig:
    """A checked config.json, read by the paths of the field table (`text.`, `vision.`, top)."""

    body: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.body.get("model_type"))

    @property
    def multimodal(self) -> bool:
        return self.model_type in MULTIMODAL

    @property
    def kinds(self) -> set[str]:
        """model_types of the whole and of its text model: what `when` columns name."""
        return {self.model_type, self.text_type}

    @property
    def text_type(self) -> str:
        """model_type of the text model."""
        return str(self.get("text.model_type", DEFAULT_TEXT.get(self.model_type, self.model_type)))

    @cached_property
    def stated(self) -> Mapping[str, Any]:
        """Every value and object by table path, nulls included."""
        sections = {name: short for short, name in SECTIONS.items()}
        found: dict[str, Any] = {}
        for key, value in self.body.items():
            section = sections.get(key)
            if section and isinstance(value, Mapping):
                _collect(found, value, section)
            else:
                _collect(found, {key: value}, "" if self.multimodal else "text")
        return found

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """`stated` without nulls, which mean absence nearly everywhere."""
        return {path: value for path, value in self.stated.items() if value is not None}

    def get(self, path: str, default: Any = None) -> Any:
        return self.values.get(self._own(path), default)

    def states(self, path: str) -> bool:
        """Whether the file has the key, be it null."""
        return self._own(path) in self.stated

    def first(self, paths: list[str]) -> Any:
        """The value that the given paths agree on; None where none of them is present."""
        found = {path: self.get(path) for path in paths if self.get(path) is not None}
        if any(value != other for value in found.values() for other in found.values()):
            said = ", ".join(f"{self.place(path)} = {value!r}" for path, value in found.items())
            raise MmfmtError(CONFIG, f"contradicts itself: {said}", "make them equal")
        return next(iter(found.values()), None)

    def place(self, path: str) -> str:
        """A table path as the JSON path that a person finds in the file."""
        return ".".join(json_path(path, self.multimodal))

    def _own(self, path: str) -> str:
        return path if self.multimodal else text_path(path)


def _collect(found: dict[str, Any], body: Mapping[str, Any], prefix: str) -> None:
    for key, value in body.items():
        path = f"{prefix}.{key}" if prefix else key
        found[path] = value
        if isinstance(value, Mapping) and key in ("rope_parameters", "rope_scaling"):
            _collect(found, value, path)


def open_config(body: Mapping[str, Any]) -> HfConfig:
    """Check a config.json against its schema and refuse model types that cannot be carried."""
    validate(body, "config", CONFIG)
    return supported(HfConfig(body))


def supported(config: HfConfig) -> HfConfig:
    """A checked config; MmfmtError for a model type that cannot be carried."""
    if config.model_type not in MULTIMODAL | TEXT_TYPES:
        problem = _NO_PARAMS.get(config.model_type, "is not supported yet")
        raise MmfmtError(f"{CONFIG}: model_type", f"{config.model_type!r} {problem}")
    if config.text_type not in _TEXT_TYPES_OF.get(config.model_type, TEXT_TYPES):
        place = f"{CONFIG}: {config.place('text.model_type')}"
        raise MmfmtError(place, f"{config.text_type!r} is not supported yet")
    return config
