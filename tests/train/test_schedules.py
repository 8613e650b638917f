"""Schedules at their corners."""

import pytest

from fledge.train.schedules import constant, cosine, warmup_stable_decay


def test_warmup_stable_decay() -> None:
    rates = [warmup_stable_decay(step, 100, warmup=0.1, decay=0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert warmup_stable_decay(99, 100, warmup=0.0, decay=0.0) == 1.0
    assert warmup_stable_decay(99, 100, warmup=0.0, decay=1.0, final=0.5) == pytest.approx(0.505)


def test_cosine() -> None:
    assert cosine(0, 100, warmup=0.1) == pytest.approx(0.1)
    assert cosine(10, 100, warmup=0.1) == 1.0
    assert cosine(55, 100, warmup=0.1, final=0.0) == pytest.approx(0.5)
    assert cosine(100, 100, warmup=0.1, final=0.1) == pytest.approx(0.1)


def test_constant_and_a_run_of_one_step() -> None:
    assert [constant(step, 4, warmup=0.5) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert warmup_stable_decay(0, 1) > 0
