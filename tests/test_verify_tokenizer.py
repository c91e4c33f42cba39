"""The rules on tokenizer files: their tables are those of the libraries, and no version trips."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.image import DATASET_MEAN, DATASET_STD, MultiModalVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import AddedToken, Tokenizer, decoders
from transformers import PixtralImageProcessor, PixtralProcessor
from transformers.tokenization_mistral_common import MistralCommonBackend

from mmfmt.errors import MmfmtError
from mmfmt.fast_tokenizer import bytes_of, letters_of, open_fast
from mmfmt.repo import Repo, open_repo
from mmfmt.schemas import table
from mmfmt.tokenizer import open_tekken
from mmfmt.verify.run import Report, rules_of, verify
from tests import builders, tokenizer_repos
from tests.damage import Damage, drop_field, edit_json, set_field
from tests.defects.tokenizer import FAST, PROCESSOR, TEKKEN, write
from tests.fuzz.memory import Memory
from tests.fuzz.micro import good_files
from tests.fuzz.oracle import scratch
from tests.repos import convert, good_repo

TABLE = table("tokenizers")
LARGE = tokenizer_repos.LARGE
FILES = [builders.TEKKEN, LARGE]


def report(repo: Path) -> Report:
    """What the 6xx rules that read files alone have to say."""
    rules = [rule for rule in rules_of("tokenizers") if rule.id.startswith("MMF6")]
    return verify(open_repo(repo), rules)


def found(repo: Path) -> set[str]:
    """The ids of the rules that find something."""
    return {finding.rule for finding in report(repo).findings}


def test_headers_need_no_vocabulary() -> None:
    """The search for secrets reads beginnings; no other rule of the level opens such a file."""
    memory = Memory(good_files("pixtral"), scratch())
    verify(Repo(memory), [rule for rule in rules_of("header") if rule.name != "secret"])
    assert "config.json" in memory.seen
    assert not memory.seen & {"tekken.json", "tokenizer.json"}


# --- the tables -------------------------------------------------------------------------------


def test_old_special_tokens_are_those_of_mistral_common() -> None:
    theirs = {str(t["token_str"]): t["rank"] for t in Tekkenizer.DEPRECATED_SPECIAL_TOKENS}
    assert {token: id for id, token in enumerate(TABLE["old_special_tokens"])} == theirs
    assert TABLE["filler"] == Tekkenizer.SPECIAL_TOKEN_TEMPLATE


def test_images_of_sentencepiece_files_are_those_of_mistral_common() -> None:
    assert TABLE["sentencepiece_images"].keys() == {str(v) for v in MultiModalVersion}
    for version in MultiModalVersion:
        assert TABLE["sentencepiece_images"][str(version)] == vars(version.config)


def test_defaults_of_the_processor_are_those_of_transformers() -> None:
    parameters = inspect.signature(PixtralProcessor.__init__).parameters
    rows = [row for row in TABLE["geometry"] if "processor" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["default"] == parameters[row["processor"]].default


def test_pixels_are_those_of_both_libraries() -> None:
    """transformers, whose settings are silent, and mistral-common, which has none."""
    theirs = PixtralImageProcessor().to_dict()
    for key, value in TABLE["pixels"].items():
        found = theirs[key]
        assert (list(found) if isinstance(found, tuple) else found) == value
    assert TABLE["pixels"]["image_mean"] == list(DATASET_MEAN)
    assert TABLE["pixels"]["image_std"] == list(DATASET_STD)


def test_flags_of_an_added_token() -> None:
    """What tokenizers itself makes of a special token."""
    token = AddedToken("[IMG]", special=True)
    assert {flag: getattr(token, flag) for flag in TABLE["added_token"]} == TABLE["added_token"]


def test_classes_that_wrap_mistral_common() -> None:
    assert MistralCommonBackend.__name__ in TABLE["mistral_common_classes"]["names"]


# --- the files --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_tekken_is_what_mistral_common_reads(path: Path) -> None:
    """Every id, name and byte."""
    ours = open_tekken(open_repo(path.parent), path.name)
    theirs = MistralTokenizer.from_file(str(path)).instruct_tokenizer.tokenizer
    assert isinstance(theirs, Tekkenizer)
    assert (ours.size, ours.special_count) == (theirs.n_words, theirs.num_special_tokens)
    assert ours.special == {theirs.id_to_piece(id): id for id in range(ours.special_count)}
    for rank, token in enumerate(ours.regular):
        assert theirs.id_to_byte_piece(rank + ours.special_count) == token


REFUSED: dict[str, Damage] = {
    "no pattern": drop_field(TEKKEN, "config.pattern"),
    "version": set_field(TEKKEN, "config.version", "third"),
    "too many special": set_field(TEKKEN, "config.default_num_special_tokens", 30),
    "too large": set_field(TEKKEN, "config.default_vocab_size", 4096),
    "gap": edit_json(TEKKEN, lambda body: body["special_tokens"].pop(5)),
    "twice": edit_json(TEKKEN, lambda body: body["special_tokens"][3].update(token_str="<s>")),
    "no special tokens": drop_field(TEKKEN, "special_tokens"),
    "first bytes": edit_json(TEKKEN, lambda body: body["vocab"][7].update(token_bytes="YWI=")),
    "ranks": edit_json(TEKKEN, lambda body: body["vocab"][300].update(rank=301)),
    "token twice": edit_json(
        TEKKEN,
        lambda body: body["vocab"][300].update(token_bytes=body["vocab"][301]["token_bytes"]),
    ),
    "no base64": edit_json(TEKKEN, lambda body: body["vocab"][300].update(token_bytes="\u00e9")),
    "no rows": edit_json(TEKKEN, lambda body: body.update(vocab=[1, 2])),
    "old section": edit_json(TEKKEN, lambda body: body.update(multimodal=body.pop("image"))),
    "no patch": edit_json(TEKKEN, lambda body: body["image"].update(image_patch_size=0)),
    "half": write(TEKKEN, "{"),
}


@pytest.mark.parametrize("damage", REFUSED.values(), ids=REFUSED)
def test_what_mistral_common_refuses_is_refused(damage: Damage, tmp_path: Path) -> None:
    shutil.copy(builders.TEKKEN, tmp_path / TEKKEN)
    damage(tmp_path)
    with pytest.raises(MmfmtError, match=r"^tekken\.json"):
        open_tekken(open_repo(tmp_path), TEKKEN)
    if damage is not REFUSED["gap"]:  # loads, and gives a token the name of its neighbour
        with pytest.raises((AssertionError, KeyError, TypeError, ValueError)):
            MistralTokenizer.from_file(str(tmp_path / TEKKEN))


@given(st.binary(min_size=1, max_size=12))
def test_letters_of_bytes(token: bytes) -> None:
    """Back and forth, and as the tokenizers library decodes them."""
    assert bytes_of(letters_of(token)) == token
    decoded = decoders.ByteLevel().decode([letters_of(token)])
    assert decoded == token.decode("utf-8", "replace")


def test_a_fast_tokenizer_is_what_the_library_reads() -> None:
    path = good_repo("hf-bf16") / FAST
    ours, theirs = open_fast(open_repo(path.parent), path.name), Tokenizer.from_file(str(path))
    assert ours.size == theirs.get_vocab_size() == len(theirs.get_vocab())
    assert {**ours.vocabulary, **ours.ids} == theirs.get_vocab()
    assert ours.ids == {t.content: id for id, t in theirs.get_added_tokens_decoder().items()}


# --- the rules --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=tokenizer_repos.VERSIONS)
def of_version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with both layouts and a small tekken of a version that is in use."""
    repo = tokenizer_repos.versioned(request.param, tmp_path_factory.mktemp("tekken") / "repo")
    convert(repo)
    return repo


def test_every_version_is_clean(of_version: Path) -> None:
    """The loaders included."""
    clean = verify(open_repo(of_version))
    assert clean.findings == () and clean.skipped == ()


def test_rows_to_spare_hide_a_shift(of_version: Path, tmp_path: Path) -> None:
    """One special token less and as many ids: mistral-common loads it without a word."""
    repo = Path(shutil.copytree(of_version, tmp_path / "repo"))
    set_field(TEKKEN, "config.default_num_special_tokens", 31)(repo)
    raw = MistralTokenizer.from_file(str(repo / TEKKEN)).instruct_tokenizer.tokenizer
    fast = Tokenizer.from_file(str(repo / FAST))
    assert [id + 1 for id in raw.encode("the dog", False, False)] == fast.encode("the dog").ids
    assert found(repo) == {"MMF602"}


def test_a_sentencepiece_file_knows_images_by_its_name(tmp_path: Path) -> None:
    """The same bytes, with and without m1."""
    repo = shutil.copytree(good_repo("hf-bf16"), tmp_path / "repo")
    (repo / TEKKEN).unlink()
    name = tokenizer_repos.SENTENCEPIECE_IMAGES.name
    shutil.copy(tokenizer_repos.SENTENCEPIECE_IMAGES, repo / "tokenizer.model.v7m1")
    ids = {"[IMG]": 10, "[IMG_BREAK]": 14, "[IMG_END]": 15}
    assert name.endswith("m1")

    def renumber(body: dict[str, object]) -> None:
        body["added_tokens"] = [{"id": id, "content": token} for token, id in ids.items()]

    edit_json(FAST, renumber)(repo)
    geometry = {(f.location, f.message) for f in report(repo).findings if f.rule == "MMF610"}
    assert geometry == {
        ("m1.image_patch_size", "patch size 16, but 14 in the model"),
        ("m1.spatial_merge_size", "spatial merge size 1, but 2 in the model"),
        ("m1.max_image_size", "longest edge 1024, but 112 in the model"),
    }
    assert not {"MMF601", "MMF611"} & found(repo)
    (repo / "tokenizer.model.v7m1").rename(repo / "tokenizer.model.v7")
    assert "MMF611" in found(repo) and "MMF610" not in found(repo)


def test_audio_asks_for_its_section(tmp_path: Path) -> None:
    builders.save_model(tmp_path / "repo", "voxtral", builders.Geometry(vocab=2048))
    assert "MMF611" in found(tmp_path / "repo")
    edit_json(TEKKEN, lambda body: body.update(audio={"sampling_rate": 16000}))(tmp_path / "repo")
    assert "MMF611" not in found(tmp_path / "repo")


def test_a_list_of_ends_may_hold_more(tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("hf-bf16"), tmp_path / "repo")
    set_field("generation_config.json", "eos_token_id", [2, 4])(repo)
    assert found(repo) == set()


@pytest.mark.parametrize("name", [TEKKEN, FAST, PROCESSOR, "tokenizer_config.json"])
@given(
    body=st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_a_finding_or_none(
    name: str, body: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No JSON makes a rule raise."""
    repo = tmp_path_factory.mktemp("any") / "repo"
    repo.mkdir()
    for each in good_repo("hf-bf16").iterdir():
        (repo / each.name).symlink_to(each)
    (repo / name).unlink()
    (repo / name).write_text(json.dumps(body))
    if not isinstance(body, dict):
        assert "MMF618" in found(repo)
    else:
        found(repo)


# --- the repairs ------------------------------------------------------------------------------


def applied(repo: Path) -> None:
    """Write the edits of every finding by hand."""
    for finding in report(repo).findings:
        for edit in finding.edits:
            body = json.loads((repo / edit.file).read_text())
            *path, last = edit.keys
            place = body
            for key in path:
                place = place[key]
            place[last] = edit.value
            (repo / edit.file).write_text(json.dumps(body))


MENDED = [
    ("MMF601", set_field("config.json", "image_token_index", 11)),
    ("MMF608", set_field("generation_config.json", "eos_token_id", 3)),
    ("MMF608", set_field("tokenizer_config.json", "eos_token", {"content": "<s>"})),
    ("MMF609", set_field("config.json", "text_config.bos_token_id", 0)),
    ("MMF610", set_field(PROCESSOR, "patch_size", 16)),
    ("MMF610", set_field(PROCESSOR, "image_processor.patch_size", {"height": 16, "width": 14})),
    ("MMF612", set_field(PROCESSOR, "image_token", "<image>")),
    ("MMF613", set_field("tokenizer_config.json", "tokenizer_class", "MistralCommonBackend")),
    ("MMF614", edit_json(FAST, lambda body: body["added_tokens"][1].update(lstrip=True))),
    ("MMF615", set_field(FAST, "truncation", {"max_length": 2048})),
]


@pytest.mark.parametrize(("rule", "damage"), MENDED, ids=[rule for rule, _ in MENDED])
def test_edits_mend(rule: str, damage: Damage, tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("hf-bf16"), tmp_path / "repo")
    damage(repo)
    assert found(repo) == {rule}
    applied(repo)
    assert found(repo) == set()
