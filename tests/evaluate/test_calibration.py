"""Calibration errors of predictions whose truth is known."""

import numpy as np
import pytest

from fledge.evaluate.calibration import (
    bin_of,
    bin_sums,
    expected_calibration_error,
    preference_calibration,
    reliability,
)


def test_calibrated_predictions_have_no_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(200_000)
    sums = bin_sums(confidence, generator.random(200_000) < confidence)
    assert expected_calibration_error(sums) < 0.005
    for row in reliability(sums):
        assert row["accuracy"] == pytest.approx(row["confidence"], abs=0.02)


def test_constant_over_confidence_is_its_own_error() -> None:
    confidence, correct = np.full(1000, 0.9), np.arange(1000) < 600
    sums = bin_sums(confidence, correct)
    assert expected_calibration_error(sums) == pytest.approx(0.3)
    assert reliability(sums) == [{"confidence": pytest.approx(0.9), "accuracy": pytest.approx(0.6), "n": 1000}]


def test_the_error_is_that_of_the_definition() -> None:
    generator = np.random.default_rng(1)
    confidence, correct = generator.random(500), generator.random(500) < 0.4
    total = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            total += inside.sum() / 500 * abs(confidence[inside].mean() - correct[inside].mean())
    assert expected_calibration_error(bin_sums(confidence, correct)) == pytest.approx(total)


def test_sums_add_over_documents_and_errors_broadcast() -> None:
    generator = np.random.default_rng(2)
    confidence, correct = generator.random(90), generator.random(90) < 0.5
    parts = [bin_sums(confidence[i : i + 30], correct[i : i + 30]) for i in (0, 30, 60)]
    assert sum(parts) == pytest.approx(bin_sums(confidence, correct))
    several = expected_calibration_error(np.stack(parts))
    assert several == pytest.approx([expected_calibration_error(part) for part in parts])


def test_edges_belong_to_the_bin_below() -> None:
    assert bin_of(np.array([0.0, 0.2, 0.2001, 1.0]), bins=5).tolist() == [0, 0, 1, 4]
    assert bin_of(np.array([0.5, 0.6, 0.61, 1.0]), bins=5, lowest=0.5).tolist() == [0, 0, 1, 4]


def test_a_reward_model_that_means_what_it_says_is_calibrated() -> None:
    generator = np.random.default_rng(3)
    size = np.abs(generator.normal(0, 2, 100_000))
    margins = np.where(generator.random(100_000) < 1 / (1 + np.exp(-size)), size, -size)
    prompts = np.arange(100_000) // 50
    honest, boastful = preference_calibration(margins, prompts), preference_calibration(3 * margins, prompts)
    assert honest["error"] < 0.01
    assert 0 <= honest["low"] <= honest["error"] <= honest["high"] < 0.015
    assert boastful["error"] > 0.1
    assert boastful["low"] > 0.1
    assert all(row["confidence"] >= 0.5 for row in boastful["bins"])
    assert sum(row["n"] for row in boastful["bins"]) == boastful["n"] == 100_000


def test_a_constant_margin_is_its_own_error() -> None:
    """Confidence 0.8, right in 60 %: the error is 0.2, whatever the bins."""
    margins = np.repeat([np.log(4), -np.log(4)], [60, 40])
    found = preference_calibration(margins)
    assert found["error"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(0.2 - 1.96 * (0.6 * 0.4 / 100) ** 0.5, abs=0.02)


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    """Copies of a pair are no evidence: with `prompts` the interval stays as wide as that of the pairs copied."""
    margins = np.random.default_rng(4).normal(0.5, 1, 150)
    single = preference_calibration(margins)
    copied, naive = (
        preference_calibration(np.repeat(margins, 20), prompts) for prompts in (np.repeat(np.arange(150), 20), None)
    )
    width, copied_width, naive_width = (found["high"] - found["low"] for found in (single, copied, naive))
    assert copied_width == pytest.approx(width, rel=0.02)
    assert naive_width < 0.5 * width


def test_one_prompt_has_no_interval() -> None:
    found = preference_calibration(np.array([1.0, 2.0]), np.array([7, 7]))
    assert found["low"] is None
    assert found["high"] is None


def test_equal_scores_are_half_right() -> None:
    found = preference_calibration(np.zeros(10))
    assert found["error"] == pytest.approx(0)
    assert found["bins"] == [{"confidence": 0.5, "accuracy": 0.5, "n": 10}]
