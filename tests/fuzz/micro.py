"""Good repos of a few kilobytes: between them, every file and most kinds of tensor there are."""

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from click.testing import CliRunner

from mmfmt.cli import cli
from mmfmt.convert.tokenizer_files import generation_config, processor_files, tokenizer_files
from tests import builders, tokenizer_repos
from tests.fuzz.memory import Content, Files

_TEKKEN = tokenizer_repos.tekken("v7")
_AUDIO = {"sampling_rate": 16000, "frame_rate": 12.5}
_SIZES = builders.Geometry(
    **{"hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32, "layers": 1},
    vocab=_TEKKEN["config"]["default_vocab_size"],
    **{"vision_hidden": 16, "vision_heads": 1, "vision_layers": 1},
)
README = "---\nlicense: apache-2.0\nbase_model: mistralai/Base\n---\n"


def pixtral(folder: Path) -> None:
    """Both layouts of a W4A16 model that takes images, each in two shards."""
    _save(folder, "mistral3")
    scheme = builders.scheme("pack-quantized", bits=4, strategy="group", group_size=16)
    builders.quantize_repo(folder, scheme)
    tensors = sorted(builders.load_set(folder).items())
    (folder / builders.WEIGHTS).unlink()
    builders.save_set(folder, [dict(tensors[::2]), dict(tensors[1::2])])
    tekken = folder / "tekken.json"
    vision = {"patch_size": 14, "image_size": 1540, "spatial_merge_size": 2}
    texts = tokenizer_files(tekken)[0] | generation_config(tekken)
    for name, text in (texts | processor_files({"vision_encoder": vision}, {})).items():
        (folder / name).write_text(text, encoding="utf-8")
    _convert(folder)


def latent(folder: Path) -> None:
    """Both layouts of a text model with latent attention, its experts in stacks."""
    _save(folder, "mistral4")
    _convert(folder)


def audio(folder: Path) -> None:
    """Both layouts of a model that listens."""
    _save(folder, "voxtral_realtime")
    body = {key: value for key, value in _TEKKEN.items() if key != "multimodal"}
    builders.write_json(folder / "tekken.json", {**body, "audio": _AUDIO})
    _convert(folder)


def modelopt(folder: Path) -> None:
    """The HF layout of a text model in ModelOpt's FP8, which a file of its own describes."""
    _save(folder, "mistral")
    tensors = builders.load_set(folder)
    for name in filter(builders.is_text_linear, list(tensors)):
        scale = (tensors[name].abs().amax() / 448).float()
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.weight_scale": scale, f"{module}.input_scale": scale.clone()}
    builders.save_set(folder, [tensors])
    said = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    body = {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": said}
    builders.write_json(folder / "hf_quant_config.json", body)


def _save(folder: Path, kind: str) -> None:
    builders.save_model(folder, kind, _SIZES)
    builders.write_json(folder / "tekken.json", _TEKKEN)
    (folder / "README.md").write_text(README, encoding="utf-8")


def _convert(folder: Path) -> None:
    command = ["convert", "hf-to-consolidated", "--quiet", str(folder)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


MAKERS: Mapping[str, Callable[[Path], None]] = {
    maker.__name__: maker for maker in (pixtral, latent, audio, modelopt)
}


@cache
def good_files(name: str) -> Files:
    """The files of a good repo, made once."""
    folder = Path(mkdtemp(prefix="mmfmt-fuzz-")) / name
    try:
        MAKERS[name](folder)
        return {path.name: Content(path.read_bytes()) for path in sorted(folder.iterdir())}
    finally:
        shutil.rmtree(folder.parent)
