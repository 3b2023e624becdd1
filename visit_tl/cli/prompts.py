"""`visit-tl prompts`: prompts of a task, how well a model does it, and a file for sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from visit_tl.cli.options import Debug, Force, ModelOption, NoBos, Quiet, refused
from visit_tl.errors import FileError, VisitError


def prompts(
    circuit: Annotated[
        str,
        typer.Argument(help="A circuit, such as docstring, or a reference of it: ioi-wang-2022."),
    ],
    model: ModelOption = "smollm2-135m",
    n: Annotated[int, typer.Option("--n", help="How many prompts.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random choices.")] = 0,
    no_bos: NoBos = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A .jsonl file for `visit-tl sweep`, or a .json prompt set."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make prompts of a task, clean and corrupted, and tell how well the model does them."""
    if out is not None and out.suffix.lower() not in (".jsonl", ".json"):
        raise typer.BadParameter(f"--out writes .jsonl or .json, got {out.name!r}")
    try:
        from visit_tl.circuits.prompts import baseline, for_circuit
        from visit_tl.model.load import load_model

        opened = load_model(model, verbose=not quiet)
        made = for_circuit(opened, circuit, n, seed=seed, prepend_bos=False if no_bos else None)
        if out is not None:
            _write(made, out, force)
        if quiet:
            return
        lines = [repr(made), str(made.report)]
        for corruption in (None, *made.corruptions):
            found = baseline(opened, made, corruption=corruption, verbose=False)
            lines.append(f"{found!r}; most probable is right: {found.accuracy:.1%}")
        typer.echo("\n".join(lines))
        if out is not None:
            typer.echo(f"wrote {out}")
    except VisitError as error:
        refused(error, debug)


def _write(made: Any, out: Path, force: bool) -> None:
    """Write a prompt set, or a line of ids and target for each prompt.

    Raises:
        FileError: the file is there and `force` is False, or it cannot be written.
    """
    if out.suffix.lower() == ".json":
        made.save(out, overwrite=force)
        return
    from visit_tl.files import write

    if out.exists() and not force:
        raise FileError(f"{out} exists; choose another name, or say --force")
    if not out.parent.is_dir():
        raise FileError(f"the folder {out.parent} does not exist; make it first")
    rows = (
        {"prompt": list(pair.ids), "target": next(iter(pair.answers), None), "text": pair.text}
        for pair in made
    )
    write(out, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
