"""`visit-tl models` and `visit-tl version`: the embedded models, and the version."""

from __future__ import annotations

import typer


def models() -> None:
    """List the embedded models."""
    from visit_tl.model.load import EMBEDDED

    for model in EMBEDDED:
        typer.echo(f"{model.name}: {model.description} ({model.licence})")
    typer.echo(
        "A GGUF file, a local folder, or any other name that TransformerLens opens works too."
    )


def version() -> None:
    """Print the version."""
    from visit_tl.version import __version__

    typer.echo(__version__)
