"""HF to consolidated, end to end: every tensor against a reference that mmfmt has no part in.

What must stand in the files is said twice more here, independently of
the layout tables: a map of names by regular expressions, and transformers' own
permutation (builders.to_hf_rows) to undo what the conversion did.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from safetensors import safe_open
from safetensors.torch import load_file

from mmfmt.convert.consolidated import Request, plan_consolidated
from mmfmt.convert.plan import Blocks, Copy, PlannedShard, PlannedTensor, Segment
from mmfmt.reader import reader
from mmfmt.repo import open_repo
from mmfmt.storage import Folder
from tests import builders
from tests.conftest import Run

READERS = ("vllm", "native")
SUMS = "SHA256SUMS"

# HF to native, after the prefixes of all generations are made those of the legacy one
_PLAIN = {
    "language_model.model.embed_tokens": "tok_embeddings",
    "language_model.model.norm": "norm",
    "language_model.lm_head": "output",
    "vision_tower.patch_conv": "vision_encoder.patch_conv",
    "vision_tower.ln_pre": "vision_encoder.ln_pre",
    "multi_modal_projector.linear_1": "vision_language_adapter.w_in",
    "multi_modal_projector.linear_2": "vision_language_adapter.w_out",
    "multi_modal_projector.patch_merger.merging_layer": "patch_merger.merging_layer",
    "multi_modal_projector.norm": "pre_mm_projector_norm",
}
_IN_TEXT_LAYER = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{letter}_proj": f"attention.w{letter}" for letter in "qkvo"},
    **{"mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2"},
    "mlp.up_proj": "feed_forward.w3",
}
_IN_VISION_LAYER = {
    **{"attention_norm": "attention_norm", "ffn_norm": "ffn_norm"},
    **{f"attention.{letter}_proj": f"attention.w{letter}" for letter in "qkvo"},
    "feed_forward.gate_proj": "feed_forward.w1",
    "feed_forward.down_proj": "feed_forward.w2",
    "feed_forward.up_proj": "feed_forward.w3",
}
_TEXT_LAYER = re.compile(r"language_model\.model\.layers\.(\d+)\.(.+)")
_VISION_LAYER = re.compile(r"vision_tower\.transformer\.layers\.(\d+)\.(.+)")


def native_module(hf_module: str, generation: str) -> str:
    """The native name of a module, said independently of the layout tables."""
    # the dot: prefixes such as `lm_head.` end in one
    name = builders.renamed(hf_module + ".", generation, "legacy").removesuffix(".")
    if found := _TEXT_LAYER.fullmatch(name):
        return f"layers.{found[1]}.{_IN_TEXT_LAYER[found[2]]}"
    if found := _VISION_LAYER.fullmatch(name):
        return f"vision_encoder.transformer.layers.{found[1]}.{_IN_VISION_LAYER[found[2]]}"
    return _PLAIN[name]


def modules(tensors: builders.Tensors) -> dict[str, builders.Tensors]:
    """Tensors by module and suffix."""
    grouped: dict[str, builders.Tensors] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        grouped.setdefault(module, {})[suffix] = tensor
    return grouped


class Sizes:
    """Head counts of a repo, read from its config.json."""

    def __init__(self, folder: Path) -> None:
        config = builders.read_json(folder / builders.CONFIG)
        text = config.get("text_config", config)
        self.heads: int = text["num_attention_heads"]
        self.kv_heads: int = text["num_key_value_heads"]
        self.vision_heads: int = config.get("vision_config", {}).get("num_attention_heads", 0)

    def of(self, native_name: str) -> int:
        """The heads of a module whose rows the layouts order differently, else 0."""
        tail = native_name.rpartition(".")[2]
        if tail not in ("wq", "wk"):
            return 0
        if native_name.startswith("vision_encoder."):
            return self.vision_heads
        return self.heads if tail == "wq" else self.kv_heads


def original(
    native_name: str, found: builders.Tensors, source: builders.Tensors, label: str, sizes: Sizes
) -> builders.Tensors:
    """A converted module taken back to HF order and names, by what its reader expects."""
    heads = sizes.of(native_name)
    text = not native_name.startswith("vision_encoder.")
    back = {"weight_scale" if s == "qscale_weight" else s: t for s, t in found.items()}
    if label == "vllm" and text:
        # only what vLLM permutes at load lies in native order (its maybe_remap_mistral)
        moved = {"weight"}
        if heads and "weight" in found and source.get("weight_scale", torch.ones(1)).numel() > 1:
            assert "qscale_weight" in found
            assert "weight_scale" not in found
            moved.add("weight_scale")
        else:
            assert "qscale_weight" not in found
    else:
        assert "qscale_weight" not in found
        moved = set(back) - {"weight_shape"}
    if not heads:
        return back
    return {s: _back(s, t, heads, source) if s in moved else t for s, t in back.items()}


def _back(suffix: str, tensor: torch.Tensor, heads: int, source: builders.Tensors) -> torch.Tensor:
    if tensor.numel() == 1:
        return tensor
    if suffix == "weight_zero_point" and tensor.dtype == torch.int32:
        rows, bits = _packed(source)
        shape = torch.Size([rows, tensor.shape[1]])
        values = unpack_from_int32(tensor, bits, shape, packed_dim=0)
        return builders.packed_zero_points(builders.to_hf_rows(values.contiguous(), heads), bits)
    raw = tensor.view(torch.uint8) if tensor.dtype.is_floating_point else tensor
    return builders.to_hf_rows(raw, heads).view(tensor.dtype)


def _packed(source: builders.Tensors) -> tuple[int, int]:
    """Rows and bit width of a packed module, from its own shapes."""
    rows, columns = (int(size) for size in source["weight_shape"])
    words = source["weight_packed"].shape[1]
    return rows, next(b for b in range(1, 9) if -(-columns * b // 32) == words)


def check_against_source(folder: Path, target: Path, label: str, generation: str) -> None:
    """Every tensor of a conversion, bit for bit, and no tensor more."""
    sizes = Sizes(folder)
    found = modules(builders.load_set(target, "consolidated"))
    source = modules(builders.load_set(folder))
    names = {module: native_module(module, generation) for module in source}
    assert set(found) == set(names.values())
    for module, name in names.items():
        back = original(name, found[name], source[module], label, sizes)
        expected = {suffix: builders.bits_of(t) for suffix, t in source[module].items()}
        assert {suffix: builders.bits_of(t) for suffix, t in back.items()} == expected, name


def converted(to_consolidated: Run, folder: Path, target: Path, *options: object) -> Path:
    """Convert by the command line, which must succeed."""
    outcome = to_consolidated(folder, target, *options)
    assert outcome.code == 0, outcome
    return target


@pytest.fixture(params=READERS)
def label(request: pytest.FixtureRequest) -> str:
    """Either reader."""
    return str(request.param)


@pytest.mark.parametrize("source", [builders.BF16, builders.W4A16], ids=["bf16", "w4a16"])
def test_tinystral(tmp_path: Path, to_consolidated: Run, source: Path, label: str) -> None:
    """The example checkpoint: every byte, and beside the weights only params and tokenizer."""
    folder = builders.copy_repo(source, tmp_path / "hf")
    target = converted(to_consolidated, folder, tmp_path / "out", "--reader", label)
    check_against_source(folder, target, label, "legacy")
    names = {path.name for path in target.iterdir()}
    assert names == {SUMS, "consolidated.safetensors", "params.json", "tekken.json", "README.md"}
    assert (target / "tekken.json").read_bytes() == builders.TEKKEN.read_bytes()


def test_tinystral_params(tmp_path: Path, to_consolidated: Run) -> None:
    """The whole params.json of the quantized example, written down by hand."""
    folder = builders.copy_repo(builders.W4A16, tmp_path / "hf")
    target = converted(to_consolidated, folder, tmp_path / "out")
    assert builders.read_json(target / "params.json") == {
        "dim": 256,
        "n_layers": 4,
        "head_dim": 64,
        "hidden_dim": 512,
        "n_heads": 8,
        "n_kv_heads": 2,
        "rope_theta": 10000.0,
        "norm_eps": 1e-05,
        "vocab_size": 2048,
        "tied_embeddings": False,
        "max_position_embeddings": 8192,
        "dtype": "bfloat16",
        "yarn": {
            "original_max_position_embeddings": 128,
            "factor": 64,
            "apply_scale": True,
            "beta": 4,
            "alpha": 1,
        },
        "vision_encoder": {
            "image_token_id": 10,
            "image_break_token_id": 12,
            "image_end_token_id": 13,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mm_projector_id": "patch_merge",
            "spatial_merge_size": 2,
            "hidden_size": 128,
            "num_channels": 3,
            "image_size": 112,
            "max_image_size": 112,
            "patch_size": 14,
            "rope_theta": 10000.0,
            "add_pre_mm_projector_layer_norm": True,
            "adapter_bias": False,
        },
        "quantization": {
            "config_groups": {
                "group_0": {
                    "format": "pack-quantized",
                    "targets": ["Linear"],
                    "weights": {
                        "dynamic": False,
                        "group_size": 128,
                        "num_bits": 4,
                        "strategy": "group",
                        "symmetric": True,
                        "type": "int",
                    },
                }
            },
            "format": "pack-quantized",
            "ignore": [
                # vLLM's module names: what of its own tree stays unquantized, and the vision side
                "language_model.lm_head",
                "re:vision_encoder.*",
                "re:vision_language_adapter.*",
                "re:patch_merger.*",
            ],
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
        },
    }


GEOMETRIES = {
    "as 7B": builders.Geometry(hidden=256, heads=4, kv_heads=1, head_dim=64, layers=1),
    "as Small": builders.Geometry(hidden=160, heads=2, kv_heads=1, head_dim=128, layers=1),
    "tower of Pixtral-Large": builders.Geometry(vision_hidden=176, vision_heads=2, layers=12),
    "tower of Medium 3.5": builders.Geometry(vision_hidden=208, vision_heads=2, head_dim=104),
    "odd heads": builders.Geometry(heads=3, kv_heads=3, head_dim=88, vision_layers=11),
}


@pytest.mark.parametrize(
    ("kind", "size"),
    [(k, s) for k in builders.KINDS for s in GEOMETRIES if k in builders.MULTIMODAL or "as" in s],
)
def test_models_of_transformers(tmp_path: Path, to_consolidated: Run, kind: str, size: str) -> None:
    """Random models of every class as transformers saves them, of real head sizes."""
    folder = builders.save_model(tmp_path / "hf", kind, GEOMETRIES[size])
    target = converted(to_consolidated, folder, tmp_path / "out")
    generation = "legacy" if kind in builders.MULTIMODAL else "text"
    check_against_source(folder, target, "vllm", generation)


def test_tied_embeddings(tmp_path: Path, to_consolidated: Run) -> None:
    """No output head in, none out."""
    folder = builders.save_model(tmp_path / "hf", "mistral3", tie_word_embeddings=True)
    target = converted(to_consolidated, folder, tmp_path / "out")
    check_against_source(folder, target, "vllm", "legacy")
    assert "output.weight" not in builders.load_set(target, "consolidated")
    assert builders.read_json(target / "params.json")["tied_embeddings"] is True


SCHEMES = {
    **{
        f"W{bits} {'sym' if symmetric else 'asym'} group": builders.scheme(
            "pack-quantized", bits, "group", symmetric, 24
        )
        for bits in (2, 3, 4, 8)
        for symmetric in (True, False)
    },
    **{
        f"W{bits} {'sym' if symmetric else 'asym'} channel": builders.scheme(
            "pack-quantized", bits, "channel", symmetric
        )
        for bits in (2, 3, 4, 8)
        for symmetric in (True, False)
    },
    "W8A8 channel": builders.scheme("int-quantized"),
    "W8A8 asym channel": builders.scheme("int-quantized", symmetric=False),
    "W8A8 tensor": builders.scheme("int-quantized", strategy="tensor"),
    "W4 tensor": builders.scheme("pack-quantized", 4, "tensor"),
    "FP8 channel": builders.scheme("float-quantized"),
    "FP8 tensor": builders.scheme("float-quantized", strategy="tensor"),
}
# 24 divides every input width, and no row of 3 bits fills its words
ODD = builders.Geometry(hidden=96, heads=3, kv_heads=1, head_dim=88, ff=144, layers=2)


@pytest.mark.parametrize("name", SCHEMES)
def test_quantized(tmp_path: Path, to_consolidated: Run, name: str, label: str) -> None:
    """Bit for bit, and once more as compressed-tensors decompresses both sides."""
    scheme = SCHEMES[name]
    folder = builders.save_model(tmp_path / "hf", "mistral", ODD)
    builders.quantize_repo(folder, scheme)
    target = converted(to_consolidated, folder, tmp_path / "out", "--reader", label)
    check_against_source(folder, target, label, "text")
    source = modules(builders.load_set(folder))
    found = modules(builders.load_set(target, "consolidated"))
    compressed = [m for m in source if builders.is_text_linear(f"{m}.weight")]
    assert len(compressed) == 14
    for module in compressed:
        native_name = native_module(module, "text")
        expected = decompressed(source[module], scheme)
        got = as_loaded(native_name, found[native_name], label, Sizes(folder), scheme)
        assert builders.bits_of(got) == builders.bits_of(expected), module


def as_loaded(
    native_name: str, found: builders.Tensors, label: str, sizes: Sizes, scheme: Any
) -> torch.Tensor:
    """The weight in HF order that a reader computes with.

    vLLM permutes `weight` and `qscale_weight` before it decompresses; Mistral's own order is
    decompressed as it stands and only then brought to HF order for the comparison.
    """
    heads = sizes.of(native_name)
    if not heads:
        return decompressed(found, scheme)
    if label == "native":
        return builders.to_hf_rows(decompressed(found, scheme), heads)
    loaded = dict(found)
    for suffix in {"weight", "qscale_weight"} & loaded.keys():
        loaded[suffix] = _back(suffix, loaded[suffix], heads, {})
    if "qscale_weight" in loaded:
        loaded["weight_scale"] = loaded.pop("qscale_weight")
    return decompressed(loaded, scheme)


def decompressed(parameters: builders.Tensors, scheme: Any) -> torch.Tensor:
    """The float weight of a compressed module, by compressed-tensors."""
    return builders.compressor(scheme).decompress(parameters, scheme)["weight"].contiguous()


def test_mixed_precision(tmp_path: Path, to_consolidated: Run, label: str) -> None:
    """Attention and feed-forward of other schemes: each module is still what its group says."""
    folder = builders.save_model(tmp_path / "hf", "mistral3", ODD)
    groups = {"self_attn": SCHEMES["W4 asym group"], "mlp": SCHEMES["W8A8 channel"]}
    builders.quantize_repo(folder, groups)
    target = converted(to_consolidated, folder, tmp_path / "out", "--reader", label)
    check_against_source(folder, target, label, "legacy")
    body = builders.read_json(target / "params.json")["quantization"]
    targets = {
        target: group["weights"]["num_bits"]
        for group in body["config_groups"].values()
        for target in group["targets"]
    }
    attention, mlp = (".".join(n) for n in (("self_attn", "q_proj"), ("mlp", "up_proj")))
    for layer in range(ODD.layers):
        assert targets[f"language_model.model.layers.{layer}.{attention}"] == 4
        assert targets[f"language_model.model.layers.{layer}.{mlp}"] == 8
    assert len(targets) == 7 * ODD.layers


@pytest.mark.parametrize("name", ["W4 asym group", "W8A8 channel", "FP8 tensor"])
def test_params_quantization_is_read_by_compressed_tensors(
    tmp_path: Path, to_consolidated: Run, name: str
) -> None:
    """Its own config class takes the section, and sees the scheme it was quantized with."""
    folder = builders.save_model(tmp_path / "hf", "mistral3", ODD)
    builders.quantize_repo(folder, SCHEMES[name])
    target = converted(to_consolidated, folder, tmp_path / "out")
    body = builders.read_json(target / "params.json")["quantization"]
    config = QuantizationConfig.model_validate(body)
    (group,) = config.config_groups.values()
    assert group.weights == SCHEMES[name].weights
    assert group.input_activations == SCHEMES[name].input_activations
    assert group.targets == ["Linear"]
    assert config.format == SCHEMES[name].format


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("kind", "generations"),
    [("mistral", ("text", "legacy", "new")), ("mistral3", ("legacy", "new"))],
)
def test_prefix_generations_give_the_same_bytes(
    tmp_path: Path, to_consolidated: Run, kind: str, generations: tuple[str, ...], quantized: bool
) -> None:
    """Names are all that differs between them, and native names have no generation."""
    folder = builders.save_model(tmp_path / "hf", kind, ODD)
    if quantized:
        builders.quantize_repo(folder, SCHEMES["W4 asym group"])
    outputs = []
    for generation in generations:
        renamed = builders.copy_repo(folder, tmp_path / generation)
        builders.rename_generation(renamed, generations[0], generation)
        target = converted(to_consolidated, renamed, tmp_path / f"out-{generation}")
        files = {path.name: path.read_bytes() for path in target.iterdir() if path.name != SUMS}
        outputs.append({name: without_padding(content) for name, content in files.items()})
    assert all(output == outputs[0] for output in outputs)
    # the rename did rename
    assert len({frozenset(builders.load_set(tmp_path / g)) for g in generations}) == len(outputs)


def without_padding(content: bytes) -> bytes:
    """A file without the spaces that make the data start where it does in a block of the source."""
    return re.sub(rb"} +(?=[^ ])", b"}", content[8:]) if content[8:10] == b'{"' else content


# --- shards ---


def shard_names(folder: Path) -> list[str]:
    """Weight files of a consolidated set."""
    return sorted(path.name for path in folder.glob("consolidated*.safetensors"))


def check_index(folder: Path) -> None:
    """The index against what safetensors reads from the files."""
    index = builders.read_json(folder / "consolidated.safetensors.index.json")
    located: dict[str, str] = {}
    total = 0
    for shard in shard_names(folder):
        with safe_open(folder / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                located[name] = shard
                total += file.get_tensor(name).nbytes
    assert index["weight_map"] == located
    assert index["metadata"]["total_size"] == total


def test_sharded_source_keeps_its_shards(tmp_path: Path, to_consolidated: Run, label: str) -> None:
    """As many files as transformers saved, with an index of their own."""
    folder = builders.save_model(tmp_path / "hf", "mistral3", max_shard_size="60KB")
    count = len(list(folder.glob("model-*.safetensors")))
    assert count > 2
    target = converted(to_consolidated, folder, tmp_path / "out", "--reader", label)
    expected = [f"consolidated-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    assert shard_names(target) == expected
    check_index(target)
    check_against_source(folder, target, label, "legacy")


@pytest.mark.parametrize("shard_size", ["60KB", "1KB", "48.5KiB", "1000000"])
def test_max_shard_size(tmp_path: Path, to_consolidated: Run, shard_size: str) -> None:
    """No file over the limit unless one tensor is; the tensors are those of one file."""
    folder = builders.save_model(tmp_path / "hf", "ministral3")
    target = converted(to_consolidated, folder, tmp_path / "out", "--max-shard-size", shard_size)
    limit = {"60KB": 60_000, "1KB": 1000, "48.5KiB": 49_664, "1000000": 1_000_000}[shard_size]
    for shard in shard_names(target):
        tensors = [t.nbytes for t in load_file(target / shard).values()]
        assert sum(tensors) <= limit or len(tensors) == 1
    assert (len(shard_names(target)) == 1) == (limit == 1_000_000)
    if limit < 1_000_000:
        check_index(target)
    check_against_source(folder, target, "vllm", "text")


def test_max_shard_size_joins_shards(tmp_path: Path, to_consolidated: Run) -> None:
    """A large limit makes one file of many, without an index."""
    folder = builders.save_model(tmp_path / "hf", "mistral", max_shard_size="20KB")
    target = converted(to_consolidated, folder, tmp_path / "out", "--max-shard-size", "1GB")
    assert shard_names(target) == ["consolidated.safetensors"]
    assert not (target / "consolidated.safetensors.index.json").exists()
    check_against_source(folder, target, "vllm", "text")


@pytest.mark.parametrize("size", ["0", "-1", "5XB", "GB", "five", "0.2"])
def test_bad_shard_sizes(tmp_path: Path, to_consolidated: Run, size: str) -> None:
    """Refused while parsing the command line."""
    outcome = to_consolidated(tmp_path, tmp_path / "out", f"--max-shard-size={size}")
    assert outcome.code == 2
    assert "is not a size such as 5GB" in outcome.err


def test_metadata_records_the_reader(tmp_path: Path, to_consolidated: Run, label: str) -> None:
    """Every shard says whose row order it has, in a field that safetensors reads."""
    folder = builders.save_model(tmp_path / "hf", "mistral", max_shard_size="60KB")
    target = converted(to_consolidated, folder, tmp_path / "out", "--reader", label)
    assert len(shard_names(target)) > 1
    for shard in shard_names(target):
        metadata = builders.file_metadata(target / shard)
        assert metadata == {"format": "pt", "mmfmt.reader": label}


def test_the_readers_differ_where_they_must(tmp_path: Path, to_consolidated: Run) -> None:
    """Packed Q and K only: a conversion for the wrong reader is not the right one by chance."""
    folder = builders.save_model(tmp_path / "hf", "mistral3", ODD)
    builders.quantize_repo(folder, SCHEMES["W4 asym group"])
    sets = [
        builders.load_set(
            converted(to_consolidated, folder, tmp_path / label, "--reader", label), "consolidated"
        )
        for label in READERS
    ]
    differing = {name for name, t in sets[0].items() if not torch.equal(t, sets[1][name])}
    assert differing == {
        f"layers.{layer}.attention.{module}.{suffix}"
        for layer in range(ODD.layers)
        for module in ("wq", "wk")
        for suffix in ("weight_packed", "weight_scale", "weight_zero_point")
    }


# --- what is written where ---


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("target", ["out", None])
def test_dry_run(tmp_path: Path, to_consolidated: Run, target: str | None) -> None:
    """A plan on stdout and not one file."""
    folder = builders.save_model(tmp_path / "hf", "mistral3")
    before = contents(tmp_path)
    arguments = [folder] if target is None else [folder, tmp_path / target]
    outcome = to_consolidated(*arguments, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert "consolidated.safetensors" in outcome.out
    assert "params.json" in outcome.out
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_dual_repo(tmp_path: Path, to_consolidated: Run, label: str) -> None:
    """Without DST the set is added to SRC, whose own files keep every byte."""
    folder = builders.copy_repo(builders.W4A16, tmp_path / "dual")
    before = contents(folder)
    assert to_consolidated(folder, "--reader", label).code == 0
    after = contents(folder)
    index = "model.safetensors.index.json"
    added = {SUMS, "consolidated.safetensors", "params.json", index}
    assert after.keys() - before.keys() == added
    assert {name: after[name] for name in before} == before
    # without it vLLM's HF loader would read both sets
    weight_map = builders.read_json(folder / index)["weight_map"]
    assert weight_map == dict.fromkeys(load_file(folder / builders.WEIGHTS), builders.WEIGHTS)
    check_against_source(folder, folder, label, "legacy")


def test_tokenizer_from_another_repo(tmp_path: Path, to_consolidated: Run) -> None:
    """The tokenizer that quantization tools leave behind, from the base model's folder."""
    folder = builders.copy_repo(builders.BF16, tmp_path / "hf")
    (folder / "tekken.json").unlink()
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(builders.TEKKEN, base)
    (base / "SYSTEM_PROMPT.txt").write_text("Be brief.")
    target = converted(to_consolidated, folder, tmp_path / "out", "--tokenizer-from", base)
    assert (target / "tekken.json").read_bytes() == builders.TEKKEN.read_bytes()
    assert (target / "SYSTEM_PROMPT.txt").read_text() == "Be brief."
    assert to_consolidated(folder, "--tokenizer-from", base).code == 0
    assert (folder / "tekken.json").read_bytes() == builders.TEKKEN.read_bytes()


def test_force_replaces_an_older_set_with_more_shards(tmp_path: Path, to_consolidated: Run) -> None:
    """No shard, index or params of the older set stays; other files do."""
    folder = builders.save_model(tmp_path / "hf", "mistral")
    target = tmp_path / "out"
    converted(to_consolidated, folder, target, "--max-shard-size", "20KB")
    (target / "README.md").write_text("kept")
    assert len(shard_names(target)) > 3
    converted(to_consolidated, folder, target, "--force")
    names = {path.name for path in target.iterdir()}
    assert names == {SUMS, "consolidated.safetensors", "params.json", "tekken.json", "README.md"}
    check_against_source(folder, target, "vllm", "text")
    converted(to_consolidated, folder, target, "--force", "--max-shard-size", "40KB")
    assert "consolidated.safetensors" not in shard_names(target)
    check_index(target)
    check_against_source(folder, target, "vllm", "text")


def test_quiet(tmp_path: Path, to_consolidated: Run) -> None:
    """Not a word when all is well."""
    folder = builders.save_model(tmp_path / "hf", "mistral")
    outcome = to_consolidated(folder, tmp_path / "out", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize("name", ["[bold]", "a[", "x" * 120])
@pytest.mark.parametrize("option", ["--dry-run", None])
def test_output_names_any_folder(
    tmp_path: Path, to_consolidated: Run, name: str, option: str | None
) -> None:
    """Paths are printed as they are: no markup in them, no line breaks."""
    folder = builders.save_model(tmp_path / "hf", "mistral")
    target = tmp_path / name / "b]"
    outcome = to_consolidated(folder, target, *([option] if option else []))
    assert outcome.code == 0
    assert str(target) in outcome.out + outcome.err


def test_output_with_a_closing_tag_in_the_path(tmp_path: Path, to_consolidated: Run) -> None:
    """`a[/b]` as a path would be a closing tag to the terminal library."""
    folder = builders.save_model(tmp_path / "hf", "mistral")
    outcome = to_consolidated(folder, tmp_path / "a[" / "b]")
    assert outcome.code == 0
    assert str(tmp_path / "a[" / "b]") in outcome.err


def test_runs_from_the_hub_cache(tmp_path: Path, to_consolidated: Run) -> None:
    """A snapshot folder of links to blobs is as good as the files."""
    made = builders.save_model(tmp_path / "made", "mistral3")
    home = tmp_path / "models--org--name"
    snapshot = home / "snapshots" / "0123"
    (home / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(made.iterdir())):
        shutil.copy(path, home / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    target = converted(to_consolidated, snapshot, tmp_path / "out")
    check_against_source(made, target, "vllm", "legacy")
    assert not any(path.is_symlink() for path in target.iterdir())


def test_plan_is_made_of_headers_only(tmp_path: Path) -> None:
    """The plan of a repo whose data is a hole on the disk is that of the real one."""
    folder = builders.save_model(tmp_path / "hf", "mistral3")

    def plan() -> Any:
        request = Request(open_repo(folder), Folder(tmp_path / "out"), reader("vllm"))
        return plan_consolidated(request)

    real = plan()
    path = folder / builders.WEIGHTS
    size = path.stat().st_size
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        file.truncate(8 + length)
        file.truncate(size)
    assert plan() == real
    assert real.data_bytes == sum(t.nbytes for t in builders.load_set(folder).values())
    assert {t.action for shard in real.shards for t in shard.tensors} == {
        "renamed",
        "row-permuted",
    }


def test_only_neighbours_are_copied_in_one_go() -> None:
    """Joined copies read the same bytes as the tensors one by one."""
    rows = Blocks("a", 40, 8, 1, (4, 2), "u1", ())
    apart: list[Segment] = [
        Copy("a", 0, 4),
        Copy("a", 4, 4),
        Copy("a", 12, 4),
        Copy("b", 16, 4),
        rows,
    ]
    apart += [Copy("b", 20, 4), Copy("b", 24, 0), Copy("b", 24, 1)]
    tensors = [PlannedTensor(str(n), str(n), "U8", (), (s,)) for n, s in enumerate(apart)]
    assert list(PlannedShard("x", tuple(tensors)).segments()) == [
        *(Copy("a", 0, 8), Copy("a", 12, 4), Copy("b", 16, 4), rows, Copy("b", 20, 5)),
    ]


def _sections(body: Any) -> Iterator[Any]:
    yield body
    if isinstance(body, dict):
        for value in body.values():
            yield from _sections(value)


def test_params_hold_no_nulls(tmp_path: Path, to_consolidated: Run) -> None:
    """Old readers refuse some; and the file ends in a newline like every text file."""
    folder = builders.copy_repo(builders.W4A16, tmp_path / "hf")
    target = converted(to_consolidated, folder, tmp_path / "out")
    text = (target / "params.json").read_text()
    assert text.endswith("}\n")
    assert None not in list(_sections(json.loads(text)))
