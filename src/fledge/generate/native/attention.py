"""Kernels of attention: `turn` normalises and rotates queries and keys and writes the cache, `attend` attends to it.

Each token attends by itself to what its row of the cache holds up to its position, in an order of sums that its own
length fixes: to the bit it matters neither who else is computed nor how a prompt was cut. Left out: keys behind a
query.

Shapes: N tokens, H heads, Hkv key-value heads, D head size, S positions of the cache.
"""

import ctypes

import numba
import numpy as np
from numba import carray, cfunc, njit, types

from fledge.generate.native.llvm import LANES
from fledge.generate.native.numbers import exp, floats, halves, integers, largest, number_of_half, shortened, store
from fledge.generate.native.stream import read
from fledge.generate.native.threads import HOW, take
from fledge.generate.native.vectors import (
    dots_float,
    dots_half,
    mix_float1,
    mix_float2,
    mix_float4,
    mix_half1,
    mix_half2,
    mix_half4,
)


class Heads(ctypes.Structure):
    """What `turn` and `attend` are told."""

    _fields_ = [
        ("taken", ctypes.c_int64),
        ("grain", ctypes.c_int64),
        ("rows", ctypes.c_int64),  # N tokens
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("size", ctypes.c_int64),  # D
        ("y", ctypes.c_int64),  # queries, keys and values [N, H + 2·Hkv, D], as in `Rows`
        ("y_half", ctypes.c_int64),
        ("y_stride", ctypes.c_int64),
        ("y_scale", ctypes.c_int64),
        ("y_bias", ctypes.c_int64),
        ("weights", ctypes.c_int64),  # [H + Hkv, D] float32 of the norm of queries and keys, if there is one
        ("cos", ctypes.c_int64),  # [context, D] float32
        ("sin", ctypes.c_int64),
        ("positions", ctypes.c_int64),  # [N] int64
        ("places", ctypes.c_int64),  # [N] int64: the tokens' rows of the cache
        ("q", ctypes.c_int64),  # [N, H, D] float32
        ("keys", ctypes.c_int64),  # [rows, Hkv, S, D]
        ("values", ctypes.c_int64),
        ("cache_kind", ctypes.c_int64),
        ("length", ctypes.c_int64),  # S
        ("window", ctypes.c_int64),  # keys that a query sees, 0: all
        ("out", ctypes.c_int64),  # [N, H, D] float32; `attend` only
        ("floor", ctypes.c_double),  # D · eps
    ]


@njit(**HOW)
def rotate(x, p, position, scale):  # type: ignore[no-untyped-def]
    """A head's vector turned by its position, times `scale`. cos and sin are the same in both halves, up to sign."""
    half = p.size // 2
    cos, sin = floats(p.cos, position * p.size, half), floats(p.sin, position * p.size + half, half)
    first, second = x[:half], x[half:]
    for i in range(half):
        a, b = first[i], second[i]
        first[i] = (a * cos[i] - b * sin[i]) * scale
        second[i] = (b * cos[i] + a * sin[i]) * scale


@cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Heads)))), **HOW)
def turn(data):  # type: ignore[no-untyped-def]
    """Queries normalised, rotated and scaled; keys likewise, and with the values into the cache."""
    p = carray(data, 1)[0]
    size, turned = p.size, p.heads + p.kv_heads
    scale = np.float32(1) / np.sqrt(np.float32(size))  # of attention
    held = np.empty((turned + p.kv_heads) * size, np.float32)
    while True:
        first = take(data, p.grain)
        if first >= p.rows:
            break
        for row in range(first, min(first + p.grain, p.rows)):
            read(p, row, len(held), held)
            position, place = integers(p.positions, row, 1)[0], integers(p.places, row, 1)[0]
            for head in range(turned + p.kv_heads):
                x = held[head * size : (head + 1) * size]
                if head < turned:
                    if p.weights:
                        factor, weights = shortened(x, p.floor), floats(p.weights, head * size, size)
                        for i in range(size):
                            x[i] *= factor * weights[i]
                    rotate(x, p, position, scale if head < p.heads else np.float32(1))
                if head < p.heads:
                    store(x, p.q, (row * p.heads + head) * size, 0)
                else:
                    at = (place * p.kv_heads + (head - p.heads) % p.kv_heads) * p.length + position
                    store(x, p.keys if head < turned else p.values, at * size, p.cache_kind)


@njit(**HOW)
def dots(q, size, keys, half, out, seen):  # type: ignore[no-untyped-def]
    """out[s] = q · key s, for `seen` keys one behind the other; all are addresses."""
    stride, whole = size * (2 if half else 4), seen // LANES * LANES if size % LANES == 0 else 0
    for s in range(0, whole, LANES):
        if half:
            dots_half(q, size // LANES, keys + s * stride, out + 4 * s)
        else:
            dots_float(q, size // LANES, keys + s * stride, out + 4 * s)
    x, found = floats(q, 0, size), floats(out, 0, seen)
    for s in range(whole, seen):
        total = np.float32(0)
        if half:
            y = halves(keys, s * size, size)
            for i in range(size):
                total += x[i] * number_of_half(y[i])
        else:
            z = floats(keys, s * size, size)
            for i in range(size):
                total += x[i] * z[i]
        found[s] = total


@njit(**HOW)
def mix(weights, seen, values, size, half, out):  # type: ignore[no-untyped-def]
    """out = Σ weights[s] · value s, as `dots`."""
    width = 2 if half else 4
    stride, done = size * width, 0
    while done + LANES <= size:
        left, value, y = (size - done) // LANES, values + done * width, out + 4 * done
        if left >= 4:
            if half:
                mix_half4(weights, seen, value, stride, y)
            else:
                mix_float4(weights, seen, value, stride, y)
            done += 4 * LANES
        elif left >= 2:
            if half:
                mix_half2(weights, seen, value, stride, y)
            else:
                mix_float2(weights, seen, value, stride, y)
            done += 2 * LANES
        else:
            if half:
                mix_half1(weights, seen, value, stride, y)
            else:
                mix_float1(weights, seen, value, stride, y)
            done += LANES
    found, w = floats(out, 0, size), floats(weights, 0, seen)
    for i in range(done, size):
        found[i] = np.float32(0)
    for s in range(seen if done < size else 0):
        if half:
            y = halves(values, s * size, size)
            for i in range(done, size):
                found[i] += w[s] * number_of_half(y[i])
        else:
            z = floats(values, s * size, size)
            for i in range(done, size):
                found[i] += w[s] * z[i]


@njit(**HOW)
def softmax(x):  # type: ignore[no-untyped-def]
    """x = e^(x - max); returns what to divide it by."""
    top, mass = largest(x), np.float32(0)
    for s in range(len(x)):
        x[s] = exp(x[s] - top)
        mass += x[s]
    return mass


@njit(**HOW)
def attend_group(p, row, head, room):  # type: ignore[no-untyped-def]
    """The attention of a token's queries that share a key-value head. room [S]."""
    size, group, end = p.size, p.heads // p.kv_heads, integers(p.positions, row, 1)[0] + 1
    low = max(0, end - p.window) if p.window else 0
    weights, scores = room[: end - low], room.ctypes.data
    at = ((integers(p.places, row, 1)[0] * p.kv_heads + head) * p.length + low) * size * (2 if p.cache_kind else 4)
    for query in range(head * group, (head + 1) * group):
        own = 4 * (row * p.heads + query) * size
        dots(p.q + own, size, p.keys + at, p.cache_kind, scores, end - low)
        out, factor = floats(p.out + own, 0, size), np.float32(1) / softmax(weights)
        mix(scores, end - low, p.values + at, size, p.cache_kind, p.out + own)
        for i in range(size):
            out[i] *= factor


@cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(Heads)))), **HOW)
def attend(data):  # type: ignore[no-untyped-def]
    """Each token's queries attend to what its row of the cache holds up to its position, itself included."""
    p = carray(data, 1)[0]
    room = np.empty(p.length, np.float32)
    tasks = p.rows * p.kv_heads
    while True:
        first = take(data, p.grain)
        if first >= tasks:
            break
        for task in range(first, min(first + p.grain, tasks)):
            attend_group(p, task // p.kv_heads, task % p.kv_heads, room)
