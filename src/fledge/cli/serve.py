"""`fledge serve`: models behind an OpenAI-compatible API and a web app."""

from pathlib import Path
from typing import Annotated

import typer

from fledge.core.errors import FledgeError


def serve(
    models: Annotated[list[str], typer.Argument(help="Model or run directories; NAME=PATH gives another name.")],
    host: Annotated[str, typer.Option(help="Other addresses than loopback need API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    config: Annotated[Path | None, typer.Option(help="A YAML file with any setting of the server.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="setting=value")] = None,
) -> None:
    """Serve models: an OpenAI-compatible API under /v1 and the web app under /."""
    try:
        from fledge.serve.start import serve_forever
    except ImportError as error:
        raise FledgeError(f"the server needs {error.name}", "pip install 'fledge[serve]'") from None
    serve_forever(models, config, [f"host={host}", f"port={port}", *(set_ or [])])
