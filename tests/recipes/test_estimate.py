"""The plan of a run: what is done, begun, to do, and about how long the rest will take."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fledge.core.log import Log
from fledge.recipes import estimate
from fledge.recipes.runner import plan, run_recipe


def shown(recipe: dict[str, object], run: Path) -> str:
    out = io.StringIO()
    estimate.show_plan(plan(recipe, run), recipe, "", Log(console=Console(file=out, width=100)))
    return out.getvalue()


@pytest.fixture
def recipe(tiny: Path) -> dict[str, object]:
    steps = {
        name: {"stage": "tokenizer", "documents": str(tiny / "heldout.jsonl"), "vocab_size": size}
        for name, size in (("first", 300), ("second", 310), ("third", 305))
    }
    seconds = {"first": 30.0, "second": 600.0, "third": 60.0}
    return {"steps": steps, "reference": {"demo": {"gflops": 100.0, "gigabytes": 2.5, "seconds": seconds}}}


def test_done_begun_and_to_do(recipe: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine half as fast as the reference, what is left takes twice as long."""
    monkeypatch.setattr(estimate, "speed", lambda: 50.0)
    run = tmp_path / "run"
    run_recipe(plan(recipe, run)[:1], run, Log(quiet=True))
    work = run / ".second.work"
    work.mkdir()
    (work / "fingerprint").write_text(plan(recipe, run)[1].mark)
    (run / ".third.work").mkdir()
    (run / ".third.work" / "fingerprint").write_text("that of other settings")
    lines = shown(recipe, run).splitlines()
    rows = {line.split()[0]: line.split()[2:] for line in lines if line.split()[1:2] == ["tokenizer"]}
    assert rows == {"first": ["done"], "second": ["begun", "20", "min"], "third": ["to", "do", "2", "min"]}
    assert "about 22 min to go on this machine, up to 2.5 GiB of memory" in lines
    assert any("GiB are free; nothing was run" in line for line in lines)


def test_without_a_reference_there_is_no_estimate(recipe: dict[str, object], tmp_path: Path) -> None:
    recipe.pop("reference")
    text = shown(recipe, tmp_path / "run")
    assert "to do" in text
    assert "to go" not in text


def test_the_speed_is_that_of_a_matrix_product() -> None:
    assert 0.1 < estimate.speed() < 1e7


@pytest.mark.parametrize(("seconds", "text"), [(5.2, "5 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min")])
def test_durations(seconds: float, text: str) -> None:
    assert estimate.duration(seconds) == text
