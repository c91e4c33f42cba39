"""Bad input, full disks and interrupts: one clear line, and nothing left behind."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfmt.convert import execute as execution
from mmfmt.convert import shard_task
from mmfmt.convert.consolidated import Request, plan_consolidated
from mmfmt.convert.execute import Options, Watch, execute
from mmfmt.convert.plan import Plan
from mmfmt.convert.staging import PREFIX
from mmfmt.errors import MmfmtError
from mmfmt.reader import reader
from mmfmt.repo import open_repo
from mmfmt.storage import Folder
from tests import builders
from tests.conftest import Outcome, Run
from tests.processes import mounted

ROOT = builders.ROOT
Damage = Callable[[Path], None]

W4 = builders.scheme("pack-quantized", 4, "group", True, 16)
W4_ASYM = builders.scheme("pack-quantized", 4, "channel", False)
TEXT = "language_model.model."
Q, K = (f"{TEXT}layers.0.self_attn.{letter}_proj" for letter in "qk")
VISION_Q = "vision_tower.transformer.layers.0.attention.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good BF16 repo with everything that can be damaged."""
    return builders.save_model(tmp_path / "hf", "mistral3")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_refused(to_consolidated: Run, folder: Path, *options: object) -> str:
    """Refuse a repo as a source for another folder and for itself; the one line on stderr."""
    target = folder.parent / "out"
    before = contents(folder)
    outcome = to_consolidated(folder, target, *options)
    assert outcome.out == ""
    assert not target.exists()
    assert to_consolidated(folder, *options).error == outcome.error
    assert contents(folder) == before
    return outcome.error


# --- bad repos ---


def tensors(changes: dict[str, torch.Tensor | None]) -> Damage:
    """Damage that replaces, adds or removes tensors."""
    return lambda folder: builders.edit_tensors(folder, changes)


def remove(name: str) -> Damage:
    """Damage that removes a file."""
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    """Cut the last byte off, as a broken download does."""
    path = folder / builders.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def long_header(folder: Path) -> None:
    """A length field that leads beyond the end."""
    path = folder / builders.WEIGHTS
    path.write_bytes((1 << 26).to_bytes(8, "little") + path.read_bytes()[8:])


def shard(folder: Path) -> None:
    """Split the weights in two files with an index."""
    every = list(builders.load_set(folder).items())
    (folder / builders.WEIGHTS).unlink()
    builders.save_set(folder, [dict(every[:9]), dict(every[9:])])


def missing_shard(folder: Path) -> None:
    """A download that stopped between two files."""
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def outside_index(folder: Path) -> None:
    """An index that makes us read a file of the parent folder."""
    shard(folder)
    index = builders.read_json(folder / builders.INDEX)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder.parent / "x.safetensors")
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../x.safetensors")
    builders.write_json(folder / builders.INDEX, index)


def tensor_twice(folder: Path) -> None:
    """One tensor in both shards."""
    every = builders.load_set(folder)
    (folder / builders.WEIGHTS).unlink()
    builders.save_set(folder, [every, {f"{TEXT}norm.weight": every[f"{TEXT}norm.weight"]}])


def config(**changes: Any) -> Damage:
    """Damage to config.json."""
    return lambda folder: builders.edit_config(folder, **changes)


def text_file(name: str, text: str) -> Damage:
    """A file with other content."""

    def damage(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return damage


def quantized(schemes: Any = W4, **changes: Any) -> Damage:
    """A quantized repo, its quantization_config then changed."""

    def damage(folder: Path) -> None:
        builders.quantize_repo(folder, schemes)
        body = builders.read_json(folder / builders.CONFIG)["quantization_config"]
        builders.edit_config(folder, quantization_config={**body, **changes})

    return damage


def quantized_format(name: str) -> Damage:
    """A quantized repo that says to have another format, at the top and in its group."""

    def damage(folder: Path) -> None:
        quantized()(folder)
        body = builders.read_json(folder / builders.CONFIG)["quantization_config"]
        groups = {key: {**group, "format": name} for key, group in body["config_groups"].items()}
        changed = {**body, "format": name, "config_groups": groups}
        builders.edit_config(folder, quantization_config=changed)

    return damage


def then(*damages: Damage) -> Damage:
    """One damage after another."""

    def damage(folder: Path) -> None:
        for each in damages:
            each(folder)

    return damage


def quantized_module(name: str) -> Damage:
    """One more module quantized in a repo whose text half is."""

    def damage(folder: Path) -> None:
        builders.quantize_repo(folder, W4)
        weight = builders.load_set(folder)[f"{name}.weight"]
        parameters = builders.quantize_module(weight, W4)
        changes: dict[str, torch.Tensor | None] = {f"{name}.{s}": t for s, t in parameters.items()}
        builders.edit_tensors(folder, {**changes, f"{name}.weight": None})

    return damage


def dequantized_module(name: str) -> Damage:
    """One module left out of a quantized repo."""

    def damage(folder: Path) -> None:
        weight = builders.load_set(folder)[f"{name}.weight"]
        builders.quantize_repo(folder, W4)
        gone = {n: None for n in builders.load_set(folder) if n.startswith(f"{name}.")}
        builders.edit_tensors(folder, {**gone, f"{name}.weight": weight})

    return damage


def no_tokenizer(folder: Path) -> None:
    """What AutoRound's export leaves out."""
    (folder / "tekken.json").unlink()


EMPTY = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
BAD = {
    "truncated": (truncate, ["model.safetensors: truncated", "fetch or export it again"]),
    "header longer than file": (long_header, ["model.safetensors: header of 67108864 bytes"]),
    "missing shard": (missing_shard, ["model-00002-of-00002.safetensors, which is missing"]),
    "index leads outside": (outside_index, ["names '../x.safetensors', which leads outside"]),
    "tensor in two shards": (tensor_twice, [f"{TEXT}norm.weight: stands in another shard too"]),
    "no weights": (remove(builders.WEIGHTS), ["holds no model*.safetensors"]),
    "no config": (remove(builders.CONFIG), ["config.json: cannot be read: No such file"]),
    "config no JSON": (text_file(builders.CONFIG, "{"), ["config.json: is not valid JSON"]),
    "no tekken": (no_tokenizer, ["no tekken.json", "--tokenizer-from"]),
    "tekken no JSON": (text_file("tekken.json", "{"), ["tekken.json: is not valid JSON"]),
    "other tokenizer": (
        config(image_token_index=9),
        ["config.json: image_token_index: 9, but the tokenizer has 10"],
    ),
    "unknown tensor": (
        tensors({f"{TEXT}layers.0.self_attn.q_porj.weight": torch.ones(2, 2)}),
        [
            f"model.safetensors: {TEXT}layers.0.self_attn.q_porj.weight: no legacy HF pixtral",
            f"nearest known: {TEXT}layers.{{layer}}.self_attn.q_proj.weight",
        ],
    ),
    "unknown suffix": (
        tensors({f"{Q}.weight_scales": torch.ones(2)}),
        [f"{Q}.weight_scales: no legacy HF", f"nearest known: {Q}.weight_scale)"],
    ),
    "q_norm": (
        tensors({f"{TEXT}layers.0.self_attn.q_norm.weight": torch.ones(8)}),
        ["self_attn.q_norm.weight: no legacy HF pixtral tensor"],
    ),
    "wrong shape": (
        tensors({f"{Q}.weight": torch.zeros(64, 32)}),
        [f"{Q}.weight: has shape [64, 32], expected [32, 64]"],
    ),
    "wrong number of heads": (
        config(text_config={**builders.TINY.text(), "num_attention_heads": 8, "rope_theta": 1.0}),
        ["self_attn.", "_proj.weight: has shape", "expected [64, 64]"],
    ),
    "missing tensor": (
        tensors({f"{Q}.weight": None}),
        [f"{Q}: is missing from the weight files"],
    ),
    "missing layer": (
        tensors({f"{TEXT}layers.1.input_layernorm.weight": None}),
        [f"{TEXT}layers.1.input_layernorm: is missing"],
    ),
    "layer too many": (
        tensors({f"{TEXT}layers.2.input_layernorm.weight": torch.ones(64)}),
        [f"{TEXT}layers.2.input_layernorm: is not part of the model that config.json describes"],
    ),
    "bias": (
        tensors({f"{Q}.bias": torch.ones(32)}),
        [f"{Q}.bias: is not expected here"],
    ),
    "strange dtype": (
        tensors({f"{TEXT}norm.weight": torch.ones(64, dtype=torch.float64)}),
        [f"{TEXT}norm"],
    ),
    "line break in a name": (
        tensors({f"{TEXT}norm\nweight.weight": torch.ones(64)}),
        ["norm"],
    ),
    "family not supported": (config(model_type="mamba2"), ["model_type: 'mamba2' is not"]),
    "gelu tower": (
        lambda folder: builders.edit_config(
            folder,
            vision_config={**builders.TINY.vision(), "rope_theta": 1e4, "hidden_act": "gelu"},
        ),
        ["vision_config.hidden_act: 'gelu' cannot be carried"],
    ),
    **{
        f"format {name}": (
            quantized_format(name),
            [f"quantization_config.config_groups.group_0: format '{name}' is not supported"],
        )
        for name in ("marlin-24", "sparse-24-bitmask", "modelopt-fp8", "strategies", "")
    },
    "sparse": (
        quantized(sparsity_config={"format": "sparse-24-bitmask"}),
        ["quantization_config.sparsity_config: sparse-24-bitmask cannot be converted"],
    ),
    "kv cache": (
        quantized(kv_cache_scheme={"num_bits": 8, "type": "float"}),
        ["self_attn.k_scale: is missing, though kv_cache_scheme asks for it"],
    ),
    "nothing quantized": (
        config(quantization_config=EMPTY),
        ["quantization_config: is there, but no tensor is quantized"],
    ),
    **{
        name: (quantized(quant_method=name), [f"quantization_config.quant_method: {name!r} {why}"])
        for name, why in {
            "bitsandbytes": "cannot be converted",
            "marlin": "cannot be converted",
            "hqq": "is not supported",
        }.items()
    },
    "no method": (quantized(quant_method=""), ["quant_method: 'none' is not supported"]),
    "gptq without bits": (quantized(quant_method="gptq"), ["bits: None is not supported in gptq"]),
    "config group is null": (
        quantized(config_groups={"group_0": None}),
        ['quantization_config.config_groups.group_0: null is not of type "object"'],
    ),
    "quantized without a config": (
        then(quantized(), config(quantization_config=None)),
        ["config.json: quantization_config"],
    ),
    "no group targets it": (
        quantized(config_groups={}),
        ["config.json: quantization_config: ", "is quantized, but no config group targets it"],
    ),
    "target is no regular expression": (
        quantized(
            config_groups={
                "group_0": {
                    "targets": ["re:*"],
                    "weights": {"num_bits": 4, "type": "int", "strategy": "channel"},
                }
            }
        ),
        ["'*' is not a regular expression"],
    ),
    "config says 8 bits": (
        quantized(
            config_groups={
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "int", "group_size": 16},
                }
            }
        ),
        ["weight_packed: has shape", "expected"],
    ),
    "packed scale missing": (
        then(quantized(), tensors({f"{Q}.weight_scale": None})),
        [f"{Q}.weight_scale: is missing"],
    ),
    "zero point of a symmetric scheme": (
        then(quantized(), tensors({f"{Q}.weight_zero_point": torch.zeros(4, 4).int()})),
        [f"{Q}.weight_zero_point: is not expected here"],
    ),
    "quantized vision tower": (
        quantized_module(VISION_Q),
        [f"{VISION_Q}: is quantized, which cannot be carried: vLLM builds the vision side"],
    ),
    "quantized output head": (
        quantized_module("language_model.lm_head"),
        ["language_model.lm_head: is quantized, which cannot be carried"],
    ),
    "quantized norm": (
        then(quantized(), tensors({f"{TEXT}norm.weight": torch.ones(64, dtype=torch.int8)})),
        [f"{TEXT}norm"],
    ),
    "packed norm": (
        then(quantized(), tensors({f"{TEXT}norm.weight_packed": torch.ones(64).int()})),
        [f"{TEXT}norm"],
    ),
    "q quantized but not k": (
        dequantized_module(K),
        ["self_attn.q_proj (quantized)", "self_attn.k_proj (not quantized)", "loaders fuse these"],
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_repo(to_consolidated: Run, folder: Path, fault: str) -> None:
    """Refused for another folder and in place: one line, exit code 2, no file written."""
    damage, messages = BAD[fault]
    damage(folder)
    error = check_refused(to_consolidated, folder)
    for message in messages:
        assert message in error
    assert len(error) < 500


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("preprocessor_config.json", {"size": 1540}),
        ("preprocessor_config.json", {"size": {"longest_edge": 28}}),
        ("processor_config.json", {"image_processor": None}),
        ("processor_config.json", {"image_processor": {"size": {"longest_edge": 28}}}),
        ("processor_config.json", {"image_processor": {"size": {"height": 28, "width": 28}}}),
    ],
)
def test_image_processors(
    to_consolidated: Run, folder: Path, name: str, body: dict[str, Any]
) -> None:
    """The largest edge where one is said, and no crash over the other forms there are."""
    builders.write_json(folder / name, body)
    outcome = to_consolidated(folder)
    assert outcome.code == 0, outcome
    encoder = builders.read_json(folder / "params.json")["vision_encoder"]
    assert encoder.get("max_image_size") == (28 if "longest_edge" in str(body) else None)


def test_packed_zero_points_of_one_axis(to_consolidated: Run, folder: Path) -> None:
    """A vector where compressed-tensors writes a column: carried or refused, never a crash."""
    builders.quantize_repo(folder, W4_ASYM)
    points = builders.load_set(folder)[f"{Q}.weight_zero_point"]
    builders.edit_tensors(folder, {f"{Q}.weight_zero_point": points.flatten()})
    outcome = to_consolidated(folder, folder.parent / "out", "--reader", "native")
    assert outcome.code in (0, 2), outcome
    assert len(outcome.err.splitlines()) == 1


def test_nothing_and_no_folder(tmp_path: Path, to_consolidated: Run) -> None:
    """SRC is missing, a file, or empty."""
    assert "is not a folder" in to_consolidated(tmp_path / "gone", tmp_path / "out").error
    (tmp_path / "file").touch()
    assert to_consolidated(tmp_path / "file").code == 2
    (tmp_path / "empty").mkdir()
    assert "holds no model*.safetensors" in to_consolidated(tmp_path / "empty").error
    (tmp_path / "empty" / "consolidated.00.pth").write_bytes(b"\x80\x04.")
    error = to_consolidated(tmp_path / "empty").error
    assert "consolidated.00.pth is a pickle, never loaded (save its tensors as" in error
    assert {path.name for path in tmp_path.iterdir()} == {"file", "empty"}


def test_as_a_process(folder: Path) -> None:
    """The installed module: exit code, streams and no traceback, seen from outside."""
    truncate(folder)
    arguments = [sys.executable, "-m", "mmfmt", "convert", "hf-to-consolidated", str(folder)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: model.safetensors: truncated")


# --- targets ---


@pytest.mark.parametrize(
    "name",
    [
        *("consolidated.safetensors", "consolidated.00.safetensors", "params.json"),
        *("consolidated-00001-of-00003.safetensors", "tekken.json"),
        "consolidated.safetensors.index.json",
    ],
)
def test_existing_output(tmp_path: Path, to_consolidated: Run, folder: Path, name: str) -> None:
    """Any file that would be replaced stops it, is named, and stays as it is."""
    target = tmp_path / "out"
    target.mkdir()
    (target / name).write_text("older")
    error = to_consolidated(folder, target).error
    assert f"holds {name} already" in error
    assert "--force" in error
    assert contents(target) == {name: b"older"}


@pytest.mark.parametrize("inside", [".", "new/folder"])
def test_read_only_target(tmp_path: Path, to_consolidated: Run, folder: Path, inside: str) -> None:
    """A read-only file system, as DST and as its parent."""
    with mounted(tmp_path / "ro", "-t", "tmpfs", "-o", "ro,size=64m", "tmpfs") as disk:
        error = to_consolidated(folder, disk / inside).error
        assert "Read-only file system" in error
        assert list(disk.iterdir()) == []


def test_read_only_source(tmp_path: Path, to_consolidated: Run, folder: Path) -> None:
    """A source that cannot be written is no hindrance to another DST, and one to a dual repo."""
    with mounted(tmp_path / "ro", "--bind", "-o", "ro", str(folder)) as source:
        assert "Read-only file system" in to_consolidated(source).error
        assert to_consolidated(source, tmp_path / "out").code == 0
    assert "consolidated.safetensors" not in contents(folder)


def test_too_little_space(tmp_path: Path, to_consolidated: Run, folder: Path) -> None:
    """Seen before anything is written, with both numbers."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        error = to_consolidated(folder, disk / "out").error
        assert "4,194,304 bytes are free" in error
        assert "are needed" in error
        assert list(disk.iterdir()) == []


def test_disk_fills_up(
    tmp_path: Path, to_consolidated: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the space meanwhile: half-written files do not stay."""
    monkeypatch.setattr(execution, "_SLACK", 0)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
        (disk / "consolidated.safetensors").write_text("older")
        error = to_consolidated(folder, disk, "--force").error
        assert "No space left on device" in error
        assert contents(disk) == {"consolidated.safetensors": b"older"}
        assert "No space left" in to_consolidated(folder, disk / "a" / "b").error
        assert [path.name for path in disk.iterdir()] == ["consolidated.safetensors"]


# --- interrupts ---


def published(folder: Path) -> dict[str, bytes]:
    """What does not lie in a staging folder."""
    found = contents(folder).items()
    return {name: content for name, content in found if not name.startswith(PREFIX)}


def make_plan(folder: Path, target: Path) -> Plan:
    """A plan of many small shards."""
    request = Request(open_repo(folder), Folder(target), reader("vllm"), max_shard_bytes=20_000)
    return plan_consolidated(request)


class Interrupt:
    """An `advance` callback that is interrupted at its nth call."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, count: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def count_calls(folder: Path, target: Path) -> int:
    """How often a whole conversion reports progress."""
    calls: list[int] = []
    execute(make_plan(folder, target), Options(target), Watch(calls.append))
    assert sum(calls) == sum(t.nbytes for t in builders.load_set(folder).values())
    return len(calls)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("exists", [False, True])
def test_interrupt_while_writing(tmp_path: Path, folder: Path, part: float, exists: bool) -> None:
    """No file in the target, and no target that was not there before if no shard was finished."""
    number = max(1, round(part * count_calls(folder, tmp_path / "whole")))
    target = tmp_path / "deep" / "out"
    if exists:
        target.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        execute(make_plan(folder, target), Options(target), Watch(Interrupt(number)))
    kept = part > 0
    assert (target.exists(), (tmp_path / "deep").exists()) == (exists or kept, exists or kept)
    assert [p.name[:7] for p in target.glob("*")] == [PREFIX] * kept
    execute(make_plan(folder, target), Options(target))
    assert contents(target) == contents(tmp_path / "whole")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A target with an older set that the new one replaces."""
    target = tmp_path / "older"
    target.mkdir()
    for name in ("consolidated.safetensors", "params.json", "tekken.json", "README.md"):
        (target / name).write_text(f"older {name}")
    return target


REPLACED = ("consolidated.safetensors", "params.json", "tekken.json")


def rename_failing_at(
    number: int, error: BaseException, target: Path
) -> Callable[[Path, Path], Path]:
    """Path.rename that raises when it is about to move the nth file from or to the target."""
    real, calls = Path.rename, iter(range(1, 1000))

    def rename(self: Path, other: Path) -> Path:
        if target in (self.parent, other.parent) and next(calls) == number:
            raise error
        return real(self, other)

    return rename


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 8])
def test_failure_while_publishing(
    folder: Path, older: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> None:
    """At whichever rename it happens, the older set is back as it was."""
    before, plan = contents(older), make_plan(folder, older)
    assert len(REPLACED) + len(plan.files) > 8
    monkeypatch.setattr(Path, "rename", rename_failing_at(number, error, older))
    with pytest.raises((KeyboardInterrupt, MmfmtError)):
        execute(plan, Options(older, force=True))
    assert published(older) == before
    assert {path.name for path in older.glob("[!.]*")} == {*REPLACED, "README.md"}


def test_interrupt_of_a_forced_replacement(
    folder: Path, older: Path, to_consolidated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line: one line, exit code 130, the older set untouched."""
    before = contents(older)
    monkeypatch.setattr(shard_task, "_check_shard", _raise_interrupt)
    outcome: Outcome = to_consolidated(folder, older, "--force")
    assert (outcome.code, outcome.out) == (130, "")
    # click puts a line break before it, so that it does not stand behind a terminal's ^C
    assert outcome.err.lstrip("\n") == "error: interrupted, nothing was published\n"
    assert contents(older) == before


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_source_that_shrinks(tmp_path: Path, folder: Path) -> None:
    """A source overwritten between plan and execution ends in an error, before a byte is read."""
    plan = make_plan(folder, tmp_path / "out")
    path = folder / builders.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MmfmtError, match="changed after the conversion was planned"):
        execute(plan, Options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
