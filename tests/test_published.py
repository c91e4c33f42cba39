"""Configs of published models, around weights of their true names and shapes: no false alarms.

The weights are headers over sparse files: nothing of them is on the disk.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmfmt.configs import open_config, to_params
from mmfmt.header import Entry, Header, encode_header, nbytes
from mmfmt.layout import Row, families, flatten
from mmfmt.naming import Naming, naming, native
from mmfmt.quantization import Scheme, parse_quantization
from mmfmt.repo import index_body, open_repo
from mmfmt.verify.run import Report, rules_of, verify
from tests import builders
from tests.modules import required

Json = dict[str, Any]
Tensor = tuple[str, str, tuple[int, ...]]
# tokenizers are not published with these configs
RULES = [rule for rule in rules_of("header") if not rule.id.startswith("MMF6")]
SHARD_BYTES = 20_000_000_000
# true defects of published files, or of what is known of them
KNOWN = {
    # a text model that lists a vision tower and a projector
    "Devstral-2-123B-Instruct-2512": {"MMF420"},
    # vLLM's HF path reads no llama_4_scaling_beta
    "Devstral-Small-2-24B-Instruct-2512": {"MMF511"},
    # says nothing of its head, of which transformers 5 takes another default
    "Mistral-Small-3.x-24B-FLUX2-text-encoder": {"MMF506"},
    # no dtype beside F32 global scales
    "Mistral-Small-4-119B-2603-NVFP4": {"MMF510"},
}


def published(name: str) -> Json:
    """A published config file."""
    return builders.read_json(builders.PUBLISHED / name)


def tensors(
    names: Naming,
    symbols: Mapping[str, Any],
    section: Json | None,
    quantized: Callable[[Row], bool],
) -> Iterator[Tensor]:
    """(name, dtype, shape) of every tensor, module by module."""
    quantization = parse_quantization(section, "config", names.family)
    scheme = quantization.schemes[0] if quantization else None
    for row, _, module in required(names, symbols):
        if scheme and quantized(row):
            yield from _quantized(module, scheme, row.weight_shape(symbols), names)
        else:
            for suffix, shape in row.parameters(symbols).items():
                yield f"{module}.{suffix}", "BF16", shape


def _quantized(
    module: str, scheme: Scheme, size: tuple[int, ...], names: Naming
) -> Iterator[Tensor]:
    for suffix, (dtypes, shape) in scheme.expected(size).items():
        if suffix not in scheme.possible:
            own: Json = scheme.parameters[suffix].get("native", {})
            there = own.get("suffix", suffix) if names.generation == "native" else suffix
            yield f"{module}.{there}", dtypes[0], shape


def write(folder: Path, stem: str, found: Iterator[Tensor]) -> None:
    """A weight set of shards of at most SHARD_BYTES, with an index."""
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in found:
        length = nbytes(*tensor[1:]) or 0
        if size + length > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += length
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys((tensor[0] for tensor in shard), name)
        total += _write_shard(folder / name, shard)
    index = folder / f"{stem}.safetensors.index.json"
    builders.write_json(index, index_body(weight_map, total))


def _write_shard(path: Path, shard: list[Tensor]) -> int:
    entries: dict[str, Entry] = {}
    end = 0
    for name, dtype, shape in shard:
        start, end = end, end + (nbytes(dtype, shape) or 0)
        entries[name] = Entry(dtype, shape, start, end)
    header = encode_header(Header(entries, {"format": "pt"}))
    path.write_bytes(header)
    os.truncate(path, len(header) + end)
    return end


def add_native(folder: Path, params: Json) -> None:
    """A published params.json and a consolidated set that it describes."""
    builders.write_json(folder / "params.json", params)
    section = params.get("quantization_config") or params.get("quantization")
    symbols = flatten({key: value for key, value in params.items() if "quantization" not in key})
    (fitting,) = (each for each in families() if each.fits(symbols) and each.generations)
    experts = bool(params.get("moe"))
    write(folder, "consolidated", tensors(native(fitting), symbols, section, quantizable(experts)))


def add_hf(folder: Path, body: Json) -> None:
    """A published config.json and an HF set that it describes."""
    builders.write_json(folder / "config.json", body)
    symbols = flatten(to_params(open_config(body), has_output=True))
    (fitting,) = (each for each in families() if each.fits(symbols) and each.generations)
    names = naming(fitting, "hf", fitting.generations[0])
    section = body.get("quantization_config")
    write(folder, "model", tensors(names, symbols, section, quantizable(experts=False)))


def quantizable(experts: bool) -> Callable[[Row], bool]:
    """What Mistral quantizes: linear modules of the text, or experts only where there are any."""

    def is_quantized(row: Row) -> bool:
        return row.kind == "linear" and not row.unquantized and (not experts or is_expert(row))

    def is_expert(row: Row) -> bool:
        return "experts" in row.native

    return is_quantized


def add_rest(folder: Path) -> None:
    """What lies beside weights and config; none of these rules reads the tokenizer."""
    for name in ("tekken.json", "tokenizer.json", "processor_config.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\n---\n")


def report(folder: Path, params: Json | None = None, config: Json | None = None) -> Report:
    """What the rules say of a repo with these config files."""
    if params:
        add_native(folder, params)
    if config:
        add_hf(folder, config)
    add_rest(folder)
    return verify(open_repo(folder), RULES)


def names(ending: str) -> list[str]:
    """The models of which a whole config file is known."""
    found = (path.name.removesuffix(ending) for path in builders.PUBLISHED.glob(f"*{ending}"))
    return sorted(found)


def said(found: Report) -> set[str]:
    assert found.skipped == ()
    return {finding.rule for finding in found.findings}


@pytest.mark.parametrize("name", names(".params.json"))
def test_published_params(name: str, tmp_path: Path) -> None:
    params = published(f"{name}.params.json")
    if params.get("moe"):
        params["n_layers"] = 4  # of 36: there are 1,558 tensors in each
    assert said(report(tmp_path, params=params)) == KNOWN.get(name, set()) - {"MMF420"}


@pytest.mark.parametrize("name", names(".config.json"))
def test_published_configs(name: str, tmp_path: Path) -> None:
    config = published(f"{name}.config.json")
    assert said(report(tmp_path, config=config)) == KNOWN.get(name, set())


@pytest.mark.parametrize("name", sorted({*names(".config.json")} & {*names(".params.json")}))
def test_published_pairs(name: str, tmp_path: Path) -> None:
    params, config = published(f"{name}.params.json"), published(f"{name}.config.json")
    assert said(report(tmp_path, params, config)) == KNOWN.get(name, set())


def test_medium_as_it_was_first_published(tmp_path: Path) -> None:
    """Its attention factor taken away, in an HF repo alone: the signature tells the model."""
    config = published("Devstral-2-123B-Instruct-2512.config.json")
    config["rope_parameters"]["mscale_all_dim"] = 1.0
    found = report(tmp_path, config=config)
    (finding,) = (finding for finding in found.findings if finding.rule == "MMF504")
    assert "attention factor 1 (mscale 1.0, mscale_all_dim 1.0), but 1.41589" in finding.message
    assert json.loads(json.dumps([edit.value for edit in finding.edits])) == [1.0, 0.0]


def test_ministral_as_it_was_first_published(tmp_path: Path) -> None:
    """Tied in text_config only, without a head."""
    config = published("Devstral-Small-2-24B-Instruct-2512.config.json")
    del config["tie_word_embeddings"]
    config["text_config"]["tie_word_embeddings"] = True
    found = report(tmp_path, config=config)
    assert "MMF505" in said(found)
