"""Compiled kernels on torch's own threads.

A kernel is a numba `cfunc` that is told what to do by a struct, which begins with the counters `taken` and `grain`:
each thread that runs it takes `grain` tasks after the other until none are left, so it matters neither how many threads
there are nor which does what. The threads are those of torch's OpenMP where that is GNU's, as on Linux: a second team
would fight with it for the cores. Elsewhere one thread does it all.

Compiled code is kept on disk, beside the file that defines a kernel or in the user's cache. numba looks at the date of
that very file only, so whoever changes this one touches those that import it.
"""

import ctypes
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

ALONE = 1 << 14  # numbers: less than that is not worth a second thread
GRAINS = 4  # pieces of work for each thread
RTLD_NOLOAD = 4

FLAGS = {"reassoc", "contract", "arcp", "nsz", "afn"}  # sums in any order, but NaN is NaN


def keeps() -> bool:
    """Whether numba finds a place that it may write compiled code to."""
    try:
        njit(cache=True)(keeps)
    except RuntimeError:
        return False
    return True


HOW: dict[str, Any] = {"fastmath": FLAGS, "error_model": "numpy", "cache": keeps()}


def _take(typing: Any, data: Any, count: Any) -> Any:
    """Adds to the first number of what a kernel is told; what it was before. Several threads may."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        counter = builder.bitcast(given[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, given[1], "monotonic")

    return types.int64(data, types.int64), code


take: Any = intrinsic(_take)


def team() -> Any:
    """GNU's way to have its OpenMP threads call a function, in the runtime that torch has loaded; None elsewhere."""
    try:
        call = ctypes.CDLL("libgomp.so.1", mode=RTLD_NOLOAD).GOMP_parallel
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return call


TEAM = team()


def run(kernel: Any, told: Any, tasks: int, numbers: int, threads: int) -> None:
    """Run a kernel on what it is `told`, a struct that begins with `taken` and `grain`. It has that many tasks, and so
    many numbers to compute. threads: as many as torch has, or their team would be made anew."""
    told.taken = 0
    if threads == 1 or TEAM is None or numbers < ALONE or tasks == 1:
        told.grain = tasks
        kernel.ctypes(ctypes.addressof(told))
    else:
        told.grain = -(-tasks // (GRAINS * threads))
        TEAM(kernel.address, ctypes.addressof(told), threads, 0)
