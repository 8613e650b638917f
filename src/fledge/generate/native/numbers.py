"""Memory by address and what processors have no instruction for: bfloat16, e^x, 8 bits. For compiled code.

Callers keep the memory alive and large enough. NaN and infinity stay what they are.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types

from fledge.generate.native.llvm import pointer, same_bits
from fledge.generate.native.threads import HOW

LEVELS = 127  # of 8 bits, on either side of 0, for which LEVELS stands
KINDS = (torch.float32, torch.bfloat16, torch.uint8)

_float32, _float64, _bfloat16 = pointer(types.float32), pointer(types.float64), pointer(types.uint16)
_int64, _uint8 = pointer(types.int64), pointer(types.uint8)
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
def doubles(address, place, count):  # type: ignore[no-untyped-def]
    """`count` float64."""
    return carray(_float64(address + 8 * place), (count,))


@njit(**HOW)
def integers(address, place, count):  # type: ignore[no-untyped-def]
    """`count` int64."""
    return carray(_int64(address + 8 * place), (count,))


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
def largest(x):  # type: ignore[no-untyped-def]
    """The largest of some float32. Compared as integers, which vectorises where NaN must stay above all: they have the
    same order if the negative ones are turned round."""
    most = np.int32(-(2**31))
    for i in range(len(x)):
        b = bits(x[i])
        most = max(most, np.int32(b ^ ((b >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    return number(np.int32(most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))))


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
def shortened(x, floor):  # type: ignore[no-untyped-def]
    """1 / √(Σx² + floor)."""
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return np.float32(1) / np.sqrt(np.float32(total + np.float32(floor)))


def kind_of(tensor: torch.Tensor) -> int:
    """How kernels name a dtype."""
    return KINDS.index(tensor.dtype)
