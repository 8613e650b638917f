"""Who is next: fair queueing between clients, first come first served within one.

Start-time fair queueing (Goyal et al., SIGCOMM 1996): each client has a virtual clock that runs by the work it is
given; the client whose clock is furthest behind goes next. One who sends a thousand requests does not delay another
who sends one, and nobody saves up credit by being away.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class FairQueue(Generic[T]):
    """Waiting items by client."""

    waiting: dict[str, deque[tuple[T, float]]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    now: float = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def push(self, client: str, item: T, work: float) -> None:
        """Queue an item that costs `work`."""
        if client not in self.waiting:
            self.waiting[client] = deque()
            self.clocks[client] = max(self.now, self.clocks.get(client, 0.0))
        self.waiting[client].append((item, work))

    def peek(self) -> T | None:
        """The item that is next."""
        return self.waiting[self._first()][0][0] if self.waiting else None

    def pop(self) -> T:
        """Take the item that is next."""
        client = self._first()
        item, work = self.waiting[client].popleft()
        self.now = self.clocks[client]
        self.clocks[client] += work
        if not self.waiting[client]:
            del self.waiting[client]
            if not self.waiting:
                self.clocks, self.now = {}, 0.0
        return item

    def remove(self, item: T) -> bool:
        """Drop an item; False if it is not waiting."""
        for client, items in self.waiting.items():
            for place, (held, _) in enumerate(items):
                if held is item:
                    del items[place]
                    if not items:
                        del self.waiting[client]
                    return True
        return False

    def _first(self) -> str:
        return min(self.waiting, key=lambda client: self.clocks[client])
