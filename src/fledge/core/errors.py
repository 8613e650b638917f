"""Failures that are the user's to mend: one clear line and a remedy, never a traceback (unless `--debug`)."""


class FledgeError(Exception):
    """A failure stated in one line, with what to do about it.

    `message` says what is wrong and where; `remedy` says what to do, if anything can be done.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class Stopped(FledgeError):
    """Work that was stopped on request (Ctrl-C, SIGTERM) after its state was saved: run it again to go on."""


class Unavailable(FledgeError):
    """Something outside the program is not there now and may come back, as a database: try again later."""
