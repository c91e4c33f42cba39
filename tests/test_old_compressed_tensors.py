"""What mmfmt writes loads in every compressed-tensors since 0.11, and means the same there."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mmfmt.cli import cli
from tests import builders
from tests.section_reader import Json, meaning, read_all
from tests.test_schemes import GEOMETRY, args, compressed, quantized_repo, scheme, section_of
from tests.test_schemes_families import SCHEMES, Quantize

CACHE = builders.ROOT / ".cache" / "compressed-tensors"
VERSIONS = (
    *("0.11.0", "0.12.2", "0.13.0", "0.14.0.1", "0.15.0.1", "0.16.0"),
    *("0.17.0", "0.17.1", "0.18.0", "0.19.0", "0.20.0"),
)
# the first of these versions that has a compressor for a format; every other format is in all
FIRST = {
    "mxfp4-pack-quantized": "0.13.0",
    "mxfp8-quantized": "0.15.0.1",
    "mxfp6-pack-quantized": "0.20.0",
}

# --- what other writers leave in a section ---

TOP: Json = {
    "version": "0.14.0.1",
    "sparsity_config": {},
    "transform_config": {},
    "global_compression_ratio": None,
    "moe_sparsity_config": None,
    "kv_cache_scheme": None,
}
ARGUMENTS = {
    **dict.fromkeys(("actorder", "block_structure", "scale_dtype", "zp_dtype")),
    "observer": "memoryless_minmax",
    "observer_kwargs": {"maxshrink": 0.2},
}


def crowded(value: Any) -> Any:
    """A section whose arguments have every key that some version ever wrote."""
    if not isinstance(value, Mapping):
        return value
    inner = {key: crowded(part) for key, part in value.items()}
    return {**ARGUMENTS, **inner} if "num_bits" in inner else inner


# --- checkpoints ---

Make = Callable[[Path], object]
FP8 = args(8, "float", "tensor").model_dump(mode="json")
# arguments that name dtypes, which versions before 0.13 do not know
NAMED = {**FP8, "scale_dtype": "torch.bfloat16", "zp_dtype": "torch.float8_e4m3fn"}
PLAIN = {
    "W8A8": builders.scheme("int-quantized"),
    "W8A8 asymmetric": builders.scheme("int-quantized", symmetric=False),
    "FP8 dynamic": builders.scheme("float-quantized"),
    "FP8 tensor": builders.scheme("float-quantized", strategy="tensor"),
    "W4 channel": builders.scheme("pack-quantized", 4),
}
STATIC = PLAIN["FP8 tensor"].model_copy(update={"input_activations": args(8, "float", "tensor")})


def repo(quantize: Quantize, section: Json) -> Make:
    """A checkpoint of one scheme."""
    return partial(quantized_repo, quantize=quantize, section=section)


def static(weight: torch.Tensor) -> builders.Tensors:
    """An FP8 module with a calibrated scale of its input."""
    found = builders.quantize_module(weight, PLAIN["FP8 tensor"])
    return {**found, "input_scale": torch.tensor([0.5])}


def kv_cache(folder: Path) -> None:
    """FP8 with scales of the KV cache, whose arguments name dtypes."""
    quantize, section = SCHEMES["naive FP8"]
    quantized_repo(folder, quantize, {**section, "kv_cache_scheme": NAMED})
    names = (f"model.layers.0.self_attn.{k}_scale" for k in "kv")
    builders.edit_tensors(folder, {name: torch.tensor([0.25]) for name in names})


def mixed(folder: Path) -> None:
    """Attention and feed-forward of other schemes."""
    builders.save_model(folder, "mistral", GEOMETRY)
    groups = {"self_attn": builders.scheme("pack-quantized", 4), "mlp": PLAIN["W8A8"]}
    builders.quantize_repo(folder, groups)


def modelopt_nvfp4(weight: torch.Tensor) -> builders.Tensors:
    """NVFP4 under ModelOpt's names."""
    found = compressed(weight, scheme("NVFP4"))
    scale = 1 / found["weight_global_scale"].reshape(())
    inputs = {"weight_scale_2": scale, "input_scale": torch.tensor(0.0071)}
    return {"weight": found["weight_packed"], "weight_scale": found["weight_scale"], **inputs}


def modelopt_fp8(weight: torch.Tensor) -> builders.Tensors:
    """FP8 under ModelOpt's names: scalars."""
    return {s: t.reshape(()) if s != "weight" else t for s, t in static(weight).items()}


def edited(name: str, group: Mapping[str, Any] | None = None, **weights: Any) -> Make:
    """A checkpoint of one of the schemes above or of test_schemes, its section edited."""
    quantize, section = STYLES[name]
    (found,) = section["config_groups"].values()
    said = {**found, **(group or {}), "weights": {**found["weights"], **weights}}
    return repo(quantize, {**section, "config_groups": {"group_0": said}})


STYLES: dict[str, tuple[Quantize, Json]] = {
    **{n: s for n, s in SCHEMES.items() if s[1]["quant_method"] == "compressed-tensors"},
    **{
        name: (partial(builders.quantize_module, scheme=how), section_of(how))
        for name, how in PLAIN.items()
    },
    "FP8 static": (static, section_of(STATIC)),
}
SOURCES: dict[str, Make] = {
    **{name: repo(*style) for name, style in STYLES.items()},
    "W4 static order": edited("W4", actorder="static"),
    "W4 weight order": edited("W4", actorder="weight"),
    "W4 no order": edited("W4", actorder=False),
    "W4 channel static order": edited("W4 channel", actorder="static"),
    "W4 format at the top": edited("W4", {"format": None}),
    "MXFP4 format at the top": edited("MXFP4", {"format": None}),
    "FP8 block of 0.10": edited("FP8 block", block_structure="64x32"),
    "W8A8 with output": edited("W8A8", {"output_activations": {**NAMED, "dynamic": True}}),
    "kv cache": kv_cache,
    "mixed": mixed,
    "ModelOpt NVFP4": repo(
        modelopt_nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    ),
    "ModelOpt FP8": repo(modelopt_fp8, {"quant_method": "modelopt", "quant_algo": "FP8"}),
}


def convert(direction: str, source: Path, target: Path) -> Path:
    """Convert by the command line, which must succeed."""
    outcome = CliRunner().invoke(cli, ["convert", direction, str(source), str(target)])
    assert outcome.exit_code == 0, outcome
    return target


def written(make: Make, folder: Path) -> Json:
    """The sections of params.json and config.json, there and back from a crowded source."""
    make(folder / "hf")
    source = builders.read_json(folder / "hf" / "config.json")["quantization_config"]
    builders.edit_config(folder / "hf", quantization_config={**TOP, **crowded(source)})
    native = convert("hf-to-consolidated", folder / "hf", folder / "native")
    back = convert("consolidated-to-hf", native, folder / "back")
    return {
        "params.json": builders.read_json(native / "params.json")["quantization"],
        "config.json": builders.read_json(back / "config.json")["quantization_config"],
    }


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Every section that mmfmt writes."""
    return {
        f"{name}, {file}": body
        for name, make in SOURCES.items()
        for file, body in written(make, tmp_path_factory.mktemp("source")).items()
    }


# --- versions ---


@pytest.fixture(scope="module", params=VERSIONS)
def installed(request: pytest.FixtureRequest) -> Path:
    """A folder with one version, kept for the next run."""
    folder = CACHE / str(request.param)
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE) as temporary:
            install(folder.name, Path(temporary) / "made")
            with suppress(OSError):  # another worker was faster
                (Path(temporary) / "made").rename(folder)
    return folder


def install(version: str, folder: Path) -> None:
    """One version without what it requires, but for frozendict: 0.11 imports it."""
    names = (f"compressed-tensors=={version}", "frozendict")
    command = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder)
    outcome = subprocess.run((*command, *names), capture_output=True, text=True)
    if outcome.returncode:
        pytest.skip(f"pip cannot install {names[0]}: {outcome.stderr.strip()[-200:]}")


def read_by(folder: Path, sections: dict[str, Json]) -> tuple[str, dict[str, Json]]:
    """`read_all` in a process of its own, forked from one that has imported the slow libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._inductor.compile_fx", "transformers.modeling_utils"])
    with context.Pool(1) as pool:
        return pool.apply(read_all, (str(folder), sections))


def unknown_to(version: str) -> set[str]:
    """The formats that only later versions have."""
    older = VERSIONS[: VERSIONS.index(version) + 1]
    return {form for form, first in FIRST.items() if first not in older}


def test_every_version_reads_the_same(installed: Path, sections: dict[str, Json]) -> None:
    """Each makes of every section what today's makes of it, or does not have the format yet."""
    version, found = read_by(installed, sections)
    assert version == installed.name
    unknown = {n for n, body in sections.items() if body["format"] in unknown_to(version)}
    errors = {name: meant["error"] for name, meant in found.items() if "error" in meant}
    assert errors.keys() == unknown, errors
    wrong = {n: found[n] for n in sections.keys() - unknown if found[n] != meaning(sections[n])}
    assert wrong == {}


def test_mx_names_its_scales(sections: dict[str, Json]) -> None:
    """vLLM and compressed-tensors know MX by its scale_dtype: kept, wherever the format stands."""
    groups = [
        group
        for body in sections.values()
        for group in body["config_groups"].values()
        if body["format"].startswith("mx")
    ]
    assert len(groups) == 8
    assert {group["weights"]["scale_dtype"] for group in groups} == {"torch.uint8"}
