"""Options that commands share, and how they report that something was refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from visit_tl.errors import InputError

_MODEL = "Embedded model, GGUF file, local folder or TransformerLens name."

ModelArgument = Annotated[str, typer.Argument(help=_MODEL)]
ModelOption = Annotated[str, typer.Option("--model", help=_MODEL)]
PromptArgument = Annotated[str, typer.Argument(help="The text that goes through the model.")]
LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Blocks, such as 22-29 or 29. Default: all.")
]
LensOption = Annotated[
    Path | None,
    typer.Option(
        "--lens",
        help="A lens that states and parts are read by: a .pt or .safetensors file, or the folder "
        "of a tuned lens. Default: the logit lens.",
    ),
]
SegmentsOption = Annotated[
    str | None,
    typer.Option(
        "--segments",
        help="Token ranges that see all of themselves, such as 0:8,8:15: first position, one past "
        "the last. A BOS is at 0. Default: causal.",
    ),
]
LossTarget = Annotated[
    str | None,
    typer.Option("--target", help="Token of the loss, such as ' Tokyo'. Default: the prediction."),
]
LossPosition = Annotated[
    int,
    typer.Option("--position", help="Position of the loss; negative ones count from the end."),
]
NoBos = Annotated[bool, typer.Option("--no-bos", help="Put no BOS before the prompt.")]
ThemeOption = Annotated[str, typer.Option("--theme", help="light or dark.")]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite files that visit_tl did not write.")
]
FigureFile = Annotated[
    Path | None,
    typer.Option("--out", help="Save it here: .html .svg .png .pdf .csv .txt. Default: print it."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def refused(error: Any, debug: bool) -> NoReturn:
    """Print the reason for a refusal in one line and exit with code 1."""
    if debug:
        raise error
    typer.echo(f"visit-tl: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(1)


def known_theme(theme: str) -> None:
    """Check that there is this theme, before a model is loaded."""
    if theme not in ("light", "dark"):
        raise InputError(f"the theme {theme!r} is unknown; the themes are light and dark")


def known_kind(kind: str, kinds: Sequence[str]) -> None:
    """Check that there is this kind of figure, before a model is loaded."""
    if kind not in kinds:
        raise InputError(f"the kind {kind!r} is unknown; the kinds are {', '.join(kinds)}")


def parse_layers(text: str) -> list[int]:
    """The blocks that `--layers` names."""
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


def parse_segments(text: str) -> list[tuple[int, int]]:
    """The ranges that `--segments` names.

    Raises:
        InputError: they overlap or are empty.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", part.strip())
        if match is None:
            raise typer.BadParameter(
                f"--segments takes ranges start:end separated by commas, such as 0:8,8:15, got "
                f"{text!r}"
            )
        found.append((int(match[1]), int(match[2])))
    from visit_tl.segments.spans import Segments

    return list(Segments.from_spans(found).spans)


def figure_file(out: Path | None, force: bool) -> None:
    """Check that `--out` can be written to, before a model is loaded."""
    if out is None:
        return
    from visit_tl.view.save_figures import SUFFIXES, check

    if out.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"--out writes {', '.join(SUFFIXES)} files, got {out.name!r}")
    check(out, overwrite=force)
