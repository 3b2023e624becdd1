"""Prompts of a sweep, from files, lists, datasets and prompt sets; broken ones keep their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor

from visit_tl.circuits.prompts.csv_table import read_table
from visit_tl.errors import FileError, InputError, VisitError
from visit_tl.model.view import ModelView
from visit_tl.sweeps.measure import SweptPrompt

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".parquet")
_PROMPT: Final = ("prompt", "text")
_TARGET: Final = ("target", "answer", "attribute")


@dataclass(frozen=True)
class GivenPrompt:
    """A prompt as it was given.

    Attributes:
        prompt: The text, or token ids; None if it could not be read.
        target: The token to follow, as text or id; None is the model's own prediction.
        error: Why it could not be read.
    """

    prompt: str | tuple[int, ...] | None
    target: str | int | None = None
    error: str | None = None


def given_prompts(source: Any) -> list[GivenPrompt]:
    """Read prompts from whatever holds them.

    Args:
        source: The path of a file (`.jsonl`, `.csv` or `.parquet`, with a prompt and perhaps a
            target in each row), a list of texts, token ids, dicts or (prompt, target) pairs, a
            prompt set of the package, facts, or a dataset of Hugging Face.

    Raises:
        InputError: it is none of these, or holds no prompt.
        FileError: the file is not there or cannot be read.
    """
    if isinstance(source, str | Path):
        found = list(_of_file(Path(source)))
    elif isinstance(source, Tensor | np.ndarray):
        found = [_of_row(row) for row in source.tolist()]
    elif isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        found = [_of_row(row) for row in source]
    else:
        raise InputError(
            f"prompts are a file ({', '.join(SUFFIXES)}) or a list, got {type(source).__name__}"
        )
    if not found:
        raise InputError("there are no prompts to measure")
    return found


def hash_of(prompts: Sequence[GivenPrompt]) -> str:
    """The sha256 of all prompts and targets."""
    hashed = hashlib.sha256()
    for one in prompts:
        line = json.dumps([one.prompt, one.target, one.error is not None])
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()


def tokenised(
    view: ModelView, prompts: Iterable[tuple[int, GivenPrompt]], prepend_bos: bool | None
) -> list[SweptPrompt]:
    """Tokenise prompts; what does not fit the model keeps the reason."""
    found: list[SweptPrompt] = []
    for index, one in prompts:
        text = one.prompt if isinstance(one.prompt, str) else ""
        if one.error is not None or one.prompt is None:
            found.append(SweptPrompt(index, text, (), None, one.error or "there is no prompt"))
            continue
        try:
            given = list(one.prompt) if isinstance(one.prompt, tuple) else one.prompt
            encoded = view.tokens.encode(given, prepend_bos)
            target = None if one.target is None else _target(view, one.target)
            found.append(SweptPrompt(index, encoded.text, encoded.ids, target))
        except VisitError as error:
            found.append(SweptPrompt(index, text, (), None, " ".join(str(error).split())))
    return found


def _target(view: ModelView, target: str | int) -> int:
    """The id of a target: of a text, the first token of it after a space, as it would go on."""
    if isinstance(target, int):
        return view.tokens.single(target)
    if not target.strip():
        raise InputError(f"the target {target!r} is empty")
    return view.tokens.split(target if target[0].isspace() else f" {target}")[0]


# --- reading ---------------------------------------------------------------------------------


def _of_file(path: Path) -> Iterator[GivenPrompt]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path.name!r} is no file of prompts; they are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    if suffix == ".csv":
        rows: Iterable[Any] = read_table(path).to_dict("records")
    elif suffix == ".parquet":
        rows = _parquet(path)
    else:
        yield from _of_lines(path)
        return
    yield from map(_of_row, rows)


def _of_lines(path: Path) -> Iterator[GivenPrompt]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield _of_row(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield GivenPrompt(None, error=f"line {number} is not JSON: {error}")


def _parquet(path: Path) -> list[dict[str, Any]]:
    from visit_tl.sweeps.tables import arrow

    try:
        return arrow("parquet").read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read as Parquet: {error}") from error


def _of_row(row: Any) -> GivenPrompt:
    """A prompt from a text, ids, a dict, a pair, or an object with `prompt` or `ids`."""
    prompt, target = row, None
    if isinstance(row, Mapping):
        prompt = next((row[name] for name in _PROMPT if row.get(name) is not None), None)
        target = next((row[name] for name in _TARGET if row.get(name) is not None), None)
        if prompt is None:
            return GivenPrompt(None, error=f"a row has no {' or '.join(_PROMPT)}: {sorted(row)}")
    elif hasattr(row, "prompt"):
        prompt, target = row.prompt, getattr(row, "target", None)
    elif hasattr(row, "ids"):
        answers = getattr(row, "answers", ())
        prompt, target = row.ids, answers[0] if answers else None
    elif isinstance(row, tuple) and len(row) == 2 and not _is_ids(row):
        prompt, target = row
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, list | tuple) and _is_ids(prompt):
        prompt = tuple(prompt)
    elif not isinstance(prompt, str):
        return GivenPrompt(None, error=f"a prompt is a text or token ids, got {_short(prompt)}")
    if isinstance(target, bool) or not isinstance(target, str | int | None):
        return GivenPrompt(prompt, error=f"a target is a text or an id, got {_short(target)}")
    return GivenPrompt(prompt, target)


def _is_ids(row: Any) -> bool:
    return bool(row) and all(type(i) is int for i in row)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
