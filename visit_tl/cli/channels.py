"""`visit-tl channels`: composition scores of all heads, or the channel of a pair."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from visit_tl.cli.options import (
    Debug,
    FigureFile,
    Force,
    ModelOption,
    Quiet,
    ThemeOption,
    figure_file,
    known_theme,
    refused,
)
from visit_tl.errors import InputError, VisitError


def channels(
    out: FigureFile = None,
    model: ModelOption = "smollm2-135m",
    writer: Annotated[
        str | None, typer.Option("--writer", help="The head that writes, such as L16H0.")
    ] = None,
    reader: Annotated[
        str | None, typer.Option("--reader", help="The head that reads, such as L17H3.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="q, k or v. Default: all; of a pair, the highest score."),
    ] = None,
    offset: Annotated[
        int, typer.Option("--offset", help="Positions from the key to the query (rotary models).")
    ] = 0,
    theme: ThemeOption = "light",
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Channels between heads: composition scores, or the directions of one pair."""
    try:
        known_theme(theme)
        figure_file(out, force)
        if (writer is None) != (reader is None):
            raise InputError("a pair of heads needs both --writer and --reader")
        from visit_tl.model.load import load_model
        from visit_tl.model.view import ModelView
        from visit_tl.view.save_figures import save

        view = ModelView(load_model(model, verbose=not quiet))
        found = (
            _pair(view, writer, reader, kind, offset)
            if writer is not None
            else _all(view, kind, offset, not quiet)
        )
        if out is None:
            typer.echo(found.text(), nl=False)
            return
        from visit_tl.view.figures.composition import content

        written = save(out, content(found, theme), overwrite=force)
        if not quiet:
            typer.echo(f"{found.text().rstrip()}\nwrote {written}")
    except VisitError as error:
        refused(error, debug)


def _all(view: Any, kind: str | None, offset: int, verbose: bool) -> Any:
    from visit_tl.circuits.channels.composition import KINDS, composition_scores

    kinds = KINDS if kind is None else (kind,)
    return composition_scores(view, kinds=kinds, offset=offset, verbose=verbose)


def _pair(view: Any, writer: str, reader: str | None, kind: str | None, offset: int) -> Any:
    from visit_tl.circuits.channels.composition import KINDS
    from visit_tl.circuits.channels.directions import channel

    kinds = KINDS if kind is None else (kind,)
    n = min(5, view.d_head)
    found = [channel(view, writer, reader, one, n=n, offset=offset) for one in kinds]
    return max(found, key=lambda one: one.score)
