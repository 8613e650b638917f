"""A linear by the tiles of `native.tiles`: in float32, bfloat16, or 8 bits with a scale for each output and each row.

In 8 bits a token costs half the memory traffic of bfloat16. Activations are rounded row by row as they come, so what a
request gets does not depend on the others in its batch, and sums of integers are exact in any order. Symmetric 8-bit
rounding: LLM.int8 (arXiv:2208.07339), without its outlier path. benchmarks/bench_serve.py says what it costs in
perplexity.

Shapes: M rows, K inputs, N outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.generate.native.numbers import LEVELS, kind_of
from fledge.generate.native.stream import Rows, prepare
from fledge.generate.native.threads import run
from fledge.generate.native.tiles import PANEL, PER_WORD, laid_out, multiply


class TiledLinear:
    """x @ weight.T + bias, in float32 outside. `dtype` is what goes into the product: uint8 stands for 8 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype, (self.outputs, inputs) = dtype, weight.shape
        self.pad = -inputs % PER_WORD[dtype]
        self.by_row = dtype == torch.uint8  # rows are divided by their largest value, products multiplied with it
        weight = weight.detach().float()
        more = (0, -self.outputs % PANEL)
        self.bias: Tensor | None = None  # what the product does not add by itself
        self.scale: Tensor | None = None
        if self.by_row:
            largest = weight.abs().amax(1, keepdim=True).clamp_min(1e-12)
            rounded = (weight / largest * LEVELS).round_()
            self.start = F.pad(-LEVELS * rounded.sum(1, dtype=torch.float64), more).int()  # x has LEVELS for 0
            self.scale = F.pad(largest[:, 0] / LEVELS**2, more)
            self.weight = laid_out(rounded.to(torch.int8))
            self.bias = None if bias is None else bias.detach().float()
        else:
            self.start = torch.zeros(self.outputs) if bias is None else bias.detach().float()
            self.start = F.pad(self.start, more)
            self.weight = laid_out(weight.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N] float32"""
        flat = x.reshape(-1, x.shape[-1])
        if x.dtype == self.dtype and not self.pad:
            y = self.product(flat.contiguous())
        else:
            flat, (rows, width) = flat.float().contiguous(), flat.shape
            into = torch.zeros(rows, width + self.pad, dtype=self.dtype)
            largest = torch.empty(rows, 1)
            told = Rows(
                rows=rows, width=width, x=flat.data_ptr(), out=into.data_ptr(), stride=into.shape[1],
                kind=kind_of(into), scale=largest.data_ptr() if self.by_row else 0,
            )  # fmt: skip
            run(prepare, told, rows, flat.numel(), torch.get_num_threads())
            y = self.product(into)
            if self.by_row:
                y = self.finished(y, largest)
        return y[:, : self.outputs].view(*x.shape[:-1], self.outputs)

    def product(self, x: Tensor) -> Tensor:
        """x [M, K + pad] in `dtype` already → [M, N rounded up] float32"""
        return multiply(x, self.weight, self.start, self.scale)

    def finished(self, y: Tensor, largest: Tensor) -> Tensor:
        """The product of rows that were divided by `largest` [M, 1] → the linear's result [M, N]; y is used up."""
        y = y.mul_(largest)[:, : self.outputs]
        return y if self.bias is None else y.add_(self.bias)
