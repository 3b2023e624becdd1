"""Save prompt sets as JSON, atomically, and load them with validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

from visit_tl.circuits.prompts.foreign import known_ids, read_json, shown
from visit_tl.circuits.prompts.pair import Corrupted, FirstToken, PromptPair
from visit_tl.circuits.prompts.report import Report, Unusable, Usable
from visit_tl.errors import FileError, InputError
from visit_tl.files import write

SCHEMA: Final = "visit_tl.prompts/1"

T = TypeVar("T")


class Fields(TypedDict):
    """The content of a file: the arguments of `PromptSet`; see its docstring."""

    pairs: tuple[PromptPair, ...]
    tokenizer: str
    task: str
    pad_id: int
    report: Report


def save(fields: Fields, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a set as JSON.

    Args:
        fields: The content to write.
        path: Path of the file, ending in `.json`; the folder must exist.
        overwrite: Also replace a file that is not a prompt set. Prompt sets are always replaced.

    Returns:
        The path.

    Raises:
        FileError: the suffix is not `.json`; the folder does not exist or is not writable; or the
            file exists, is not a prompt set, and `overwrite` is False.
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
    text = json.dumps(_to_json(fields), ensure_ascii=True, allow_nan=False, indent=1)
    write(path, f"{text}\n".encode())
    return path


def load(path: str | Path) -> Fields:
    """Read a set written by `save`.

    Raises:
        InputError: the file does not exist, is cut off, or was not written by `save`.
    """
    path = Path(path)
    data = read_json(path)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has the schema {shown(schema)}; expected {SCHEMA!r}")
    report = _get(data, "report", dict, str(path))
    return Fields(
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


def _to_json(fields: Fields) -> dict[str, Any]:
    report = fields["report"]
    return {
        "schema": SCHEMA,
        "task": fields["task"],
        "tokenizer": fields["tokenizer"],
        "pad_id": fields["pad_id"],
        "report": {
            "rows": [
                {
                    "kind": row.kind,
                    "usable": list(row.usable),
                    "rejected": list(row.rejected),
                    "reason": row.reason,
                }
                for row in report.rows
            ],
            "notes": list(report.notes),
            "offered": report.offered,
            "unusable": [vars(each) for each in report.unusable],
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
            for pair in fields["pairs"]
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
    # Not isinstance: a bool is also an int.
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
