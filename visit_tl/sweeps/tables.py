"""Rows of studies as Parquet tables."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import numpy as np

from visit_tl.errors import InputError
from visit_tl.sweeps.measure import Columns, Measured, SweptPrompt
from visit_tl.sweeps.registry import PROMPT, Study

PROMPTS: Final = "prompts"
ERRORS: Final = "errors"
OWN: Final[Mapping[str, Mapping[str, str]]] = {
    PROMPTS: {
        "text": "string",
        "n_tokens": "int64",
        "target": "int64",
        "target_given": "bool",
        "predicted": "int64",
        "kept": "bool",
    },
    ERRORS: {"study": "string", "error": "string"},
}
"""The tables that every run has besides those of its studies, and their columns."""


def arrow(module: str = "") -> Any:
    """pyarrow, or a module of it.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise InputError(
            "a sweep keeps its tables as Parquet, which needs pyarrow: pip install "
            "'visit-tl[parquet]'"
        ) from error


def tables_of(
    measured: Measured, prompts: list[SweptPrompt], studies: list[Study]
) -> dict[str, bytes]:
    """The tables of a shard as Parquet files, by name."""
    found = {study.name: _of_study(measured.tables[study.name], study) for study in studies}
    rows = [
        (p.index, p.text, len(p.token_ids), *measured.seen.get(p.index, (-1, False, -1, False)))
        for p in prompts
    ]
    found[PROMPTS] = _file([PROMPT, *OWN[PROMPTS]], ["int64", *OWN[PROMPTS].values()], rows)
    errors = sorted(measured.errors)
    found[ERRORS] = _file([PROMPT, *OWN[ERRORS]], ["int64", *OWN[ERRORS].values()], errors)
    return found


def _of_study(tables: Mapping[int, Columns], study: Study) -> bytes:
    order = sorted(tables)
    lengths = [len(next(iter(tables[i].values()))) for i in order]
    columns: dict[str, Any] = {PROMPT: np.repeat(np.array(order, dtype="int64"), lengths)}
    for name, kind in study.columns.items():
        parts = [tables[i][name] for i in order]
        empty = np.array([], dtype=object if kind == "string" else kind)
        columns[name] = np.concatenate(parts) if parts else empty
    return _written(columns, {PROMPT: "int64", **study.columns})


def _file(names: list[str], kinds: list[str], rows: list[tuple[Any, ...]]) -> bytes:
    columns = dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))
    return _written({n: list(v) for n, v in columns.items()}, dict(zip(names, kinds, strict=True)))


def _written(columns: Mapping[str, Any], kinds: Mapping[str, str]) -> bytes:
    pa = arrow()
    types = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
    }
    arrays = [
        pa.array(_texts(columns[n]) if k == "string" else columns[n], type=types[k])
        for n, k in kinds.items()
    ]
    file = io.BytesIO()
    # Readable by every release of pyarrow that the package takes; nothing in it depends on time.
    table = pa.Table.from_arrays(arrays, names=list(kinds))
    arrow("parquet").write_table(table, file, compression="zstd")
    return file.getvalue()


def _texts(values: Any) -> list[str | None]:
    # A half of a surrogate pair has no UTF-8.
    return [
        None if v is None else str(v).encode("utf-8", "backslashreplace").decode() for v in values
    ]
