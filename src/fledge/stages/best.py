"""The best checkpoint by a held-out figure, kept beside the last one.

While training goes on, each improvement is written beside the resume states, as a whole model. An older one stays as
long as a saved state knows it, so an interrupted run ends with the same best as an undisturbed one, bit for bit. At the
end it becomes `best/` if the last weights are not the best themselves.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fledge.checkpoint.directory import verify
from fledge.core.errors import FledgeError
from fledge.core.files import atomic_directory, disk_errors


class Best:
    """`value` is the lowest figure so far, `step` how many steps were done then (0: nothing was offered yet)."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.step, self.value = 0, math.inf
        self.last_saved = 0  # the best step that the state before the next one knows

    def state(self) -> dict[str, Any]:
        """What a resume state holds of it."""
        return {"step": self.step, "value": self.value if self.step else None}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.step = state["step"]
        self.value = state["value"] if self.step else math.inf

    def offer(self, step: int, value: float, write: Callable[[Path], object]) -> None:
        """Keeps the model that `write` puts into a directory, if no figure before was as low."""
        if value < self.value:
            with atomic_directory(self.directory(step)) as work:
                write(work)
            self.step, self.value = step, value

    def after_saving(self) -> None:
        """Removes those that neither of the two newest resume states knows, and what a killed process began."""
        with disk_errors(self.place):
            for path in self.place.glob("*best-*"):
                if path.name.startswith(".") or path < self.directory(self.last_saved):
                    shutil.rmtree(path)
        self.last_saved = self.step

    def settle(self, out: Path, last: int) -> str:
        """Copies the best to out/best if it is not that of step `last`. Returns what is wrong with it, or ''."""
        if self.step in (0, last):
            return ""
        try:
            verify(self.directory(self.step))
        except FledgeError as error:
            return error.message
        with atomic_directory(out / "best") as work:
            shutil.copytree(self.directory(self.step), work, dirs_exist_ok=True)
        return ""

    def directory(self, step: int) -> Path:
        """Where the best of that step lies while training goes on."""
        return self.place / f"best-{step:09d}"
