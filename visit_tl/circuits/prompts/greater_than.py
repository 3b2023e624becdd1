"""Read prompts of the greater-than task, whose right answers are the later years of a century."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag, Model, Name, Names, Unusable
from visit_tl.circuits.prompts.csv_table import (
    default_corruptions,
    need_cells,
    read_table,
    take_columns,
)
from visit_tl.circuits.prompts.foreign import notes_on
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
from visit_tl.circuits.prompts.unusable import DISAGREE, MALFORMED, YEARS, PairError, RowErrors
from visit_tl.circuits.prompts.year_pairs import year_pair
from visit_tl.circuits.prompts.year_tokens import YearTokens, digits_note, year_tokens
from visit_tl.model.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd


@checked
def read_greater_than(
    path: File,
    model: Model,
    *,
    corrupted: Names | None = None,
    label: Name = "label",
    prepend_bos: Flag | None = None,
    unusable: Unusable = "raise",
) -> PromptSet:
    """Read prompts of greater-than (Hanna, Liu and Variengien 2023) from EAP-IG's CSV.

    A prompt such as "The war lasted from the year 1352 to the year 13" has the label 52: the years
    53 to 99 are right, 00 to 52 are wrong. `prompts.probability_difference(logits)` is the metric
    of the paper: the probability of the right years minus that of the wrong ones.

    If each year is one token, `answers` and `wrong` are the years. If a tokenizer writes years
    digit by digit, the first digit of the label is appended to both prompts ("... to the year
    135"), so one run predicts both digits. In place of the 5, the digits 6 to 9 are right whatever
    follows, and 0 to 4 are wrong (`pair.first`). After the 5, the digits 3 to 9 are right and 0 to
    2 are wrong (`pair.answers`, `pair.wrong`). A first digit that decides counts with all its
    probability, even if no second digit would follow it.

    Args:
        path: The CSV file, with `clean`, `corrupted` and the label.
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        corrupted: Columns with corrupted prompts; each is a corruption with the column's name. None
            is `corrupted`, and `corrupted_hard` if the file has it.
        label: Column with the year, 0 to 99.
        prepend_bos: Whether to prepend a BOS; None is the model's own default. EAP-IG prepends one.
        unusable: How to treat pairs that cannot be used: `raise` raises an error, `skip` leaves
            them out and lists them in `report.unusable`.

    Returns:
        The prompts, in the order of the file; `report.notes` says how years are written.

    Raises:
        InputError: the file is missing, cut off or lacks a column; the tokenizer writes years
            neither as one token nor digit by digit; or a pair cannot be used: its label is not a
            year or differs from the year in the prompt, no year is later, the prompt does not end
            with a century, or its prompts have different lengths. With `skip`, a pair that cannot
            be used is an error only if all are.
    """
    path = Path(path)
    errors = RowErrors(path, unusable)
    tokens = open_tokens(model)
    table = read_table(path)
    names = default_corruptions(table, corrupted)
    return greater_than_of_table(path, table, tokens, errors, names, label, prepend_bos)


def greater_than_of_table(
    path: Path,
    table: pd.DataFrame,
    tokens: Tokens,
    errors: RowErrors,
    corrupted: Sequence[str],
    label: str,
    prepend_bos: bool | None,
) -> PromptSet:
    """Make the prompts from a table; see `read_greater_than`."""
    cells = take_columns(path, table, ["clean", *corrupted, label], "corrupted= and label=")
    errors.begin({index: row["clean"] for index, row in cells.items()})
    years = year_tokens(tokens)

    def parse(row: dict[str, str]) -> PromptPair:
        need_cells(row)
        year = _year(row["clean"], row[label])
        others = {name: row[name] for name in corrupted}
        return year_pair(tokens, years, year, row["clean"], others, prepend_bos)

    found = errors.each(cells, parse)
    pairs = tuple(found.values())
    eos = tokens.eos
    notes = (_note(tokens, years, [cells[index]["clean"] for index in found]), *notes_on(pairs))
    return PromptSet(
        pairs,
        name_of(tokens),
        "greater-than",
        0 if eos is None else eos,
        errors.report(Report(notes=tuple(filter(None, notes)))),
    )


def _year(text: str, cell: str) -> int:
    """Read the label as a year and check it against the prompt.

    Raises:
        PairError: the label is not a year before 99 or not the year in the prompt, or the prompt
            does not end with a century.
    """
    if not re.fullmatch(r"[0-9]{1,2}", cell.strip()):
        raise PairError(MALFORMED, f"the label {cell[:40]!r} is not a year of two digits, 0 to 99")
    year = int(cell)
    century = re.search(r"(?<![0-9])[0-9]{2}\Z", text)
    if century is None:
        raise PairError(
            YEARS, "it does not end with the two digits of a century, such as 13 for a year 1352"
        )
    stated = re.findall(rf"(?<![0-9]){century.group()}([0-9]{{2}})(?![0-9])", text)
    if stated and f"{year:02d}" not in stated:
        raise PairError(
            DISAGREE,
            f"the label is {year}, but the prompt names the year {century.group()}{stated[-1]}",
        )
    if year == 99:
        raise PairError(YEARS, "the label is 99, and no year of two digits is later")
    return year


def _note(tokens: Tokens, years: YearTokens, texts: Sequence[str]) -> str:
    """A note if years are not written as one token after the century; else empty."""
    if years.digits:
        return digits_note(tokens)
    other = 0
    for text in texts:
        century = text[-2:]
        stated = re.findall(rf"(?<![0-9]){century}([0-9]{{2}})(?![0-9])", text)
        for year in stated[-1:]:
            ids = tokens.encode(text + year, False).ids
            other += ids != (*tokens.encode(text, False).ids, years.years[int(year)])
    if not other:
        return ""
    return (
        f"in {other} pairs {name_of(tokens)} would write the year in other tokens than its century "
        f"and two digits, so it may not expect two digits there"
    )
