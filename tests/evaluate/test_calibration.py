"""Calibration of synthetic predictors whose error is known in closed form, and against a loop over bins."""

import json
import math

import numpy as np
import pytest

from fledge.evaluate.calibration import bin_sums, calibration, next_token_calibration, preference_calibration

N = 200_000


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def by_loop(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """The definition: Σ |bin|/N · |accuracy - confidence|."""
    total = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (confidence >= low) & ((confidence < high) | (k == bins - 1))
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def test_the_definition(generator: np.random.Generator) -> None:
    confidence, correct = generator.random(3000), generator.random(3000) < 0.4
    found = next_token_calibration(confidence, correct)
    assert found.error.value == pytest.approx(by_loop(confidence, correct, 15), abs=1e-12)
    assert sum(row["n"] for row in found.reliability) == 3000
    assert found.error.low <= found.error.value <= found.error.high


def test_perfect_calibration_is_almost_zero(generator: np.random.Generator) -> None:
    confidence = generator.random(N)
    found = next_token_calibration(confidence, generator.random(N) < confidence, generator.integers(0, 500, N))
    assert found.error.value < 0.006
    assert found.error.low == pytest.approx(0, abs=0.002)
    for row in found.reliability:
        assert row["accuracy"] == pytest.approx(row["confidence"], abs=0.02)


def test_constant_overconfidence_is_its_own_error(generator: np.random.Generator) -> None:
    found = next_token_calibration(np.full(N, 0.9), generator.random(N) < 0.6, generator.integers(0, 500, N))
    assert found.error.value == pytest.approx(0.3, abs=0.005)
    assert found.error.low < 0.3 < found.error.high
    assert found.error.high - found.error.low < 0.02
    assert found.error.n == 500
    assert len(found.reliability) == 1


def test_certainty_belongs_to_the_last_bin() -> None:
    sums = bin_sums(np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 0]), 1, bins=4)
    assert sums[0, :, 0].tolist() == [1, 0, 0, 1]


def test_units_are_resampled_together(generator: np.random.Generator) -> None:
    """Copies of one document are no evidence: the interval is as wide as that of the documents themselves."""
    confidence, correct = generator.random(200), (generator.random(200) < 0.5).astype(float)
    copied = next_token_calibration(np.repeat(confidence, 50), np.repeat(correct, 50), np.repeat(np.arange(200), 50))
    single, naive = next_token_calibration(confidence, correct), next_token_calibration(
        np.repeat(confidence, 50), np.repeat(correct, 50)
    )  # fmt: skip
    assert copied.error.high - copied.error.low == pytest.approx(single.error.high - single.error.low, rel=0.05)
    assert naive.error.high - naive.error.low < 0.4 * (copied.error.high - copied.error.low)


def test_a_true_bradley_terry_model_is_calibrated(generator: np.random.Generator) -> None:
    """Preferences drawn with probability sigmoid(r_a - r_b) are what a perfect reward model predicts."""
    differences = generator.normal(0, 2, N)
    a_preferred = generator.random(N) < 1 / (1 + np.exp(-differences))
    margins = np.where(a_preferred, differences, -differences)  # better minus worse
    assert preference_calibration(margins)["error"]["value"] < 0.006
    sharper = preference_calibration(3 * margins)
    assert sharper["error"]["value"] > 0.08
    assert all(row["accuracy"] < row["confidence"] for row in sharper["reliability"])
    json.dumps(sharper, allow_nan=False)


def test_a_constant_reward_margin() -> None:
    margins = np.array([math.log(4)] * 60 + [-math.log(4)] * 40)  # confidence 0.8, right in 60 %
    found = preference_calibration(margins, np.arange(100) // 4)
    assert found["error"]["value"] == pytest.approx(0.2)
    assert found["error"]["n"] == 25
    assert found["reliability"] == [
        {"confidence": pytest.approx(0.8), "accuracy": pytest.approx(0.6), "n": 100},
    ]


def test_a_reward_model_that_knows_nothing_is_calibrated() -> None:
    found = preference_calibration(np.zeros(50))
    assert found["error"]["value"] == 0
    assert found["reliability"] == [{"confidence": 0.5, "accuracy": 0.5, "n": 50}]


def test_no_predictions() -> None:
    assert calibration(np.zeros((3, 15, 3))).as_dict() == {
        "error": {"value": None, "low": None, "high": None, "n": 0},
        "reliability": [],
    }
    assert preference_calibration(np.array([]))["error"]["value"] is None
