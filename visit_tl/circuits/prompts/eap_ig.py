"""Prompts in the CSV of EAP-IG (Hanna, Pezzelle and Belinkov 2024; github.com/hannamw/EAP-IG)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag, Model, Name, Names
from visit_tl.circuits.prompts.foreign import known_ids, notes_on, read_text, with_ioi_positions
from visit_tl.circuits.prompts.pair import END, Corrupted, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd


@checked
def read_eap_ig(
    path: File,
    model: Model,
    *,
    corrupted: Names | None = None,
    answer: Name = "correct_idx",
    wrong: Name | None = "incorrect_idx",
    ioi: Flag | None = None,
    prepend_bos: Flag | None = None,
) -> PromptSet:
    """Read prompts from EAP-IG's CSV: `clean`, `corrupted`, and token ids of the answers.

    The ids in such a file are those of one tokenizer, the one it was made for.

    Args:
        path: The CSV.
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        corrupted: Columns with corrupted prompts, each read as a corruption of that name; None is
            `corrupted`, and `corrupted_hard` where the file has it.
        answer: Column with the id of the right answer, or a list of ids such as `[11, 12]`.
        wrong: The same for the wrong one; None where the file has none.
        ioi: Whether the positions IO, S1, S1+1 and S2 are looked for: True insists, None takes
            them if every prompt has them.
        prepend_bos: Whether a BOS is put first; None is the model's own default. EAP-IG puts one.

    Returns:
        The prompts, in the order of the file; `report.notes` says what is odd about them.

    Raises:
        InputError: the file is missing, cut off or lacks a column; a cell is empty or no id; an id
            is outside the vocabulary; a pair is of unequal lengths.
    """
    path = Path(path)
    tokens = open_tokens(model)
    table = _table(path)
    if corrupted is None:
        corrupted = ["corrupted", *(["corrupted_hard"] if "corrupted_hard" in table else [])]
    wanted = ["clean", *corrupted, answer, *([] if wrong is None else [wrong])]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, map(str, table.columns)))}. Name its columns by corrupted=, "
            f"answer= and wrong="
        )
    pairs = [
        _pair(tokens, f"pair {index} of {path}", row, corrupted, (answer, wrong), prepend_bos)
        for index, row in enumerate(table[wanted].to_dict("records"))
    ]
    pairs = with_ioi_positions(pairs, ioi) if pairs else ()
    eos = tokens.eos
    return PromptSet(
        pairs,
        name_of(tokens),
        "ioi" if pairs and "IO" in pairs[0].positions else path.stem,
        0 if eos is None else eos,
        Report(notes=notes_on(pairs) if pairs else ()),
    )


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    text = read_text(path)
    # Rows longer than the header would be taken for rows with an index, or be cut with a warning.
    options = {"dtype": str, "keep_default_na": False, "na_filter": False, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(StringIO(text), **options)
    except (pd.errors.ParserWarning, ValueError) as error:
        raise InputError(f"{path} is not CSV, or is cut off: {error}") from error


def _pair(
    tokens: Tokens,
    where: str,
    row: dict[Any, Any],
    corrupted: Sequence[str],
    columns: tuple[str, str | None],
    prepend_bos: bool | None,
) -> PromptPair:
    for column, cell in row.items():
        if not isinstance(cell, str) or not cell.strip():
            raise InputError(f"{where}: the cell {column!r} is empty; the file may be cut off")
    answer, wrong = columns
    ids = tokens.encode(row["clean"], prepend_bos).ids
    return PromptPair(
        text=row["clean"],
        ids=ids,
        answers=_ids(tokens, row[answer], f"{where}, {answer!r}"),
        wrong=() if wrong is None else _ids(tokens, row[wrong], f"{where}, {wrong!r}"),
        positions={END: len(ids) - 1},
        corrupted={
            name: Corrupted(row[name], tokens.encode(row[name], prepend_bos).ids)
            for name in corrupted
        },
    )


def _ids(tokens: Tokens, cell: str, where: str) -> tuple[int, ...]:
    try:
        value = json.loads(cell)
    except ValueError as error:
        raise InputError(f"{where}: {cell!r} is no token id and no list of them") from error
    return known_ids(value if isinstance(value, list) else [value], tokens, where)
