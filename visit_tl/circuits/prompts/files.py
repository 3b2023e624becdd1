"""Prompt sets as JSON: written whole or not at all, and validated when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, TypeVar

from visit_tl.circuits.prompts.foreign import known_ids, read_json, shown
from visit_tl.circuits.prompts.pair import Corrupted, FirstToken, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report, Unusable, Usable
from visit_tl.errors import FileError, InputError
from visit_tl.graph.files import write

SCHEMA: Final = "visit_tl.prompts/1"

T = TypeVar("T")


def save(prompts: PromptSet, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a set as JSON.

    Args:
        prompts: What is written.
        path: Where, ending in `.json`; the folder must exist.
        overwrite: Replace a file that is no prompt set. Prompt sets are always replaced.

    Returns:
        The path.

    Raises:
        FileError: another suffix, a folder that is not there or not writable, or a foreign file
            without `overwrite`.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise FileError(f"prompts are saved as .json, but {path.name!r} ends in {path.suffix!r}")
    if not path.parent.is_dir():
        raise FileError(f"the folder {path.parent} does not exist; make it first")
    if path.exists() and not overwrite and not _is_ours(path):
        raise FileError(
            f"{path} exists and is no file of prompts; choose another name, or say overwrite=True"
        )
    text = json.dumps(_to_json(prompts), ensure_ascii=True, allow_nan=False, indent=1)
    write(path, f"{text}\n".encode())
    return path


def load(path: str | Path) -> PromptSet:
    """Read a set that `save` wrote.

    Raises:
        InputError: there is no such file, it is cut off, or it is not what `save` writes.
    """
    path = Path(path)
    data = read_json(path)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has the schema {shown(schema)}; expected {SCHEMA!r}")
    report = _get(data, "report", dict, str(path))
    return PromptSet(
        pairs=tuple(
            _pair(row, f"pair {index} of {path}")
            for index, row in enumerate(_get(data, "pairs", list, str(path)))
        ),
        tokenizer=_get(data, "tokenizer", str, str(path)),
        task=_get(data, "task", str, str(path)),
        pad_id=_get(data, "pad_id", int, str(path)),
        report=Report(
            rows=tuple(
                Usable(
                    _get(row, "kind", str, str(path)),
                    _texts(row, "usable", str(path)),
                    _texts(row, "rejected", str(path)),
                    _get(row, "reason", str, str(path)),
                )
                for row in _get(report, "rows", list, str(path))
            ),
            notes=_texts(report, "notes", str(path)),
            offered=None
            if report.get("offered") is None
            else _get(report, "offered", int, str(path)),
            unusable=tuple(
                Unusable(
                    _get(row, "index", int, str(path)),
                    _get(row, "text", str, str(path)),
                    _get(row, "kind", str, str(path)),
                    _get(row, "reason", str, str(path)),
                )
                for row in _get(report, "unusable", list, str(path), [])
            ),
        ),
    )


def _to_json(prompts: PromptSet) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "task": prompts.task,
        "tokenizer": prompts.tokenizer,
        "pad_id": prompts.pad_id,
        "report": {
            "rows": [
                {
                    "kind": row.kind,
                    "usable": list(row.usable),
                    "rejected": list(row.rejected),
                    "reason": row.reason,
                }
                for row in prompts.report.rows
            ],
            "notes": list(prompts.report.notes),
            "offered": prompts.report.offered,
            "unusable": [vars(each) for each in prompts.report.unusable],
        },
        "pairs": [
            {
                "template": pair.template,
                "text": pair.text,
                "ids": list(pair.ids),
                "answers": list(pair.answers),
                "wrong": list(pair.wrong),
                "positions": dict(pair.positions),
                "first": None if pair.first is None else pair.first._asdict(),
                "corrupted": {
                    name: {"text": corrupted.text, "ids": list(corrupted.ids)}
                    for name, corrupted in pair.corrupted.items()
                },
            }
            for pair in prompts.pairs
        ],
    }


def _pair(row: Any, where: str) -> PromptPair:
    positions = _get(row, "positions", dict, where)
    for name in positions:
        _get(positions, name, int, f"{where}, positions")
    corrupted = _get(row, "corrupted", dict, where)
    return PromptPair(
        text=_get(row, "text", str, where),
        ids=_ids(row, "ids", where),
        answers=_ids(row, "answers", where),
        wrong=_ids(row, "wrong", where),
        positions=positions,
        corrupted={
            name: Corrupted(_get(one, "text", str, where), _ids(one, "ids", where))
            for name, one in corrupted.items()
        },
        template=_get(row, "template", str, where),
        first=None if row.get("first") is None else _first(row["first"], f"{where}, 'first'"),
    )


def _first(row: Any, where: str) -> FirstToken:
    (token,) = known_ids([_get(row, "token", int, where)], None, where)
    return FirstToken(token, _ids(row, "right", where), _ids(row, "wrong", where))


def _get(row: Any, key: str, kind: type[T], where: str, default: T | None = None) -> T:
    value: Any = row.get(key, default) if isinstance(row, dict) else None
    # bool is an int to isinstance.
    if type(value) is not kind:
        raise InputError(
            f"{where}: {key!r} is {shown(value)}; expected {kind.__name__}. "
            f"Make the file again with save()"
        )
    return value


def _ids(row: Any, key: str, where: str) -> tuple[int, ...]:
    return known_ids(_get(row, key, list, where), None, f"{where}, {key!r}")


def _texts(row: Any, key: str, where: str) -> tuple[str, ...]:
    texts = _get(row, key, list, where)
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{where}: {key!r} holds {shown(text)}; expected texts")
    return tuple(texts)


def _is_ours(path: Path) -> bool:
    if path.is_file() and path.stat().st_size == 0:
        return True
    try:
        with path.open("rb") as file:
            return f'"schema": "{SCHEMA}"'.encode() in file.read(256)
    except OSError:
        return False
