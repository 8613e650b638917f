"""The plan of a run: which steps are done, and roughly what the rest will take on this machine.

A recipe's `reference` says how many seconds each step took on a machine of a known speed (a matrix product of the
demo's shape, in GFLOP/s); the estimate is that, scaled by this machine's speed. Honest to a factor of about two.
"""

import math
import time
from typing import Any

import torch

from fledge.core.device import free_memory, pick_device
from fledge.core.log import Log
from fledge.recipes.runner import Step


def show_plan(steps: list[Step], recipe: dict[str, Any], scale: str, log: Log) -> None:
    """Prints the plan as a table."""
    reference = recipe.get("reference", {}).get(scale or "demo", {})
    slower = reference.get("gflops", 0) / speed() if reference else 0.0
    rows, left = [], 0.0
    for step in steps:
        state = "done" if step.done else "begun" if step.begun else "to do"
        seconds = reference.get("seconds", {}).get(step.name, 0.0) * slower
        left += 0.0 if step.done else seconds
        rows.append([step.name, step.stage, state, duration(seconds) if seconds and not step.done else ""])
    log.table("plan", ["step", "stage", "state", "about"], rows)
    if left:
        log.say(
            f"about [bold]{duration(left)}[/] to go on this machine, up to {reference['gigabytes']:.1f} GiB of memory"
        )
    free = free_memory(pick_device())
    log.say(f"[dim]{free / 2**30:.0f} GiB are free; nothing was run[/]")


def speed() -> float:
    """GFLOP/s of a float32 matrix product like those of the demo; matrix units for bfloat16 would say too much, since
    most of a small model's time goes into moving memory."""
    device, dtype = pick_device(), torch.float32
    x, w = torch.randn(4096, 256, device=device, dtype=dtype), torch.randn(768, 256, device=device, dtype=dtype)
    best = math.inf
    for _ in range(6):  # a processor takes a moment to wake up, and other jobs come and go
        began = time.perf_counter()
        for _ in range(8):
            product = x @ w.T
        float(product[0, 0])
        best = min(best, time.perf_counter() - began)
    return 8 * 2 * 4096 * 256 * 768 / best / 1e9


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
