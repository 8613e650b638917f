"""Starts and feeds the process in which chat templates that are not ours run; see `renderer` for what bounds it.

One process serves all renderings of this one, and is started again after a template has broken its bounds.
"""

import atexit
import os
import select
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import jinja2
import markupsafe

from fledge.core.errors import FledgeError
from fledge.text import renderer
from fledge.text.renderer import SECONDS, Frame, read_frame, write_frame

PATIENCE = 120.0  # seconds on the clock, after which a process that neither answers nor computes is ended
# Isolated, without the user's site directory and its start-up files: only Jinja is within reach.
START = "import sys, runpy; sys.path += sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"


class Sandbox:
    """The process, started at the first rendering."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def render(self, source: str, values: Frame) -> Frame:
        """What `renderer.rendered` returns; a process that did not survive the template is a refusal too."""
        with self.lock:
            process = self.process or self.start()
            try:
                question = {"source": source, "values": values, "seconds": SECONDS}
                write_frame(cast(IO[bytes], process.stdin), question)
                answers = cast(IO[bytes], process.stdout)
                if select.select([answers], [], [], PATIENCE)[0]:
                    answer = read_frame(answers)
                    if answer is not None:
                        return answer
            except (OSError, ValueError):
                pass
            except BaseException:  # Ctrl-C between question and answer: the next question must not get this answer
                self.stop()
                raise
            self.stop()
        return {"refused": f"it took more than {SECONDS:g} seconds, or broke out of its bounds, and was ended"}

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the process."""
        places = {str(Path(cast(str, module.__file__)).parents[1]) for module in (jinja2, markupsafe)}
        command = [sys.executable, "-I", "-S", "-c", START, str(renderer.__file__), *sorted(places)]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise FledgeError(
                f"the process for chat templates does not start: {error}", "chat templates need a Python interpreter"
            ) from None
        atexit.register(self.stop)
        return self.process

    def stop(self) -> None:
        """Ends the process."""
        atexit.unregister(self.stop)
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # there may be something it was never told
                cast(IO[bytes], pipe).close()


@lru_cache
def sandbox_of(process: int) -> Sandbox:
    """The sandbox of this process, by its number: one that was forked gets its own."""
    return Sandbox()


def render(source: str, values: Frame) -> Frame:
    """Renders a template of unknown origin."""
    return sandbox_of(os.getpid()).render(source, values)
