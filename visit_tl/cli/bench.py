"""`visit-tl bench`: timings on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from visit_tl.cli.options import Debug, ModelArgument, Quiet, refused
from visit_tl.errors import VisitError

_LONGER = (100, 1000)


def bench(
    model: ModelArgument = "smollm2-135m",
    vectors: Annotated[
        int, typer.Option("--vectors", help="Number of vectors to read out.")
    ] = 3600,
    repeats: Annotated[
        int, typer.Option("--repeats", help="Number of runs; the fastest counts.")
    ] = 3,
    device: Annotated[
        str | None, typer.Option("--device", help="Where the model runs, such as cuda.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")
    ] = None,
    sweeps: Annotated[
        bool,
        typer.Option(
            "--sweeps", help="Sweeps of 100 and 1,000 prompts too, and two workers of Ray; minutes."
        ),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the report as a Markdown table.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time readouts, graphs, patching, lenses, SAEs and sweeps beside plain matrix products."""
    try:
        from visit_tl.bench.run import bench as measure
        from visit_tl.model.load import load_model

        opened = load_model(model, verbose=not quiet, **_placed(device, dtype))
        longer: dict[str, Any] = {"sweeps": _LONGER, "workers": model} if sweeps else {}
        report = measure(opened, vectors=vectors, repeats=repeats, verbose=not quiet, **longer)
    except VisitError as error:
        refused(error, debug)
    typer.echo(report.markdown() if markdown else str(report))


def _placed(device: str | None, dtype: str | None) -> dict[str, Any]:
    """The device and the dtype, checked, as arguments for `load_model`."""
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
