"""Devices, precisions, random state and memory."""

import numpy as np
import pytest
import torch

from fledge.core.device import (
    autocast,
    environment,
    free_memory,
    peak_memory,
    pick_device,
    pick_dtype,
    reset_peak_memory,
    rng_state,
    set_rng_state,
)
from fledge.core.errors import FledgeError

CPU = torch.device("cpu")


def test_names() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert pick_dtype("auto", CPU) in (torch.float32, torch.bfloat16)


def test_unknown_names() -> None:
    with pytest.raises(FledgeError, match="unknown device 'tpux'"):
        pick_device("tpux")
    with pytest.raises(FledgeError, match="unknown dtype 'float8'"):
        pick_dtype("float8", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(FledgeError, match="torch sees no GPU") as caught:
        pick_device("cuda:1")
    assert "device=cpu" in caught.value.remedy


def test_autocast_is_nothing_for_float32() -> None:
    x = torch.randn(4, 4)
    with autocast(CPU, torch.float32):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16


def test_random_state_comes_back() -> None:
    state = rng_state()
    first = torch.rand(5)
    set_rng_state(state)
    assert torch.equal(torch.rand(5), first)


def test_peak_memory_sees_an_array() -> None:
    reset_peak_memory()
    before = peak_memory()
    array = np.ones(64 << 20, np.uint8)
    held = peak_memory()
    del array
    assert held - before > 48 << 20
    assert peak_memory() - before > 48 << 20
    reset_peak_memory()
    assert peak_memory() < held


def test_memory_and_environment_say_something() -> None:
    assert free_memory(CPU) > 1 << 20
    assert {"python", "torch", "cpu", "cores", "memory"} <= set(environment())
    assert all(environment().values())
