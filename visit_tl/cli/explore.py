"""`visit-tl explore`: a page in which one types a prompt, sees it and changes it."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from visit_tl.cli.options import Debug, Quiet, refused
from visit_tl.errors import VisitError


def explore(
    model: Annotated[
        str,
        typer.Argument(help="Embedded model, GGUF file, local folder or TransformerLens name."),
    ] = "smollm2-135m",
    prompt: Annotated[
        str, typer.Option("--prompt", help="The prompt that the page opens with.")
    ] = "",
    other_model: Annotated[
        str | None, typer.Option("--other-model", help="A second model, to compare with.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    host: Annotated[
        str,
        typer.Option("--host", help="Listen here; not only this machine reaches others."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Default: any that is free.")] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Open the explorer in a browser; Ctrl-C ends it."""
    try:
        from visit_tl.explorer.start import Explorer
        from visit_tl.explorer.start import explore as start
        from visit_tl.model.load import load_model

        opened = load_model(model, verbose=not quiet)
        other = None if other_model is None else load_model(other_model, verbose=not quiet)
        explorer: Explorer = start(
            opened, prompt, other_model=other, browser=False, host=host, port=port
        )
    except VisitError as error:
        refused(error, debug)
    names = [model, *([] if other_model is None else [other_model])]
    explorer.session.recipes = [f"vt.load_model({name!r})" for name in names]
    address = explorer.address
    typer.echo(f"{address}\nThe address works once. Ctrl-C ends the explorer.")
    if browser:
        webbrowser.open(address)
    explorer.wait()
