"""Dynamic int8 linears: weights as 8-bit integers with a scale per output, activations rounded per row as they come.

A token costs half the memory traffic of bfloat16. Each row has a scale of its own, so what a request gets does not
depend on the others in its batch (one scale for the batch, as torch's dynamic linear has it, would cost that, and
accuracy too); sums of integers are exact in any order. `fledge.evaluate` and benchmarks/bench_serve.py say what the
rounding costs in perplexity. Symmetric 8-bit rounding: LLM.int8 (arXiv:2208.07339), without its outlier path.
"""

import warnings
from functools import cache as memo

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 127
VECTOR = 64
STEPS = 63  # levels of an activation where the processor's 8-bit products saturate (no VNNI)


class Int8Linear:
    """x @ weight.T + bias with the weight in 8 bits, in float32 outside."""

    dtype, by_row = torch.float32, True  # of what goes in, divided by the largest of each row

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = None if bias is None else bias.detach().float()
        self.scale = (weight.detach().float().abs().amax(1) / LEVELS).clamp_min(1e-12)
        self.steps = LEVELS if full_range() else STEPS
        # The last elements of a batch are rounded by other code than whole vectors: rows are whole vectors.
        self.pad = -weight.shape[1] % VECTOR
        weight = F.pad(weight.detach().float(), (0, self.pad))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zeros = torch.zeros(len(weight), dtype=torch.int64)
            rounded = torch.quantize_per_channel(weight, self.scale.double(), zeros, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(rounded, None)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out] float32."""
        x = F.pad(x.float(), (0, self.pad)) if self.pad else x.float()
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(1e-30)
        return self.finished(self.product(x / largest), largest)

    def product(self, x: Tensor) -> Tensor:
        """x [..., in + pad] in [-1, 1] → [..., out] float32, without the bias."""
        linear = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        return linear(x, 1 / self.steps, self.steps, self.packed)

    def finished(self, y: Tensor, largest: Tensor) -> Tensor:
        """The product of rows that were divided by `largest` [..., 1] → the linear's result; y is used up."""
        y = y.mul_(largest)
        return y if self.bias is None else y.add_(self.bias)


def full_range() -> bool:
    """Whether the processor sums 8-bit products without saturating."""
    return bool(torch.cpu._is_vnni_supported()) or not torch.cpu._is_avx2_supported()


@memo
def can_quantise() -> bool:
    """Whether torch has the operators here and they are right."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 64, generator=generator), torch.randn(3, 64, generator=generator)
    try:
        y = Int8Linear(weight, None)(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    exact = F.linear(x, weight)
    return bool((y - exact).norm() < 0.05 * exact.norm())
