"""What `inspect` tells, against safetensors, transformers and Chromium."""

import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors import safe_open

from benchmarks.synthetic import config, write_repo
from mmfmt.errors import MmfmtError
from mmfmt.inspect.facts import Cell, Inspection, LayoutFacts, Line, Node, Size, to_json, total
from mmfmt.inspect.glyphs import glyphs
from mmfmt.inspect.modules import Named
from mmfmt.inspect.survey import inspect
from mmfmt.inspect.text import write_text
from mmfmt.inspect.wording import format_count, runs
from mmfmt.repo import open_repo
from tests.builders import Geometry, quantize_repo, save_model, scheme
from tests.conftest import Run
from tests.damage import Tensors, drop, edit_tensors, put, set_field
from tests.defects.files import truncate
from tests.repos import BF16, CONFIG, FIRST, HF, W4A16, good_repo

GOOD = ("dual", "sharded", "int8", "awq", "block", "mixtral")
STEMS = {"hf": "model", "consolidated": "consolidated"}
LAYER = "language_model.model.layers"


def look(folder: Path) -> Inspection:
    return inspect(open_repo(folder))


def only(folder: Path) -> LayoutFacts:
    (layout,) = look(folder).layouts
    return layout


def stored(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    """Every tensor of a layout, as safetensors reads it."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob(f"{stem}*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def cells(layout: LayoutFacts) -> Iterator[tuple[str, Cell]]:
    """Every cell with the name of its module."""
    for grid in layout.grids:
        for line in grid.lines:
            for cell in line.cells:
                yield line.pattern.replace("{layer}", str(cell.layer)), cell


@pytest.mark.parametrize("name", GOOD)
def test_sizes_are_those_of_the_files(name: str) -> None:
    for layout in look(good_repo(name)).layouts:
        tensors = stored(good_repo(name), STEMS[layout.key])
        data = sum(tensor.nbytes for tensor in tensors.values())
        assert (layout.size.tensors, layout.size.bytes) == (len(tensors), data)
        for sizes in (
            [part.size for part in layout.parts],
            [way.size for way in layout.schemes],
            [cell.size for _, cell in cells(layout)],
            [node.size for node in layout.tree],
        ):
            assert total(sizes) == layout.size
        for part in layout.parts:
            assert sum(count for _, count in part.bytes) == part.size.bytes
        assert layout.faults == () and layout.others == ()
        assert {cell.state for _, cell in cells(layout)} <= {"there", "none"}


@pytest.mark.parametrize("name", GOOD)
def test_files_are_those_of_the_folder(name: str) -> None:
    folder = good_repo(name)
    for file in look(folder).files:
        assert file.bytes == (folder / file.name).stat().st_size
        if file.name.endswith(".safetensors"):
            with safe_open(folder / file.name, framework="pt") as opened:
                assert file.tensors == len(opened.keys())


@pytest.mark.parametrize("name", GOOD)
def test_quantized_cells_are_the_modules_with_scales(name: str) -> None:
    for layout in look(good_repo(name)).layouts:
        quantized = {scheme.name for scheme in layout.schemes if scheme.quantized}
        shown = {module for module, cell in cells(layout) if dict(cell.schemes).keys() & quantized}
        names = (n.rpartition(".") for n in stored(good_repo(name), STEMS[layout.key]))
        scaled = {module for module, _, suffix in names if "scale" in suffix}
        assert shown == scaled


def test_parameters_are_those_of_the_transformers_model() -> None:
    with torch.device("meta"):
        model = transformers.Mistral3ForConditionalGeneration(
            transformers.AutoConfig.from_pretrained(BF16)
        )
    for folder in (good_repo("dual"), good_repo("int8"), BF16):
        for layout in look(folder).layouts:
            assert layout.size.parameters == model.num_parameters()
            heads = [part for part in layout.parts if part.name == "head"]
            assert heads[0].size.parameters == model.lm_head.weight.numel()


def test_two_weights_in_a_byte_count_as_two(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "repo", "mistral")
    plain = only(folder).size

    def pack(tensors: Tensors) -> None:
        for name in [name for name in tensors if "_proj" in name]:
            out, into = tensors[name].shape
            tensors[name] = torch.zeros(out, into // 2, dtype=torch.uint8)
            scale = torch.ones(out, into // 16).to(torch.float8_e4m3fn)
            tensors[name.replace("weight", "weight_scale")] = scale
            tensors[name.replace("weight", "weight_scale_2")] = torch.ones(1)
            tensors[name.replace("weight", "input_scale")] = torch.ones(1)

    edit_tensors(HF, pack)(folder)
    section = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    set_field(CONFIG, "quantization_config", section)(folder)
    packed = only(folder)
    assert packed.size.parameters == plain.parameters and packed.size.bytes < plain.bytes
    assert [s.name for s in packed.schemes if s.quantized] == ["NVFP4 g16"]
    assert {cell.state for _, cell in cells(packed)} == {"there"}


def test_stacked_experts_are_counted_once(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "repo", "mistral4")
    layout, tensors = only(folder), stored(folder, "model")
    assert any(tensor.ndim == 3 for tensor in tensors.values())
    assert layout.size.tensors == len(tensors)
    assert layout.size.bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert layout.size.parameters == sum(tensor.numel() for tensor in tensors.values())
    experts = [(name, cell) for name, cell in cells(layout) if "{expert}" in name]
    assert experts and all(cell.modules == 3 for _, cell in experts if cell.schemes)
    # layers before the experts begin are no gaps
    assert {cell.state for _, cell in experts} == {"there", "none"}


def test_two_schemes_stand_apart(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "repo", "mistral3", Geometry(hidden=128, ff=128))
    schemes = {
        "self_attn": scheme("float-quantized"),
        "mlp": scheme("pack-quantized", 4, "group", group_size=64),
    }
    layout = only(quantize_repo(folder, schemes))
    named = dict(cells(layout))
    assert dict(named[f"{LAYER}.1.mlp.up_proj"].schemes) == {"W4A16 g64": 1}
    assert dict(named[f"{LAYER}.1.self_attn.q_proj"].schemes) == {"FP8 channel": 1}
    assert [(s.name, s.glyph) for s in layout.schemes][-1] == ("BF16", "b")
    assert {s.glyph for s in layout.schemes} == {"4", "8", "b"}


def test_gaps_strangers_and_ignored_layers_show(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    drop(HF, f"{LAYER}.2.input_layernorm.weight")(folder)
    put(HF, f"{LAYER}.7.input_layernorm.weight", torch.ones(256))(folder)
    put(HF, "what.is.this", torch.ones(3))(folder)
    layout, named = only(folder), dict(cells(only(folder)))
    assert named[f"{LAYER}.2.input_layernorm"].state == "missing"
    assert named[f"{LAYER}.7.input_layernorm"].state == "unexpected"
    assert named[f"{LAYER}.7.input_layernorm"].schemes == (("F32", 1),)
    assert named[f"{LAYER}.7.mlp.up_proj"].state == "none"
    assert [other.name for other in layout.others] == ["what.is.this"]
    assert layout.size.bytes == sum(t.nbytes for t in stored(folder, "model").values())


def test_experts_that_differ_show_as_mixed_and_lost_ones_as_partial(tmp_path: Path) -> None:
    folder = shutil.copytree(good_repo("mixtral"), tmp_path / "repo")

    def damage(tensors: Tensors) -> None:
        first, second = (f"model.layers.{n}.block_sparse_moe.experts.1.w2.weight" for n in (0, 1))
        tensors[first] = tensors[first].float()
        del tensors[second]

    edit_tensors(HF, damage)(folder)
    named = dict(cells(only(folder)))
    first, second = (
        named[f"model.layers.{n}.block_sparse_moe.experts.{{expert}}.w2"] for n in (0, 1)
    )
    assert first.state == "there" and dict(first.schemes) == {"BF16": 2, "F32": 1}
    assert second.state == "partial" and dict(second.schemes) == {"BF16": 2}


def test_row_order_is_what_the_shards_record() -> None:
    hf, native = look(good_repo("sharded")).layouts
    with safe_open(good_repo("sharded") / FIRST, framework="pt") as file:
        assert native.row_order == file.metadata()["mmfmt.reader"]
    assert hf.row_order == "transformers"


def test_the_tree_counts_layers_and_experts() -> None:
    def find(nodes: tuple[Node, ...], name: str) -> Node:
        found = [n for node in nodes for n in (node, *node.children) if n.name == name]
        return found[0] if found else find(tuple(c for n in nodes for c in n.children), name)

    layers = find(only(good_repo("mixtral")).tree, "layers")
    assert (layers.count, find(layers.children, "experts").count) == (2, 3)
    assert total(child.size for child in layers.children) == layers.size


# --- broken repos ---


def test_a_cut_shard_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    folder = shutil.copytree(good_repo("sharded"), tmp_path / "repo")
    truncate(FIRST)(folder)
    _, native = look(folder).layouts
    assert len(native.faults) == 1 and native.faults[0].startswith(FIRST)
    (folder / FIRST).unlink()
    rest = stored(folder, "consolidated")
    assert native.size.bytes == sum(tensor.nbytes for tensor in rest.values())
    states = {module: cell.state for module, cell in cells(native)}
    names = [name.rpartition(".")[0] for name in rest if name.endswith("weight_scale")]
    assert names and {states[name] for name in names} == {"partial"}
    assert {state for name, state in states.items() if name not in names} == {"there"}


def test_one_layout_lost_leaves_the_other(tmp_path: Path, run: Run) -> None:
    folder = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    truncate(HF)(folder)
    inspection = look(folder)
    assert [layout.key for layout in inspection.layouts] == ["consolidated"]
    assert len(inspection.faults) == 1 and inspection.faults[0].startswith(HF)
    assert run("inspect", folder).code == 0
    assert HF in run("inspect", folder, "--layout", "hf").error


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "mistral3"}'])
def test_without_a_config_the_dtypes_are_told(tmp_path: Path, run: Run, text: str) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    (folder / CONFIG).write_text(text)
    layout = only(folder)
    assert layout.faults and all(CONFIG in fault for fault in layout.faults)
    assert layout.size.bytes == only(W4A16).size.bytes and layout.size.parameters is None
    assert {s.name for s in layout.schemes if s.quantized} == {"I32 ?"}
    outcome = run("inspect", folder)
    assert outcome.code == 0 and "cannot tell: config.json" in outcome.out


def test_a_tensor_in_two_shards_is_said(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    shutil.copy(folder / HF, folder / "model-00001-of-00001.safetensors")
    layout = only(folder)
    assert layout.size == only(W4A16).size
    assert len(layout.faults) == 1 and "stands in" in layout.faults[0]


def test_nothing_to_show_is_one_line(tmp_path: Path, run: Run) -> None:
    assert "holds no such checkpoint" in run("inspect", tmp_path).error
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    assert "holds no such checkpoint" in run("inspect", folder, "--layout", "consolidated").error
    truncate(HF)(folder)
    assert HF in run("inspect", folder).error
    with pytest.raises(MmfmtError):
        look(folder)
    assert "is not a folder" in run("inspect", tmp_path / "nowhere").error


def test_a_stray_layer_number_costs_one_column(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    put(HF, f"{LAYER}.999999.input_layernorm.weight", torch.ones(256))(folder)
    grid = only(folder).grids[0]
    assert grid.layers == (0, 1, 2, 3, 999999)
    assert {len(line.cells) for line in grid.lines} == {5}


def test_names_of_countless_layers_make_no_endless_map(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    strays = {f"{LAYER}.{n}.input_layernorm.weight": torch.ones(1) for n in range(4, 3000)}
    edit_tensors(HF, lambda tensors: tensors.update(strays))(folder)
    layout = only(folder)
    assert len(layout.grids[0].layers) == 1000
    assert [fault for fault in layout.faults if "3000 layers" in fault]
    assert layout.size.tensors == len(stored(folder, "model"))


def test_a_config_that_asks_for_countless_modules_is_not_believed(tmp_path: Path) -> None:
    folder = shutil.copytree(good_repo("mixtral"), tmp_path / "repo")
    set_field(CONFIG, "num_local_experts", 10**9)(folder)
    layout = only(folder)
    assert len(layout.faults) == 1 and layout.faults[0].startswith(CONFIG)
    assert {cell.state for _, cell in cells(layout)} == {"there"}


# --- text and JSON ---


def printed(inspection: Inspection, width: int, encoding: str = "utf-8") -> str:
    nowhere = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=nowhere, width=width, record=True, soft_wrap=True, markup=False)
    write_text(inspection, console)
    nowhere.flush()  # fails for what the encoding lacks
    return console.export_text()


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """A model of 88 layers, with headers only."""
    text = {
        **{"hidden_size": 256, "num_hidden_layers": 88, "num_attention_heads": 2},
        **{"num_key_value_heads": 1, "head_dim": 128, "intermediate_size": 256},
        **{"vocab_size": 512, "max_position_embeddings": 512},
    }
    vision = {
        **{"hidden_size": 64, "num_hidden_layers": 30, "num_attention_heads": 2},
        **{"intermediate_size": 64, "image_size": 56, "patch_size": 14, "num_channels": 3},
    }
    folder = tmp_path_factory.mktemp("deep") / "repo"
    write_repo(folder, config(text, vision), shard_bytes=50_000_000)
    return look(folder)


def strips(text: str, module: str) -> str:
    """The map of a module, its pieces put together."""
    return "".join(re.findall(rf"^{re.escape(module)} +(\S+)", text, re.MULTILINE))


def test_the_map_fits_narrow_and_wide_terminals(deep: Inspection) -> None:
    narrow, wide = printed(deep, 80), printed(deep, 200)
    for text, width in ((narrow, 80), (wide, 200)):
        told = text[text.index("schemes") :]
        assert max(map(len, told.splitlines())) <= width
        assert strips(text, "self_attn.q_proj") == "4" * 88
        assert strips(text, "input_layernorm") == "b" * 88
    assert len(re.findall("^self_attn.q_proj", wide, re.MULTILINE)) == 1
    assert re.search(r"^self_attn.q_proj +4{88}  W4A16 g128$", wide, re.MULTILINE)


def test_text_has_no_colour_in_a_pipe_and_control_characters_are_escaped(
    tmp_path: Path, run: Run
) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    put(HF, "evil\x1b[31m\nname", torch.ones(3))(folder)
    out = run("inspect", folder).out
    assert "\x1b" not in out and "evil\\x1b[31m\\nname" in out


def test_text_goes_to_terminals_without_unicode() -> None:
    text = printed(look(W4A16), 80, encoding="ascii")
    assert text.isascii() and "|-self_attn" in text


def test_json_says_what_the_text_says(run: Run) -> None:
    body = json.loads(run("inspect", good_repo("dual"), "--format", "json").out)
    assert [layout["key"] for layout in body["layouts"]] == ["hf", "consolidated"]
    for layout in body["layouts"]:
        size = layout["size"]
        assert size["bits"] == size["bytes"] * 8 / size["parameters"]
        assert sum(part["size"]["bytes"] for part in layout["parts"]) == size["bytes"]
    chosen = run("inspect", good_repo("dual"), "--format", "json", "--layout", "consolidated")
    assert json.loads(chosen.out)["layouts"] == body["layouts"][1:]
    assert json.loads(to_json(look(good_repo("dual")))) == body


def test_the_text_is_of_one_layout_and_names_the_other(run: Run) -> None:
    out = run("inspect", good_repo("dual")).out
    assert "self_attn.q_proj" in out and "attention.wq" not in out
    assert "Consolidated layout too" in out and "--layout consolidated" in out
    out = run("inspect", good_repo("dual"), "--layout", "consolidated").out
    assert "attention.wq" in out and "row order: vllm" in out


NAMES = st.sampled_from(["BF16", "W4A16 g128", "FP8 channel", ""])


@given(st.lists(NAMES, min_size=1, max_size=60).filter(any))
def test_runs_say_every_layer(names: list[str]) -> None:
    cells = tuple(
        Cell(n, "there" if name else "none", ((name, 1),) if name else (), Size(), ())
        for n, name in enumerate(names)
    )
    told = list(runs(Line("m", "layers.{layer}.m", "attention", cells)))
    if told == [names[0]]:
        assert set(names) == {names[0]}
        return
    said = [""] * len(names)
    for run in told:
        layers, _, name = run.partition(" ")
        first, _, last = layers.partition("-")
        for layer in range(int(first), int(last or first) + 1):
            said[layer] = name
    assert said == names


@given(st.lists(st.tuples(st.text(max_size=8), st.integers(1, 16)), unique_by=lambda n: n[0]))
def test_glyphs_tell_schemes_apart(named: list[tuple[str, int]]) -> None:
    chosen = glyphs(Named(name, "", bits) for name, bits in named[:50])
    assert max(Counter(chosen.values()).values(), default=1) == 1
    assert all(len(glyph) == 1 for glyph in chosen.values())


@given(st.integers(0, 10**15))
def test_counts_are_read_back(count: int) -> None:
    said = format_count(count)
    unit = {"k": 3, "M": 6, "B": 9, "T": 12}.get(said[-1], 0)
    assert abs(float(said.rstrip("kMBT")) * 10**unit - count) <= 0.05 * 10**unit
