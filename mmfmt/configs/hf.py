"""config.json, read by the paths of the field table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.schemas import validate

CONFIG, PARAMS = "config.json", "params.json"
VISION, AUDIO = {"mistral3", "llava"}, {"voxtral", "voxtral_realtime"}
MULTIMODAL = VISION | AUDIO
TEXT_TYPES = {"mistral", "ministral3", "mixtral", "mistral4"}
SECTIONS = {"text_config": "text", "vision_config": "vision", "audio_config": "audio"}
# where params.json has no field for something of config.json, and the other way round
EXTRAS = "mistral_extras"

# text model of a multimodal config that does not say (transformers' sub_configs_defaults)
DEFAULT_TEXT = {
    "mistral3": "mistral",
    "llava": "mistral",
    "voxtral": "llama",
    "voxtral_realtime": "voxtral_realtime_text",
}
_TEXT_TYPES_OF = {"voxtral": {"llama"}, "voxtral_realtime": {"voxtral_realtime_text"}}


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
    def values(self) -> Mapping[str, Any]:
        """Every value and object by table path, nulls left out."""
        found: dict[str, Any] = {}
        for key, value in self.body.items():
            section = SECTIONS.get(key)
            if section and isinstance(value, Mapping):
                _collect(found, value, section)
            else:
                _collect(found, {key: value}, "" if self.multimodal else "text")
        return found

    def get(self, path: str, default: Any = None) -> Any:
        return self.values.get(path if self.multimodal else text_path(path), default)

    def first(self, paths: list[str]) -> Any:
        """The value that the given paths agree on; None where none of them is present."""
        found = {path: self.get(path) for path in paths if self.get(path) is not None}
        if any(value != other for value in found.values() for other in found.values()):
            said = ", ".join(f"{self.place(path)} = {value!r}" for path, value in found.items())
            raise MmfmtError(CONFIG, f"contradicts itself: {said}", "make them equal")
        return next(iter(found.values()), None)

    def place(self, path: str) -> str:
        """A table path as the JSON path that a person finds in the file."""
        section, _, rest = path.partition(".")
        if f"{section}_config" not in SECTIONS:
            return path
        return f"{section}_config.{rest}" if self.multimodal else rest


def _collect(found: dict[str, Any], body: Mapping[str, Any], prefix: str) -> None:
    for key, value in body.items():
        path = f"{prefix}.{key}" if prefix else key
        if value is not None:
            found[path] = value
        if isinstance(value, Mapping) and key in ("rope_parameters", "rope_scaling"):
            _collect(found, value, path)


def text_path(path: str) -> str:
    """A table path as it reads in a text-only config."""
    # in a text-only config everything stands at the top level
    return path if path.startswith(("text.", "vision.", "audio.")) else f"text.{path}"


def open_config(body: Mapping[str, Any]) -> HfConfig:
    """Check a config.json against its schema and refuse model types not supported yet."""
    validate(body, "config", CONFIG)
    config = HfConfig(body)
    if config.model_type not in MULTIMODAL | TEXT_TYPES:
        raise MmfmtError(f"{CONFIG}: model_type", f"{config.model_type!r} is not supported yet")
    if config.text_type not in _TEXT_TYPES_OF.get(config.model_type, TEXT_TYPES):
        place = f"{CONFIG}: {config.place('text.model_type')}"
        raise MmfmtError(place, f"{config.text_type!r} is not supported yet")
    return config
