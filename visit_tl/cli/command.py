"""The command `visit-tl`: its commands, and its exit codes.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from visit_tl.cli import atlas
from visit_tl.cli.about import models, version
from visit_tl.cli.backward import backward
from visit_tl.cli.bench import bench
from visit_tl.cli.channels import channels
from visit_tl.cli.check import check
from visit_tl.cli.explore import explore
from visit_tl.cli.graph import graph
from visit_tl.cli.prompts import prompts
from visit_tl.cli.reversed import reversed_
from visit_tl.cli.roles import roles
from visit_tl.cli.sweep import summary, sweep
from visit_tl.cli.why import why

app = typer.Typer(
    name="visit-tl",
    help="An X-ray of one forward pass, for TransformerLens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> bool:
    if asked:
        version()
        raise typer.Exit
    return asked


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options that need no command."""


commands = (graph, explore, why, backward, reversed_, roles, channels, prompts, sweep, summary)
for command in (*commands, check, bench, models, version):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(atlas.app, name="atlas")


def main() -> NoReturn:
    """Entry point of the `visit-tl` command."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(0)
