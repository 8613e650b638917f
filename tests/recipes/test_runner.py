"""Recipes: what is planned, done once, done again when something upstream changed, and refused."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.model.config import ModelConfig
from fledge.recipes.runner import Step, plan, read_recipe, recipe_names, run_recipe
from fledge.stages import preflight
from fledge.stages.preflight import check_memory
from gpu import gpu

QUIET = Log(quiet=True)
HELD = {"pretrain": (1, 0), "sft": (1, 0), "reward": (1, 0), "ppo": (2, 3)}  # models trained, and held beside
LARGE = {"base_large": (1, 0), "ppo_without_ptx": (2, 3)}


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path) -> Path:
    """Two tokenizers, of which the second does not hang on the first, and a model that hangs on the first."""
    steps = {
        "small": {"stage": "tokenizer", "documents": str(tiny / "documents.jsonl"), "vocab_size": "${size}"},
        "other": {"stage": "tokenizer", "documents": str(tiny / "heldout.jsonl"), "vocab_size": 300},
        "pretrain": {
            "documents": str(tiny / "documents.jsonl"),
            "tokenizer": "${small}",
            "depth": 1,
            "tokens": 128,
            "length": 64,
            "tokens_per_step": 64,
        },
    }
    content = {"settings": {"size": 310}, "scales": {"big": ["size=320", "pretrain.tokens=256"]}, "steps": steps}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the steps that are really made, as they are."""
    from fledge.recipes import runner

    names: list[str] = []
    make = runner.make

    def noted(stage: str, config: Any, directory: Path, mark: str, log: Log) -> Any:
        names.append(directory.name)
        return make(stage, config, directory, mark, log)

    monkeypatch.setattr(runner, "make", noted)
    return names


def run(recipe: Path, out: Path, *overrides: str, scale: str = "") -> list[Step]:
    steps = plan(read_recipe(str(recipe)), out, scale, overrides)
    run_recipe(steps, out, QUIET)
    return steps


def test_a_recipe_is_done_once(recipe: Path, tmp_path: Path, made: list[str]) -> None:
    out = tmp_path / "run"
    assert [step.done for step in plan(read_recipe(str(recipe)), out)] == [False, False, False]
    steps = run(recipe, out)
    assert made == ["small", "other", "pretrain"]
    assert all(step.done for step in steps)
    assert not any(step.begun for step in steps)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}

    run(recipe, out)
    assert made == ["small", "other", "pretrain"]
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


@pytest.mark.parametrize(
    ("changes", "scale", "again"),
    [
        (["size=320"], "", ["small", "pretrain"]),
        (["other.vocab_size=301"], "", ["other"]),
        (["pretrain.tokens=64"], "", ["pretrain"]),
        ([], "big", ["small", "pretrain"]),
    ],
)
def test_what_changes_is_done_again_with_all_that_hangs_on_it(
    recipe: Path, tmp_path: Path, made: list[str], changes: list[str], scale: str, again: list[str]
) -> None:
    run(recipe, tmp_path / "run")
    made.clear()
    run(recipe, tmp_path / "run", *changes, scale=scale)
    assert made == again


def test_what_is_done_again_is_said(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "run")
    work = tmp_path / "run" / ".pretrain.work"
    work.mkdir()
    (work / "fingerprint").write_text("that of other settings")
    out = io.StringIO()
    steps = plan(read_recipe(str(recipe)), tmp_path / "run", "", ["pretrain.tokens=64"])
    run_recipe(steps, tmp_path / "run", Log(console=Console(file=out, width=200)))
    said = out.getvalue()
    assert "1/3 small is done" in said
    assert "3/3 pretrain learn language by predicting the next token (again: settings or inputs have changed)" in said
    assert "unfinished work with other settings or inputs is dropped" in said


def test_files_from_outside_that_change_are_noticed(recipe: Path, tiny: Path, tmp_path: Path, made: list[str]) -> None:
    copy = tmp_path / "runs.jsonl"  # a name that begins like the run's directory
    copy.write_text((tiny / "documents.jsonl").read_text())
    change = f"small.documents={copy}"
    run(recipe, tmp_path / "run", change)
    made.clear()
    run(recipe, tmp_path / "run", change)
    assert made == []
    copy.write_text((tiny / "documents.jsonl").read_text() + '{"text": "One more heron."}\n')
    run(recipe, tmp_path / "run", change)
    assert made == ["small", "pretrain"]


def test_the_run_can_be_moved(recipe: Path, tmp_path: Path, made: list[str]) -> None:
    run(recipe, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    made.clear()
    run(recipe, tmp_path / "moved")
    assert made == []


def test_each_step_leaves_its_config(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(recipe, out, scale="big")
    assert yaml.safe_load((out / "configs" / "small.yaml").read_text())["vocab_size"] == 320
    artifact = json.loads((out / "pretrain" / "artifact.json").read_text())
    assert artifact["config"]["tokens"] == 256
    assert artifact["stage"] == "pretrain"
    assert artifact["seconds"] > 0
    assert artifact["peak_memory"] > 1 << 20
    assert artifact["environment"]["python"]
    assert json.loads((out / "pretrain" / "summary.json").read_text())["steps"] == 4


def test_a_step_left_out(recipe: Path, tmp_path: Path) -> None:
    steps = plan(read_recipe(str(recipe)), tmp_path / "run", "", ["other.skip=true"])
    assert [step.name for step in steps] == ["small", "pretrain"]
    with pytest.raises(FledgeError, match="step 'pretrain' refers to 'small', which is no setting and no earlier step"):
        plan(read_recipe(str(recipe)), tmp_path / "run", "", ["small.skip=true"])


def test_a_folder_of_the_users_is_not_replaced(recipe: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run" / "small"
    mine.mkdir(parents=True)
    (mine / "letters.txt").write_text("precious")
    with pytest.raises(FledgeError, match="small is not empty and not a fledge artifact") as caught:
        run(recipe, tmp_path / "run")
    assert caught.value.remedy == "choose another --out"
    assert (mine / "letters.txt").read_text() == "precious"


def edited(recipe: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(recipe.read_text())
    change(content)
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.parametrize(
    ("change", "message", "remedy"),
    [
        (lambda r: r.update(step=r.pop("steps")), "unknown key 'step' in {recipe}", "did you mean 'steps'?"),
        (lambda r: r.pop("steps"), "{recipe} has no 'steps', each with its settings", "write e.g. steps:"),
        (lambda r: r.update(steps=["small"]), "{recipe} has no 'steps', each with its settings", "write e.g. steps:"),
        (
            lambda r: r["steps"].update(pretrain=7),
            "{recipe} has no 'steps', each with its settings",
            "write e.g. steps:",
        ),
        (
            lambda r: r["steps"].update(pretrian=r["steps"].pop("pretrain")),
            "step 'pretrian' asks for an unknown stage 'pretrian'",
            "did you mean 'pretrain'?",
        ),
        (
            lambda r: r["steps"]["pretrain"].update(tokenizer="${smal}"),
            "step 'pretrain' refers to 'smal', which is no setting and no earlier step",
            "did you mean 'small'?",
        ),
        (
            lambda r: r["steps"]["pretrain"].update(dept=3),
            "unknown key 'dept' in step 'pretrain'",
            "did you mean 'depth'?",
        ),
        (
            lambda r: r["steps"]["pretrain"].update(optimizer={"learning_rat": 3}),
            "unknown key 'optimizer.learning_rat' in step 'pretrain'",
            "did you mean 'learning_rate'?",
        ),
        (lambda r: r["steps"].update(sft=None), "'model' is missing in step 'sft'", "give it: model=…"),
    ],
)
def test_recipes_that_are_wrong(
    recipe: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str, remedy: str
) -> None:
    edited(recipe, change)
    with pytest.raises(FledgeError) as caught:
        plan(read_recipe(str(recipe)), tmp_path / "run")
    assert caught.value.message == message.format(recipe=recipe)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("scale", "overrides", "message", "remedy"),
    [
        ("bgi", [], "unknown scale 'bgi'", "did you mean 'big'?"),
        ("xyz", [], "unknown scale 'xyz'", "scales of this recipe: big"),
        ("", ["siez=3"], "'siez' is neither a setting nor a step of this recipe", "did you mean 'size'?"),
        ("", ["pretrian.seed=3"], "'pretrian' is neither a setting nor a step of", "did you mean 'pretrain'?"),
        (
            "",
            ["xyz.a=3"],
            "'xyz' is neither a setting nor a step of",
            "settings and steps: size, small, other, pretrain",
        ),
        ("", ["pretrain.sede=3"], "unknown key 'sede' in step 'pretrain'", "did you mean 'seed'?"),
        ("", ["pretrain.depth=0"], "'depth' in step 'pretrain': Input should be greater than 0", "correct the value"),
        ("", ["size.a=3"], "'size.a': 'size' is a value, not a group of settings", "check the key"),
    ],
)
def test_overrides_that_are_wrong(
    recipe: Path, tmp_path: Path, scale: str, overrides: list[str], message: str, remedy: str
) -> None:
    with pytest.raises(FledgeError) as caught:
        plan(read_recipe(str(recipe)), tmp_path / "run", scale, overrides)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_an_override_changes_one_step_of_those_that_share_an_anchor(tmp_path: Path) -> None:
    """And the recipe itself stays as it was: it can be planned again."""
    recipe = read_recipe("pydoc")
    given = yaml.safe_dump(recipe)
    steps = {step.name: step.config for step in plan(recipe, tmp_path, overrides=["ppo.optimizer.learning_rate=0.5"])}
    assert steps["ppo"].model_dump()["optimizer"]["learning_rate"] == 0.5
    assert steps["ppo_without_ptx"].model_dump()["optimizer"]["learning_rate"] != 0.5
    assert yaml.safe_dump(recipe) == given


def test_an_unknown_recipe() -> None:
    with pytest.raises(FledgeError, match="there is no recipe 'pydco'") as caught:
        read_recipe("pydco")
    assert caught.value.remedy == "did you mean 'pydoc'?"
    with pytest.raises(FledgeError, match=r"config file none\.yaml does not exist"):
        read_recipe("none.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipes_that_come_along_can_be_planned(name: str, tiny: Path, tmp_path: Path) -> None:
    content = read_recipe(name)
    for scale in ("", *content.get("scales", {})):
        overrides = [f"data={tiny}"] if "data" in content["settings"] else []
        steps = plan(content, tmp_path / "run", scale, overrides)
        assert len(steps) == len(content["steps"])
        assert len({step.mark for step in steps}) == len(steps)


@pytest.mark.parametrize(("name", "trained"), [("pydoc", HELD | LARGE), ("own", HELD)])
def test_the_gpu_scale_passes_preflight_on_a_card_of_80_gb(
    name: str, trained: dict[str, tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sizes cannot be trained with here; the estimate of their memory can be asked."""
    monkeypatch.setattr(preflight, "free_memory", lambda device: 75 << 30)
    steps = {step.name: step.config for step in plan(read_recipe(name), tmp_path / "run", "gpu")}
    for step, (models, copies) in trained.items():
        config, base = steps[step], steps["base_large" if step == "base_large" else "pretrain"]
        shape = ModelConfig.sized(base.depth, steps["tokenizer"].vocab_size, base.context)
        with gpu():
            check_memory(shape, config, QUIET, models=models, copies=copies)


def test_two_at_once(recipe: Path, tmp_path: Path) -> None:
    """The second is refused with the number of the first, and may run when the first is gone."""
    out = tmp_path / "run"
    hold = (
        "import sys, time; from pathlib import Path; from fledge.recipes.artifact import locked\n"
        "run = Path(sys.argv[1])\n"
        "with locked(run, run / '.lock'): print('held', flush=True); time.sleep(600)"
    )
    first = subprocess.Popen([sys.executable, "-c", hold, out], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(FledgeError) as caught:
        run(recipe, out)
    assert caught.value.message == f"{out} is in use by another fledge (process {first.pid})"
    assert caught.value.remedy == "wait for it, or choose another --out"
    first.kill()  # a lock dies with its process
    first.wait()
    run(recipe, out)
    assert (out / ".lock").read_text() == str(os.getpid())
