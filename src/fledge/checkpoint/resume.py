"""The state an interrupted job goes on from: any tree of tensors, numbers, strings, lists and dicts.

Tensors go into one safetensors file, the rest of the tree into JSON. A state is a directory `step-N` that is whole or
absent, and says so by checksums; the newest two are kept, and a damaged one is passed over for the one before. No
pickles (see docs/decisions/0001).
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.core.files import atomic_directory, checksum, disk_errors, read_json, write_json

KEPT = 2
TENSORS, TREE, CHECKSUMS = "tensors.safetensors", "state.json", "checksums.json"


def save_state(directory: Path, state: dict[str, Any], step: int) -> None:
    """Writes `state` as directory/step-N, then removes all but the newest two."""
    tensors: dict[str, Tensor] = {}
    tree = pack(state, tensors)
    with atomic_directory(directory / f"step-{step:09d}") as work:
        save_file(tensors, work / TENSORS)
        write_json(work / TREE, tree)
        write_json(work / CHECKSUMS, {name: checksum(work / name) for name in (TENSORS, TREE)})
    with disk_errors(directory):
        for old in [*saved(directory)[:-KEPT], *directory.glob(".step-*")]:  # also what a killed process began
            shutil.rmtree(old)


def load_state(
    directory: Path,
    say: Callable[[str], None] = lambda text: None,
    accept: Callable[[dict[str, Any]], bool] = lambda state: True,
) -> dict[str, Any] | None:
    """The newest undamaged state that is accepted, or None if there is none; newer ones that are not are removed.

    `say` is told of each damaged one that was passed over. Raises FledgeError if all are damaged.
    """
    states = saved(directory)
    for path in reversed(saved(directory)):
        try:
            state = read_state(path)
        except (FledgeError, OSError, safetensors.SafetensorError) as error:
            say(f"{path} is damaged ({str(error).splitlines()[0]}): passing over to the state before it")
            continue
        if accept(state):
            return state
        shutil.rmtree(path)
        states.remove(path)
    if states:
        raise FledgeError(
            f"every saved state in {directory} is damaged",
            f"delete {directory} and run the same command again: the step starts from its beginning",
        )
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The state in one directory `step-N`; raises FledgeError, OSError or SafetensorError if it is not whole."""
    expected = read_json(path / CHECKSUMS)
    for name in (TENSORS, TREE):
        if not isinstance(expected, dict) or checksum(path / name) != expected.get(name):
            raise FledgeError(f"{name} does not match its checksum", "delete this state")
    try:
        state = unpack(read_json(path / TREE), load_file(path / TENSORS))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise FledgeError(f"{path / TREE} is not what was saved: {error}", "delete this state") from None
    if not isinstance(state, dict):
        raise FledgeError(f"{path / TREE} holds no state", "delete this state")
    return state


def saved(directory: Path) -> list[Path]:
    """The states in `directory`, oldest first."""
    return sorted(path for path in directory.glob("step-*") if path.is_dir() and path.name[5:].isdecimal())


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved into `tensors`. Dicts become lists of pairs, so that keys keep their type.

    Raises TypeError for what would not come back as it was.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a resume state")


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
