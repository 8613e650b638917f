"""The examples of docs/serving.md, run as they stand against a server that calls its model `pydoc`."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner

from fledge.cli.main import app as command
from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig
from fledge.serve.start import listen

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def address(wide: Path) -> Iterator[str]:
    listening = listen("127.0.0.1", 0)
    config = ServeConfig(cache_bytes=64 << 20, shared_bytes=16 << 20)
    server = uvicorn.Server(uvicorn.Config(create_app([f"pydoc={wide}"], config), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_python_examples(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai", reason="pip install openai")
    examples = blocks("python")
    assert len(examples) >= 3
    space: dict[str, object] = {}
    for example in examples:
        exec(example.replace(HERE, address), space)
        assert capsys.readouterr().out.strip()


def test_the_curl_example(address: str) -> None:
    (example,) = [block for block in blocks("") if block.startswith("curl ")]
    done = subprocess.run(["bash", "-c", example.replace(HERE, address)], capture_output=True, text=True, timeout=60)
    assert '"object":"chat.completion"' in done.stdout


def test_the_commands_have_the_options_that_are_shown(tmp_path: Path) -> None:
    shown = set(re.findall(r"fledge (?:serve|keys)[^\n]*", "\n".join(blocks(""))))
    options = {word for line in shown for word in re.findall(r"--[a-z-]+", line)}
    runner = CliRunner()
    known = (
        runner.invoke(command, ["serve", "--help"]).output + runner.invoke(command, ["keys", "add", "--help"]).output
    )
    assert options
    assert all(option in known for option in options)
    file = tmp_path / "keys.json"
    made = runner.invoke(command, ["keys", "add", "anna", "--role", "labeller", "--keys", str(file)])
    assert made.output.startswith("fledge-")
    assert "anna\tlabeller" in runner.invoke(command, ["keys", "list", "--keys", str(file)]).output
    for setting in ("dtype", "draft", "memory", "request_seconds"):
        assert setting in ServeConfig.model_fields
