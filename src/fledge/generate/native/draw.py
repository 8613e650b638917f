"""Kernels that draw tokens: `weigh` makes weights of scores, `pick` draws by them.

With torch each of seven operators passes over the scores of all rows; here a row stays in the cache until it is done.
What a row gets depends on that row alone, to the bit.

Shapes: B rows, V vocabulary.
"""

import ctypes

import numba
import numpy as np
import torch
from numba import carray, cfunc, njit, types
from torch import Tensor

from fledge.generate.native.numbers import doubles, exp, floats, integers, largest
from fledge.generate.native.threads import HOW, run, take

BLOCK = 256  # numbers that are summed or searched at once
LEAST = -87  # what is further below the largest score has the weight 0


class Scores(ctypes.Structure):
    """What `weigh` and `pick` are told: addresses (0: none), sizes."""

    _fields_ = [
        ("taken", ctypes.c_int64),
        ("grain", ctypes.c_int64),
        ("rows", ctypes.c_int64),  # B
        ("size", ctypes.c_int64),  # V
        ("x", ctypes.c_int64),  # [B, V] float32; `weigh` only, as are the three after it
        ("stride", ctypes.c_int64),  # from row to row of x
        ("temperatures", ctypes.c_int64),  # [B] float32, above 0
        ("masses", ctypes.c_int64),  # [B] float32
        ("weights", ctypes.c_int64),  # [B, V] float32
        ("uniforms", ctypes.c_int64),  # [B] float64 in [0, 1); `pick` only
        ("ids", ctypes.c_int64),  # [B] int64
    ]


@njit(**HOW)
def place_of(value, x):  # type: ignore[no-untyped-def]
    """Where x is a value first; 0 if nowhere."""
    for start in range(0, len(x), BLOCK):
        end, found = min(start + BLOCK, len(x)), 0
        for i in range(start, end):
            found += x[i] == value
        if found:
            for i in range(start, end):
                if x[i] == value:
                    return i
    return 0


@njit(**HOW)
def sum_of(x):  # type: ignore[no-untyped-def]
    """Σ x of at most a block."""
    found = np.float32(0)
    for i in range(len(x)):
        found += x[i]
    return found


@njit(**HOW)
def weights_of(x, top, scale, room, out):  # type: ignore[no-untyped-def]
    """Σ e^((x - top)·scale), in double precision from block to block; the summands to `out` if that is not empty, else
    to `room` [BLOCK]."""
    mass = 0.0
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        weights = out[start : start + BLOCK] if len(out) else room[: len(part)]
        for i in range(len(part)):
            distance = (part[i] - top) * scale
            weights[i] = np.float32(0) if distance < np.float32(LEAST) else exp(distance)
        mass += sum_of(weights)
    return mass


@cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Scores)))), **HOW)
def weigh(data):  # type: ignore[no-untyped-def]
    """weights = e^((x - max x) / temperature), masses = log Σ e^x, ids = the first place where x is largest."""
    p = carray(data, 1)[0]
    room, one = np.empty(BLOCK, np.float32), np.float32(1)
    while True:
        first = take(data, p.grain)
        if first >= p.rows:
            break
        for row in range(first, min(first + p.grain, p.rows)):
            x = floats(p.x, row * p.stride, p.size)
            out = floats(p.weights, row * p.size, p.size) if p.weights else room[:0]
            top, scale = largest(x), one / floats(p.temperatures, row, 1)[0] if p.temperatures else one
            integers(p.ids, row, 1)[0] = place_of(top, x)
            mass = weights_of(x, top, one, room, out if scale == one else room[:0])
            if len(out) and scale != one:
                weights_of(x, top, scale, room, out)
            floats(p.masses, row, 1)[0] = np.float32(top + np.log(mass))


@cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Scores)))), **HOW)
def pick(data):  # type: ignore[no-untyped-def]
    """ids = where the sum of the weights up to there passes uniform · Σ weights; never where a weight is 0."""
    p = carray(data, 1)[0]
    sums = np.empty(-(-p.size // BLOCK), np.float64)
    while True:
        first = take(data, p.grain)
        if first >= p.rows:
            break
        for row in range(first, min(first + p.grain, p.rows)):
            weights, mass = floats(p.weights, row * p.size, p.size), 0.0
            for block in range(len(sums)):
                mass += sum_of(weights[block * BLOCK : block * BLOCK + BLOCK])
                sums[block] = mass
            target, block = doubles(p.uniforms, row, 1)[0] * mass, 0
            while sums[block] <= target and sums[block] < mass:  # rounding must not run past the end
                block += 1
            found, mass = block * BLOCK, sums[block - 1] if block else 0.0
            for i in range(block * BLOCK, min(block * BLOCK + BLOCK, p.size)):
                if weights[i] > np.float32(0) and mass <= target:
                    found = i
                    mass += weights[i]
            integers(p.ids, row, 1)[0] = found


def weighed(x: Tensor, temperatures: Tensor | None, keep: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """x [B, V] float32 → weights [B, V] if they are to be kept, ids [B], masses [B]. temperatures [B]; None: all 1."""
    x = x if x.stride(1) == 1 else x.contiguous()
    weights = torch.empty(x.shape) if keep else None
    ids, masses = torch.empty(len(x), dtype=torch.int64), torch.empty(len(x))
    told = Scores(
        rows=x.shape[0], size=x.shape[1], x=x.data_ptr(), stride=x.stride(0), ids=ids.data_ptr(),
        masses=masses.data_ptr(), weights=0 if weights is None else weights.data_ptr(),
        temperatures=0 if temperatures is None else temperatures.data_ptr(),
    )  # fmt: skip
    run(weigh, told, x.shape[0], x.numel(), torch.get_num_threads())
    return weights, ids, masses


def picked(weights: Tensor, uniforms: Tensor) -> Tensor:
    """weights [B, V] float32, uniforms [B] float64 → ids [B]."""
    weights, uniforms = weights.contiguous(), uniforms.contiguous()
    ids = torch.empty(len(weights), dtype=torch.int64)
    told = Scores(
        rows=weights.shape[0], size=weights.shape[1], weights=weights.data_ptr(), uniforms=uniforms.data_ptr(),
        ids=ids.data_ptr(),
    )  # fmt: skip
    run(pick, told, weights.shape[0], weights.numel(), torch.get_num_threads())
    return ids
