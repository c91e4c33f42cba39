"""One layout of a repo, understood: its weights, its config file, its quantization.

Everything is computed on first use and raises MmfmtError where it cannot be.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmfmt.checkpoint import (
    Checkpoint,
    Module,
    Parameter,
    expected_modules,
    open_checkpoint,
    unknown_tensor,
)
from mmfmt.configs import CONFIG, PARAMS, HfConfig, stated_fields, supported, to_params
from mmfmt.errors import MmfmtError
from mmfmt.layout import Row, Slots, Symbols, evaluate, families, flatten
from mmfmt.lazy import settled
from mmfmt.quantization import Quantization, Scheme, module_faults, parse_quantization
from mmfmt.repo import Repo, WeightSet
from mmfmt.schemas import table, validate

# where ModelOpt says how it quantized, if config.json does not
MODELOPT = "hf_quant_config.json"

_TORCH_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

# modules that a config may describe beside those that are there: none is listed of more
_MANY = 2_000

Key = tuple[Row, Slots]
Faults = Iterator[tuple[str, str]]
"""(place, fault)"""


@dataclass(frozen=True)
class Model:
    """A weight set and the config file that describes it."""

    repo: Repo
    weights: WeightSet
    config_file: str

    @property
    def native(self) -> bool:
        """Whether this is the consolidated layout."""
        return self.config_file == PARAMS

    @settled
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.weights)

    @settled
    def body(self) -> dict[str, Any]:
        """The config file, checked against its schema."""
        body = self.repo.json(self.config_file)
        validate(body, self.config_file.removesuffix(".json"), self.config_file)
        return body

    @settled
    def hf_config(self) -> HfConfig:
        return supported(HfConfig(self.body))

    @settled
    def params(self) -> Mapping[str, Any]:
        """The fields of params.json, as found or as the HF config says them.

        MmfmtError where params.json cannot say what the HF config does.
        """
        if self.native:
            return self.body
        return to_params(self.hf_config, self.checkpoint.has("output"))

    @settled
    def symbols(self) -> Symbols:
        """What the config file says, by path in params.json, with what only the tensors say."""
        if self.native:
            return flatten(self.body)
        stated = stated_fields(self.hf_config, self.checkpoint.has("output"))
        shown = self.shown_head_dim(stated)
        return stated if shown is None else {**stated, "head_dim": shown}

    def shown_head_dim(self, symbols: Symbols) -> int | None:
        """The head size that the rows of Q and K show, where config.json does not say one.

        None where it does, or where they show none.
        """
        if self.hf_config.get("text.head_dim") is not None:
            return None
        sizes = set(self._head_sizes(symbols))
        return sizes.pop() if len(sizes) == 1 else None

    def _head_sizes(self, symbols: Symbols) -> Iterator[int]:
        """Rows by heads of each module whose heads are of that size."""
        for module in self.checkpoint.modules.values():
            if module.row.rotary and module.row.rotary[1] == "head_dim":
                heads = evaluate(module.row.rotary[0], symbols)
                for parameter in module.parameters.values():
                    rows = _output_rows(parameter)
                    if rows and rows % heads == 0:
                        yield rows // heads

    @settled
    def expected(self) -> Mapping[Key, None]:
        """The modules that the config describes, in table order; MmfmtError for far too many."""
        for place, fault in size_faults(self):
            raise MmfmtError(place, fault, "mend the config")
        return dict.fromkeys(expected_modules(self.checkpoint.naming, self.symbols))

    @property
    def quantization_key(self) -> str:
        """Where the config file says how the model is quantized."""
        if not self.native or self.body.get("quantization_config"):
            return "quantization_config"
        return "quantization"

    @settled
    def quantization(self) -> Quantization | None:
        """What the config file says of quantization; None where it says nothing."""
        section, place = self.body.get(self.quantization_key), self.config_file
        if not section and not self.native and self.repo.has(MODELOPT):
            section, place = self.repo.json(MODELOPT), MODELOPT
        return parse_quantization(
            section, f"{place}: {self.quantization_key}", self.checkpoint.naming.family
        )

    def scheme(self, module: Module) -> Scheme | None:
        """The scheme that the config gives a linear module, ignore list aside."""
        return self.quantization.scheme_of(module) if self.quantization else None

    @settled
    def _schemes(self) -> Mapping[Key, Scheme | None]:
        modules = self.checkpoint.modules.items()
        return {key: self.scheme(module) for key, module in modules if module.quantized}

    def scheme_of_quantized(self, module: Module) -> Scheme | None:
        """The scheme of a module; None where it is not quantized."""
        key = (module.row, module.slots)
        if key not in self._schemes:
            return None
        if scheme := self._schemes[key]:
            return scheme
        problem = "is quantized, but no config group targets it"
        raise MmfmtError(f"{self.config_file}: {self.quantization_key}", f"{module.name} {problem}")


def _output_rows(parameter: Parameter) -> int | None:
    """How many output rows a parameter counts; None for one that may count something else."""
    columns, shape = table("suffixes")[parameter.suffix], parameter.entry.shape
    first = columns.get("rows") == "gather" and "axis" not in columns
    return shape[0] if first and shape else None


def hf_model(repo: Repo) -> Model:
    """The Hugging Face half of a repo."""
    return Model(repo, repo.hf, CONFIG)


def native_model(repo: Repo) -> Model:
    """The consolidated half of a repo."""
    return Model(repo, repo.native, PARAMS)


def usual_dtype(model: Model) -> str | None:
    """torch's name of the dtype that most unquantized modules are stored in."""
    bare = (m.parameters for m in model.checkpoint.modules.values() if not m.quantized)
    counts = Counter(found["weight"].entry.dtype for found in bare if "weight" in found)
    return _TORCH_DTYPES.get(counts.most_common(1)[0][0]) if counts else None


def check_model(model: Model) -> None:
    """Check every name, dtype and shape; MmfmtError for the first that is wrong."""
    if not model.weights.exists:
        raise _no_weights(model)
    for name in model.checkpoint.unknown:
        raise unknown_tensor(model.checkpoint, name)
    for extra in model.checkpoint.extras:
        if extra.action == "refuse":
            raise MmfmtError(extra.name, f"cannot be converted: {extra.reason}")
    _ = model.params  # what the other layout's config cannot say
    for faults in _FAULTS:
        for place, fault in faults(model):
            raise MmfmtError(place, fault)


def _no_weights(model: Model) -> MmfmtError:
    place, problem = model.repo.storage.label, f"holds no {model.weights.stem}*.safetensors"
    if pickles := model.repo.pickles:
        problem += f"; {pickles[0]} is a pickle, never loaded"
        return MmfmtError(place, problem, "save its tensors as safetensors first")
    return MmfmtError(place, problem, "name another repo")


def family_faults(model: Model) -> Faults:
    """Whether the config describes a model of the family that the tensor names tell."""
    found = model.checkpoint.naming.family
    if not found.fits(model.symbols):
        fitting = " or ".join(f.label for f in families() if f.fits(model.symbols)) or "no known"
        problem = (
            f"describes a model of {fitting} family, but the tensors are named as in {found.label}"
        )
        yield model.config_file, problem


def size_faults(model: Model) -> Faults:
    """Whether the config describes so many modules that these weights cannot be the model's.

    They are counted, not listed: a hostile config may ask for any number.
    """
    naming, found = model.checkpoint.naming, len(model.checkpoint.modules)
    rows = (row for row in naming.family.rows if naming.has(row) and row.expected(model.symbols))
    described = sum(row.count(model.symbols) for row in rows)
    if described > _MANY + 4 * found:
        yield model.config_file, f"describes {described} modules, but the weights hold {found}"


def presence_faults(model: Model) -> Faults:
    """Modules that the config asks for and the weights lack, and the other way round."""
    for row, slots in missing_modules(model):
        yield model.checkpoint.naming.module(row, slots), "is missing from the weight files"
    for module in superfluous_modules(model):
        yield module.name, f"is not part of the model that {model.config_file} describes"


def missing_modules(model: Model) -> list[Key]:
    """Modules that the config asks for and the weights lack."""
    found = model.checkpoint.modules
    return [key for key in model.expected if key[0].required and key not in found]


def superfluous_modules(model: Model) -> Iterator[Module]:
    """Modules that the config does not describe, but an output head beside tied embeddings."""
    for key, module in model.checkpoint.modules.items():
        if key not in model.expected and not key[0].absent:
            yield module


def kv_cache_faults(model: Model) -> Faults:
    """Scales that a calibrated kv cache asks for and the attention modules lack."""
    scheme = model.quantization.body.get("kv_cache_scheme") if model.quantization else None
    if not scheme or scheme.get("dynamic"):
        return
    naming, found = model.checkpoint.naming, model.checkpoint.modules
    for row, slots in model.expected:
        held = found[row, slots].parameters if (row, slots) in found else {}
        missing = {"k_scale", "v_scale"} - held.keys() if row.kind == "attention" else ()
        for suffix in sorted(missing):
            place = f"{naming.module(row, slots)}.{suffix}"
            yield place, "is missing, though kv_cache_scheme asks for it"


def parameter_faults(model: Model) -> Faults:
    """Parameters that are missing, superfluous, or of wrong dtype or shape."""
    for module in model.checkpoint.modules.values():
        scheme = model.scheme_of_quantized(module)
        for suffix, fault in module_faults(module, scheme, model.symbols):
            yield f"{module.name}.{suffix}", fault


def head_dim_faults(model: Model) -> Faults:
    """A head size that config.json does not say, where readers' guess is not what Q and K have."""
    if model.native or (shown := model.shown_head_dim(model.symbols)) is None:
        return
    guess = model.symbols["dim"] // model.symbols["n_heads"]
    if guess != shown:
        problem = (
            f"is missing: readers take hidden_size / heads = {guess}, but Q and K have {shown}"
        )
        yield f"{model.config_file}: {model.hf_config.place('text.head_dim')}", problem


_FAULTS = (
    family_faults,
    size_faults,
    head_dim_faults,
    presence_faults,
    parameter_faults,
    kv_cache_faults,
)
