"""Matrix products of few rows for processors with AVX-512, compiled at first use (numba): a library's calls are longer.

oneDNN takes 10 µs for any product, which for a small model is most of a token's time; here it is one. A tile of at most
8 rows and 48 outputs stays in registers while the inputs go by, one 32-bit word of them at a time: a float32, two
bfloat16 (vdpbf16ps) or four 8-bit integers (vpdpbusd). So a row gets the same bits in any company, and many rows are
as fast as oneDNN's. Weights lie as the tiles read them, outputs in panels of 16: word g of output n is number
[n // 16, g, n % 16].

Sums and results are float32 for float32 and bfloat16; sums of integers are exact. Left out: AMX, which is faster still
at many rows, and processors without AVX-512 (`can_tile`).

Shapes: M rows, K inputs, N outputs, G words of a row.
"""

import ctypes
from collections.abc import Sequence
from functools import cache as memo
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from torch import Tensor
from torch.nn import functional as F

from fledge.generate.native.llvm import (
    FLOATS,
    I32,
    WORDS,
    BFloat,
    load,
    loop,
    number,
    plus,
    spread,
    store,
    written,
)
from fledge.generate.native.threads import HOW, run, take

PANEL = 16  # outputs: the float32 numbers of a register
WIDE = 3  # panels of a tile
PER_WORD = {torch.float32: 1, torch.bfloat16: 2, torch.uint8: 4}

BYTES, BFLOATS = ir.VectorType(ir.IntType(8), 4 * PANEL), ir.VectorType(BFloat(), 2 * PANEL)
# the instruction, the kind of its sums and of its operands, and where the sum stands among them
INSTRUCTIONS = {
    torch.float32: ("llvm.fma.v16f32", FLOATS, FLOATS, 2),
    torch.bfloat16: ("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, BFLOATS, 0),
    torch.uint8: ("llvm.x86.avx512.vpdpbusd.512", WORDS, BYTES, 0),  # x without sign, weights with
}


class Product(ctypes.Structure):
    """What a kernel is told: addresses and sizes."""

    _fields_ = [
        ("taken", ctypes.c_int64),
        ("grain", ctypes.c_int64),
        ("rows", ctypes.c_int64),  # M
        ("words", ctypes.c_int64),  # G
        ("panels", ctypes.c_int64),  # N / 16
        ("x", ctypes.c_int64),
        ("stride", ctypes.c_int64),  # bytes from row to row of x
        ("weight", ctypes.c_int64),
        ("start", ctypes.c_int64),  # [N] float32 or int32: what the sums begin with
        ("scale", ctypes.c_int64),  # [N] float32: what sums of integers are multiplied with
        ("out", ctypes.c_int64),  # [M, N] float32
    ]


def write_tile(b: Any, given: Sequence[Any], dtype: torch.dtype, rows: int, panels: int) -> None:
    """The product of so many rows with so many panels, of addresses and bytes from row to row: (x, its stride, words,
    weight, start, scale, out, its stride)."""
    name, sums, operands, place = INSTRUCTIONS[dtype]
    x, stride, words, weight, start, scale, out, wide = given
    kinds = [operands, operands]
    kinds.insert(place, sums)
    add = b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(sums, kinds), name)

    def step(g: Any, held: list[Any]) -> list[Any]:
        weights = [load(b, plus(b, weight, (words, 64 * j), (g, 64)), operands) for j in range(panels)]
        found = []
        for i in range(rows):
            word = b.bitcast(spread(b, load(b, plus(b, x, (stride, i), (g, 4)), I32)), operands)
            for j in range(panels):
                inputs = [word, weights[j]]
                inputs.insert(place, held[i * panels + j])
                found.append(b.call(add, inputs))
        return found

    begin = [load(b, plus(b, start, (number(64), j)), sums) for j in range(panels)]
    for n, value in enumerate(loop(b, words, begin * rows, step)):
        i, j = divmod(n, panels)
        if sums is WORDS:
            value = b.fmul(b.sitofp(value, FLOATS), load(b, plus(b, scale, (number(64), j)), FLOATS))
        store(b, value, plus(b, out, (wide, i), (number(64), j)))


def tiles(dtype: torch.dtype, rows: int) -> Any:
    """f(all, …) runs the tile of so many rows that takes `all` WIDE panels, or one."""
    wide, slim = (written(write_tile, 8, dtype, rows, panels) for panels in (WIDE, 1))

    @njit(inline="always", **HOW)
    def either(whole, x, stride, words, weight, start, scale, out, far):  # type: ignore[no-untyped-def]
        if whole:
            wide(x, stride, words, weight, start, scale, out, far)
        else:
            slim(x, stride, words, weight, start, scale, out, far)

    return either


@memo
def kernel(dtype: torch.dtype) -> Any:
    """The compiled product of any number of rows."""
    eight, four, two, one = (tiles(dtype, rows) for rows in (8, 4, 2, 1))

    @cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Product)))), **HOW)
    def multiply(data):  # type: ignore[no-untyped-def]
        p = carray(data, 1)[0]
        tasks, rows, words, step, far = (p.panels + WIDE - 1) // WIDE, p.rows, p.words, p.stride, p.panels * 64
        while True:
            first = take(data, p.grain)
            if first >= tasks:
                break
            panel, end = first * WIDE, min((first + p.grain) * WIDE, p.panels)
            while panel < end:
                all_ = panel + WIDE <= end
                x, out = p.x, p.out + panel * 64
                weight, start, scale = p.weight + panel * words * 64, p.start + panel * 64, p.scale + panel * 64
                for _ in range(rows // 8):
                    eight(all_, x, step, words, weight, start, scale, out, far)
                    x, out = x + 8 * step, out + 8 * far
                if rows & 4:
                    four(all_, x, step, words, weight, start, scale, out, far)
                    x, out = x + 4 * step, out + 4 * far
                if rows & 2:
                    two(all_, x, step, words, weight, start, scale, out, far)
                    x, out = x + 2 * step, out + 2 * far
                if rows & 1:
                    one(all_, x, step, words, weight, start, scale, out, far)
                panel += WIDE if all_ else 1

    return multiply


def laid_out(weight: Tensor) -> Tensor:
    """A weight [N, K] of float32, bfloat16 or int8 as the tiles read it: [N / 16, G, 16] words, sizes rounded up."""
    per = 4 // weight.element_size()
    weight = F.pad(weight, (0, -weight.shape[1] % per, 0, -weight.shape[0] % PANEL))
    panels = weight.view(-1, PANEL, weight.shape[1] // per, per).transpose(1, 2).contiguous()
    return panels.view(torch.int32)[..., 0]


def multiply(x: Tensor, weight: Tensor, start: Tensor, scale: Tensor | None = None) -> Tensor:
    """x [M, 4·G / its size] times a weight that is `laid_out` → [M, N rounded up] float32, plus `start` [N]. x of uint8
    wants an int8 weight, an int32 `start` and a `scale` [N]."""
    panels, words, _ = weight.shape
    rows = x.shape[0]
    out = torch.empty(rows, panels * PANEL)
    told = Product(
        rows=rows, words=words, panels=panels, x=x.data_ptr(), stride=x.stride(0) * x.element_size(),
        weight=weight.data_ptr(), start=start.data_ptr(), scale=0 if scale is None else scale.data_ptr(),
        out=out.data_ptr(),
    )  # fmt: skip
    run(kernel(x.dtype), told, -(-panels // WIDE), rows * weight.numel() // 4, torch.get_num_threads())
    return out


@memo
def can_tile(dtype: torch.dtype) -> bool:
    """Whether this processor has what the tiles are made of, no AMX, and the results are right."""
    if torch.cpu._is_amx_tile_supported() or not torch.cpu._is_avx512_supported():
        return False
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        return False
    if dtype == torch.uint8 and not torch.cpu._is_vnni_supported():
        return False
    kind = torch.int8 if dtype == torch.uint8 else dtype
    weight, x = torch.arange(-90, 102).remainder(13).sub(6).view(24, 8), torch.arange(24).remainder(7).view(3, 8)
    sums = torch.int32 if dtype == torch.uint8 else torch.float32
    try:
        y = multiply(x.to(dtype), laid_out(weight.to(kind)), torch.ones(32, dtype=sums), torch.full((32,), 0.5))
    except Exception:  # whatever another version of LLVM says to instructions that it names otherwise
        return False
    expected = (x @ weight.T + 1) * (0.5 if dtype == torch.uint8 else 1.0)
    return torch.equal(y[:, :24], expected.float())
