"""The two sums of attention with vectors of 16 numbers held in registers, which a compiler does not find by itself.

Written for LLVM in vectors of 16 float32: one register with AVX-512, two with AVX2, four with NEON. Keys and values are
float32 or bfloat16; sums are float32, in an order that sizes fix.

Shapes: D head size, S keys.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16
I16, I32, I64, FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, WORDS, HALVES = (ir.VectorType(kind, LANES) for kind in (FLOAT, I32, I16))
FUSED = ("contract",)


def written(write: Any, parameters: int, *how: Any) -> Any:
    """A function of so many int64 whose code is written by write(builder, arguments, *how)."""

    @intrinsic
    def found(typing: Any, *given: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            write(builder, [builder.extract_value(given[0], i) for i in range(parameters)], *how)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, parameters)), code

    return found


def number(value: int) -> Any:
    """An int64."""
    return ir.Constant(I64, value)


def plus(b: Any, base: Any, *steps: tuple[Any, int]) -> Any:
    """base + Σ step · times"""
    for step, times in steps:
        base = b.add(base, b.mul(step, number(times)))
    return base


def load(b: Any, address: Any, kind: ir.Type, align: int = 4) -> Any:
    """What lies at an address."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(b: Any, value: Any, address: Any) -> None:
    """Put it there."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 4


def spread(b: Any, value: Any) -> Any:
    """A number as all of a vector."""
    kind = ir.VectorType(value.type, LANES)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(WORDS, [0] * LANES))


def load_floats(b: Any, address: Any, half: bool) -> Any:
    """16 float32, or 16 bfloat16 as float32."""
    if not half:
        return load(b, address, FLOATS)
    bits = b.zext(load(b, address, HALVES, 2), WORDS)
    return b.bitcast(b.shl(bits, ir.Constant(WORDS, [16] * LANES)), FLOATS)


def loop(b: Any, count: Any, start: Sequence[Any], step: Any) -> list[Any]:
    """values = step(i, values) for i in range(count), from `start` on, at least once; the values after it."""
    before, body, after = b.block, b.append_basic_block("body"), b.append_basic_block("after")
    b.branch(body)
    b.position_at_end(body)
    i = b.phi(I64)
    held = [b.phi(value.type) for value in start]
    values = step(i, held)
    following = b.add(i, number(1))
    b.cbranch(b.icmp_signed("<", following, count), body, after)
    i.add_incoming(number(0), before)
    i.add_incoming(following, body)
    for phi, first, later in zip(held, start, values):
        phi.add_incoming(first, before)
        phi.add_incoming(later, body)
    b.position_at_end(after)
    return list(values)


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
