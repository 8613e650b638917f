"""What a run directory tells, against its lines by hand."""

from pathlib import Path
from typing import Any

import pytest

from fledge.stages.run_record import Step


def step(rows: list[dict[str, Any]]) -> Step:
    return Step("ppo", "ppo", 1.0, 1, {}, {}, {}, rows, Path("nowhere"))


def test_a_path_is_the_means_of_neighbours() -> None:
    rows = [{"iteration": i, "kl": float(i), "reward": 2.0 * i} for i in reversed(range(5))]
    assert step([*rows, {"step": 3, "kl": 9.0}]).path("kl", "reward", most=2) == [(1.0, 2.0), (3.5, 7.0)]
    assert step(rows).path("kl", "reward") == [(float(i), 2.0 * i) for i in range(5)]
    assert step([]).path("kl", "reward") == []


def test_figures_that_are_no_numbers_are_left_out() -> None:
    rows = [{"iteration": 0, "kl": float("nan"), "reward": 1.0}, {"iteration": 1, "kl": 0.5, "reward": 1.5}]
    assert step(rows).path("kl", "reward") == [pytest.approx((0.5, 1.5))]
