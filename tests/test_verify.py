"""Every rule trips on its own defect and on nothing else, and stays silent on good repos."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from safetensors.torch import load_file, save_file

from mmfmt.cli import cli
from mmfmt.repo import open_repo
from mmfmt.schemas import json_schema
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.run import Report
from mmfmt.verify.run import verify as run_rules
from tests.damage import (
    Damage,
    Tensors,
    both,
    drop,
    drop_field,
    edit_json,
    edit_tensors,
    put,
    remove,
    rename,
    set_field,
)

ROOT = Path(__file__).parent.parent
W4A16, BASE = ROOT / "examples/tinystral-w4a16", ROOT / "examples/tinystral-base"
BF16 = ROOT / "tests/data/tinystral-bf16"

HF, NATIVE = "model.safetensors", "consolidated.safetensors"
INDEX, FIRST = f"{NATIVE}.index.json", "consolidated-00001-of-00004.safetensors"
CONFIG, PARAMS = "config.json", "params.json"
WQ, W1 = "layers.0.attention.wq", "layers.0.feed_forward.w1"
UP = "language_model.model.layers.0.mlp.up_proj"
VISION_WV = "vision_encoder.transformer.layers.0.attention.wv"


def verify(repo: Path) -> Report:
    """Run the rules over a folder."""
    return run_rules(open_repo(repo))


def convert(*arguments: object) -> None:
    """Run `mmfmt convert hf-to-consolidated`; it must succeed."""
    command = ["convert", "hf-to-consolidated", "--quiet", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The W4A16 example with both layouts."""
    repo = shutil.copytree(W4A16, tmp_path_factory.mktemp("good") / "repo")
    convert(repo, "--tokenizer-from", BASE)
    return repo


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a consolidated set of four shards."""
    repo = shutil.copytree(W4A16, tmp_path_factory.mktemp("sharded") / "repo")
    convert(repo, "--tokenizer-from", BASE, "--max-shard-size", "1.5MB")
    return repo


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8 repo with both layouts, quantized here by rounding to the row's largest value."""
    repo = shutil.copytree(BF16, tmp_path_factory.mktemp("int8") / "repo")
    edit_tensors(HF, quantize_int8)(repo)
    args = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    inputs = {**args, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": args, "input_activations": inputs}
    ignore = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]
    body = {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ignore}
    set_field(CONFIG, "quantization_config", {**body, "config_groups": {"group_0": group}})(repo)
    convert(repo)
    return repo


def quantize_int8(tensors: Tensors) -> None:
    """Every text projection to I8 with one BF16 scale a row."""
    names = [n for n in tensors if "language_model.model.layers" in n and "_proj" in n]
    for name in names:
        scale = tensors[name].float().abs().amax(1, keepdim=True) / 127
        tensors[name.replace("weight", "weight_scale")] = scale.bfloat16()
        tensors[name] = (tensors[name].float() / scale).round().to(torch.int8)


def truncate(name: str) -> Damage:
    """Cut the last byte off a file."""
    return lambda repo: os.truncate(repo / name, (repo / name).stat().st_size - 1)


def unquantize_v(name: str, module: str) -> Damage:
    """Make one value projection unquantized."""

    def edit(tensors: Tensors) -> None:
        for suffix in ("weight_packed", "weight_scale", "weight_shape"):
            del tensors[f"{module}.{suffix}"]
        tensors[f"{module}.weight"] = torch.ones(128, 256, dtype=torch.bfloat16)

    return edit_tensors(name, edit)


def ignore_too(name: str, section: str, entry: str) -> Damage:
    """Append to an ignore list."""
    return edit_json(name, lambda body: body[section]["ignore"].append(entry))


def quantize_vision(tensors: Tensors) -> None:
    """Pretend that a vision projection is packed."""
    weight = tensors.pop(f"{VISION_WV}.weight")
    tensors[f"{VISION_WV}.weight_packed"] = torch.zeros(128, 16, dtype=torch.int32)
    tensors[f"{VISION_WV}.weight_scale"] = torch.ones(128, 1, dtype=torch.float16)
    tensors[f"{VISION_WV}.weight_shape"] = torch.tensor(weight.shape)


def legacy_ignore(body: dict[str, Any]) -> None:
    """Write the ignore list in legacy names, which transformers does not match."""
    quantization = body["quantization_config"]
    quantization["ignore"] = [name.removeprefix("model.") for name in quantization["ignore"]]


def wrong_image_id(body: dict[str, Any]) -> None:
    """Give [IMG] another id in tokenizer.json."""
    next(t for t in body["added_tokens"] if t["content"] == "[IMG]")["id"] = 11


def duplicate(repo: Path) -> None:
    """Put a tensor of the second shard into the first, too, and drop the index."""
    second = load_file(repo / FIRST.replace("00001", "00002", 1))
    name, tensor = next(iter(second.items()))
    put(FIRST, name, tensor)(repo)
    (repo / INDEX).unlink()


def split_hf(repo: Path) -> None:
    """Split model.safetensors in two, without an index."""
    tensors = load_file(repo / HF)
    names = sorted(tensors)
    for number, part in enumerate((names[:50], names[50:]), start=1):
        save_file({n: tensors[n] for n in part}, repo / f"model-0000{number}-of-00002.safetensors")
    (repo / HF).unlink()
    (repo / f"{HF}.index.json").unlink()


def cut_params(repo: Path) -> None:
    """Leave params.json half written."""
    (repo / PARAMS).write_text("{")


def orphan(repo: Path) -> None:
    """Leave a shard that no index names."""
    save_file({"x": torch.ones(1)}, repo / "consolidated-extra.safetensors")


V_HF = "model.language_model.layers.0.self_attn.v_proj"
V_VLLM = "language_model.model.layers.0.self_attn.v_proj"
MIXED = both(
    unquantize_v(HF, "language_model.model.layers.0.self_attn.v_proj"),
    unquantize_v(NATIVE, "layers.0.attention.wv"),
    ignore_too(CONFIG, "quantization_config", V_HF),
    ignore_too(PARAMS, "quantization", V_VLLM),
)
INT32, BF, F16 = torch.int32, torch.bfloat16, torch.float16
ACTIVATIONS = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
GROUP = "quantization.config_groups.group_0"

DEFECTS: list[tuple[str, str, Damage]] = [
    ("MMF101", "no params", remove(PARAMS)),
    ("MMF101", "no tekken", remove("tekken.json")),
    ("MMF101", "no weights", remove(NATIVE)),
    ("MMF102", "no processor", remove("processor_config.json")),
    ("MMF102", "no config", remove(CONFIG)),
    ("MMF108", "no index", split_hf),
    ("MMF201", "truncated", truncate(NATIVE)),
    ("MMF201", "truncated in HF", truncate(HF)),
    ("MMF301", "unknown name", put(NATIVE, "layers.0.attention.wx.weight", torch.ones(1))),
    ("MMF302", "no norm", drop(NATIVE, "layers.3.ffn_norm.weight")),
    ("MMF302", "no vision norm", drop(NATIVE, "vision_encoder.ln_pre.weight")),
    ("MMF302", "no vision norm in HF", drop(HF, "vision_tower.ln_pre.weight")),
    ("MMF302", "a layer too many", put(NATIVE, "layers.4.ffn_norm.weight", torch.ones(256))),
    ("MMF303", "short norm", put(NATIVE, "norm.weight", torch.ones(255, dtype=BF))),
    ("MMF303", "bias", put(NATIVE, "vision_language_adapter.w_in.bias", torch.ones(256))),
    ("MMF401", "no scale", drop(NATIVE, f"{WQ}.weight_scale")),
    ("MMF401", "no shape", drop(NATIVE, f"{WQ}.weight_shape")),
    ("MMF401", "narrow", put(NATIVE, f"{W1}.weight_packed", torch.zeros(512, 31, dtype=INT32))),
    ("MMF401", "zeros", put(NATIVE, f"{W1}.weight_zero_point", torch.zeros(64, 2, dtype=INT32))),
    ("MMF401", "dtype", put(NATIVE, f"{W1}.weight_packed", torch.zeros(512, 32).long())),
    ("MMF401", "groups", put(HF, f"{UP}.weight_scale", torch.ones(512, 3, dtype=F16))),
    ("MMF402", "undeclared", drop_field(PARAMS, "quantization")),
    ("MMF403", "v unquantized", MIXED),
    ("MMF404", "legacy names", edit_json(CONFIG, legacy_ignore)),
    ("MMF404", "quantized but ignored", ignore_too(PARAMS, "quantization", V_VLLM)),
    ("MMF404", "too short", set_field(CONFIG, "quantization_config.ignore", ["lm_head"])),
    ("MMF405", "quantized vision", edit_tensors(NATIVE, quantize_vision)),
    ("MMF501", "text for number", set_field(PARAMS, "n_layers", "4")),
    ("MMF501", "zero", set_field(CONFIG, "text_config.hidden_size", 0)),
    ("MMF501", "not JSON", cut_params),
    ("MMF502", "apply_scale", set_field(PARAMS, "yarn.apply_scale", False)),
    ("MMF502", "theta", set_field(PARAMS, "rope_theta", 1e6)),
    ("MMF502", "vision theta", set_field(PARAMS, "vision_encoder.rope_theta", 2e4)),
    ("MMF502", "no merge size", drop_field(PARAMS, "vision_encoder.adapter_bias")),
    ("MMF502", "gelu", set_field(CONFIG, "vision_config.hidden_act", "gelu")),
    ("MMF503", "activations", set_field(PARAMS, f"{GROUP}.input_activations", ACTIVATIONS)),
    ("MMF601", "break id", set_field(PARAMS, "vision_encoder.image_break_token_id", 14)),
    ("MMF601", "tokenizer.json", edit_json("tokenizer.json", wrong_image_id)),
]

SHARDED: list[tuple[str, str, Damage]] = [
    ("MMF103", "missing", remove(FIRST)),
    ("MMF103", "outside", edit_json(INDEX, lambda b: b["weight_map"].update({"x": "../x"}))),
    ("MMF104", "not listed", edit_json(INDEX, lambda b: b["weight_map"].pop("norm.weight"))),
    ("MMF105", "size", set_field(INDEX, "metadata.total_size", 1)),
    ("MMF106", "orphan", orphan),
    ("MMF107", "duplicate", duplicate),
    ("MMF407", "mixed readers", edit_tensors(FIRST, len, {"mmfmt.reader": "native"})),
    ("MMF407", "unknown reader", edit_tensors(FIRST, len, {"mmfmt.reader": "other"})),
]

INT8: list[tuple[str, str, Damage]] = [
    ("MMF406", "scale", rename(NATIVE, f"{WQ}.qscale_weight", f"{WQ}.weight_scale")),
]


def cases(defects: list[tuple[str, str, Damage]]) -> pytest.MarkDecorator:
    """Parametrize by rule and defect."""
    return pytest.mark.parametrize(
        ("rule", "damage"),
        [pytest.param(rule, damage, id=f"{rule} {what}") for rule, what, damage in defects],
    )


def check(rule: str, damage: Damage, good: Path, folder: Path) -> None:
    """The damaged copy trips the rule and no other."""
    repo = shutil.copytree(good, folder / "repo")
    damage(repo)
    found = verify(repo).findings
    assert {finding.rule for finding in found} == {rule}, found


@cases(DEFECTS)
def test_each_defect_trips_its_rule_only(
    rule: str, damage: Damage, good: Path, tmp_path: Path
) -> None:
    check(rule, damage, good, tmp_path)


@cases(SHARDED)
def test_each_defect_of_shards_trips_its_rule_only(
    rule: str, damage: Damage, sharded: Path, tmp_path: Path
) -> None:
    check(rule, damage, sharded, tmp_path)


@cases(INT8)
def test_each_defect_of_int8_trips_its_rule_only(
    rule: str, damage: Damage, int8: Path, tmp_path: Path
) -> None:
    check(rule, damage, int8, tmp_path)


def test_every_rule_has_a_defect_and_an_explanation() -> None:
    rules = {rule.id: rule for rule in registered_rules()}
    planted = {rule for rule, _, _ in DEFECTS + SHARDED + INT8}
    assert planted | {"MMF408"} == rules.keys()
    for rule in rules.values():
        assert "Repair:" in rule.explanation, rule.id


@pytest.mark.parametrize("name", ["good", "sharded", "int8"])
def test_good_repos_are_clean(name: str, request: pytest.FixtureRequest) -> None:
    report = verify(request.getfixturevalue(name))
    assert report.findings == () and report.skipped == ()


@pytest.mark.parametrize("repo", [W4A16, BF16], ids=["w4a16", "bf16"])
def test_hf_only_repos_are_clean(repo: Path) -> None:
    report = verify(repo)
    assert report.findings == () and report.skipped == ()


def test_hf_repo_without_tokenizer_is_found(tmp_path: Path) -> None:
    check("MMF102", remove("tokenizer.json"), W4A16, tmp_path)


def test_quantization_of_nothing_is_found(tmp_path: Path) -> None:
    body = json.loads((W4A16 / CONFIG).read_text())["quantization_config"]
    check("MMF402", set_field(CONFIG, "quantization_config", body), BF16, tmp_path)


def test_row_order_of_another_reader_is_said(tmp_path: Path) -> None:
    convert(W4A16, tmp_path / "out", "--tokenizer-from", BASE, "--reader", "native")
    found = verify(tmp_path / "out").findings
    assert {finding.rule for finding in found} == {"MMF408"}
    names = {f"layers.{layer}.attention.{w}" for layer in range(4) for w in ("wq", "wk")}
    assert {finding.location.rpartition(".")[0] for finding in found} == names


def test_native_only_repo_is_clean(tmp_path: Path) -> None:
    convert(W4A16, tmp_path / "out", "--tokenizer-from", BASE)
    report = verify(tmp_path / "out")
    assert report.findings == () and report.skipped == ()


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m mmfmt`."""
    command = [sys.executable, "-m", "mmfmt", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return result.returncode, result.stdout, result.stderr


def test_exit_codes_and_text(good: Path, tmp_path: Path) -> None:
    assert run("verify", good) == (0, f"OK {good}: 0 errors, 0 warnings\n", "")
    repo = shutil.copytree(good, tmp_path / "repo")
    drop(NATIVE, "norm.weight")(repo)
    code, out, _ = run("verify", repo)
    assert code == 1
    assert "error MMF302 missing-module: norm: is missing" in out
    code, out, err = run("verify", tmp_path)
    assert code == 2 and out == "" and err.startswith(f"error: {tmp_path}: holds no checkpoint")


def test_warnings_do_not_fail(sharded: Path, tmp_path: Path) -> None:
    repo = shutil.copytree(sharded, tmp_path / "repo")
    set_field(INDEX, "metadata.total_size", 1)(repo)
    code, out, _ = run("verify", repo)
    assert code == 0 and "warning MMF105" in out


def test_json_report_keeps_its_schema(good: Path, tmp_path: Path) -> None:
    repo = shutil.copytree(good, tmp_path / "repo")
    drop(NATIVE, "norm.weight")(repo)
    truncate(NATIVE)(shutil.copytree(good, tmp_path / "cut"))
    for name, code in (("repo", 1), ("cut", 1)):
        found, out, _ = run("verify", tmp_path / name, "--format", "json")
        assert found == code
        body = json.loads(out)
        Draft202012Validator(json_schema("findings")).validate(body)
        assert body["summary"]["errors"] == len(body["findings"]) == 1
    assert body["skipped"], "rules that need the header could not look"


def test_verify_does_not_import_torch(good: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mmfmt.repo import open_repo\n"
        "from mmfmt.verify.run import verify\n"
        f"verify(open_repo(Path({str(good)!r}))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
