"""`visit-tl roles`: what every head does on generated probes, printed or saved."""

from __future__ import annotations

from typing import Annotated

import typer

from visit_tl.cli.options import (
    Debug,
    FigureFile,
    Force,
    ModelOption,
    NoBos,
    Quiet,
    ThemeOption,
    figure_file,
    known_theme,
    refused,
)
from visit_tl.errors import VisitError


def roles(
    out: FigureFile = None,
    model: ModelOption = "smollm2-135m",
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="A role, such as induction; can be repeated. Default: all."),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="How much a score must exceed the control.")
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Of the probes.")] = 0,
    no_bos: NoBos = False,
    theme: ThemeOption = "light",
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Roles of heads, on generated probes; print them, or save a map or a table."""
    try:
        known_theme(theme)
        figure_file(out, force)
        from visit_tl.model.load import load_model
        from visit_tl.studies.head_roles.measure import roles as measured
        from visit_tl.studies.head_roles.result import ROLES
        from visit_tl.view.save_figures import save

        found = measured(
            load_model(model, verbose=not quiet),
            only=role or ROLES,
            margin=margin,
            prepend_bos=False if no_bos else None,
            seed=seed,
            verbose=not quiet,
        )
        text = found.text()
        if out is None:
            typer.echo(text, nl=False)
            return
        from visit_tl.view.figures.head_roles import content

        written = save(out, content(found, theme), overwrite=force)
        if not quiet:
            typer.echo(f"{text.rstrip()}\nwrote {written}")
    except VisitError as error:
        refused(error, debug)
