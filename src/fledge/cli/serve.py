"""`fledge serve`: models behind an OpenAI-compatible API and a web app. `fledge keys`: who may use it."""

from pathlib import Path
from typing import Annotated

import typer

from fledge.core.errors import FledgeError

KEYS = Path("keys.json")

keys_app = typer.Typer(help="API keys of `fledge serve`: made once, kept as hashes.", rich_markup_mode=None)
KeyFile = Annotated[Path, typer.Option("--keys", help="The file of keys.")]


def serve(
    models: Annotated[list[str], typer.Argument(help="Model or run directories; NAME=PATH gives another name.")],
    host: Annotated[str | None, typer.Option(help="Other addresses than loopback need API keys.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one. Default: 8000.")] = None,
    keys: Annotated[Path | None, typer.Option(help="The file of API keys, see `fledge keys`.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with any setting of the server.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="setting=value; --show-config lists them.")] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the settings and stop.")] = False,
) -> None:
    """Serve models: an OpenAI-compatible API under /v1 and the web app under /."""
    from fledge.core.config import dump_config, load_config
    from fledge.serve.config import ServeConfig

    given = {"host": host, "port": port, "keys": keys}
    overrides = [f"{name}={value}" for name, value in given.items() if value is not None] + (set_ or [])
    if show_config:
        print(f"# {' '.join((ServeConfig.__doc__ or '').split())}")
        print(dump_config(load_config(ServeConfig, config, overrides)), end="")
        return
    try:
        from fledge.serve.start import serve_forever
    except ImportError as error:
        raise FledgeError(f"the server needs {error.name}", "pip install 'fledge[serve]'") from None
    serve_forever(models, config, overrides)


@keys_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    role: Annotated[str, typer.Option(help="user, labeller or admin.")] = "user",
    keys: KeyFile = KEYS,
) -> None:
    """Make a key and print it: it cannot be shown again."""
    from fledge.serve.keys import Keys

    print(Keys(keys).add(name, role))


@keys_app.command("list")
def list_(keys: KeyFile = KEYS) -> None:
    """The names and roles."""
    from fledge.serve.keys import Keys

    for key in Keys(keys).known.values():
        print(f"{key.name}\t{key.role}")


@keys_app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Whose key it is.")], keys: KeyFile = KEYS) -> None:
    """Make a key worthless; a running server notices at once."""
    from fledge.serve.keys import Keys

    Keys(keys).remove(name)
