"""The two sums of attention with their parts in registers: q · keys for 16 keys at once, and weighted values.

Keys and values are float32 or bfloat16; sums are float32, in an order that sizes fix.

Shapes: D head size, S keys.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from fledge.generate.native.llvm import (
    FLOAT,
    FLOATS,
    HALVES,
    LANES,
    WORDS,
    load,
    loop,
    number,
    plus,
    spread,
    store,
    written,
)

FUSED = ("contract",)


def load_floats(b: Any, address: Any, half: bool) -> Any:
    """16 float32, or 16 bfloat16 as float32."""
    if not half:
        return load(b, address, FLOATS)
    bits = b.zext(load(b, address, HALVES, 2), WORDS)
    return b.bitcast(b.shl(bits, ir.Constant(WORDS, [16] * LANES)), FLOATS)


def write_dots(b: Any, given: Sequence[Any], half: bool) -> None:
    """out[0:16] = q · the 16 keys from an address on: (q, D / 16, keys, out)."""
    q, chunks, keys, out = given
    width = 2 if half else 4

    def step(chunk: Any, sums: list[Any]) -> list[Any]:
        part = load(b, plus(b, q, (chunk, 4 * LANES)), FLOATS)
        at = plus(b, keys, (chunk, width * LANES))
        found = []
        for s, total in enumerate(sums):
            key = load_floats(b, plus(b, at, (chunks, s * width * LANES)), half)
            found.append(b.fadd(total, b.fmul(part, key, flags=FUSED), flags=FUSED))
        return found

    sums = loop(b, chunks, [ir.Constant(FLOATS, [0.0] * LANES)] * LANES, step)
    distance = LANES // 2
    while len(sums) > 1:  # two vectors whose halves are added become one; after four rounds each lane is one key's sum
        low = [i if (i // distance) % 2 == 0 else LANES + i - distance for i in range(LANES)]
        high = [i + distance if (i // distance) % 2 == 0 else LANES + i for i in range(LANES)]
        pairs = [(sums[i], sums[i + len(sums) // 2]) for i in range(len(sums) // 2)]
        sums = [b.fadd(*(b.shuffle_vector(x, y, ir.Constant(WORDS, order)) for order in (low, high))) for x, y in pairs]
        distance //= 2
    store(b, sums[0], out)


def write_mix(b: Any, given: Sequence[Any], half: bool, chunks: int) -> None:
    """out[0:16 · chunks] = Σ weights[s] · those numbers of value s: (weights, S, values, bytes from one to the next,
    out)."""
    weights, seen, values, stride, out = given

    def step(s: Any, sums: list[Any]) -> list[Any]:
        weight = spread(b, load(b, plus(b, weights, (s, 4)), FLOAT))
        at = b.add(values, b.mul(s, stride))
        return [
            b.fadd(
                total,
                b.fmul(weight, load_floats(b, plus(b, at, (number(c), (2 if half else 4) * LANES)), half), flags=FUSED),
                flags=FUSED,
            )
            for c, total in enumerate(sums)
        ]

    for c, total in enumerate(loop(b, seen, [ir.Constant(FLOATS, [0.0] * LANES)] * chunks, step)):
        store(b, total, plus(b, out, (number(c), 4 * LANES)))


dots_float, dots_half = (written(write_dots, 4, half) for half in (False, True))
mix_float4, mix_float2, mix_float1 = (written(write_mix, 5, False, chunks) for chunks in (4, 2, 1))
mix_half4, mix_half2, mix_half1 = (written(write_mix, 5, True, chunks) for chunks in (4, 2, 1))
