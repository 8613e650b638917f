"""What a decoder does between its matrix products, compiled for the processor (numba), each as one call.

It is little arithmetic, but a dozen operators of torch a layer, and for few tokens their calls cost more than the
products. Four kernels do it: `prepare` (add to the residual stream, normalise, round for the next product), `turn`
(normalise and rotate queries and keys, write to the cache), `attend` (a token's attention to its row of the cache) and
`gate` (silu(gate) · up). A token's result depends on that token alone, to the bit: sums run in an order that its own
sizes fix, whoever else is computed and however many threads take part.

Memory is named by address; callers keep it alive and large enough. NaN and infinity pass through to the results. Left
out: activations other than silu, GPUs.

Shapes: N tokens, E width, H heads, Hkv key-value heads, D head size, S positions of the cache.
"""

import ctypes
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from fledge.generate.threads import HOW, take
from fledge.generate.vectors import (
    LANES,
    dots_float,
    dots_half,
    mix_float1,
    mix_float2,
    mix_float4,
    mix_half1,
    mix_half2,
    mix_half4,
)

LEVELS = 127  # of 8 bits, on either side of 0, for which LEVELS stands
KINDS = (torch.float32, torch.bfloat16, torch.uint8)


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


def pointer(kind: Any) -> Any:
    """An address as a pointer to numbers of a kind."""

    @intrinsic
    def found(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), code

    return found


def same_bits(source: Any, target: Any, made: ir.Type) -> Any:
    """A 32-bit number read as another kind."""

    @intrinsic
    def found(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            return builder.bitcast(given[0], made)

        return target(source), code

    return found


_float32, _bfloat16, _int64 = pointer(types.float32), pointer(types.uint16), pointer(types.int64)
_uint8 = pointer(types.uint8)
bits = same_bits(types.float32, types.int32, ir.IntType(32))
number = same_bits(types.int32, types.float32, ir.FloatType())


@njit(**HOW)
def floats(address, place, count):  # type: ignore[no-untyped-def]
    """`count` float32 from number `place` on."""
    return carray(_float32(address + 4 * place), (count,))


@njit(**HOW)
def halves(address, place, count):  # type: ignore[no-untyped-def]
    """`count` bfloat16, as the integers of their bits."""
    return carray(_bfloat16(address + 2 * place), (count,))


@njit(**HOW)
def integer(address, place):  # type: ignore[no-untyped-def]
    """One int64."""
    return carray(_int64(address + 8 * place), (1,))[0]


@njit(inline="always", **HOW)
def number_of_half(x):  # type: ignore[no-untyped-def]
    """A bfloat16 as float32."""
    return number(np.int32(np.int32(x) << np.int32(16)))


@njit(inline="always", **HOW)
def half_of_number(x):  # type: ignore[no-untyped-def]
    """A float32 rounded to the nearest bfloat16, to even between two."""
    b = np.uint32(bits(x))
    return np.uint16((b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(inline="always", **HOW)
def exp(x):  # type: ignore[no-untyped-def]
    """e^x in float32 to 2 units in the last place, 0 below -87, e^88 above 88 (polynomial of Cephes)."""
    x = np.float32(88) if x > np.float32(88) else x
    x = np.float32(-87) if x < np.float32(-87) else x
    k = np.int32(np.int32(x * np.float32(1.44269504) + np.float32(128.5)) - np.int32(128))
    z = np.float32(k)
    r = x - z * np.float32(0.693359375) + z * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1)
    return y * number(np.int32(np.int32(k + np.int32(127)) << np.int32(23)))


@njit(**HOW)
def store(x, address, place, kind):  # type: ignore[no-untyped-def]
    """Write float32 numbers to an address from number `place` on, as a kind; as 8 bits numbers of [-1, 1]."""
    if kind == 0:
        copy = floats(address, place, len(x))
        for i in range(len(x)):
            copy[i] = x[i]
    elif kind == 1:
        rounded = halves(address, place, len(x))
        for i in range(len(x)):
            rounded[i] = half_of_number(x[i])
    else:
        small = carray(_uint8(address + place), (len(x),))
        for i in range(len(x)):
            small[i] = np.uint8(np.int32(x[i] * np.float32(LEVELS) + np.float32(LEVELS + 0.5)))


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


@njit(**HOW)
def shortened(x, floor):  # type: ignore[no-untyped-def]
    """1 / √(Σx² + floor)."""
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return np.float32(1) / np.sqrt(np.float32(total + np.float32(floor)))


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
            position, place = integer(p.positions, row), integer(p.places, row)
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
    most, mass = np.int32(-(2**31)), np.float32(0)
    for s in range(len(x)):  # as integers, floats have the same order if the negative ones are turned round
        b = bits(x[s])
        most = max(most, np.int32(b ^ ((b >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    top = number(np.int32(most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    for s in range(len(x)):
        x[s] = exp(x[s] - top)
        mass += x[s]
    return mass


@njit(**HOW)
def attend_group(p, row, head, room):  # type: ignore[no-untyped-def]
    """The attention of a token's queries that share a key-value head. room [S]."""
    size, group, end = p.size, p.heads // p.kv_heads, integer(p.positions, row) + 1
    low = max(0, end - p.window) if p.window else 0
    weights, scores = room[: end - low], room.ctypes.data
    at = ((integer(p.places, row) * p.kv_heads + head) * p.length + low) * size * (2 if p.cache_kind else 4)
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


def kind_of(tensor: torch.Tensor) -> int:
    """How kernels name a dtype."""
    return KINDS.index(tensor.dtype)
