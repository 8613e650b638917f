"""An endless stream of steps from a mixture of sources, deterministic and resumable at any step.

Every pass over a source shuffles it anew. A source is packed in windows of about WINDOW tokens, whose rows are
shuffled, so starting and resuming cost a window and not the corpus. A row comes wholly from one source: the one
furthest behind its weight, so the shares are as exact as whole rows allow, at every step. Leaves out prefetching (a
row costs microseconds) and sharding over processes.
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fledge.core.errors import FledgeError
from fledge.data.packing import Batch, Example, Row, collate, pack

WINDOW = 1 << 20  # tokens
# The rows of the chosen examples of a source, made with a seed: packed as they are, or corrupted.
Arrange = Callable[[Sequence[Example], Iterable[int], Sequence[int]], list[Row]]


class Source:
    """One source, row after row without end; where it stands is (epoch, start of the window, row in the window)."""

    def __init__(self, name: str, examples: Sequence[Example], arrange: Arrange, seed: int) -> None:
        self.name = name
        self.examples = examples
        self.arrange = arrange
        self.seed = [seed, zlib.crc32(name.encode())]
        self.go_to(0, 0, 0)

    def go_to(self, epoch: int, start: int, row: int) -> None:
        self.epoch, self.start, self.row = epoch, start, row
        self.order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.examples))
        self.open_window()

    def open_window(self) -> None:
        """Packs the examples from `start` on and shuffles the rows."""
        tokens, self.end = 0, self.start
        while self.end < len(self.order) and tokens < WINDOW:
            tokens += len(self.examples[self.order[self.end]].ids)
            self.end += 1
        self.rows = self.arrange(self.examples, self.order[self.start : self.end].tolist(), [*self.seed, self.epoch])
        self.shuffled = np.random.default_rng([*self.seed, self.epoch, self.start]).permutation(len(self.rows))

    def next(self) -> Row:
        begun = self.epoch
        while self.row >= len(self.rows):
            if self.end < len(self.order):
                self.start, self.row = self.end, 0
                self.open_window()
            elif self.epoch > begun:
                raise FledgeError(f"a whole pass over source '{self.name}' made no row", "give it longer texts")
            else:
                self.go_to(self.epoch + 1, 0, 0)
        self.row += 1
        return self.rows[self.shuffled[self.row - 1]]

    def passes(self) -> float:
        """How many times the source has been gone through."""
        done = self.start + (self.end - self.start) * self.row / max(len(self.rows), 1)
        return self.epoch + done / len(self.order)


class Stream:
    """Iterates over steps, each a list of micro-batches [rows_per_microbatch, length].

    `weights` are relative; a source of weight 0 is not read. `split` as in `pack`; the examples of the sources in
    `whole` are never cut. `arrange` makes the rows in another way than packing. `tokens_per_step` counts padding.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Example]],
        weights: Mapping[str, float],
        length: int,
        rows_per_microbatch: int,
        microbatches: int,
        seed: int,
        split: bool,
        whole: Collection[str] = (),
        arrange: Arrange | None = None,
    ) -> None:
        check(sources, weights)
        total = sum(weights.values())
        self.weights = {name: weights[name] / total for name in sources if weights[name]}
        self.sources = {
            name: Source(name, sources[name], arrange or packed(length, split and name not in whole), seed)
            for name in self.weights
        }
        self.given = dict.fromkeys(self.weights, 0)  # rows of each source so far
        self.step = 0
        self.rows_per_microbatch = rows_per_microbatch
        self.microbatches = microbatches
        self.tokens_per_step = length * rows_per_microbatch * microbatches

    between = True  # it has a position after every step
    one_shape = True

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        self.step += 1
        return [collate([self.next_row() for _ in range(self.rows_per_microbatch)]) for _ in range(self.microbatches)]

    def next_row(self) -> Row:
        total = sum(self.given.values()) + 1
        name = max(self.weights, key=lambda name: self.weights[name] * total - self.given[name])
        self.given[name] += 1
        return self.sources[name].next()

    def epochs(self) -> dict[str, float]:
        """How many passes over each source have been made."""
        return {name: source.passes() for name, source in self.sources.items()}

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON; the next step after `load_state` is the one that comes next here."""
        places = {name: [source.epoch, source.start, source.row] for name, source in self.sources.items()}
        sizes = {name: len(source.examples) for name, source in self.sources.items()}
        return {"step": self.step, "given": dict(self.given), "places": places, "sizes": sizes}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state()` was taken; raises FledgeError if the sources have changed since."""
        sizes = {name: len(source.examples) for name, source in self.sources.items()}
        if state["sizes"] != sizes:
            raise FledgeError(
                f"the data has changed since the run was stopped: {state['sizes']} examples then, {sizes} now",
                "put the data back as it was, or start afresh in another directory",
            )
        self.step = state["step"]
        self.given = dict(state["given"])
        for name, place in state["places"].items():
            self.sources[name].go_to(*place)


def packed(length: int, split: bool) -> Arrange:
    """Rows of the examples as they are."""
    return lambda examples, chosen, seed: pack([examples[number] for number in chosen], length, split=split)


def check(sources: Mapping[str, Sequence[Example]], weights: Mapping[str, float]) -> None:
    """Refuses a mixture that cannot be drawn from."""
    if set(sources) != set(weights):
        raise FledgeError(
            f"the weights ({', '.join(weights)}) do not name the sources ({', '.join(sources)})",
            "give each source one weight",
        )
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights.values()) or not sum(weights.values()):
        raise FledgeError(f"mixture weights must be ≥ 0 and not all 0, got {dict(weights)}", "correct the weights")
    for name, examples in sources.items():
        if weights[name] and not any(len(example.ids) for example in examples):
            raise FledgeError(f"source '{name}' has no tokens", "give it data or the weight 0")
