"""`visit-tl`: the X-ray from a terminal.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from visit_tl import cli_atlas
from visit_tl.errors import InputError, VisitError

app = typer.Typer(
    name="visit-tl",
    help="An X-ray of one forward pass, for TransformerLens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_atlas.app, name="atlas")


@app.callback()
def _root() -> None:
    """Keeps `graph` a command of its own name however many there are."""


@app.command()
def graph(
    prompt: Annotated[str, typer.Argument(help="The text that goes through the model.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write it here, by suffix: .html .svg .png .pdf .graphml .dot .csv .parquet.",
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the graph here (.json).")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", help="Embedded model, GGUF file, local folder or TransformerLens name."
        ),
    ] = "smollm2-135m",
    layers: Annotated[
        str | None, typer.Option("--layers", help="Blocks, such as 22-29 or 29. Default: all.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Token to follow, such as ' Tokyo'. Default: the prediction."
        ),
    ] = None,
    position: Annotated[
        int, typer.Option("--position", help="Query position; negative ones count from the end.")
    ] = -1,
    no_bos: Annotated[bool, typer.Option("--no-bos", help="Put no BOS before the prompt.")] = False,
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
            "--generate", help="Add N tokens; a graph of each step, files numbered -1 ..."
        ),
    ] = 0,
    expand: Annotated[
        int, typer.Option("--expand", help="Follow memory values back, through at most N of them.")
    ] = 0,
    theme: Annotated[str, typer.Option("--theme", help="light or dark.")] = "light",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that are no graphs of ours.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Build the flow graph of a prompt; write it, and print it as text."""
    try:
        if theme not in ("light", "dark"):
            raise InputError(f"the theme {theme!r} is unknown; the themes are light and dark")
        paths = _numbered(out, json, generate, force)
        if generate and position != -1:
            raise typer.BadParameter("--generate goes with the last position")
        if generate and expand:
            raise typer.BadParameter("--expand goes with one graph, not with --generate")
        chosen = None if layers is None else _parse_layers(layers)
        from visit_tl import xray
        from visit_tl.model.load import load_model

        opened = load_model(model, verbose=not quiet)
        asked: dict[str, Any] = {
            "target": target,
            "layers": chosen,
            "prepend_bos": False if no_bos else None,
            "preset": preset,
            "heads": heads,
            "values": values,
            "neurons": neurons,
        }
        if generate:
            graphs = xray.generate(opened, prompt, generate, verbose=not quiet, **asked)
        else:
            graphs = [xray.flow_graph(opened, prompt, position=position, expand=expand, **asked)]
        for built, places in zip(graphs, paths, strict=False):
            written = [built.save(path, overwrite=force, theme=theme) for path in places]
            if not quiet:
                _say("\n".join([built.text(), *(f"wrote {path}" for path in written)]))
    except VisitError as error:
        refused(error, debug)


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help="Embedded model, GGUF file, local folder or TransformerLens name.")
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what a model is and how exactly it comes apart; exit code 1 if it is refused."""
    try:
        from visit_tl.checks import check as check_model
        from visit_tl.model.load import load_model

        report = check_model(load_model(model, verbose=not quiet))
    except VisitError as error:
        refused(error, debug)
    _say(str(report))
    if not report.exact:
        raise typer.Exit(1)


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(help="Embedded model, GGUF file, local folder or TransformerLens name.")
    ] = "smollm2-135m",
    vectors: Annotated[
        int, typer.Option("--vectors", help="How many vectors the readouts read.")
    ] = 3600,
    repeats: Annotated[int, typer.Option("--repeats", help="The quickest of so many counts.")] = 3,
    device: Annotated[
        str | None, typer.Option("--device", help="Where the model runs, such as cuda.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table for a page of documentation.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Time readouts, whole graphs and patching beside the bare product and a loop of hooks."""
    try:
        from visit_tl.bench import bench as measure
        from visit_tl.model.load import load_model

        opened = load_model(model, verbose=not quiet, **_placed(device, dtype))
        report = measure(opened, vectors=vectors, repeats=repeats, verbose=not quiet)
    except VisitError as error:
        refused(error, debug)
    _say(report.markdown() if markdown else str(report))


@app.command()
def models() -> None:
    """List the embedded models."""
    from visit_tl.model.load import EMBEDDED

    for model in EMBEDDED:
        _say(f"{model.name}: {model.description} ({model.licence})")
    _say("A GGUF file, a local folder, and any other name that TransformerLens opens will do too.")


@app.command()
def version() -> None:
    """Print the version."""
    from visit_tl import __version__

    _say(__version__)


def main() -> NoReturn:
    """Entry point of the `visit-tl` command."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(0)


def _placed(device: str | None, dtype: str | None) -> dict[str, Any]:
    """Where and as what a model is opened, as arguments for `load_model`."""
    import torch

    placed: dict[str, Any] = {}
    if device is not None:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise typer.BadParameter(f"--device {device}: {error}") from None
        placed["device"] = device
    if dtype is not None:
        if dtype not in ("float32", "bfloat16", "float16"):
            raise typer.BadParameter(f"--dtype takes float32, bfloat16 or float16, got {dtype!r}")
        placed["dtype"] = getattr(torch, dtype)
    return placed


def _numbered(out: Path | None, json: Path | None, generate: int, force: bool) -> list[list[Path]]:
    """Where each step's files go, refused before a model is loaded if they cannot be written."""
    from visit_tl.graph.files import SUFFIXES, check

    if generate < 0:
        raise typer.BadParameter(f"--generate takes a number of tokens, got {generate}")
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


def _parse_layers(text: str) -> list[int]:
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text.strip())
    if match is None:
        raise typer.BadParameter(f"--layers takes one block or a range such as 22-29, got {text!r}")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise typer.BadParameter(f"--layers goes from low to high, got {text!r}")
    if last - first > 10_000:
        raise InputError(f"the layers {text} are more than any model has")
    return list(range(first, last + 1))


def _say(text: str) -> None:
    typer.echo(text)


def refused(error: Any, debug: bool) -> NoReturn:
    """Say in one line what was refused, and leave with exit code 1."""
    if debug:
        raise error
    typer.echo(f"visit-tl: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(1)
