"""Read prompts in CSV: every cell as text, every row as long as the header."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from visit_tl.circuits.prompts.foreign import read_text
from visit_tl.circuits.prompts.unusable import MALFORMED, PairError
from visit_tl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with every cell as text.

    Raises:
        InputError: the file does not exist, is not CSV, or is cut off.
    """
    import pandas as pd

    text = read_text(path)
    if "\0" in text:  # older releases of pandas silently cut the cell off there
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path} is not a CSV of texts: line {line} holds a NUL character")
    # Without these, pandas reads rows longer than the header as rows with an index, or truncates
    # them with a warning.
    options = {"dtype": str, "keep_default_na": False, "na_filter": False, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(StringIO(text), **options)
    except (pd.errors.ParserWarning, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not CSV, or is cut off: {error}") from error


def take_columns(
    path: Path, table: pd.DataFrame, wanted: Sequence[str], arguments: str
) -> dict[int, dict[str, str]]:
    """Take columns of a table, as one dict per row, by row number.

    Args:
        path: The file, for messages.
        table: The table.
        wanted: Names of the columns.
        arguments: The arguments that choose the columns, for messages.

    Raises:
        InputError: a column is missing, or there is no row.
    """
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, map(str, table.columns)))}. Name its columns by {arguments}"
        )
    if not len(table):
        raise InputError(
            f"a set of prompts needs at least one prompt, but {path} has a header only"
        )
    rows = table[list(dict.fromkeys(wanted))].to_dict("records")
    return {index: {str(key): row[key] for key in row} for index, row in enumerate(rows)}


def default_corruptions(table: pd.DataFrame, corrupted: Sequence[str] | None) -> list[str]:
    """The caller's columns; by default `corrupted`, and `corrupted_hard` if the file has it."""
    if corrupted is not None:
        return [corrupted] if isinstance(corrupted, str) else list(corrupted)
    return ["corrupted", *(["corrupted_hard"] if "corrupted_hard" in table.columns else [])]


def need_cells(row: Mapping[str, str]) -> None:
    """Check that no cell of a row is empty.

    Raises:
        PairError: a cell is empty.
    """
    for column, cell in row.items():
        if not isinstance(cell, str) or not cell.strip():
            raise PairError(MALFORMED, f"the cell {column!r} is empty; the file may be cut off")
