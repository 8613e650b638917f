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
from numba import carray, cfunc, types
from torch import Tensor
from torch.nn import functional as F

from fledge.generate.native.llvm import (
    FLOATS,
    I32,
    LANES,
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

PANEL = LANES  # outputs: the float32 numbers of a register
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


def write_tile(b: Any, told: dict[str, Any], dtype: torch.dtype, rows: int, panels: int) -> None:
    """The product of so many rows, from told["x"] on, with so many panels."""
    name, sums, operands, place = INSTRUCTIONS[dtype]
    kinds = [operands, operands]
    kinds.insert(place, sums)
    add = b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(sums, kinds), name)

    def step(g: Any, held: list[Any]) -> list[Any]:
        weights = [load(b, plus(b, told["weight"], (told["words"], 64 * j), (g, 64)), operands) for j in range(panels)]
        found = []
        for i in range(rows):
            word = load(b, plus(b, told["x"], (told["stride"], i), (g, 4)), I32)
            for j in range(panels):
                inputs = [b.bitcast(spread(b, word), operands), weights[j]]
                inputs.insert(place, held[i * panels + j])
                found.append(b.call(add, inputs))
        return found

    begin = [load(b, plus(b, told["start"], (number(64), j)), sums) for j in range(panels)]
    for n, value in enumerate(loop(b, told["words"], begin * rows, step)):
        i, j = divmod(n, panels)
        if sums is WORDS:
            value = b.fmul(b.sitofp(value, FLOATS), load(b, plus(b, told["scale"], (number(64), j)), FLOATS))
        store(b, value, plus(b, told["out"], (told["far"], i), (number(64), j)))


def write_rows(b: Any, told: dict[str, Any], dtype: torch.dtype, panel: Any, panels: int) -> None:
    """All rows with some panels, by tiles of 8, 4, 2 and 1 rows."""
    here = {name: plus(b, told[name], (panel, 64)) for name in ("start", "scale", "out")}
    here["weight"] = plus(b, told["weight"], (b.mul(panel, told["words"]), 64))

    def tile(row: Any, rows: int) -> None:
        at = {"x": b.add(told["x"], b.mul(row, told["stride"])), "out": b.add(here["out"], b.mul(row, told["far"]))}
        write_tile(b, told | here | at, dtype, rows, panels)

    def eight(i: Any, _: list[Any]) -> list[Any]:
        tile(b.mul(i, number(8)), 8)
        return []

    eights = b.udiv(told["rows"], number(8))
    with b.if_then(b.icmp_signed(">", eights, number(0))):
        loop(b, eights, [], eight)
    row = b.mul(eights, number(8))
    for rows in (4, 2, 1):
        more = b.and_(told["rows"], number(rows))
        with b.if_then(b.icmp_signed(">", more, number(0))):
            tile(row, rows)
        row = b.add(row, more)


def write_tasks(b: Any, given: Sequence[Any], dtype: torch.dtype) -> None:
    """All rows with the panels of the tasks from the first up to the last; then the numbers of a `Product`."""
    first, last, *others = given
    told = dict(zip(("rows", "words", "panels", "x", "stride", "weight", "start", "scale", "out"), others))
    told["far"] = b.mul(told["panels"], number(64))

    def task(i: Any, _: list[Any]) -> list[Any]:
        panel = b.mul(b.add(first, i), number(WIDE))
        left = b.sub(told["panels"], panel)

        def slim(j: Any, _: list[Any]) -> list[Any]:
            write_rows(b, told, dtype, b.add(panel, j), 1)
            return []

        with b.if_else(b.icmp_signed(">=", left, number(WIDE))) as (whole, part):
            with whole:
                write_rows(b, told, dtype, panel, WIDE)
            with part:
                loop(b, left, [], slim)
        return []

    loop(b, b.sub(last, first), [], task)


float_tasks, half_tasks, byte_tasks = (
    written(write_tasks, 11, dtype) for dtype in (torch.float32, torch.bfloat16, torch.uint8)
)


# One function for each dtype, as a compiler that does not know a processor's instruction ends the process; and none of
# them a closure, as numba would not find those again on disk.


def multiply_floats(data):  # type: ignore[no-untyped-def]
    """The product of a `Product` in float32."""
    p = carray(data, 1)[0]
    tasks, first = (p.panels + WIDE - 1) // WIDE, take(data, p.grain)
    while first < tasks:
        last = min(first + p.grain, tasks)
        float_tasks(first, last, p.rows, p.words, p.panels, p.x, p.stride, p.weight, p.start, p.scale, p.out)
        first = take(data, p.grain)


def multiply_halves(data):  # type: ignore[no-untyped-def]
    """In bfloat16."""
    p = carray(data, 1)[0]
    tasks, first = (p.panels + WIDE - 1) // WIDE, take(data, p.grain)
    while first < tasks:
        last = min(first + p.grain, tasks)
        half_tasks(first, last, p.rows, p.words, p.panels, p.x, p.stride, p.weight, p.start, p.scale, p.out)
        first = take(data, p.grain)


def multiply_bytes(data):  # type: ignore[no-untyped-def]
    """In 8 bits."""
    p = carray(data, 1)[0]
    tasks, first = (p.panels + WIDE - 1) // WIDE, take(data, p.grain)
    while first < tasks:
        last = min(first + p.grain, tasks)
        byte_tasks(first, last, p.rows, p.words, p.panels, p.x, p.stride, p.weight, p.start, p.scale, p.out)
        first = take(data, p.grain)


@memo
def kernel(dtype: torch.dtype) -> Any:
    """The compiled product."""
    kinds = {torch.float32: multiply_floats, torch.bfloat16: multiply_halves, torch.uint8: multiply_bytes}
    return cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Product)))), **HOW)(kinds[dtype])


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
