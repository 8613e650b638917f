"""Start a server and say where it is, and to whom it is open."""

import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from rich.console import Console

from fledge.core.config import load_config
from fledge.core.errors import FledgeError
from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig

BACKLOG = 2048  # connections that wait to be accepted; uvicorn's own default


def serve_forever(models: Sequence[str], path: Path | None, overrides: Sequence[str]) -> None:
    """Serve until Ctrl-C. Raises FledgeError for a port that is taken."""
    config = load_config(ServeConfig, path, overrides)
    app = create_app(models, config)
    listening = listen(config.host, config.port)
    console = Console(stderr=True, highlight=False)
    service = app.state.service
    host = f"[{config.host}]" if ":" in config.host else config.host
    console.print(f"serving {', '.join(service.shelf.names)}")
    console.print(f"  web app  [bold]http://{host}:{listening.getsockname()[1]}/[/]", soft_wrap=True)
    console.print(f"  API      [bold]http://{host}:{listening.getsockname()[1]}/v1[/]", soft_wrap=True)
    if len(service.keys):
        console.print(f"  {len(service.keys)} API keys; every request needs one")
    else:
        console.print("  open to every program on this machine, and to no other: no API key is configured")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that have left
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            limit_concurrency=config.max_connections,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
    )
    server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises FledgeError if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)  # at once: who reads the address may connect before the application has started
    except OSError as error:
        listening.close()
        raise FledgeError(f"cannot listen on {host}:{port}: {error.strerror}", "give another --port, or 0") from None
    return listening
