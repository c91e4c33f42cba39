"""Every name in the layout tables, given to vLLM's own loaders: each lands in a parameter."""

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mmfmt.configs import to_config
from mmfmt.layout import Symbols, families, family, flatten
from mmfmt.naming import Naming, hf_namings, native
from tests import builders
from tests.modules import parameters
from tests.test_schemes_families import quantized
from tests.tiny_params import FAMILIES, LATENT_TEXT, TEXT

from .conftest import Vllm, convert

pytestmark = pytest.mark.engine

Json = dict[str, Any]
# the real sizes of models whose params.json is known: nothing is allocated for them
PUBLISHED = (
    "Mistral-7B-Instruct-v0.3",
    "Mistral-Medium-3.5-128B",
    "Devstral-2-123B-Instruct-2512",
    "Pixtral-Large-Instruct-2411",
    "Mistral-Small-4-119B-2603-NVFP4",
    "Voxtral-Mini-4B-Realtime-2602",
)
TINY = {
    "dense": TEXT,
    "pixtral": FAMILIES["mistral3"],
    "mixtral": FAMILIES["mixtral"],
    "voxtral": FAMILIES["voxtral"],
    "latent": LATENT_TEXT,
    "latent, sees": FAMILIES["mistral3, latent"],
}
DRAFTS = {"eagle": TEXT, "eagle_mla": LATENT_TEXT}
# computed by the engine, wherever the tensors come from
COMPUTED = {"whisper_encoder.whisper_encoder.embed_positions.weight"}
# shared with the target model, or not of its own
BORROWED = {"model.embed_tokens.weight", "lm_head.weight"}


@dataclass(frozen=True)
class Case:
    """A model without bytes: its config file, the names it is given, and where it is built."""

    config: tuple[str, Json]
    naming: Naming
    symbols: Symbols
    device: str = "meta"
    target: Json | None = None

    def write(self, folder: Path) -> str:
        """The repo, as `engine.load` takes it."""
        shapes = parameters(self.naming, self.symbols)
        tensors = {name: ["bfloat16", shape] for name, shape in shapes.items()}
        _write_repo(folder, *self.config)
        builders.write_json(folder / "tensors.json", tensors)
        if self.target:
            _write_repo(folder / "target", "params.json", self.target)
        return f"{self.device}:{folder}"


def _write_repo(folder: Path, name: str, config: Json) -> None:
    """A config file, tokenizer files, and a weight file that holds nothing."""
    stem = "consolidated" if name == "params.json" else "model"
    shutil.copytree(
        builders.BF16, folder, ignore=shutil.ignore_patterns("*.safetensors", "config*")
    )
    builders.write_json(folder / name, config)
    builders.write_json(folder / "tekken.json", _tekken(config))
    (folder / f"{stem}.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")


def _tekken(config: Json) -> Json:
    """A tokenizer that hears what the model hears."""
    body = builders.read_json(builders.TEKKEN)
    if "multimodal" not in config:
        return body
    encoder = config["multimodal"]["whisper_model_args"]["encoder_args"]
    frames = encoder["audio_encoding_args"]
    names = ("num_mel_bins", "hop_length", "window_size")
    body["audio"] = {
        **{"sampling_rate": frames["sampling_rate"], "frame_rate": 12.5},
        "audio_encoding_config": {name: frames[name] for name in names},
    }
    if encoder.get("causal"):
        body["audio"] |= {
            **{"transcription_format": "streaming", "transcription_delay_ms": 480.0},
            **{"streaming_look_ahead_ms": 2.5, "streaming_look_back_ms": 52.5},
            "streaming_n_left_pad_tokens": 32,
        }
    words = ("[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]", "[STREAMING_PAD]", "[STREAMING_WORD]")
    for token, word in zip(body["special_tokens"][24:], words, strict=False):
        token["token_str"] = word
    return body


def _native(params: Json, label: str = "", **more: Any) -> Case:
    """The consolidated layout of a model, without its quantization."""
    plain = {k: v for k, v in params.items() if not k.startswith("quantization")}
    symbols = flatten(plain)
    fitting = [each for each in families() if each.fits(symbols) and each.generations]
    return Case(
        ("params.json", plain), native(family(label) if label else fitting[0]), symbols, **more
    )


def _hf(params: Json) -> Iterator[Case]:
    """The HF layout that is made of params, in every generation of names."""
    symbols = flatten(params)
    (each,) = (each for each in families() if each.fits(symbols) and each.generations)
    for naming in hf_namings(each):
        if each.multimodal or naming.generation == "text":
            yield Case(("config.json", to_config(params, "bfloat16")), naming, symbols, "cpu")


def cases() -> Iterator[tuple[str, Case]]:
    """Every case by its name."""
    for name in PUBLISHED:
        yield name, _native(builders.read_json(builders.PUBLISHED / f"{name}.params.json"))
    for name, params in TINY.items():
        yield f"native {name}", _native(params)
    for label, params in DRAFTS.items():
        draft = {**params, "n_layers": 2}
        yield f"native {label}", _native(draft, label, target=params)
    for name, params in FAMILIES.items():
        for case in _hf(params):
            yield f"hf {name}, {case.naming.generation}", case


@dataclass(frozen=True)
class Converted:
    """A tiny model in W4A16, taken to a layout by the converter: its own names and ignore list."""

    kind: str
    layout: str

    def write(self, folder: Path) -> str:
        """The repo, as `engine.load` takes it."""
        quantized(folder / "source", self.kind, "W4")
        convert("hf-to-consolidated", folder / "source", folder / "native")
        if self.layout == "hf":
            convert("consolidated-to-hf", folder / "native", folder / "hf")
        repo = folder / self.layout
        builders.write_json(repo / "tensors.json", dict(_stored(repo)))
        if self.layout == "native":
            config = builders.read_json(repo / "params.json")
            builders.write_json(repo / "tekken.json", _tekken(config))
        return f"cpu:{repo}"


def _stored(repo: Path) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Every tensor of a repo by name, with torch's name of its dtype and its shape."""
    (file,) = repo.glob("*.safetensors")
    for name, tensor in load_file(file).items():
        yield name, (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


# vLLM has no experts of packed integers on a CPU, and reads no Voxtral in the HF layout
PACKED = [
    *((kind, "native") for kind in ("mistral", "mistral3", "voxtral", "voxtral_realtime")),
    *((kind, "hf") for kind in ("mistral", "mistral3")),
]
UNREAD = ("mistral3 with mistral4", "hf")
CASES = dict(cases())
CONVERTED = {f"W4 {kind}, {layout}": Converted(kind, layout) for kind, layout in (*PACKED, UNREAD)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, vllm: Vllm) -> dict[str, Json]:
    """What the engine said of every case."""
    jobs = {
        name: case.write(tmp_path_factory.mktemp("case") / "repo")
        for name, case in (CASES | CONVERTED).items()
    }
    vllm("load", *jobs.values())
    repos = {name: Path(job.partition(":")[2]) for name, job in jobs.items()}
    return {name: builders.read_json(repo / "result.json") for name, repo in repos.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_name_lands(loaded: dict[str, Json], name: str) -> None:
    """vLLM reads each tensor that the tables name, and none of its parameters stays empty.

    A layout that the tables call unread is one that vLLM fails on.
    """
    found, naming = loaded[name], CASES[name].naming
    layout = "native" if CASES[name].config[0] == "params.json" else "hf"
    if layout in naming.family.unread:
        assert "error" in found
        return
    assert "error" not in found, found
    assert found["unread"] == []
    allowed = COMPUTED | (BORROWED if CASES[name].target else set())
    assert set(found["empty"]) <= allowed


@pytest.mark.parametrize("name", CONVERTED)
def test_ignore_lists(loaded: dict[str, Json], name: str) -> None:
    """vLLM builds the very modules quantized that are, text, vision and audio."""
    found = loaded[name]
    if CONVERTED[name] == Converted(*UNREAD):  # which the converter warns of
        assert "error" in found
        return
    assert "error" not in found, found
    assert found["unread"] == []
    # scales of an unquantized kv cache have values of their own
    empty = {each for each in found["empty"] if ".attn." not in each}
    assert empty <= COMPUTED
