"""The chaos harness in its short form: a few kills, some inside writes, a SIGTERM, two damaged files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "run.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
def test_a_disturbed_pipeline_ends_with_the_bits_of_an_undisturbed_one() -> None:
    run = subprocess.run(
        [sys.executable, str(HARNESS), "--quick"], capture_output=True, text=True, timeout=550, env=os.environ
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[0].startswith("| fault")
    (total,) = [line for line in run.stdout.splitlines() if line.startswith("| **all**")]
    assert total.endswith("| **0** |")
