"""`visit-tl graph`: build the graph of a prompt, print it and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from visit_tl.cli.options import (
    Debug,
    Force,
    LayersOption,
    LensOption,
    ModelOption,
    NoBos,
    PromptArgument,
    SegmentsOption,
    ThemeOption,
    known_theme,
    parse_layers,
    parse_segments,
    refused,
)
from visit_tl.errors import InputError, VisitError


def graph(
    prompt: PromptArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Save the graph here: .html .svg .png .pdf .graphml .dot .csv .parquet.",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Save the graph here: .json.")] = None,
    model: ModelOption = "smollm2-135m",
    layers: LayersOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Token to follow, such as ' Tokyo'. Default: the prediction."
        ),
    ] = None,
    position: Annotated[
        int, typer.Option("--position", help="Query position; negative ones count from the end.")
    ] = -1,
    segments: SegmentsOption = None,
    no_bos: NoBos = False,
    preset: Annotated[
        str, typer.Option("--preset", help="default, or paper: all heads, neurons by activation.")
    ] = "default",
    heads: Annotated[
        int | None, typer.Option("--heads", help="Heads per block. Default: 10.")
    ] = None,
    values: Annotated[
        int | None, typer.Option("--values", help="Memory values per head. Default: 2.")
    ] = None,
    neurons: Annotated[
        int | None, typer.Option("--neurons", help="Neurons per matrix. Default: 25.")
    ] = None,
    generate: Annotated[
        int,
        typer.Option(
            "--generate", help="Generate N tokens; one graph per step, files numbered -1 ..."
        ),
    ] = 0,
    lens: LensOption = None,
    expand: Annotated[
        int, typer.Option("--expand", help="Follow memory values back to other positions, N steps.")
    ] = 0,
    sae: Annotated[
        list[Path] | None,
        typer.Option("--sae", help="Folder of an SAE or transcoder to show; may be repeated."),
    ] = None,
    features: Annotated[
        int, typer.Option("--features", help="Features per SAE. Default: 10.")
    ] = 10,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="JSON file of what the features are said to be."),
    ] = None,
    theme: ThemeOption = "light",
    force: Force = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print neither progress nor summary.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Build the flow graph of a prompt; write it, and print it as text."""
    try:
        known_theme(theme)
        paths = _numbered(out, json, generate, force)
        if generate and position != -1:
            raise typer.BadParameter(
                "--generate works at the last position only; leave out --position"
            )
        if generate and expand:
            raise typer.BadParameter("--expand cannot be combined with --generate")
        chosen = None if layers is None else parse_layers(layers)
        spans = None if segments is None else parse_segments(segments)
        from visit_tl.calls import flow_graph
        from visit_tl.calls import generate as generate_graphs
        from visit_tl.model.load import load_model

        opened = load_model(model, verbose=not quiet)
        asked: dict[str, Any] = {
            "target": target,
            "layers": chosen,
            "prepend_bos": False if no_bos else None,
            "segments": spans,
            "preset": preset,
            "heads": heads,
            "values": values,
            "neurons": neurons,
            "lens": lens,
            "saes": sae or None,
            "features": features,
            "labels": labels,
        }
        if generate:
            graphs = generate_graphs(opened, prompt, generate, verbose=not quiet, **asked)
        else:
            graphs = [flow_graph(opened, prompt, position=position, expand=expand, **asked)]
        for built, places in zip(graphs, paths, strict=False):
            written = [built.save(path, overwrite=force, theme=theme) for path in places]
            if not quiet:
                typer.echo("\n".join([built.text(), *(f"wrote {path}" for path in written)]))
    except VisitError as error:
        refused(error, debug)


def _numbered(out: Path | None, json: Path | None, generate: int, force: bool) -> list[list[Path]]:
    """The files of each step, checked before a model is loaded."""
    from visit_tl.saving import SUFFIXES, check

    if generate < 0:
        raise typer.BadParameter(f"--generate takes a number of tokens, got {generate}")
    if generate > 10_000:
        raise InputError(f"--generate {generate} is more than any model has room for")
    steps: list[list[Path]] = [[] for _ in range(max(generate, 1))]
    others = tuple(suffix for suffix in SUFFIXES if suffix != ".json")
    for option, path, suffixes in (("--json", json, (".json",)), ("--out", out, others)):
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise typer.BadParameter(
                f"{option} writes {', '.join(suffixes)} files, got {path.name!r}"
            )
        for i, step in enumerate(steps, 1):
            numbered = path.with_stem(f"{path.stem}-{i}") if generate else path
            step.append(check(numbered, overwrite=force))
    return steps
