"""`fledge verify` and `fledge reproduce`: is it what was made, and can it be made again?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fledge.core.errors import FledgeError
from fledge.core.log import Log


def verify(directory: Annotated[Path, typer.Argument(help="A run, an artifact or a model directory.")]) -> None:
    """Compare every file with the checksum it was made with."""
    from fledge.recipes.proof import verified

    console = Console(highlight=False)
    verdicts = verified(directory)
    for verdict in verdicts:
        mark = "[red]damaged[/]" if verdict.wrong else "[green]whole[/]  "
        console.print(f"{mark} {escape(str(verdict.place))} [dim]{verdict.kind}[/]", soft_wrap=True)
        for line in verdict.wrong:
            console.print(f"        {escape(line)}", soft_wrap=True)
        if verdict.wrong:
            console.print(f"        → {escape(verdict.remedy)}", soft_wrap=True)
    broken = [verdict for verdict in verdicts if verdict.wrong]
    if broken:
        raise FledgeError(f"{len(broken)} of {len(verdicts)} are damaged", broken[0].remedy)


def reproduce(
    run: Annotated[Path, typer.Argument(help="A run directory, or a finished step's own directory.")],
    step: Annotated[str, typer.Argument(help="The step of the run.")] = "",
) -> None:
    """Make a finished step again and compare every file bit by bit; nothing is replaced."""
    from fledge.recipes.proof import reproduced

    console = Console(highlight=False)
    found, changed = reproduced(run / step, Log(console=Console(stderr=True, highlight=False)))
    for name, (then, now) in changed.items():
        console.print(f"[yellow]{escape(name)}: {escape(then)} then, {escape(now)} now[/]", soft_wrap=True)
    for file in found:
        console.print(f"{'[green]the same[/] ' if file.same else '[red]different[/]'} {escape(file.name)}")
    different = [file.name for file in found if not file.same]
    if different:
        raise FledgeError(
            f"{len(different)} of {len(found)} files came out different, e.g. {different[0]}",
            "the same machine, threads and versions give the same bits; see what has changed above"
            if changed
            else "on this machine with these versions it should not: please report it",
        )
    console.print(f"[green]all {len(found)} files have the same bits[/]")
