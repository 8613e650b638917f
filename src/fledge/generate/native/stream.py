"""Kernels on the residual stream: what stands before a matrix product and behind it, in one pass over each row.

`prepare` adds a product to the stream, normalises and rounds for the next product; `gate` is silu(gate) · up. With
torch they are a dozen operators a layer, whose calls cost more than the products where tokens are few. A row's result
depends on that row alone, to the bit: sums run in an order that its size fixes, however many threads take part.

Shapes: N tokens.
"""

import ctypes

import numba
import numpy as np
from numba import carray, cfunc, njit, types

from fledge.generate.native.numbers import bits, exp, floats, halves, number, number_of_half, shortened, store
from fledge.generate.native.threads import HOW, take


class Rows(ctypes.Structure):
    """What `prepare` and `gate` are told: addresses (0: none), sizes."""

    _fields_ = [
        ("taken", ctypes.c_int64),  # rows so far, by any thread
        ("grain", ctypes.c_int64),
        ("rows", ctypes.c_int64),  # N
        ("width", ctypes.c_int64),
        ("stride", ctypes.c_int64),  # from row to row of `out`
        ("x", ctypes.c_int64),  # the residual stream [N, width] float32, read and written; `prepare` only
        ("y", ctypes.c_int64),  # a product [N, width] or [N, 2·width]
        ("y_half", ctypes.c_int64),  # 1: it is bfloat16, 0: float32
        ("y_stride", ctypes.c_int64),  # from row to row of it
        ("y_scale", ctypes.c_int64),  # [N]: a float32 product is to be multiplied with it …
        ("y_bias", ctypes.c_int64),  # … and this added
        ("out", ctypes.c_int64),
        ("kind", ctypes.c_int64),  # of `out`, see `kind_of`
        ("scale", ctypes.c_int64),  # [N] float32: the largest absolute value of a row, by which it is divided
        ("norm", ctypes.c_int64),  # 1: normalise; `prepare` only
        ("floor", ctypes.c_double),  # width · eps
    ]


@njit(**HOW)
def read(p, row, count, out):  # type: ignore[no-untyped-def]
    """A row of the product as float32."""
    if p.y_half:
        x = halves(p.y, row * p.y_stride, count)
        for i in range(count):
            out[i] = number_of_half(x[i])
        return
    y = floats(p.y, row * p.y_stride, count)
    scale = floats(p.y_scale, row, 1)[0] if p.y_scale else np.float32(1)
    for i in range(count):
        out[i] = y[i] * scale
    if p.y_bias:
        bias = floats(p.y_bias, 0, count)
        for i in range(count):
            out[i] += bias[i]


@njit(**HOW)
def write(p, row, x):  # type: ignore[no-untyped-def]
    """A row for the next product: divided by its largest value if that is wanted, rounded to nearest if to bfloat16."""
    if p.scale:
        most = np.int32(0)  # as integers, positive floats have the same order; NaN is above all
        for i in range(p.width):
            most = max(most, np.int32(bits(x[i]) & np.int32(0x7FFFFFFF)))
        largest = number(most)
        largest = np.float32(1e-30) if largest < np.float32(1e-30) else largest
        inverse = np.float32(1) / largest
        for i in range(p.width):
            x[i] *= inverse
        floats(p.scale, row, 1)[0] = largest
    store(x, p.out, row * p.stride, p.kind)


@cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Rows)))), **HOW)
def prepare(data):  # type: ignore[no-untyped-def]
    """x += y, if there is a y; out = x or x / √(Σx² + floor), for the next product."""
    p = carray(data, 1)[0]
    held = np.empty(p.width, np.float32)
    while True:
        first = take(data, p.grain)
        if first >= p.rows:
            break
        for row in range(first, min(first + p.grain, p.rows)):
            x = floats(p.x, row * p.width, p.width)
            if p.y:
                read(p, row, p.width, held)
                for i in range(p.width):
                    x[i] += held[i]
            if p.out:
                factor = shortened(x, p.floor) if p.norm else np.float32(1)
                for i in range(p.width):
                    held[i] = x[i] * factor
                write(p, row, held)


@cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Rows)))), **HOW)
def gate(data):  # type: ignore[no-untyped-def]
    """out = silu(gate) · up of the product [N, 2·width], for the next product."""
    p = carray(data, 1)[0]
    held = np.empty(2 * p.width, np.float32)
    gates, ups = held[: p.width], held[p.width :]
    while True:
        first = take(data, p.grain)
        if first >= p.rows:
            break
        for row in range(first, min(first + p.grain, p.rows)):
            read(p, row, 2 * p.width, held)
            for i in range(p.width):
                gates[i] = gates[i] / (np.float32(1) + exp(-gates[i])) * ups[i]
            write(p, row, gates)
