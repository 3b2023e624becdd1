"""`visit-tl why`: why a head looked at a position: its attention score, taken apart."""

from __future__ import annotations

from typing import Annotated

import typer

from visit_tl.cli.options import (
    Debug,
    ModelOption,
    NoBos,
    Quiet,
    SegmentsOption,
    parse_segments,
    refused,
)
from visit_tl.errors import VisitError


def why(
    prompt: Annotated[str, typer.Option("--prompt", help="The text that goes through the model.")],
    head: Annotated[str, typer.Option("--head", help="The head, such as L23H0.")],
    key: Annotated[
        int,
        typer.Option("--key", help="The position that it looks at; negative from the end."),
    ],
    query: Annotated[
        int, typer.Option("--query", help="The position that looks; negative from the end.")
    ] = -1,
    model: ModelOption = "smollm2-135m",
    top: Annotated[int, typer.Option("--top", help="Pairs that are listed.")] = 20,
    neurons: Annotated[
        int, typer.Option("--neurons", help="MLP neurons of each side that are listed as parts.")
    ] = 0,
    segments: SegmentsOption = None,
    no_bos: NoBos = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Why a head looked at a position: what was written at the query x what was at the key."""
    try:
        spans = None if segments is None else parse_segments(segments)
        from visit_tl.causal.qk.score_parts import attention_attribution
        from visit_tl.model.load import load_model

        found = attention_attribution(
            load_model(model, verbose=not quiet),
            prompt,
            head,
            query,
            key,
            neurons=neurons,
            top=top,
            prepend_bos=False if no_bos else None,
            segments=spans,
        )
        typer.echo(str(found), nl=False)
    except VisitError as error:
        refused(error, debug)
