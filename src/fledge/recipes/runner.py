"""Runs a recipe: steps in order, each skipped when finished, resumed when interrupted, redone when its inputs change.

A recipe is YAML: `settings` (its dials), `scales` (named sets of overrides), and `steps`: step → {stage, config…}.
In a step's config `${name}` is a setting, or the directory of another step. That is all the language there is.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fledge.core.config import Config, make_config, read_yaml, set_path, suggestion
from fledge.core.errors import FledgeError
from fledge.core.files import fingerprint, write_text_atomic
from fledge.core.log import Log
from fledge.recipes.artifact import begun, check_whole, finished, locked, make, outside_inputs
from fledge.stages import STAGES, load_stage

KEYS = ("settings", "scales", "steps", "reference")
REFERENCE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Step:
    """One step of a planned run. `mark` is the fingerprint of its config and of everything upstream."""

    name: str
    stage: str
    config: Config
    directory: Path
    mark: str

    @property
    def done(self) -> bool:
        return finished(self.directory, self.mark)

    @property
    def begun(self) -> bool:
        return begun(self.directory, self.mark)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("fledge.recipes")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe by name, or by the path of a YAML file."""
    if name.endswith((".yaml", ".yml")):
        return checked(read_yaml(Path(name)), name)
    if name not in recipe_names():
        raise FledgeError(
            f"there is no recipe '{name}'", suggestion(name, recipe_names(), "give a YAML file or one of")
        )
    return yaml.safe_load((resources.files("fledge.recipes") / f"{name}.yaml").read_text(encoding="utf-8"))


def checked(recipe: dict[str, Any], where: str) -> dict[str, Any]:
    """The recipe, if it has the form of one."""
    for key in recipe:
        if key not in KEYS:
            raise FledgeError(f"unknown key '{key}' in {where}", suggestion(str(key), KEYS, "known keys"))
    steps = recipe.get("steps")
    if not isinstance(steps, dict) or not all(isinstance(config, dict | None) for config in steps.values()):
        raise FledgeError(
            f"{where} has no 'steps', each with its settings", "write e.g. steps: {curate: {documents: my.jsonl}}"
        )
    for name in steps:
        if not isinstance(name, str) or Path(name).name != name or name.startswith("."):
            raise FledgeError(f"'{name}' in {where} cannot be the name of a step", "a step's name is that of a folder")
    if not isinstance(recipe.get("settings") or {}, dict):
        raise FledgeError(f"'settings' in {where} are no 'name: value' lines", "write e.g. settings: {depth: 4}")
    scales = recipe.get("scales") or {}
    if not isinstance(scales, dict) or not all(are_texts(lines) for lines in scales.values()):
        raise FledgeError(f"'scales' in {where} are no lists of overrides", "write e.g. scales: {small: [depth=2]}")
    return recipe


def are_texts(lines: Any) -> bool:
    """Whether this is a list of strings, or nothing."""
    return lines is None or (isinstance(lines, list) and all(isinstance(line, str) for line in lines))


def plan(recipe: dict[str, Any], run: Path, scale: str = "", overrides: Sequence[str] = ()) -> list[Step]:
    """The steps of a recipe as they would run in the directory `run`, at a scale and with overrides.

    An override is `setting=value` or `step.key=value`. Unknown names are FledgeErrors.
    """
    settings: dict[str, Any] = dict(recipe.get("settings") or {})
    steps: dict[str, dict[str, Any]] = {name: deepcopy(config or {}) for name, config in recipe["steps"].items()}
    scales = recipe.get("scales") or {}
    if scale and scale not in scales:
        raise FledgeError(f"unknown scale '{scale}'", suggestion(scale, scales, "scales of this recipe"))
    for override in [*(scales.get(scale) or []), *overrides]:
        apply_override(settings, steps, override)
    planned: dict[str, Step] = {}
    for name, values in steps.items():
        stage = values.pop("stage", name)
        if not isinstance(stage, str) or stage not in STAGES:
            raise FledgeError(
                f"step '{name}' asks for an unknown stage '{stage}'", suggestion(str(stage), STAGES, "stages")
            )
        if values.pop("skip", False):
            continue
        places: dict[str, Any] = settings | {"run": run} | {s.name: s.directory for s in planned.values()}
        config = make_config(load_stage(stage).config, resolve(values, places, name), where=f"step '{name}'")
        upstream = {s: planned[s].mark for s in sorted(references(values)) if s in planned}
        if "run" in references(values):
            upstream = {s.name: s.mark for s in planned.values()}
        marks: dict[str, Any] = settings | {"run": "run"} | {s: f"step {s}" for s in planned}
        outside = outside_inputs(config, run)
        mark = fingerprint([stage, resolve(values, marks, name), config_defaults(config, values), upstream, outside])
        planned[name] = Step(name, stage, config, run / name, mark)
    return list(planned.values())


def config_defaults(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that the recipe leaves to the stage's defaults: they belong to the fingerprint as well."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in given}


def apply_override(settings: dict[str, Any], steps: dict[str, dict[str, Any]], override: str) -> None:
    """`setting=value` or `step.key=value`, in place."""
    first = override.partition("=")[0].partition(".")[0].strip()
    if first in steps:
        set_path(steps, override)
    elif first in settings:
        set_path(settings, override)
    else:
        remedy = suggestion(first, [*settings, *steps], "settings and steps")
        raise FledgeError(f"'{first}' is neither a setting nor a step of this recipe", remedy)


def references(values: Any) -> set[str]:
    """The names in `${…}` anywhere in nested values."""
    return set(REFERENCE.findall(yaml.safe_dump(values)))


def resolve(values: Any, places: dict[str, Any], step: str) -> Any:
    """Nested values with every `${name}` replaced; a value that is nothing but `${name}` keeps its type."""
    if isinstance(values, dict):
        return {key: resolve(value, places, step) for key, value in values.items()}
    if isinstance(values, list):
        return [resolve(value, places, step) for value in values]
    if not isinstance(values, str):
        return values
    for name in REFERENCE.findall(values):
        if name not in places:
            known = suggestion(name, places, "it may refer to")
            raise FledgeError(f"step '{step}' refers to '{name}', which is no setting and no earlier step", known)
    whole = REFERENCE.fullmatch(values)
    if whole:
        return places[whole[1]]
    return REFERENCE.sub(lambda match: str(places[match[1]]), values)


def run_recipe(steps: list[Step], run: Path, log: Log) -> None:
    """Runs what is not finished yet, in order, holding the run directory meanwhile.

    What is finished is compared with its checksums: a damaged step is never taken for done.
    """
    with locked(run, run / ".lock"):
        for number, step in enumerate(steps, 1):
            title = f"[bold]{number}/{len(steps)} {step.name}[/]"
            if step.done:
                check_whole(step.directory)
                log.say(f"{title} [dim]is done[/]")
                continue
            again = " (again: settings or inputs have changed)" if step.directory.exists() else ""
            log.say(f"{title} [dim]{STAGES[step.stage]}{' (going on)' if step.begun else again}[/]")
            write_text_atomic(
                run / "configs" / f"{step.name}.yaml",
                yaml.safe_dump(step.config.model_dump(mode="json"), sort_keys=False),
            )
            make(step.stage, step.config, step.directory, step.mark, log)
