"""mmfmt.repo: which files make a checkpoint, and index files that must not be believed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.utils import get_one_valid_tokenizer_file
from safetensors.torch import save_file

from mmfmt.errors import MmfmtError
from mmfmt.repo import Repo, WeightSet, open_repo, read_json
from mmfmt.storage import Folder
from tests import builders

STEMS = ("model", "consolidated")


def tensors(*names: str) -> builders.Tensors:
    """One small tensor a name."""
    return {name: torch.arange(4, dtype=torch.int8) for name in names}


def write_index(folder: Path, stem: str, weight_map: Any) -> None:
    """An index file that says what it is told."""
    builders.write_json(folder / f"{stem}.safetensors.index.json", {"weight_map": weight_map})


@pytest.mark.parametrize("stem", STEMS)
def test_single_file(tmp_path: Path, stem: str) -> None:
    """One file and no index."""
    builders.save_set(tmp_path, [tensors("a", "b")], stem)
    found = WeightSet(Folder(tmp_path), stem)
    assert (found.exists, found.index) == (True, None)
    assert found.shards == (f"{stem}.safetensors",)
    assert set(found.tensors) == {"a", "b"}


@pytest.mark.parametrize("stem", STEMS)
def test_shards_with_an_index(tmp_path: Path, stem: str) -> None:
    """The index decides; a stray file of the same stem is not read."""
    builders.save_set(tmp_path, [tensors("a"), tensors("b")], stem)
    builders.save_set(tmp_path, [tensors("stray")], stem)
    found = WeightSet(Folder(tmp_path), stem)
    shards = tuple(f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2))
    assert found.shards == shards
    assert set(found.tensors) == {"a", "b"}
    assert set(found.on_disk) == {*shards, f"{stem}.safetensors"}


def test_shards_without_an_index(tmp_path: Path) -> None:
    """The names of Mistral's older sets, and shards whose index was not fetched."""
    for name in ("consolidated.00.safetensors", "consolidated.01.safetensors"):
        save_file(tensors(name), tmp_path / name)
    assert WeightSet(Folder(tmp_path), "consolidated").shards == (
        "consolidated.00.safetensors",
        "consolidated.01.safetensors",
    )


@pytest.mark.parametrize(
    "name",
    [
        "models.safetensors",
        "model_2.safetensors",
        "model.safetensors.bak",
        "mymodel.safetensors",
        "model-00001-of-00002.bin",
        "consolidated.00.pth",
        "model..part",
    ],
)
def test_other_files_are_no_weights(tmp_path: Path, name: str) -> None:
    """Names that merely begin like a weight file."""
    (tmp_path / name).write_bytes(b"x")
    assert not Repo(Folder(tmp_path)).hf.exists
    assert not Repo(Folder(tmp_path)).native.exists


def test_both_sets_in_one_folder(tmp_path: Path) -> None:
    """A dual repo has two sets that do not see one another's files."""
    builders.save_set(tmp_path, [tensors("hf")], "model")
    builders.save_set(tmp_path, [tensors("n"), tensors("m")], "consolidated")
    repo = open_repo(tmp_path)
    assert (set(repo.hf.tensors), set(repo.native.tensors)) == ({"hf"}, {"n", "m"})


def test_no_folder(tmp_path: Path) -> None:
    """A file or nothing at all is not a repo."""
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "nothing"):
        with pytest.raises(MmfmtError, match="is not a folder"):
            open_repo(tmp_path / name)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "..", ".", "", "sub/x.safetensors", "a/../x"]
)
def test_index_leading_elsewhere(tmp_path: Path, shard: str) -> None:
    """Only bare file names are followed, even where the file exists."""
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        save_file(tensors("a"), place / "x.safetensors")
    write_index(folder, "model", {"a": shard})
    with pytest.raises(MmfmtError, match=r"model\.safetensors\.index\.json: names"):
        _ = WeightSet(Folder(folder), "model").headers


def test_index_with_an_absolute_path(tmp_path: Path) -> None:
    """An absolute path is refused although it leads into the folder itself."""
    save_file(tensors("a"), tmp_path / "x.safetensors")
    write_index(tmp_path, "model", {"a": str(tmp_path / "x.safetensors")})
    with pytest.raises(MmfmtError, match="leads outside the repo"):
        _ = WeightSet(Folder(tmp_path), "model").headers


@pytest.mark.parametrize("name", ["a\0b.safetensors", "x" * 300])
def test_index_with_an_impossible_name(tmp_path: Path, name: str) -> None:
    """Names that no file can have are reported like any other missing shard."""
    write_index(tmp_path, "model", {"a": name})
    with pytest.raises(MmfmtError, match=r"model\.safetensors\.index\.json: names"):
        _ = WeightSet(Folder(tmp_path), "model").headers


def test_symlink_leaving_the_folder(tmp_path: Path) -> None:
    """A repo from elsewhere must not make us read other files of this machine."""
    folder = tmp_path / "repo"
    folder.mkdir()
    save_file(tensors("a"), tmp_path / "secret.safetensors")
    (folder / "model.safetensors").symlink_to("../secret.safetensors")
    with pytest.raises(MmfmtError, match="leads outside the repo"):
        _ = WeightSet(Folder(folder), "model").tensors


def test_symlink_to_itself(tmp_path: Path) -> None:
    """A loop of links is an error in one line, not a crash."""
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(MmfmtError):
        _ = WeightSet(Folder(tmp_path), "model").tensors


def test_symlinks_inside_the_folder(tmp_path: Path) -> None:
    """A link to another file of the repo is fine, and so is a repo behind a link."""
    folder = tmp_path / "repo"
    folder.mkdir()
    save_file(tensors("a"), folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    (tmp_path / "alias").symlink_to("repo")
    assert set(WeightSet(Folder(tmp_path / "alias"), "model").tensors) == {"a"}


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot folder as huggingface_hub's cache lays it out: links to blobs."""
    home = tmp_path / "models--org--name"
    folder = home / "snapshots" / "0123abcd"
    (home / "blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    save_file(tensors("a"), home / "blobs" / "f00d")
    (folder / "model.safetensors").symlink_to("../../blobs/f00d")
    return folder


def test_hub_cache_snapshot(snapshot: Path) -> None:
    """Links into the blobs of the same cached repo are followed."""
    assert set(WeightSet(Folder(snapshot), "model").tensors) == {"a"}


def test_hub_cache_snapshot_of_another_repo(snapshot: Path) -> None:
    """Links into another repo's blobs are not."""
    other = snapshot.parents[2] / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    save_file(tensors("b"), other / "f00d")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "f00d")
    with pytest.raises(MmfmtError, match="leads outside the repo"):
        _ = WeightSet(Folder(snapshot), "model").tensors


def test_missing_shard(tmp_path: Path) -> None:
    """The index names a file that is not there; the message names both."""
    builders.save_set(tmp_path, [tensors("a"), tensors("b")])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    expected = r"index\.json: names model-00002-of-00002\.safetensors, which is missing"
    with pytest.raises(MmfmtError, match=expected):
        _ = WeightSet(Folder(tmp_path), "model").tensors


def test_shard_that_is_a_folder(tmp_path: Path) -> None:
    """A folder with the name of a weight file."""
    (tmp_path / "model.safetensors").mkdir()
    assert not WeightSet(Folder(tmp_path), "model").exists


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    """Which of the two a loader takes is chance."""
    builders.save_set(tmp_path, [tensors("a", "b"), tensors("b", "c")])
    expected = r"model-00002-of-00002\.safetensors: b: stands in another shard too"
    with pytest.raises(MmfmtError, match=expected):
        _ = WeightSet(Folder(tmp_path), "model").tensors


BAD_INDEXES: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{", "is not valid JSON"),
    "no UTF-8": (b"\xff", "is not valid JSON"),
    "deep": ("[" * 100_000, "is not valid JSON"),
    "a list": ("[]", "is not a JSON object"),
    "no weight_map": ("{}", "weight_map must map"),
    "weight_map a list": ('{"weight_map": []}', "weight_map must map"),
    "weight_map of numbers": ('{"weight_map": {"a": 1}}', "weight_map must map"),
}


@pytest.mark.parametrize("fault", BAD_INDEXES)
def test_bad_index(tmp_path: Path, fault: str) -> None:
    """Each is one MmfmtError with the name of the index file."""
    content, message = BAD_INDEXES[fault]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / builders.INDEX).write_bytes(data)
    with pytest.raises(MmfmtError, match=rf"model\.safetensors\.index\.json: {message}"):
        _ = WeightSet(Folder(tmp_path), "model").shards


def test_missing_json(tmp_path: Path) -> None:
    """The operating system's reason is part of the message."""
    with pytest.raises(MmfmtError, match=r"config\.json: cannot be read: No such file"):
        Repo(Folder(tmp_path)).json("config.json")


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=3))
def test_any_index_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, weight_map: dict[str, str]
) -> None:
    """Nothing but MmfmtError comes of an index, whatever files it names."""
    folder = tmp_path_factory.mktemp("index")
    write_index(folder, "model", weight_map)
    try:
        assert WeightSet(Folder(folder), "model").tensors == {}
    except MmfmtError as refusal:
        assert refusal.place == builders.INDEX
        return
    assert weight_map == {}


@given(st.binary(max_size=30) | st.text(max_size=30).map(lambda text: json.dumps(text).encode()))
def test_any_json_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """read_json gives what Python's json gives, or MmfmtError."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        assert read_json(path) == json.loads(content)
    except MmfmtError as refusal:
        assert refusal.place == "any.json"


TOKENIZERS = [
    "tekken.json",
    *(f"tokenizer.model{version}" for version in ("", ".v1", ".v2", ".v3", ".v7", ".v7m1")),
    *("tokenizer.json", "tokenizer_config.json", "tekken.json.bak", "tokenizer.model.bak"),
]


@given(st.sets(st.sampled_from(TOKENIZERS)))
def test_tokenizer_as_mistral_common_chooses(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    """The same file as mistral-common picks, or none where it finds none."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in names:
        (folder / name).touch()
    try:
        expected = get_one_valid_tokenizer_file([str(folder / name) for name in names])
    except ValueError:
        assert Repo(Folder(folder)).tokenizer is None
    else:
        assert Repo(Folder(folder)).tokenizer == Path(expected)
