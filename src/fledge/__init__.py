"""fledge raises a language model end to end: from raw text to an aligned assistant.

The Python API is small: `fledge.load(directory)` gives an assistant (or a reward model) to question, `fledge.fit` is
the training loop. Everything else is imported from where it lives, e.g. `fledge.model.heads`.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["fit", "load"]

if TYPE_CHECKING:
    from fledge.generate.assistant import load
    from fledge.train.loop import fit


def __getattr__(name: str) -> Any:
    """Imports `load` and `fit` when they are first asked for, so that `import fledge` is quick."""
    if name == "load":
        from fledge.generate.assistant import load

        return load
    if name == "fit":
        from fledge.train.loop import fit

        return fit
    raise AttributeError(f"module 'fledge' has no attribute '{name}'")
