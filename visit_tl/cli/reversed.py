"""`visit-tl reversed`: the attention maps of the backward pass, printed or saved."""

from __future__ import annotations

from typing import Annotated

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


def reversed_(
    prompt: PromptArgument,
    out: FigureFile = None,
    model: ModelOption = "smollm2-135m",
    target: LossTarget = None,
    layers: LayersOption = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="A head whose map is shown, such as L29H1; can be repeated. Default: the "
            "strongest.",
        ),
    ] = None,
    position: LossPosition = -1,
    kind: Annotated[
        str, typer.Option("--kind", help="norms or maps, for a picture; .html has both.")
    ] = "norms",
    segments: SegmentsOption = None,
    no_bos: NoBos = False,
    theme: ThemeOption = "light",
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Reversed Attention: the attention maps of the backward pass; print them, or save figures."""
    try:
        known_theme(theme)
        known_kind(kind, ("norms", "maps"))
        figure_file(out, force)
        chosen = None if layers is None else parse_layers(layers)
        spans = None if segments is None else parse_segments(segments)
        from visit_tl.gradients.attention_gradients import reversed_attention
        from visit_tl.model.load import load_model

        found = reversed_attention(
            load_model(model, verbose=not quiet),
            prompt,
            target,
            layers=chosen,
            position=position,
            prepend_bos=False if no_bos else None,
            segments=spans,
        )
        heads = head or None
        text = found.text(heads)
        if out is None:
            typer.echo(text, nl=False)
            return
        written = found.save(out, overwrite=force, kind=kind, heads=heads, theme=theme)
        if not quiet:
            typer.echo(f"{text.rstrip()}\nwrote {written}")
    except VisitError as error:
        refused(error, debug)
