"""The published OpenAPI schema, fuzzed: whatever is sent, the server answers and never with a 5xx. A short run; for a
long one: `python benchmarks/fuzz_serve.py URL`."""

import subprocess
import sys

import pytest


def test_no_request_breaks_the_server(url: str) -> None:
    pytest.importorskip("schemathesis", reason="pip install schemathesis")
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--phases", "fuzzing",
        "--max-examples", "12", "--seed", "1", "--include-path-regex", "^/(v1|tokenize|detokenize|health)",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
