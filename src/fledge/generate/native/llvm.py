"""Words for writing LLVM code from Python, where a compiler does not find the vectors by itself.

`written` makes a function that numba's compiled code may call; its code comes from a Python function that gets a
builder and the arguments. Vectors have 16 numbers of 32 bits: one register with AVX-512, two with AVX2, four with NEON.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16
I16, I32, I64, FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, WORDS, HALVES = (ir.VectorType(kind, LANES) for kind in (FLOAT, I32, I16))


class BFloat(ir.Type):
    """bfloat16, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


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


def loop(b: Any, count: Any, start: Sequence[Any], step: Any) -> list[Any]:
    """values = step(i, values) for i in range(count), from `start` on, at least once; the values after it."""
    before, body, after = b.block, b.append_basic_block("body"), b.append_basic_block("after")
    b.branch(body)
    b.position_at_end(body)
    i = b.phi(I64)
    held = [b.phi(value.type) for value in start]
    values = step(i, held)
    end = b.block  # steps may have branches of their own
    following = b.add(i, number(1))
    b.cbranch(b.icmp_signed("<", following, count), body, after)
    i.add_incoming(number(0), before)
    i.add_incoming(following, end)
    for phi, first, later in zip(held, start, values):
        phi.add_incoming(first, before)
        phi.add_incoming(later, end)
    b.position_at_end(after)
    return list(values)


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
