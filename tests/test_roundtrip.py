"""HF -> consolidated -> HF and back again: every tensor bit for bit, every config field."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.whisper.modeling_whisper import sinusoids

from tests import builders
from tests.conftest import Run

READERS = ("vllm", "native")
ODD = builders.Geometry(hidden=96, heads=3, kv_heads=1, head_dim=88, ff=144, layers=2)
SCHEMES = {
    "none": None,
    "W3 asym group": builders.scheme("pack-quantized", 3, "group", False, 24),
    "W4 sym group": builders.scheme("pack-quantized", 4, "group", True, 24),
    "W8A8 channel": builders.scheme("int-quantized"),
    "FP8 tensor": builders.scheme("float-quantized", strategy="tensor"),
}


def bits(folder: Path, stem: str = "model") -> dict[str, object]:
    """Every tensor of a set, by name."""
    return {name: builders.bits_of(t) for name, t in builders.load_set(folder, stem).items()}


def same(first: builders.Tensors, second: builders.Tensors) -> bool:
    """Whether two sets hold the same tensors, bit for bit."""
    first_bits, second_bits = (
        {name: builders.bits_of(tensor) for name, tensor in tensors.items()}
        for tensors in (first, second)
    )
    return first_bits == second_bits


def succeed(outcome: object) -> None:
    """The command must have exited with 0."""
    assert getattr(outcome, "code", None) == 0, outcome


# says nothing of weights or arithmetic; or, model_type of a text model without yarn, is a class
# of the same arithmetic under another name
SILENT = {
    *("_name_or_path", "transformers_version", "architectures", "mistral_extras", "model_type"),
    # compared as transformers computes them; the section is for vLLM, which reads no beta
    *("rope_parameters", "llama_4_scaling"),
    "image_seq_length",
    *("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"),
}


def meaning(folder: Path) -> Any:
    """config.json as transformers' own class understands it, ropes as it computes them."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return meant(config.to_dict()), rotary(config.get_text_config())


def rotary(config: Any) -> Any:
    """The rotary frequencies and attention factor of a text config, by transformers."""
    rope = config.rope_parameters
    kind, beta = rope["rope_type"], rope.get("llama_4_scaling_beta") or 0
    if kind == "default":
        return rope["rope_theta"], beta
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies.tolist(), factor, beta, rope["original_max_position_embeddings"]


def meant(value: Any) -> Any:
    """Config values without the keys that say nothing."""
    if not isinstance(value, dict):
        return str(value) if isinstance(value, torch.dtype) else value
    kept = {key: meant(inner) for key, inner in value.items() if key not in SILENT}
    # no more than silence says
    return {key: v for key, v in kept.items() if (key, v) != ("tie_word_embeddings", False)}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", builders.KINDS)
def test_hf_and_back(
    tmp_path: Path, to_consolidated: Run, to_hf: Run, kind: str, name: str, reader: str
) -> None:
    """The second HF set is the first; so is a second consolidated set made of it."""
    source, native, back, again = (tmp_path / n for n in ("hf", "native", "back", "again"))
    builders.save_model(source, kind, ODD)
    if SCHEMES[name]:
        builders.quantize_repo(source, SCHEMES[name])
    succeed(to_consolidated(source, native, "--reader", reader))
    succeed(to_hf(native, back, "--names", "legacy"))
    assert bits(back) == bits(source)
    assert meaning(back) == meaning(source)
    succeed(to_consolidated(back, again, "--reader", reader))
    assert bits(again, "consolidated") == bits(native, "consolidated")
    before, after = (builders.read_json(f / "params.json") for f in (native, again))
    # the processor that was made on the way takes it from the tokenizer
    assert after.get("vision_encoder", {}).pop("max_image_size", 112) == 112
    assert after == before


@pytest.mark.parametrize("kind", builders.OTHER_KINDS)
def test_other_families(tmp_path: Path, to_consolidated: Run, to_hf: Run, kind: str) -> None:
    """Experts, latent attention, audio: there, back, and there again."""
    source, native, back, again = (tmp_path / n for n in ("hf", "native", "back", "again"))
    builders.save_model(source, kind)
    succeed(to_consolidated(source, native))
    succeed(to_hf(native, back, "--names", "legacy"))
    before, after = builders.load_set(source), builders.load_set(back)
    if kind == "voxtral":
        # not stored in the consolidated layout, so made anew
        name = "audio_tower.embed_positions.weight"
        before.pop(name)
        expected = sinusoids(20, 32).to(torch.bfloat16)
        torch.testing.assert_close(after.pop(name), expected, atol=2**-8, rtol=0)
    assert same(after, before)
    assert meaning(back) == meaning(source)
    succeed(to_consolidated(back, again))
    assert bits(again, "consolidated") == bits(native, "consolidated")


def test_names(tmp_path: Path, to_hf: Run, to_consolidated: Run) -> None:
    """Both generations hold the same tensors; new names are written where nothing is said."""
    succeed(
        to_consolidated(builders.copy_repo(builders.W4A16, tmp_path / "hf"), tmp_path / "native")
    )
    succeed(to_hf(tmp_path / "native", tmp_path / "new"))
    succeed(to_hf(tmp_path / "native", tmp_path / "legacy", "--names", "legacy"))
    new, legacy = bits(tmp_path / "new"), bits(tmp_path / "legacy")
    assert {builders.renamed(name, "legacy", "new"): data for name, data in legacy.items()} == new
    assert "model.language_model.embed_tokens.weight" in new


def test_index_beside_the_other_set(tmp_path: Path, to_hf: Run, to_consolidated: Run) -> None:
    """In a folder with both sets an index names the HF set's only file; alone it needs none."""
    source = builders.save_model(tmp_path / "hf", "mistral")
    succeed(to_consolidated(source, tmp_path / "native"))
    succeed(to_hf(tmp_path / "native", tmp_path / "alone"))
    assert not (tmp_path / "alone" / builders.INDEX).exists()
    succeed(to_hf(tmp_path / "native"))
    index = builders.read_json(tmp_path / "native" / builders.INDEX)
    assert index["weight_map"] == dict.fromkeys(builders.load_set(source), builders.WEIGHTS)
    tensors = builders.load_set(source).values()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
