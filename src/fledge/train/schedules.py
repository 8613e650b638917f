"""Learning-rate schedules: step → multiplier of the base rate. `step` counts from 0; shares are of all `steps`.

Warmup rises linearly and reaches 1 with its last step. Warmup-stable-decay (arXiv:2404.06395) holds the rate and
falls linearly at the end; cosine (arXiv:1608.03983) falls all the way.
"""

import math


def constant(step: int, steps: int, warmup: float = 0.0) -> float:
    """1 after the warmup."""
    return rise(step, round(warmup * steps))


def warmup_stable_decay(step: int, steps: int, warmup: float = 0.02, decay: float = 0.4, final: float = 0.0) -> float:
    """1 between warmup and decay; the decay is linear towards `final`, which it would reach at step `steps`."""
    falling = max(1, round(decay * steps))
    left = min(1.0, max(0, steps - step) / falling) if decay else 1.0
    return rise(step, round(warmup * steps)) * (final + (1 - final) * left)


def cosine(step: int, steps: int, warmup: float = 0.02, final: float = 0.1) -> float:
    """Half a cosine from 1 at the end of the warmup to `final` at step `steps`."""
    rising = round(warmup * steps)
    done = min(1.0, max(0, step - rising) / max(1, steps - rising))
    return rise(step, rising) * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def rise(step: int, rising: int) -> float:
    """Linear warmup over `rising` steps: (step + 1)/rising, then 1."""
    return min(1.0, (step + 1) / max(1, rising))
