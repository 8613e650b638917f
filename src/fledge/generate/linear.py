"""A linear with its weight packed for oneDNN, which gives a row the same bits whoever else is computed.

A plain `F.linear` of a few rows uses a third of a CPU's memory bandwidth and hardly its bfloat16 units; oneDNN's own
weight layout uses both. A library picks its kernel by the number of rows, and another kernel sums in another order.
MKL's float32 does so at 4, 8, 12 rows; oneDNN, as far as we know, for a single row only: for float32 and bfloat16 with
more than 1,024 inputs where the processor has AVX-512, for all of bfloat16 where it has no bfloat16 units, and nowhere
under AVX2. So each shape is tried once with products whose exact value is 0, where every bit of the result is rounding
and any other order shows: a single row is computed as two where it differs, and should some processor differ for more
rows as well, all are computed in blocks of a fixed number of rows.

Shapes: M rows, K inputs, N outputs.
"""

from functools import cache as memo

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 8  # the batch oneDNN lays weights out for; close to the best for 1 and for 128 too
TRIED = (2, 3, 5, 8, 17, 24, 64, 130)  # numbers of rows; the first is the reference


class Linear:
    """x @ weight.T + bias in `dtype`."""

    by_row, pad = False, 0  # rows go in as they are, see `tiled`

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.packed = weight.device.type == "cpu" and can_pack(dtype)
        plain = weight.detach().to(dtype).contiguous()
        self.weight = packed_weight(plain) if self.packed else plain
        self.least, self.block = rows_alike(*weight.shape, dtype) if self.packed else (1, None)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]"""
        return self.product(x.to(self.dtype))

    def product(self, x: Tensor) -> Tensor:
        """x [..., K] in `dtype` already → [..., N]"""
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        rows = x.numel() // x.shape[-1]
        if rows < self.least:
            return product(x.expand(self.least, *x.shape[1:]), self.weight, self.bias)[:1]
        if self.block is None:
            return product(x, self.weight, self.bias)
        flat = F.pad(x.reshape(rows, -1), (0, 0, 0, -rows % self.block))
        found = torch.cat([product(part, self.weight, self.bias) for part in flat.split(self.block)])
        return found[:rows].view(*x.shape[:-1], -1)


def packed_weight(weight: Tensor) -> Tensor:
    """A weight [N, K] in oneDNN's layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] times a packed weight [N, K]."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


@memo
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed linear exists here and is right: it is a private operator of torch."""
    weight, x = torch.eye(16, 32, dtype=dtype), torch.full((2, 32), 2.0, dtype=dtype)
    try:
        y = product(x, packed_weight(weight), None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(y, F.linear(x, weight))


@memo
def rows_alike(outputs: int, inputs: int, dtype: torch.dtype) -> tuple[int, int | None]:
    """How a product of this shape gives a row the same bits in any company: (the fewest rows, the number of rows in a
    block or None for any number)."""
    weight, x = cancelling(outputs, inputs, max(TRIED))
    weight, x = packed_weight(weight.to(dtype)), x.to(dtype)
    expected = product(x[: TRIED[0]], weight, None)
    if any(not torch.equal(product(x[:rows], weight, None)[: TRIED[0]], expected) for rows in TRIED[1:]):
        return 1, ROWS
    return (1 if torch.equal(product(x[:1], weight, None), expected[:1]) else 2), None


def cancelling(outputs: int, inputs: int, rows: int) -> tuple[Tensor, Tensor]:
    """A weight [N, K] and rows [M, K] whose products are sums of pairs, far apart, that cancel exactly."""
    generator = torch.Generator().manual_seed(0)
    half = inputs // 2
    order = torch.randperm(inputs, generator=generator)
    some, others = order[:half], order[half : 2 * half]
    weight, x = torch.zeros(outputs, inputs), torch.zeros(rows, inputs)
    weight[:, some] = torch.randn(outputs, half, generator=generator)
    x[:, some] = torch.randn(rows, half, generator=generator)
    weight[:, others], x[:, others] = -weight[:, some], x[:, some]
    return weight, x
