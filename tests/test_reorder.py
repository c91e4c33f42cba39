"""Row orders of consolidated sets: recorded, asked for, switched."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import builders
from tests.conftest import Run
from tests.test_roundtrip import ODD, bits, succeed

SCHEMES = {
    "W3 asym": builders.scheme("pack-quantized", 3, "group", False, 24),
    "W8A8": builders.scheme("int-quantized"),
}


@pytest.fixture(params=SCHEMES)
def sets(request: pytest.FixtureRequest, tmp_path: Path, to_consolidated: Run) -> Path:
    """A folder with a quantized HF model and its consolidated set for each reader."""
    source = builders.save_model(tmp_path / "hf", "mistral3", ODD, max_shard_size="60KB")
    groups = {"": SCHEMES[request.param]}
    tensors: builders.Tensors = {}
    for name, tensor in builders.load_set(source).items():
        module = name.removesuffix(".weight")
        found = {"weight": tensor}
        if builders.is_text_linear(name):
            found = builders.quantize_module(tensor, groups[""])
        tensors |= {f"{module}.{suffix}": t for suffix, t in found.items()}
    for file in source.glob("model*"):
        file.unlink()
    items = sorted(tensors.items())
    half = len(items) // 2
    builders.save_set(source, [dict(items[:half]), dict(items[half:])])
    builders.edit_config(source, quantization_config=builders.quantization_config(groups, ()))
    for reader in ("vllm", "native"):
        succeed(to_consolidated(source, tmp_path / reader, "--reader", reader))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but SHA256SUMS, which names the plan that made it."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "SHA256SUMS"}


@pytest.mark.parametrize(("before", "after"), [("vllm", "native"), ("native", "vllm")])
def test_reorder(sets: Path, run: Run, before: str, after: str) -> None:
    """The very files that a conversion for the other reader writes."""
    target = sets / "out"
    succeed(run("convert", "reorder", sets / before, target, "--reader", after))
    assert files(target) == files(sets / after)
    assert files(target) != files(sets / before)


def test_reorder_moves_q_and_k_only(sets: Path, run: Run) -> None:
    """Nothing but text wq and wk differs, and the dry run says how many are moved."""
    succeed(run("convert", "reorder", sets / "vllm", sets / "out", "--reader", "native"))
    before, after = bits(sets / "vllm", "consolidated"), bits(sets / "out", "consolidated")
    changed = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    assert changed
    assert all(name.startswith("layers.") for name in changed)
    assert all(".attention.wq." in name or ".attention.wk." in name for name in changed)


def test_reorder_in_place(sets: Path, run: Run) -> None:
    """Replaces the set only when told to; afterwards the folder is the other reader's."""
    command = ("convert", "reorder", sets / "vllm", "--reader", "native")
    before = files(sets / "vllm")
    assert "use --force to replace them" in run(*command).error
    assert files(sets / "vllm") == before
    succeed(run(*command, "--force"))
    assert files(sets / "vllm") == files(sets / "native")


def forget_the_reader(folder: Path) -> None:
    """Shards as other tools write them, with no reader in their metadata."""
    for file in folder.glob("consolidated*.safetensors"):
        save_file(load_file(file), file, {"format": "pt"})


@pytest.mark.parametrize("reader", ["vllm", "native"])
def test_unrecorded_reader(sets: Path, to_hf: Run, run: Run, reader: str) -> None:
    """Asked for, never guessed; said rightly, the HF set comes back."""
    forget_the_reader(sets / reader)
    if "layers.0.attention.wq.qscale_weight" in builders.load_set(sets / reader, "consolidated"):
        # only vLLM's sets have it: the name tells
        succeed(to_hf(sets / reader, sets / "back", "--names", "legacy"))
        assert bits(sets / "back") == bits(sets / "hf")
        return
    error = to_hf(sets / reader, sets / "back").error
    assert "its row order is not recorded" in error
    assert "say whose it is with --reader vllm|native" in error
    succeed(to_hf(sets / reader, sets / "back", "--reader", reader, "--names", "legacy"))
    assert bits(sets / "back") == bits(sets / "hf")
    error = run("convert", "reorder", sets / reader, sets / "x", "--reader", "vllm").error
    assert "say whose it is with --from-reader vllm|native" in error


def test_recorded_reader_is_honoured(sets: Path, to_hf: Run) -> None:
    """It needs no option, and an option that contradicts it is refused."""
    succeed(to_hf(sets / "native", sets / "back", "--names", "legacy"))
    assert bits(sets / "back") == bits(sets / "hf")
    error = to_hf(sets / "native", sets / "x", "--reader", "vllm").error
    assert "mmfmt.reader: is 'native', but --reader says 'vllm'" in error


def test_shards_for_two_readers(sets: Path, to_hf: Run) -> None:
    """A set put together from two conversions is refused."""
    name = "consolidated-00001-of-00002.safetensors"
    (sets / "vllm" / name).write_bytes((sets / "native" / name).read_bytes())
    assert "mmfmt.reader: differs over shards" in to_hf(sets / "vllm", sets / "x").error


def test_bf16_needs_no_reader(tmp_path: Path, to_consolidated: Run, to_hf: Run) -> None:
    """All readers agree on unquantized rows, so nothing is asked."""
    builders.save_model(tmp_path / "hf", "mistral3")
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "native"))
    forget_the_reader(tmp_path / "native")
    succeed(to_hf(tmp_path / "native", tmp_path / "back", "--names", "legacy"))
    assert bits(tmp_path / "back") == bits(tmp_path / "hf")


def test_reorder_keeps_everything(sets: Path, run: Run) -> None:
    """Tensors that a change of layout would drop stay where they are, byte for byte."""
    name = "consolidated-00001-of-00002.safetensors"
    leftover = {"layers.0.attention.kv_fake_quantizer.qscale_act": torch.tensor([0.5])}
    for reader in ("vllm", "native"):
        file = sets / reader / name
        tensors = {**leftover, **load_file(file)}
        save_file(tensors, file, builders.file_metadata(file))
        index = sets / reader / "consolidated.safetensors.index.json"
        body = builders.read_json(index)
        body["weight_map"] |= dict.fromkeys(leftover, name)
        builders.write_json(index, body)
    outcome = run("convert", "reorder", sets / "vllm", sets / "out", "--reader", "native")
    succeed(outcome)
    assert "dropped" not in outcome.err
    assert bits(sets / "out", "consolidated") == bits(sets / "native", "consolidated")


def test_reorder_keeps_a_tied_head(tmp_path: Path, to_consolidated: Run, run: Run) -> None:
    """An output head beside tied embeddings is not needed, but it is not this command's to drop."""
    builders.save_model(tmp_path / "hf", "mistral", tie_word_embeddings=True)
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "native"))
    tensors = builders.load_set(tmp_path / "native", "consolidated")
    tensors["output.weight"] = tensors["tok_embeddings.weight"].clone()
    builders.save_set(tmp_path / "native", [tensors], "consolidated")
    succeed(run("convert", "reorder", tmp_path / "native", tmp_path / "out", "--reader", "native"))
    before, after = (bits(tmp_path / name, "consolidated") for name in ("native", "out"))
    assert after == before
