"""`visit-tl atlas`: what is kept of rows of weights."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="What rows of weights read as, kept between graphs.", no_args_is_help=True)


@app.command()
def info() -> None:
    """Say what is kept, and where."""
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
        list[str], typer.Option("--target", help="A token that graphs will follow; repeat it.")
    ],
    model: Annotated[
        str, typer.Argument(help="Embedded model, GGUF file, local folder or TransformerLens name.")
    ] = "smollm2-135m",
    k: Annotated[int, typer.Option("--k", help="How many top and bottom tokens.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read every row of W_O and W_out and every column of W_in for some targets."""
    from visit_tl.cli import refused
    from visit_tl.errors import VisitError

    try:
        from visit_tl.atlas.whole import build as build_all
        from visit_tl.model.load import load_model

        rows, targets = build_all(
            load_model(model, verbose=not quiet), target, k=k, verbose=not quiet
        )
    except VisitError as error:
        refused(error, debug)
    typer.echo(f"{rows} rows of {model} are known for {targets} targets")


@app.command()
def clear() -> None:
    """Remove all that is kept; it is read anew when it is needed."""
    from visit_tl.atlas import files

    typer.echo(f"removed {files.clear() / 2**20:.1f} MB from {files.atlas_root()}")
