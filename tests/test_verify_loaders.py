"""The loaders run apart: they answer as they do with torch, and nothing hostile gets out."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from mmfmt.repo import open_repo
from mmfmt.verify import probe
from mmfmt.verify.findings import Problem, Rule
from mmfmt.verify.probe import Probe, run
from mmfmt.verify.run import rules_of, verify
from mmfmt.verify.subject import Subject
from tests import tokenizer_repos
from tests.damage import edit_json, set_field
from tests.repos import ROOT, good_repo

SETTINGS, TEKKEN = "tokenizer_config.json", "tekken.json"
LOADERS = [rule for rule in rules_of("loaders") if rule.cost == "loaders"]


@pytest.fixture(scope="module", params=["bf16", "v11"])
def repo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good repos of two geometries and two vocabularies."""
    if request.param == "bf16":
        return good_repo("bf16")
    return tokenizer_repos.versioned("v11", tmp_path_factory.mktemp("v11") / "repo")


@pytest.fixture(scope="module")
def said(repo: Path) -> Probe:
    """What the loaders make of it."""
    return run(repo)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy to damage, of a HF set."""
    return Path(shutil.copytree(good_repo("hf-bf16"), tmp_path / "repo"))


def test_the_probe_answers_as_with_torch(repo: Path, said: Probe) -> None:
    """The classes and the ids of images of every size are those of this process."""
    assert said.crash == "" and said.faults == {} and said.split == {}
    processor = AutoProcessor.from_pretrained(repo)
    assert type(processor.image_processor).__name__ == "PixtralImageProcessor"  # torchvision's
    auto = AutoTokenizer.from_pretrained(repo)
    assert said.picked(probe.AUTO) == type(auto).__name__
    assert said.picked(probe.PROCESSOR) == type(processor).__name__
    assert len(said.images) == 5
    for pair in said.images:
        width, height = pair.what
        image = Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))
        ids = processor(text="[IMG]", images=[image], add_special_tokens=False)["input_ids"][0]
        ids = ids.tolist()
        assert pair.hf is not None and list(pair.hf.ids) == ids
        assert pair.native is not None and set(ids) <= set(pair.native.ids)


def test_the_mismatch_is_that_of_transformers(repo: Path, said: Probe) -> None:
    """The seed of it all, word by word."""
    processor, auto = AutoProcessor.from_pretrained(repo), AutoTokenizer.from_pretrained(repo)
    sides = {name: getattr(processor, name) for name in ("patch_size", "spatial_merge_size")}
    mixed = type(processor)(image_processor=processor.image_processor, tokenizer=auto, **sides)
    with pytest.raises(ValueError) as caught:
        mixed(text="[INST][IMG]hi", images=[Image.new("RGB", (60, 100))])
    assert said.mismatch == f"ValueError: {caught.value}"


def test_chats(said: Probe) -> None:
    """Both sides agree on every id."""
    assert [pair.what for pair in said.chats] == ["user", "system", "several turns", "image"]
    for pair in said.chats:
        assert pair.native is not None and pair.hf is not None
        assert pair.native.ids == pair.hf.ids != ()


def test_a_default_system_prompt_is_no_difference(copy: Path) -> None:
    """Official templates have one; mistral-common has none."""
    path = copy / "chat_template.jinja"
    text = path.read_text()
    start = "{%- set default_system_message = '' %}"
    assert start in text
    path.write_text(text.replace(start, start.replace("''", "'Be good.'")))
    chat = next(pair for pair in run(copy).chats if pair.what == "user")
    assert chat.native is not None and chat.hf is not None
    assert chat.native.ids != chat.hf.ids
    assert verify(open_repo(copy), LOADERS).findings == ()


def test_a_native_repo_asks_mistral_common_alone() -> None:
    said = run(good_repo("spm"))
    assert said.loads.keys() == {probe.NATIVE} and said.picked(probe.NATIVE) == "MistralTokenizer"
    assert said.images == () and said.chats == ()


# --- what is not there ------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["transformers", "mistral_common", "cv2"])
def test_a_missing_package_is_no_fault_of_the_repo(
    package: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules that need it are skipped, and say what to install."""
    (tmp_path / f"{package}.py").write_text("raise ImportError('broken here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = verify(open_repo(copy), LOADERS)
    assert report.findings == ()
    assert report.skipped and all(skipped.missing for skipped in report.skipped)
    assert all("pip install 'mmfmt[hf]'" in skipped.reason for skipped in report.skipped)


def test_torch_may_be_broken(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that does not fit its torch stops transformers elsewhere."""
    for package in ("torch", "torchvision"):
        (tmp_path / f"{package}.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = verify(open_repo(copy), LOADERS)
    assert report.findings == () and report.skipped == ()


# --- hostile repos ----------------------------------------------------------------------------


def test_a_template_without_end_is_stopped(copy: Path) -> None:
    loop = "{%- for a in range(99999) %}{%- for b in range(99999) %}{%- endfor %}{%- endfor %}"
    (copy / "chat_template.jinja").write_text(loop)
    assert run(copy, timeout=5).crash == "no answer within 5 s"


def test_no_code_of_a_repo_runs(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what auto_map names nor a module that lies in the current folder."""
    trace = copy / "trace"
    code = f"open({str(trace)!r}, 'w').write('ran')\n"
    for name in ("evil.py", "json.py", "transformers.py", "tokenizers.py"):
        (copy / name).write_text(code)
    set_field(SETTINGS, "auto_map", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]})(copy)
    set_field("config.json", "auto_map", {"AutoConfig": "evil.Evil"})(copy)
    set_field("processor_config.json", "auto_map", {"AutoProcessor": "evil.Evil"})(copy)
    monkeypatch.chdir(copy)
    said = run(copy)
    assert said.crash == "" and said.loads.keys() >= {probe.AUTO, probe.PROCESSOR}
    assert not trace.exists()


def test_what_a_loader_dies_of_is_a_finding(copy: Path, tmp_path: Path) -> None:
    assert "FileNotFoundError" in run(tmp_path / "nowhere").crash
    edit_json("config.json", lambda body: body.update(transformers_version="five"))(copy)
    huge = {"image_patch_size": 14, "max_image_size": 10**9, "spatial_merge_size": 10**5}
    set_field(TEKKEN, "image", huge)(copy)
    said = run(copy)
    assert said.crash == "" and said.images == ()


def test_a_file_that_takes_all_memory_fails(copy: Path) -> None:
    """A vocabulary of a billion pairs is not loaded: the child has its limit."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import probe_main as p; p.bound_memory()"
    )
    code = f"{program}; bytearray(1 << 34)"
    command = [sys.executable, "-c", code, str(probe.PROGRAM.parent)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "MemoryError" in ended.stderr


def test_verify_imports_no_loader(copy: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mmfmt.repo import open_repo\n"
        "from mmfmt.verify.run import verify; from mmfmt.verify.consumers import choices\n"
        f"repo = open_repo(Path({str(copy)!r})); verify(repo); choices(repo)\n"
        "print(sorted({'torch', 'transformers', 'mistral_common'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_report_is_all_that_is_printed(copy: Path) -> None:
    """Loaders that print do not spoil it."""
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    command = [sys.executable, "-P", str(probe.PROGRAM), str(copy)]
    env = {**os.environ, "TRANSFORMERS_VERBOSITY": "debug"}
    ended = subprocess.run(command, capture_output=True, text=True, env=env)
    assert json.loads(ended.stdout)["loads"]


def test_no_loader_outlives_a_verification(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start beside the first rule, and end with the last, however that is."""
    program, started = tmp_path / "program.py", tmp_path / "started"
    write = f"pathlib.Path({str(started)!r}).write_text(str(os.getpid()))"
    program.write_text(f"import os, pathlib, time; {write}; time.sleep(600)")
    monkeypatch.setattr(probe, "PROGRAM", program)

    def interrupted(_: Subject) -> Iterator[Problem]:
        yield from ()
        while not (started.exists() and started.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(open_repo(copy), [Rule("MMF999", "stop", "error", "header", interrupted), *LOADERS])
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
