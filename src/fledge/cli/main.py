"""`fledge`: one command per stage, `raise` for all of them in order, `chat` and `generate` to talk to the result.

Failures print one line and a remedy; `--debug`, anywhere, gives the traceback instead.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fledge.cli.chat import chat
from fledge.cli.check import check
from fledge.cli.feedback import app as feedback_app
from fledge.cli.generate import generate
from fledge.cli.inspect import inspect
from fledge.cli.objectives import objectives
from fledge.cli.proof import reproduce, verify
from fledge.cli.reading import embed, fill
from fledge.cli.serve import keys_app, serve
from fledge.core.errors import FledgeError, Stopped, is_out_of_memory
from fledge.stages import STAGES

console = Console(stderr=True, highlight=False)
# What libraries would report to their makers: switched off, unless the user has switched it on.
TELEMETRY = {
    "DO_NOT_TRACK": "1", "DAFT_ANALYTICS_ENABLED": "0", "SCARF_NO_ANALYTICS": "true", "HF_HUB_DISABLE_TELEMETRY": "1",
}  # fmt: skip
INTERRUPTED = 130  # the exit code of what a Ctrl-C ended

ABOUT = """Raise a language model end to end: from raw text to an aligned assistant.

\b
  fledge raise pydoc              raise an assistant for the Python you are running
  fledge raise --data ./my_docs   raise one on your own files
  fledge chat runs/pydoc          talk to it

Every step of a recipe is a command of its own, with a YAML file and key=value overrides:

\b
  fledge sft sft.yaml optimizer.learning_rate=0.01 --out runs/mine/sft
  fledge sft --show-config        every setting with its default
"""

UsageError: Any = typer.BadParameter.__mro__[1]  # of typer's own click, or of the one it imports: by its version

app = typer.Typer(help=ABOUT, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context, debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False
) -> None:
    """Options of every command; without a command, the help."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def stage_command(name: str) -> Callable[..., None]:
    """The command that runs the stage `name` on its own."""

    def command(
        settings: Annotated[
            list[str] | None,
            typer.Argument(metavar="[CONFIG.yaml] [key=value]...", help="A YAML file, then overrides."),
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Where the artifact goes.")] = None,
        show_config: Annotated[bool, typer.Option("--show-config", help="Print the config and stop.")] = False,
    ) -> None:
        from fledge.core.config import dump_config, load_config
        from fledge.core.log import Log
        from fledge.recipes.artifact import finished, locked, make, mark_of
        from fledge.stages import load_stage

        given = settings or []
        files = [Path(text) for text in given if "=" not in text]
        if len(files) > 1:
            raise FledgeError(f"two config files given: {files[0]} and {files[1]}", "give one; overrides are key=value")
        stage = load_stage(name)
        if show_config and not given:
            print(describe_config(stage.config))
            return
        config = load_config(stage.config, files[0] if files else None, [text for text in given if "=" in text])
        if show_config:
            print(dump_config(config), end="")
            return
        directory = out or Path("runs") / name
        mark, log = mark_of(name, config), Log(console=console)
        with locked(directory, directory.parent / f".{directory.name}.lock"):
            if finished(directory, mark):
                log.say(f"{escape(str(directory))} is done already")
                return
            if (directory / "artifact.json").is_file():
                log.say(f"[yellow]{escape(str(directory))} holds the result of other settings: it will be replaced[/]")
            make(name, config, directory, mark, log)
        log.say(f"wrote [bold]{escape(str(directory))}[/]")

    command.__doc__ = STAGES[name][0].upper() + STAGES[name][1:] + "."
    return command


def describe_config(cls: Any) -> str:
    """Every setting of a config class with its default, as YAML below what the class says about itself."""
    import yaml
    from pydantic_core import to_jsonable_python

    from fledge.core.config import Config

    about = [parent.__doc__ or "" for parent in cls.__mro__[: cls.__mro__.index(Config)]]
    lines = [f"# {line.strip()}".rstrip() for text in about for line in text.strip().splitlines()]
    for key, field in cls.model_fields.items():
        if field.is_required():
            lines.append(f"{key}:  # required")
        else:
            value = to_jsonable_python(field.get_default(call_default_factory=True))
            lines.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True).rstrip())
    return "\n".join(lines)


for stage_name in STAGES:
    app.command(stage_name)(stage_command(stage_name))


@app.command("raise")
def raise_(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Your own files: raises an assistant on them (recipe 'own').")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory.")] = None,
    scale: Annotated[str, typer.Option(help="A scale of the recipe, e.g. smoke, demo, gpu.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="setting=value or step.key=value")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and an estimate, run nothing.")] = False,
) -> None:
    """Raise a model by a recipe: every step in order, resumable, with a report."""
    from fledge.core.log import Log
    from fledge.recipes.estimate import show_plan
    from fledge.recipes.own import own_overrides
    from fledge.recipes.runner import plan, read_recipe, run_recipe

    name = recipe or ("own" if data else "pydoc")
    run = out or Path("runs") / Path(name).stem
    overrides = [*(own_overrides(data) if data else []), *(set_ or [])]
    log = Log(console=console)
    content = read_recipe(name)
    if name == "round":
        from fledge.recipes.rounds import round_overrides

        overrides += round_overrides(content, run, overrides)
    steps = plan(content, run, scale, overrides)
    if dry_run:
        show_plan(steps, content, scale, log)
        return
    run_recipe(steps, run, log)
    made = {step.name for step in steps}
    if "report" in made:
        log.say(f"\nthe report   [bold]{escape(str(run / 'report' / 'report.html'))}[/]")
    if made & {"pretrain", "promote"}:
        log.say(f"to chat      [bold]fledge chat {escape(str(run))}[/]")


app.command("chat")(chat)
app.command("generate")(generate)
app.command("embed")(embed)
app.command("fill")(fill)
app.command("serve")(serve)
app.add_typer(keys_app, name="keys")
app.add_typer(feedback_app, name="feedback")
app.command("inspect")(inspect)
app.command("objectives")(objectives)
app.command("check")(check)
app.command("verify")(verify)
app.command("reproduce")(reproduce)


def run() -> None:
    """The entry point: turns failures into one clear line and an exit code."""
    debug = "--debug" in sys.argv[1:]
    # Before torch is loaded: threads that wait spin for some 20 µs. Asleep they would make decoding with a small model
    # half as fast; spinning for long they lose a factor of ten when another job shares the cores.
    for name, value in {"GOMP_SPINCOUNT": "2000", **TELEMETRY}.items():
        os.environ.setdefault(name, value)
    try:
        code = app([text for text in sys.argv[1:] if text != "--debug"], standalone_mode=False) or 0
        if code == INTERRUPTED:  # what newer versions of typer make of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code)
    except Stopped as stopped:
        console.print(f"[yellow]{escape(str(stopped))}[/]", soft_wrap=True)
        sys.exit(INTERRUPTED)
    except FledgeError as error:
        if debug:
            raise
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        console.print("[yellow]stopped; run the same command again to go on[/]")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(unexpected(error, debug))


def unexpected(error: Exception, debug: bool) -> int:
    """Says what went wrong where nothing better is known; usage errors keep their own words."""
    if isinstance(error, UsageError):
        console.print(f"[red]error:[/] {escape(str(error.format_message()))}\n  → fledge --help", soft_wrap=True)
        return 2
    if debug:
        raise error
    if is_out_of_memory(error):
        reason, remedy = "out of memory", "use a smaller scale, model or tokens_per_microbatch"
    elif isinstance(error, OSError) and error.filename:
        reason, remedy = f"{error.filename}: {error.strerror}", "check the path and its permissions"
    else:
        reason, remedy = f"{type(error).__name__}: {error}", "this is a bug in fledge; --debug shows where"
    console.print(f"[red]error:[/] {escape(reason)}\n  → {escape(remedy)}", soft_wrap=True)
    return 1
