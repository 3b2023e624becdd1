"""`visit-tl sweep` and `visit-tl summary`: studies over many prompts, and what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from visit_tl.cli.options import Debug, ModelOption, NoBos, Quiet, refused
from visit_tl.errors import VisitError

_STUDIES = "Studies by name, joined by commas; can be repeated."


def sweep(
    out: Annotated[
        str,
        typer.Option(
            "--out", help="Folder or address (s3://...) of the run; a part of it is continued."
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="File of prompts: .jsonl .csv .parquet."),
    ] = None,
    study: Annotated[list[str] | None, typer.Option("--study", help=_STUDIES)] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="All studies of VISIT, and a page.")
    ] = False,
    model: ModelOption = "smollm2-135m",
    no_bos: NoBos = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", help="correct: only prompts whose target the model predicts; or all."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="The first N prompts only.")] = None,
    per_shard: Annotated[
        int, typer.Option("--per-shard", help="Prompts that are written together.")
    ] = 64,
    strict: Annotated[bool, typer.Option("--strict", help="Stop when a prompt fails.")] = False,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="ray, or the address of a Ray cluster. Default: here."),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", help="With --engine: workers, each with a model.")
    ] = 1,
    num_cpus: Annotated[
        int, typer.Option("--num-cpus", help="With --engine: processors of a worker.")
    ] = 1,
    num_gpus: Annotated[
        int, typer.Option("--num-gpus", help="With --engine: GPUs of a worker.")
    ] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure studies on every prompt of a file, in a folder that can be continued.

    With --paper, all that the paper measures: without --prompts of the 1,209 facts that come with
    the package, those that the model answers, and a page of all figures, OUT/paper.html;
    where OUT is an address, the page is written here.
    """
    if not study and not paper:
        raise typer.BadParameter("name a --study, or say --paper for all of the paper")
    if prompts is None and not paper:
        raise typer.BadParameter("name a file of --prompts")
    try:
        options: dict[str, Any] = {
            "prepend_bos": False if no_bos else None,
            "n": n,
            "per_shard": per_shard,
            "strict": strict,
            "engine": engine,
            "workers": workers,
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "verbose": not quiet,
        }
        opened = _opened(model, engine, quiet)
        if paper:
            from visit_tl.sweeps.paper_run import visit_paper

            options["only"] = None if only == "all" else only or "correct"
            run: Any = visit_paper(opened, out, prompts, _names(study), **options)
            page = "paper.html" if "://" in out else f"{out}/paper.html"
            written = run.save(page, overwrite=True)
        else:
            from visit_tl.sweeps.sweep_call import sweep as measure

            options["only"] = None if only == "all" else only
            run = measure(opened, prompts, _names(study), out, **options)
            written = out
    except VisitError as error:
        refused(error, debug)
    if not quiet:
        typer.echo(f"{run}\nwrote {written}")


def summary(
    run: Annotated[str, typer.Argument(help="The folder of a run, or its address.")],
    study: Annotated[
        list[str] | None, typer.Option("--study", help=f"{_STUDIES} Default: all of the run.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Columns to group by, joined by commas. Default: the study's."),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV; one study only.")] = False,
    debug: Debug = False,
) -> None:
    """Print the mean of each number of a run by group, with standard errors over prompts."""
    try:
        from visit_tl.sweeps.results import open_run

        opened = open_run(run)
        chosen = _names(study) or list(opened.studies)
        if csv and len(chosen) > 1:
            raise typer.BadParameter(f"--csv prints one study; name one of {', '.join(chosen)}")
        groups = None if by is None else [name.strip() for name in by.split(",") if name.strip()]
        for name in chosen:
            found = opened.summary(name, groups)
            if csv:
                typer.echo(found.to_csv(index=False), nl=False)
                continue
            typer.echo(f"{name}\n{found.to_string(index=False, float_format='{:.4g}'.format)}\n")
    except VisitError as error:
        refused(error, debug)


def _names(study: list[str] | None) -> list[str]:
    """The studies that are named."""
    return [name.strip() for one in study or () for name in one.split(",")]


def _opened(model: str, engine: str | None, quiet: bool) -> Any:
    """The model; with an engine its name, which workers open themselves."""
    if engine is not None:
        return model
    from visit_tl.model.load import load_model

    return load_model(model, verbose=not quiet)
