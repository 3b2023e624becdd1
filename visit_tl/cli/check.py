"""`visit-tl check`: what a model is, and how exactly its parts sum to the whole."""

from __future__ import annotations

import typer

from visit_tl.cli.options import Debug, ModelArgument, Quiet, refused
from visit_tl.errors import VisitError


def check(
    model: ModelArgument,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show what a model is and how exactly its parts sum up; exit code 1 if it is refused."""
    try:
        from visit_tl.checks.check_model import check as check_model
        from visit_tl.model.load import load_model

        report = check_model(load_model(model, verbose=not quiet))
    except VisitError as error:
        refused(error, debug)
    typer.echo(str(report))
    if not report.exact:
        raise typer.Exit(1)
