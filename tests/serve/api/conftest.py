"""A server with the tiny random model behind it, in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="pip install 'fledge[serve]'")

from fastapi.testclient import TestClient

from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig

SMALL = {"cache_bytes": 64 << 20, "shared_bytes": 16 << 20}


@pytest.fixture(scope="session")
def client(tiny: Path) -> Iterator[TestClient]:
    with TestClient(create_app([f"tiny={tiny / 'base'}"], ServeConfig(**SMALL))) as client:
        yield client
