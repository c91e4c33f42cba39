"""What a release should not hold: facts against huggingface_hub, and hostile files."""

import json
import pickle
import shutil
import string
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub import constants as hub
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.hf_api import parse_local_safetensors_file_metadata
from hypothesis import given
from hypothesis import strategies as st

from mmfmt.errors import MmfmtError
from mmfmt.repo import open_repo
from mmfmt.schemas import table
from mmfmt.verify.findings import REGISTRY, Finding
from mmfmt.verify.rules import hygiene  # noqa: F401 registers them
from mmfmt.verify.rules.model_card import front_matter
from mmfmt.verify.subject import Subject
from tests.builders import encode
from tests.conftest import Run
from tests.repos import BASE, BF16, W4A16

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def found(rule: str, folder: Path) -> list[Finding]:
    """What one rule says of a folder."""
    return list(REGISTRY[rule].findings(Subject(open_repo(folder), lambda _: None, frozenset())))


def test_limits_are_those_of_huggingface_hub() -> None:
    facts = table("hygiene")["hard"]
    assert facts["download_bytes"] == hub.MAX_HTTP_DOWNLOAD_SIZE
    assert facts["header_bytes"] == hub.SAFETENSORS_MAX_HEADER_LENGTH


@pytest.mark.parametrize("folder", [W4A16, BF16])
def test_cards_of_the_examples(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    card = ModelCard(text).data
    assert front_matter(text)["license"] == card.get("license") == "apache-2.0"
    assert front_matter(text)["base_model"] == card.get("base_model")


@given(
    st.dictionaries(
        st.sampled_from(["license", "license_name", "a", "b"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(string.printable[:95]),
            st.lists,
            max_leaves=4,
        ),
        min_size=1,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_front_matter_is_what_the_hub_reads(body: dict[str, object], end: str) -> None:
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in body.items()), "---", "# x"]
    text = end.join(lines)
    assert front_matter(text) == body
    card = ModelCard(text).data
    assert {key: card.get(key) for key in body} == body


@given(st.text(alphabet="-\n \t:[]{}&*!<>|'\"#%@`ab01,?", max_size=60))
def test_any_front_matter_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(front_matter(f"---\n{text}\n---\n"), dict)
    except MmfmtError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no front matter"),
        ("---\nlicense: mit\n", "has no front matter"),
        ("x\n---\nlicense: mit\n---\n", "has no front matter"),
        ("---\na: !!python/object/apply:os.system [exit]\n---\n", "is not YAML"),
        ("---\na: &a {b: 1}\nc: {<<: *a}\n---\n", "is not YAML"),
        ("---\na: " + "[" * 5000 + "\n---\n", "is not YAML"),
        ("---\na: !!int ''\n---\n", "is not YAML"),
        (f"---\na: {'x' * 20_000}\n---\n", "front matter has"),
    ],
)
def test_front_matters_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(MmfmtError, match=said):
        front_matter(text)


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "train.log.txt").write_text(f"\nlogin\ntoken: {TOKEN}\n")
    (finding,) = found("MMF807", tmp_path)
    assert (finding.path, finding.location) == ("train.log.txt", "line 3")
    assert TOKEN[3:] not in repr(finding)


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "x" * 34,
        "AKIAIOSFODNN7EXAMPL",
        "sk-your-key-here",
        "sk-" + "0" * 48,
        "-----BEGIN PRIVATE KEY-----\n...",
        "a risk-adjusted-task-and-more-words-in-one-long-hyphenated",
    ],
)
def test_examples_are_no_secrets(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert found("MMF807", tmp_path) == []


def test_binary_files_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(TOKEN.encode())
    assert found("MMF807", tmp_path) == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/home/me/model", True),
        ("/root/out", True),
        ("C:\\Users\\me", True),
        ("D:/models/x", True),
        ("~/models/x", True),
        ("file:///data/x", True),
        ("mistralai/Mistral-7B-v0.1", False),
        ("/", False),
        ("./here", False),
        ("https://example.com/home/x", False),
        ("a/home/b", False),
        ("{{ bos_token }}/home/x", False),
    ],
)
def test_paths_of_the_makers_machine(tmp_path: Path, value: str, told: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"a": [{"b": value}]}))
    places = [finding.location for finding in found("MMF804", tmp_path)]
    assert places == (["a.0.b"] if told else [])


def test_vocabularies_and_broken_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"merges": ["/home/ x"]}}))
    (tmp_path / "config.json").write_text("{")
    assert found("MMF804", tmp_path) == found("MMF802", tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["con", "CON.txt", "aux.json", "com1", "lpt9.tar.gz", "a:b", "x?", "a|b", "dot.", "space "],
)
def test_names_that_windows_has_no_file_for(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert [finding.path for finding in found("MMF808", tmp_path)] == [name]


@pytest.mark.parametrize("name", ["console.txt", "auxiliary", "com10", ".gitattributes", "a-b_c.1"])
def test_names_that_are_fine_everywhere(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert found("MMF808", tmp_path) == []


def test_a_header_that_the_hub_does_not_read(tmp_path: Path) -> None:
    """huggingface_hub refuses its length, for which safetensors has another limit."""
    header = encode({}) + b" " * hub.SAFETENSORS_MAX_HEADER_LENGTH
    body = (len(header) - 8).to_bytes(8, "little") + header[8:]
    (tmp_path / "model.safetensors").write_bytes(body)
    (finding,) = found("MMF808", tmp_path)
    assert "header of" in finding.message
    with pytest.raises(SafetensorsParsingError, match="too big"):
        parse_local_safetensors_file_metadata(tmp_path / "model.safetensors")


def test_a_pickle_is_named_and_not_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "boom"),)  # type: ignore[return-value]

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (finding,) = found("MMF801", tmp_path)
    assert finding.path == "pytorch_model.bin"
    assert not (tmp_path / "boom").exists()


def test_a_converted_repo_keeps_card_and_licence(run: Run, tmp_path: Path) -> None:
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    shutil.copytree(BF16, source)
    (source / "LICENSE.txt").write_text("the licence")
    there.mkdir()
    (there / "README.md").write_text("written before")
    assert run("convert", "hf-to-consolidated", source, there, "--tokenizer-from", BASE).code == 0
    assert (there / "README.md").read_text() == "written before"
    assert (there / "LICENSE.txt").read_text() == "the licence"
    assert run("convert", "consolidated-to-hf", there, back).code == 0
    assert (back / "README.md").read_text() == "written before"
    again = tmp_path / "again"
    assert run("convert", "reorder", there, again, "--reader", "native").code == 0
    assert {path.name for path in again.iterdir()} >= {"README.md", "LICENSE.txt"}
