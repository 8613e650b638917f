"""How often one may ask: a bucket of requests per caller that fills with time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

FORGET = 10_000  # callers that are remembered


@dataclass
class Rate:
    """`per_minute` requests a minute for each caller, as many at once; 0 is no limit."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    buckets: dict[str, tuple[float, float]] = field(default_factory=dict)  # → what is left, when that was

    def take(self, caller: str) -> float:
        """Count a request; returns 0, or the seconds until there is room for it (then it was not counted)."""
        if not self.per_minute:
            return 0.0
        now = self.clock()
        left, then = self.buckets.pop(caller, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - then) * self.per_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self.per_minute
        self.buckets[caller] = (left if wait else left - 1, now)
        while len(self.buckets) > FORGET:
            del self.buckets[next(iter(self.buckets))]
        return wait
