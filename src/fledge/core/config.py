"""Typed configuration ⇄ YAML ⇄ `a.b=c`.

A config is a frozen pydantic model that stands beside the code it configures. A key that does not exist is an
error that suggests the right one. There is no global config and no inheritance between files.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fledge.core.errors import FledgeError, one_line

LARGEST, MOST = 1 << 18, 1 << 18  # bytes of a YAML file; values in it


class Config(BaseModel):
    """A frozen config that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """The config of a YAML file (or the defaults) with `a.b=c` overrides on top; values are read as YAML.

    Raises FledgeError for a missing or broken file, an unknown key (with the nearest known one) or a bad value.
    """
    values: dict[str, Any] = read_yaml(path) if path else {}
    for override in overrides:
        set_path(values, override)
    sources = [str(path)] * bool(path) + ["the command line"] * bool(overrides or not path)
    return make_config(cls, values, where=" and ".join(sources))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping a YAML file holds."""
    try:
        if path.stat().st_size > LARGEST:
            raise FledgeError(f"config file {path} is larger than {LARGEST >> 10} KiB", "give a YAML file of settings")
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FledgeError(f"config file {path} does not exist", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FledgeError(f"config file {path} cannot be read: {error}", "give a readable UTF-8 YAML file") from None
    except ValueError as error:
        raise FledgeError(f"{path} is not valid YAML: {' '.join(str(error).split())}", "mend that line") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise FledgeError(f"{path} must hold 'key: value' lines, not a {type(values).__name__}", "see --show-config")
    return values


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError if it has none, or one that its aliases blow up or make endless."""
    try:
        if "*" in text:
            expanded(yaml.compose(text, Loader=yaml.SafeLoader), {})
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from None  # PyYAML's own for a 32nd of January, an empty integer and the like


def expanded(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values there are once every alias is written out; raises ValueError for too many, or without an end."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST  # as long as it is being counted: it may hold itself
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(expanded(part, known) for part in parts)
    if known[id(node)] >= MOST:
        raise ValueError("its aliases make it endless")
    return known[id(node)]


def set_path(values: dict[str, Any], override: str) -> None:
    """Sets `a.b=c` in nested dicts, in place."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise FledgeError(
            f"override '{override}' is not of the form key=value", "write e.g. optimizer.learning_rate=0.01"
        )
    *parents, last = key.strip().split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        if not isinstance(values[parent], dict):
            raise FledgeError(f"'{key}': '{parent}' is a value, not a group of settings", "check the key")
        values = values[parent]
    try:
        values[last] = parse_yaml(text)
    except ValueError:
        values[last] = text


def make_config(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validates `values` into `cls`; the first problem becomes a FledgeError that names the key and `where`.

    An unknown key comes first: it is often the missing one, misspelt.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        remedy = suggestion(str(first["loc"][-1]), known_keys(cls, first["loc"][:-1]), "known keys")
        raise FledgeError(f"unknown key '{key}' in {where}", remedy)
    if first["type"] == "missing":
        raise FledgeError(f"'{key}' is missing in {where}", f"give it: {key}=…")
    if not key:
        raise FledgeError(f"{where}: {first['msg'].removeprefix('Value error, ')}", "correct these values")
    raise FledgeError(f"'{key}' in {where}: {first['msg']} (got {shown(first['input'])})", "correct the value")


def shown(value: Any) -> str:
    """A value as a message quotes it."""
    return one_line(repr(value), 200)


def suggestion(given: str, known: Iterable[str], what: str) -> str:
    """The remedy for a name that does not exist: the nearest of the known ones, or all of them."""
    names = [str(name) for name in known]  # a YAML key may be a number
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"{what}: {', '.join(names) or 'none'}"


def known_keys(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the config group at `location` inside `cls`."""
    for part in location:
        field = cls.model_fields.get(str(part))
        if field is None:
            continue
        candidates = (field.annotation, *get_args(field.annotation))
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if nested:
            cls = nested[0]
    return list(cls.model_fields)


def dump_config(config: Config) -> str:
    """The config as YAML, in field order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
