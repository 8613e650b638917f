"""Start a server and say where it is."""

from collections.abc import Sequence
from pathlib import Path

import uvicorn
from rich.console import Console

from fledge.core.config import load_config
from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig


def serve_forever(models: Sequence[str], path: Path | None, overrides: Sequence[str]) -> None:
    """Serve until Ctrl-C."""
    config = load_config(ServeConfig, path, overrides)
    app = create_app(models, config)
    console = Console(stderr=True, highlight=False)
    console.print(f"serving {', '.join(app.state.service.shelf.names)} at [bold]http://{config.host}:{config.port}[/]")
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning", access_log=False)
