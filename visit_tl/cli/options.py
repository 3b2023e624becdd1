"""Options that commands share, and how they report that something was refused."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer

_MODEL = "Embedded model, GGUF file, local folder or TransformerLens name."

ModelArgument = Annotated[str, typer.Argument(help=_MODEL)]
ModelOption = Annotated[str, typer.Option("--model", help=_MODEL)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def refused(error: Any, debug: bool) -> NoReturn:
    """Print the reason for a refusal in one line and exit with code 1."""
    if debug:
        raise error
    typer.echo(f"visit-tl: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(1)
