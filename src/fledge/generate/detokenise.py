"""Tokens to text while they arrive: never half a character, never any part of a stop string.

Bytes are decoded incrementally (an unfinished UTF-8 sequence waits for its rest; what is invalid becomes U+FFFD),
and text that may be the beginning of a stop string is held back until it is known not to be.
"""

import codecs
from collections.abc import Callable, Sequence


class Detokeniser:
    """The growing text of one completion. The pieces that `add` and `close` return join to `text`."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self.token_bytes = token_bytes
        self.stop = tuple(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pieces: list[str] = []
        self.held = ""
        self.stopped = False

    @property
    def text(self) -> str:
        """What has been released so far."""
        return "".join(self.pieces)

    def add(self, token: int) -> str:
        """The text that became certain with `token`; sets `stopped` once a stop string is complete."""
        return self._release(self.decoder.decode(self.token_bytes(token)), last=False)

    def close(self) -> str:
        """The rest: what was held back, and U+FFFD for an unfinished character."""
        return self._release(self.decoder.decode(b"", final=True), last=True)

    def _release(self, new: str, last: bool) -> str:
        if self.stopped:
            return ""
        text = self.held + new
        hits = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        if hits:
            self.stopped, keep = True, min(hits)
        else:
            keep = len(text) if last else len(text) - overlap(text, self.stop)
        self.held = "" if self.stopped else text[keep:]
        if keep:
            self.pieces.append(text[:keep])
        return text[:keep]


def overlap(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of `text` that begins one of `stops`."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
