"""Let vLLM's own classes load checkpoints that have names and shapes, but no bytes.

Run by the vLLM environment's own python, from the folder above this one, with what conftest.py
sets in ENVIRONMENT:
python -m engine.load DEVICE:REPO ...
Each repo holds a config, a tokenizer, and `tensors.json`: {name: [torch dtype, shape]}; a draft
head has its target in a folder inside. Writes `result.json` into each: the class, what it left
unread, what it left empty, or its error. On the device "meta" a model of any size costs nothing.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import (
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.mistral_large_3_eagle import EagleMistralLarge3Model

# its load_weights asks for it, but vLLM 0.32 does not set it for draft heads
EagleMistralLarge3Model.is_fused_shared_expert_enabled = False


def storage(tensor: torch.Tensor) -> int:
    """Equal for tensors that share their memory."""
    return int(tensor.untyped_storage()._cdata)


class Copies(TorchDispatchMode):  # type: ignore[misc]
    """Follows what goes where: elements copied into each storage, names copied at all."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, set[str]] = defaultdict(set)
        self.filled: Counter[int] = Counter()
        self.landed: set[str] = set()
        # a storage that is freed might lend its address to another
        self.alive: list[torch.Tensor] = []

    def give(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a checkpoint, on its way into the model."""
        self.names[storage(tensor)].add(name)
        self.alive.append(tensor)
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func is torch.ops.aten.copy_.default:
            target, source = inputs[:2]
            self.filled[storage(target)] += target.numel()
            self.landed |= self.names[storage(source)]
        elif isinstance(result, torch.Tensor):  # a permuted or cast tensor is the one it was
            for each in inputs:
                self.names[storage(result)] |= self.names[storage(each)]
            self.alive.append(result)
        return result


def tensors(repo: Path, device: str, copies: Copies) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint, as the engine's loaders are given one."""
    for name, (dtype, shape) in json.loads((repo / "tensors.json").read_text()).items():
        empty = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        yield name, copies.give(name, empty)


def engine_config(repo: Path) -> tuple[VllmConfig, ModelConfig]:
    """The engine's settings, and those of the model that is loaded."""
    target = repo / "target"
    draft = {"method": "eagle", "model": str(repo), "num_speculative_tokens": 1}
    layout = "mistral" if (repo / "params.json").exists() else "hf"
    settings = EngineArgs(
        model=str(target if target.exists() else repo),
        speculative_config=draft if target.exists() else None,
        config_format=layout,
        load_format=layout,
        tokenizer_mode=layout,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=512,
    ).create_engine_config()
    if settings.speculative_config:
        return settings, settings.speculative_config.draft_model_config
    return settings, settings.model_config


def join_group_of_one() -> None:
    """What the engine's layers ask for their share of a model; settings must be in force."""
    destroy_model_parallel()
    init_distributed_environment(1, 0, "tcp://127.0.0.1:0", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def load(repo: Path, device: str) -> dict[str, Any]:
    """Build the model that the config asks for, and load the tensors into it."""
    settings, model_config = engine_config(repo)
    with set_current_vllm_config(settings):
        join_group_of_one()
    with set_current_vllm_config(settings), torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = initialize_model(settings, model_config=model_config)
        copies = Copies()
        with copies:
            model.load_weights(tensors(repo, device, copies))
    given = set(json.loads((repo / "tensors.json").read_text()))
    parameters = dict(model.named_parameters())
    empty = [n for n, p in parameters.items() if copies.filled[storage(p)] < p.numel()]
    return {
        "class": type(model).__name__,
        "unread": sorted(given - copies.landed),
        "empty": sorted(empty),
    }


def main() -> None:
    """Load every repo in turn; one that fails does not stop the others."""
    torch.set_grad_enabled(False)
    for job in sys.argv[1:]:
        device, _, repo = job.partition(":")
        try:
            result = load(Path(repo), device)
        except Exception as error:  # whatever the engine raises is what is looked for
            result = {"error": f"{type(error).__name__}: {error}"}
        (Path(repo) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
