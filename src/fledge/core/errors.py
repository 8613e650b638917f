"""Failures that are the user's to mend: one clear line and a remedy, never a traceback (unless `--debug`)."""

import re

LONGEST = 1000  # characters of a message
OUT_OF_MEMORY = re.compile("not enough memory|out of memory|(can't|cannot) allocate memory", re.IGNORECASE)


class FledgeError(Exception):
    """A failure stated in one line, with what to do about it.

    `message` says what is wrong and where; `remedy` says what to do, if anything can be done. What a message quotes
    from a file may be anything: here it becomes one printable line.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        message = one_line(message)
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


def one_line(text: str, most: int = LONGEST) -> str:
    """A text as one line of at most `most` characters, without those that steer a terminal."""
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 3 :]}"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


class Stopped(FledgeError):
    """Work that was stopped on request (Ctrl-C, SIGTERM) after its state was saved: run it again to go on."""


class Unavailable(FledgeError):
    """Something outside the program is not there now and may come back, as a database: try again later."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, as Python, torch on a CPU or a GPU, and the system say it."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))
