"""Cases: a good repo with one or two of its files mutated, made again from their names."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.fuzz import byte_mutations, header_mutations, json_mutations
from tests.fuzz.memory import Content, Files
from tests.fuzz.micro import good_files

WEIGHTS = ".safetensors"
# of no meaning to a verification, or to nothing but what a person reads
_LEFT_ALONE = ("chat_template.jinja",)
_NAMES = (
    *("model.safetensors", "model-00001-of-99999.safetensors", "consolidated.00.safetensors"),
    *("consolidated-00001-of-00001.safetensors", "model.safetensors.index.json", "LICENSE"),
    *("consolidated.safetensors.index.json", "hf_quant_config.json", "tokenizer.model.v3"),
    *("preprocessor_config.json", "tokenizer_config.json", "adapter_config.json", "mmfmt.toml"),
    *("model-\x1b[31m.safetensors", "model-\n.safetensors", "a/b/../../config.json", ".."),
    *(".gitattributes", "modeling_x.py", "model.safetensors.tmp", "sub/model.safetensors"),
    *("tekken.json", "params.json", "config.json", "generation_config.json", "tokenizer.json"),
    *("pytorch_model.bin", "a" * 255, "special_tokens_map.json", "pyproject.toml"),
)
_CONTENTS = (b"", b"{}", b"null", b"[]", b"\x80\x02}q\x00.", b"[tool.mmfmt]\nselect = [1]")


@dataclass(frozen=True)
class Case:
    """A hostile repo by its name: `pixtral:3:17` is the 17th of seed 3."""

    repo: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.repo}:{self.seed}:{self.number}"

    def files(self) -> Files:
        """The files of the repo."""
        random, files = Random(str(self)), dict(good_files(self.repo))
        for _ in range(1 if random.random() < 0.9 else 2):
            _mutate(random, files)
        return files


def changed(repo: str, files: Files) -> list[str]:
    """The names of the files that are other than in the good repo."""
    good = good_files(repo)
    return sorted(n for n in good.keys() | files.keys() if good.get(n) is not files.get(n))


def named(text: str) -> Case:
    """The case of a name."""
    repo, seed, number = text.split(":")
    return Case(repo, int(seed), int(number))


def _mutate(random: Random, files: dict[str, Content]) -> None:
    name = random.choice([name for name in files if name not in _LEFT_ALONE] or ["config.json"])
    if random.random() < 0.06:
        random.choice(_LISTINGS)(random, files, name)
        return
    content = files.get(name, Content(b""))
    if name.endswith(WEIGHTS):
        files[name] = header_mutations.mutated(random, content)
        return
    body = json_mutations.body_of(content.head) if name.endswith(".json") else None
    if body and random.random() < 0.75:
        files[name] = Content(json_mutations.mutated(random, body))
    else:
        files[name] = Content(byte_mutations.mutated(random, content.head))


# --- which files there are ---


def _gone(_: Random, files: dict[str, Content], name: str) -> None:
    files.pop(name, None)


def _copied(random: Random, files: dict[str, Content], name: str) -> None:
    files[random.choice(_NAMES)] = files.get(name, Content(b""))


def _swapped(random: Random, files: dict[str, Content], name: str) -> None:
    other = random.choice(list(files) or [name])
    files[name], files[other] = files.get(other, Content(b"")), files.get(name, Content(b""))


def _strange(random: Random, files: dict[str, Content], _: str) -> None:
    files[random.choice(_NAMES)] = Content(random.choice(_CONTENTS))


def _enormous(_: Random, files: dict[str, Content], name: str) -> None:
    files[name] = Content(files.get(name, Content(b"")).head, 1 << 27)


_LISTINGS: tuple[Callable[[Random, dict[str, Content], str], None], ...] = (
    *(_gone, _copied, _swapped, _strange) * 8,
    _enormous,
)
