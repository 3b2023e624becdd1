"""`visit-tl backward`: read the gradients of a prompt as words, print them or save them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from visit_tl.cli.options import (
    Debug,
    FigureFile,
    Force,
    LayersOption,
    LossPosition,
    LossTarget,
    ModelOption,
    NoBos,
    PromptArgument,
    Quiet,
    SegmentsOption,
    ThemeOption,
    figure_file,
    known_kind,
    known_theme,
    parse_layers,
    parse_segments,
    refused,
)
from visit_tl.errors import VisitError


def backward(
    prompt: PromptArgument,
    out: FigureFile = None,
    model: ModelOption = "smollm2-135m",
    target: LossTarget = None,
    layers: LayersOption = None,
    matrix: Annotated[
        str | None,
        typer.Option(
            "--matrix",
            help="W_in, W_gate, W_out, W_Q, W_K, W_V or W_O. Default: all in .html and .csv, else "
            "W_out.",
        ),
    ] = None,
    position: LossPosition = -1,
    kind: Annotated[str, typer.Option("--kind", help="table, norms or ranks.")] = "table",
    segments: SegmentsOption = None,
    no_bos: NoBos = False,
    theme: ThemeOption = "light",
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Backward Lens: read the gradients of a loss as words; print them, or save a figure."""
    try:
        known_theme(theme)
        known_kind(kind, ("table", "norms", "ranks"))
        figure_file(out, force)
        asked: dict[str, Any] = {} if matrix is None else {"matrices": [matrix]}
        chosen = None if layers is None else parse_layers(layers)
        spans = None if segments is None else parse_segments(segments)
        from visit_tl.gradients.lens_of_gradients import backward_lens
        from visit_tl.model.load import load_model

        lens = backward_lens(
            load_model(model, verbose=not quiet),
            prompt,
            target,
            layers=chosen,
            position=position,
            prepend_bos=False if no_bos else None,
            segments=spans,
            **asked,
        )
        text = lens.text(matrix)
        if out is None:
            typer.echo(text, nl=False)
            return
        written = lens.save(out, overwrite=force, kind=kind, matrix=matrix, theme=theme)
        if not quiet:
            typer.echo(f"{text.partition(chr(10) * 2)[0]}\nwrote {written}")
    except VisitError as error:
        refused(error, debug)
