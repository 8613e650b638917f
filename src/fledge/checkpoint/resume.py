"""The state an interrupted job goes on from: any tree of tensors, numbers, strings, lists and dicts.

Tensors go into one safetensors file, the rest of the tree into JSON. A state is a directory `step-N` that is whole or
absent; the newest two are kept, and a damaged one is passed over for the one before. No pickles (see
docs/decisions/0001).
"""

import shutil
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.core.files import atomic_directory, checksum, read_json, write_json

KEPT = 2


def save_state(directory: Path, state: dict[str, Any], step: int) -> None:
    """Writes `state` as directory/step-N, then removes all but the newest two."""
    tensors: dict[str, Tensor] = {}
    tree = pack(state, tensors)
    with atomic_directory(directory / f"step-{step:09d}") as work:
        save_file(tensors, work / "tensors.safetensors")
        write_json(work / "state.json", {"tree": tree, "checksum": checksum(work / "tensors.safetensors")})
    for old in saved(directory)[:-KEPT]:
        shutil.rmtree(old)


def load_state(directory: Path) -> dict[str, Any] | None:
    """The newest undamaged state, or None if there is none at all. Raises FledgeError if all are damaged."""
    states = saved(directory)
    for path in reversed(states):
        try:
            head = read_json(path / "state.json")
            if checksum(path / "tensors.safetensors") == head["checksum"]:
                state: dict[str, Any] = unpack(head["tree"], load_file(path / "tensors.safetensors"))
                return state
        except (FledgeError, OSError, KeyError, safetensors.SafetensorError):
            continue
    if states:
        raise FledgeError(
            f"every saved state in {directory} is damaged", "delete it: the step starts again from its beginning"
        )
    return None


def saved(directory: Path) -> list[Path]:
    """The states in `directory`, oldest first."""
    return sorted(path for path in directory.glob("step-*") if path.is_dir())


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved into `tensors`. Dicts become lists of pairs, so that keys keep their type."""
    match value:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        case dict():
            return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
        case list():
            return {"list": [pack(item, tensors) for item in value]}
        case tuple():
            return {"tuple": [pack(item, tensors) for item in value]}
        case None | bool() | int() | float() | str():
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
