"""`visit-tl atlas`: the cache of readouts of weight rows."""

from __future__ import annotations

from typing import Annotated

import typer

from visit_tl.cli.options import Debug, ModelArgument, Quiet, refused
from visit_tl.errors import VisitError

app = typer.Typer(
    help="Cached readouts of weight rows, shared between graphs.", no_args_is_help=True
)


@app.command()
def info() -> None:
    """Show what is cached, and where."""
    from visit_tl.atlas import files

    kept = files.info()
    for about in kept:
        targets = f"{about.targets} target{'' if about.targets == 1 else 's'}"
        typer.echo(f"{about.model}: {targets}, {about.nbytes / 2**20:.1f} MB, {about.path}")
    total = sum(about.nbytes for about in kept)
    limit = files.LIMIT / 2**20
    typer.echo(f"{total / 2**20:.1f} MB of at most {limit:.0f} MB in {files.atlas_root()}")


@app.command()
def build(
    target: Annotated[
        list[str],
        typer.Option("--target", help="A token that graphs will follow; can be repeated."),
    ],
    model: ModelArgument = "smollm2-135m",
    k: Annotated[int, typer.Option("--k", help="Number of top and bottom tokens.")] = 5,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read out and cache every row of W_O and W_out and every column of W_in for some targets."""
    try:
        from visit_tl.atlas.all_rows import build as build_all
        from visit_tl.model.load import load_model

        rows, targets = build_all(
            load_model(model, verbose=not quiet), target, k=k, verbose=not quiet
        )
    except VisitError as error:
        refused(error, debug)
    typer.echo(f"{rows} rows of {model} are known for {targets} targets")


@app.command()
def clear() -> None:
    """Remove the whole cache; readouts are computed again when they are needed."""
    from visit_tl.atlas import files

    typer.echo(f"removed {files.clear() / 2**20:.1f} MB from {files.atlas_root()}")
