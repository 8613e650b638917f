"""A server with the tiny random model behind it: in this process for most tests, on a port for real clients."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="pip install 'fledge[serve]'")

import torch
import uvicorn
from fastapi.testclient import TestClient

from fledge.checkpoint.directory import save_model
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig
from fledge.serve.start import listen
from fledge.text.tokenizer import Tokenizer

SMALL = {"cache_bytes": 64 << 20, "shared_bytes": 16 << 20}


@pytest.fixture(scope="session")
def wide(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with room for tools in its context, and with likely tokens."""
    tokenizer = Tokenizer.load(tiny / "tokenizer")
    torch.manual_seed(5)
    model = LanguageModel(ModelConfig.sized(1, tokenizer.vocab_size, 2048))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    where = tmp_path_factory.mktemp("wide")
    save_model(model, where, tokenizer=tokenizer)
    return where


@pytest.fixture(scope="session")
def client(tiny: Path, wide: Path) -> Iterator[TestClient]:
    app = create_app([f"tiny={tiny / 'base'}", f"wide={wide}"], ServeConfig(**SMALL))
    with TestClient(app, "http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def url(tiny: Path, wide: Path) -> Iterator[str]:
    """A server on a port of this machine."""
    listening = listen("127.0.0.1", 0)
    app = create_app([f"tiny={tiny / 'base'}", f"wide={wide}"], ServeConfig(**SMALL))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
