"""Prompts of a sweep, from files, lists, datasets and prompt sets; broken ones keep their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from visit_tl.arguments.plain import NotPlainError, half_pair, many, plain
from visit_tl.arguments.plain import path as plain_path
from visit_tl.arguments.words import short
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


def given_prompts(source: Any, n: int | None = None) -> list[GivenPrompt]:
    """Read prompts from whatever holds them.

    Args:
        source: The path of a file (`.jsonl`, `.csv` or `.parquet`, with a prompt and perhaps a
            target in each row), a list of texts, token ids, dicts or (prompt, target) pairs, a
            prompt set of the package, facts, a table of pandas, or a dataset of Hugging Face.
        n: How many at most, from the first on.

    Raises:
        InputError: it is none of these, or holds no prompt that can be read.
        FileError: the file is not there or cannot be read.
    """
    try:
        if isinstance(source, str | Path):
            rows = _of_file(Path(plain_path(source)))
        elif hasattr(source, "to_dict") and hasattr(source, "columns"):
            rows = map(_of_row, source.to_dict("records"))  # a DataFrame iterates over its columns
        else:
            items = plain(source) if hasattr(source, "tolist") else source
            if n is not None and not isinstance(items, Sequence | Mapping | str | bytes):
                items = islice(items, n) if isinstance(items, Iterable) else items
            items = many(items)
            if not isinstance(items, list):
                raise InputError(
                    f"prompts are a file ({', '.join(SUFFIXES)}) or a list, got {short(source)}"
                )
            rows = map(_of_row, items)
        found = list(islice(rows, n))
    except NotPlainError as error:
        raise InputError(f"the prompts cannot be read: {short(source)}, {error}") from error
    if not found:
        raise InputError("there are no prompts to measure")
    if all(one.error is not None for one in found):
        raise InputError(f"none of {len(found)} prompts can be read; the first: {found[0].error}")
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
        raise InputError(
            f"{short(str(path))} is no file of prompts; they are {', '.join(SUFFIXES)}. Prompts "
            f"themselves are given as a list"
        )
    try:
        if not path.is_file():
            raise FileError(f"there is no file {path}")
        if suffix == ".csv":
            # An empty cell is a missing one.
            table: Iterable[Any] = read_table(path).to_dict("records")
            rows: Iterable[Any] = ({k: v or None for k, v in row.items()} for row in table)
        elif suffix == ".parquet":
            rows = _parquet(path)
        else:
            yield from _of_lines(path)
            return
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
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

    errors = (OSError, ValueError, arrow("lib").ArrowException)
    try:
        return arrow("parquet").read_table(path).to_pylist()
    except errors as error:
        raise FileError(f"{path} cannot be read as Parquet: {error}") from error


def _of_row(row: Any) -> GivenPrompt:
    """A prompt from a text, ids, a dict, a pair, or an object with `prompt` or `ids`."""
    prompt, target = _parts(row)
    if prompt is None and isinstance(row, Mapping):
        held = short(sorted(map(str, row)))
        return GivenPrompt(None, error=f"a row has no {' or '.join(_PROMPT)}; it has {held}")
    try:
        prompt = prompt if isinstance(prompt, str) else plain(prompt)
        target = plain(target)
    except NotPlainError as error:
        return GivenPrompt(None, error=f"a prompt cannot be read: {error}")
    if isinstance(target, float) and np.isnan(target):
        target = None  # a missing value in a table of pandas
    if isinstance(prompt, list) and _is_ids(prompt):
        prompt = tuple(prompt)
    elif not isinstance(prompt, str):
        return GivenPrompt(None, error=f"a prompt is a text or token ids, got {short(prompt)}")
    if isinstance(target, bool) or not isinstance(target, str | int | None):
        return GivenPrompt(prompt, error=f"a target is a text or an id, got {short(target)}")
    for text in (prompt, target):
        if isinstance(text, str) and (at := half_pair(text)) is not None:
            return GivenPrompt(prompt, error=f"character {at} of a text is half a surrogate pair")
    return GivenPrompt(prompt, target)


def _parts(row: Any) -> tuple[Any, Any]:
    """What a row holds as prompt and as target; None for what it does not hold."""
    if isinstance(row, Mapping):
        return _first(row, _PROMPT), _first(row, _TARGET)
    if hasattr(row, "prompt"):
        return row.prompt, getattr(row, "target", None)
    if hasattr(row, "ids"):
        return row.ids, next(iter(getattr(row, "answers", ())), None)
    if isinstance(row, tuple | list) and len(row) == 2 and not _is_ids(_plainly(row)):
        return row[0], row[1]
    return row, None


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _plainly(row: Any) -> Any:
    try:
        return plain(row)
    except NotPlainError:
        return row


def _is_ids(row: Any) -> bool:
    return bool(row) and all(type(i) is int for i in row)
