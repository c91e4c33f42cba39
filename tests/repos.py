"""Good repos, made once a run: what defects are planted in."""

import shutil
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import torch
from click.testing import CliRunner

from mmfmt.cli import cli
from tests import quantized_repos, tokenizer_repos
from tests.builders import Geometry, save_model
from tests.damage import Tensors, edit_tensors, set_field

ROOT = Path(__file__).parent.parent
W4A16, BASE = ROOT / "examples/tinystral-w4a16", ROOT / "examples/tinystral-base"
BF16 = ROOT / "tests/data/tinystral-bf16"

HF, NATIVE = "model.safetensors", "consolidated.safetensors"
INDEX, FIRST = f"{NATIVE}.index.json", "consolidated-00001-of-00004.safetensors"
CONFIG, PARAMS = "config.json", "params.json"


def convert(*arguments: object) -> None:
    """Run `mmfmt convert hf-to-consolidated`; it must succeed.

    Without hashes, so that what is damaged later is found by the rules that know what it means.
    """
    command = ["convert", "hf-to-consolidated", "--quiet", "--no-hash", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def dual(folder: Path) -> None:
    """The W4A16 example with both layouts."""
    shutil.copytree(W4A16, folder)
    convert(folder, "--tokenizer-from", BASE)


def sharded(folder: Path) -> None:
    """The same with a consolidated set of four shards."""
    shutil.copytree(W4A16, folder)
    convert(folder, "--tokenizer-from", BASE, "--max-shard-size", "1.5MB")


def dual_bf16(folder: Path) -> None:
    """Both layouts without quantization."""
    shutil.copytree(BF16, folder)
    convert(folder)


def int8(folder: Path) -> None:
    """A W8A8 repo with both layouts, quantized here by rounding to the row's largest value."""
    shutil.copytree(BF16, folder)
    edit_tensors(HF, quantize_int8)(folder)
    args = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    inputs = {**args, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": args, "input_activations": inputs}
    ignore = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]
    body = {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ignore}
    groups = {"config_groups": {"group_0": group}, "quantization_status": "compressed"}
    section = {**body, **groups}
    set_field(CONFIG, "quantization_config", section)(folder)
    convert(folder)


def quantize_int8(tensors: Tensors) -> None:
    """Every text projection to I8 with one BF16 scale a row."""
    names = [n for n in tensors if "language_model.model.layers" in n and "_proj" in n]
    for name in names:
        scale = tensors[name].float().abs().amax(1, keepdim=True) / 127
        tensors[name.replace("weight", "weight_scale")] = scale.bfloat16()
        tensors[name] = (tensors[name].float() / scale).round().to(torch.int8)


def native(folder: Path) -> None:
    """The W4A16 example as a consolidated set only."""
    convert(W4A16, folder, "--tokenizer-from", BASE)


def in_both(quantize: Callable[[Path], None], folder: Path) -> None:
    """Both layouts of a repo of another scheme."""
    quantize(folder)
    convert(folder)


def large(folder: Path) -> None:
    """Both layouts with a real vocabulary, Pixtral's of 131,072 ids."""
    convert(tokenizer_repos.large(folder))


def spm(folder: Path) -> None:
    """A consolidated set with a SentencePiece file."""
    convert(tokenizer_repos.sentencepiece(folder.with_name("hf")), folder)


def saved(kind: str, folder: Path) -> None:
    """An HF repo of a tiny model of a model_type, as transformers saves it."""
    save_model(folder, kind, Geometry(vocab=2048), bos_token_id=1, eos_token_id=2)
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md")
    for name in (*names, "generation_config.json"):
        shutil.copy(BF16 / name, folder)


def text_only(folder: Path) -> None:
    """A quantized text model, HF layout."""
    saved("mistral", folder)
    quantized_repos.text_only(folder)


REPOS: Mapping[str, Callable[[Path], object]] = {
    "dual": dual,
    "sharded": sharded,
    "bf16": dual_bf16,
    "int8": int8,
    "large": large,
    "spm": spm,
    "hf-spm": tokenizer_repos.with_fast_tokenizer,
    "native": native,
    "block": partial(in_both, quantized_repos.block),
    "3 bits": partial(in_both, quantized_repos.three_bits),
    "nvfp4": partial(in_both, quantized_repos.nvfp4),
    "two groups": partial(in_both, quantized_repos.two_groups),
    "fp8": partial(in_both, quantized_repos.fp8),
    "awq": partial(in_both, quantized_repos.awq),
    "auto-round": partial(in_both, quantized_repos.auto_round),
    "hf-modelopt": quantized_repos.modelopt,
    "hf-block": quantized_repos.block,
    "hf-text": text_only,
    "hf-w4a16": lambda folder: shutil.copytree(W4A16, folder),
    "mistral": partial(saved, "mistral"),
    "mixtral": partial(saved, "mixtral"),
    "hf-bf16": lambda folder: shutil.copytree(BF16, folder),
}
"""How to make each good repo, by name."""


@cache
def good_repo(name: str) -> Path:
    """A good repo, made once; copy it before damaging it."""
    folder = Path(mkdtemp(prefix="mmfmt-tests-")) / name
    REPOS[name](folder)
    return folder
