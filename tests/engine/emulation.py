"""Quantized products in plain torch, for schemes that vLLM has no kernel for on a CPU.

Two are vLLM's own emulation, which it does not offer to CPUs; the rest are written here. Each
comes last in the engine's list of choices. Loading and processing of weights stay the engine's.
"""

import torch
from torch.nn.functional import linear
from torch.utils.weak import WeakTensorKeyDictionary
from vllm.model_executor.kernels import linear as kernels
from vllm.model_executor.kernels.linear import (
    EmulationMxfp8LinearKernel,
    EmulationNvFp4LinearKernel,
    Fp8BlockScaledMMLinearKernel,
    MPLinearKernel,
    register_linear_kernel,
)
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import dequantize_to_dtype
from vllm.model_executor.layers.quantization.utils.quant_utils import scaled_dequantize
from vllm.platforms import PlatformEnum

Possible = tuple[bool, str | None]
dense = WeakTensorKeyDictionary()  # unpacked once: a weight is used for every token


class WeightOnlyNvFp4(EmulationNvFp4LinearKernel):  # type: ignore[misc]
    """NVFP4 weights, activations as they are; vLLM emulates only the product of two NVFP4s."""

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply by the weight that vLLM's emulation computes with."""
        if layer.weight not in dense:
            scales = layer.weight_scale, layer.weight_global_scale
            dense[layer.weight] = dequantize_to_dtype(layer.weight, *scales, x.dtype, swizzle=False)
        return linear(x, dense[layer.weight], bias)


class BlockFp8(Fp8BlockScaledMMLinearKernel):  # type: ignore[misc]
    """FP8 in blocks; its class has the engine's quantization of activations, which stays."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> Possible:
        """Need nothing of the processor."""
        return True, None

    def apply_block_scaled_mm(
        self,
        A: torch.Tensor,  # noqa: N803, the engine's names
        B: torch.Tensor,  # noqa: N803
        As: torch.Tensor,  # noqa: N803
        Bs: torch.Tensor,  # noqa: N803
    ) -> torch.Tensor:
        """Multiply in F32: the base class makes BF16 of it."""
        return linear(scaled_dequantize(A, As), scaled_dequantize(B, Bs))


def codes(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack unsigned values that stand densely in the 32-bit words of the last dimension."""
    stream = ((words.unsqueeze(-1) >> torch.arange(32)) & 1).flatten(-2)
    return (stream.unflatten(-1, (-1, bits)) << torch.arange(bits)).sum(-1)


class PackedIntegers(MPLinearKernel):  # type: ignore[misc]
    """Packed integers of any width: vLLM's CPU kernel knows 4 bits only."""

    @classmethod
    def get_min_capability(cls) -> int:
        """Need nothing of the processor."""
        return -1

    @classmethod
    def can_implement(cls, c: object) -> Possible:
        """Take every width."""
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leave everything as compressed-tensors has it."""

    def unpack(self, layer: torch.nn.Module) -> torch.Tensor:
        """Give the dense weight [out, in]."""
        words, scale, zeros = self._get_weight_params(layer)
        bits = self.config.weight_type.size_bits
        zero = 1 << (bits - 1)
        if zeros is not None:  # packed along the rows
            zero = codes(zeros.t(), bits).t().unsqueeze(-1)
        groups = codes(words, bits).unflatten(1, (scale.shape[1], -1))
        return ((groups - zero) * scale.unsqueeze(-1).float()).flatten(1)

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply by the unpacked weight."""
        if layer.weight_packed not in dense:
            dense[layer.weight_packed] = self.unpack(layer).to(x.dtype)
        return linear(x, dense[layer.weight_packed], bias)


KERNELS = (
    *(EmulationNvFp4LinearKernel, EmulationMxfp8LinearKernel),
    *(WeightOnlyNvFp4, BlockFp8, PackedIntegers),
)


def is_used(model: torch.nn.Module) -> bool:
    """Tell whether a layer multiplies by one of these."""
    schemes = [vars(module.scheme) for module in model.modules() if hasattr(module, "scheme")]
    chosen = [scheme.get("kernel", scheme.get("fp8_linear")) for scheme in schemes]
    return any(isinstance(kernel, KERNELS) for kernel in chosen)


def install() -> None:
    """Offer the products to the engine."""
    cpu = PlatformEnum.CPU
    register_linear_kernel(EmulationNvFp4LinearKernel, cpu, "nvfp4")
    register_linear_kernel(EmulationMxfp8LinearKernel, cpu, "mxfp8")
    register_linear_kernel(PackedIntegers, cpu, "mp")
    # not in that function's repertoire
    kernels._POSSIBLE_FP8_BLOCK_KERNELS[cpu].append(BlockFp8)
    # The engine looks up no list for NVFP4A16: it takes Marlin.
    kernels.MarlinNvFp4LinearKernel = WeightOnlyNvFp4
