"""Read prompts in the CSV format of EAP-IG.

Source: Hanna, Pezzelle and Belinkov 2024; github.com/hannamw/EAP-IG.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag, Model, Name, Names, Unusable
from visit_tl.circuits.prompts.answer_ids import Claim, found_again, settle
from visit_tl.circuits.prompts.csv_table import (
    default_corruptions,
    need_cells,
    read_table,
    take_columns,
)
from visit_tl.circuits.prompts.foreign import known_ids, notes_on, with_ioi_positions
from visit_tl.circuits.prompts.greater_than import greater_than_of_table
from visit_tl.circuits.prompts.ioi_words import ioi_names
from visit_tl.circuits.prompts.pair import END, Corrupted, PromptPair, check_alone
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report
from visit_tl.circuits.prompts.tokenizing import name_of, open_tokens
from visit_tl.circuits.prompts.unusable import MALFORMED, PairError, RowErrors
from visit_tl.model.tokens import Tokens

_ANSWER, _WRONG, _LABEL = "correct_idx", "incorrect_idx", "label"


@dataclass(frozen=True)
class _Columns:
    """The columns that are read.

    Attributes:
        corrupted: Those of corrupted prompts.
        ids: Those of the ids of answers.
        words: Those of the same answers as words; empty where the file has not all of them.
    """

    corrupted: tuple[str, ...]
    ids: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def needed(self) -> list[str]:
        """The columns whose cells must not be empty."""
        return ["clean", *self.corrupted, *self.ids]


@dataclass(frozen=True)
class _Row:
    text: str
    ids: tuple[int, ...]
    corrupted: dict[str, Corrupted]
    claim: Claim


@checked
def read_eap_ig(
    path: File,
    model: Model,
    *,
    corrupted: Names | None = None,
    answer: Name = _ANSWER,
    wrong: Name | None = _WRONG,
    ioi: Flag | None = None,
    prepend_bos: Flag | None = None,
    unusable: Unusable = "raise",
) -> PromptSet:
    """Read prompts from EAP-IG's CSV: `clean`, `corrupted`, and token ids of the answers.

    The ids in such a file belong to the tokenizer that it was made for. If a row also has its
    answers as words, the two are compared, and ids of another tokenizer are replaced by ids
    computed from the words. The words are taken from a column with the same name without `_idx`
    (`country` for `country_idx`), or are the two names of an IOI prompt. A file with `label`
    instead of ids is read like `read_greater_than` does.

    Args:
        path: The CSV file.
        model: A TransformerLens model, a `ModelView`, or a tokenizer of transformers.
        corrupted: Columns with corrupted prompts; each is a corruption with the column's name. None
            is `corrupted`, and `corrupted_hard` if the file has it.
        answer: Column with the id of the right answer, or a list of ids such as `[11, 12]`.
        wrong: The same for the wrong answer; None if the file has none.
        ioi: Whether these are IOI prompts, with the positions IO, S1, S1+1 and S2. True requires
            this of every prompt, and None adds the positions if every prompt has them. False adds
            no positions and does not compare the ids with the names in the prompts.
        prepend_bos: Whether to prepend a BOS; None is the model's own default. EAP-IG prepends one.
        unusable: How to treat pairs that cannot be used with this tokenizer: `raise` raises an
            error, `skip` leaves them out and lists them in `report.unusable`.

    Returns:
        The prompts, in the order of the file; `report.notes` says what is unusual about them.

    Raises:
        InputError: the file is missing, cut off or lacks a column; or a pair cannot be used: a cell
            is empty or not an id, an id is outside the vocabulary, ids and words disagree, or its
            prompts have different lengths. With `skip`, only if the file cannot be read or no pair
            can be used.
    """
    path = Path(path)
    errors = RowErrors(path, unusable)
    tokens = open_tokens(model)
    table = read_table(path)
    names = default_corruptions(table, corrupted)
    labelled = _LABEL in table.columns and not {_ANSWER, _WRONG} & set(table.columns)
    if labelled and (answer, wrong) == (_ANSWER, _WRONG):
        return greater_than_of_table(path, table, tokens, errors, names, _LABEL, prepend_bos)
    ids = (answer,) if wrong is None else (answer, wrong)
    columns = _Columns(tuple(names), ids, _word_columns(ids, table.columns))
    arguments = "corrupted=, answer= and wrong="
    cells = take_columns(path, table, [*columns.needed, *columns.words], arguments)
    errors.begin({index: row["clean"] for index, row in cells.items()})
    rows = errors.each(cells, lambda row: _row(tokens, row, columns, ioi, prepend_bos))
    claims = {index: row.claim for index, row in rows.items()}
    settled, again = settle(tokens, errors, claims, insist=ioi is True or bool(columns.words))
    pairs = {
        index: PromptPair(
            text=rows[index].text,
            ids=rows[index].ids,
            answers=answers[answer],
            wrong=() if wrong is None else answers[wrong],
            positions={END: len(rows[index].ids) - 1},
            corrupted=rows[index].corrupted,
        )
        for index, answers in settled.items()
    }
    pairs = errors.each(pairs, _checked)
    pairs = with_ioi_positions(errors, pairs, ioi)
    found, notes = tuple(pairs.values()), found_again(tokens, len(again & pairs.keys()))
    eos = tokens.eos
    return PromptSet(
        found,
        name_of(tokens),
        "ioi" if "IO" in found[0].positions else path.stem,
        0 if eos is None else eos,
        errors.report(Report(notes=(*notes, *notes_on(found)))),
    )


def _word_columns(ids: Sequence[str], there: Container[str]) -> tuple[str, ...]:
    """The columns with the words of answers: the names without `_idx`, if all are there."""
    words = tuple(column.removesuffix("_idx") for column in ids)
    both = zip(words, ids, strict=True)
    return words if all(word != column and word in there for word, column in both) else ()


def _row(
    tokens: Tokens,
    row: dict[str, str],
    columns: _Columns,
    ioi: bool | None,
    prepend_bos: bool | None,
) -> _Row:
    """Read one row: its prompts as tokens, and the answers that it names."""
    need_cells({column: row[column] for column in columns.needed})
    claimed = {column: _ids(row[column], repr(column)) for column in columns.ids}
    words = None if ioi is False else _ioi_words(row["clean"], columns.ids)
    if columns.words:
        given = [row[column].strip() for column in columns.words]
        words = dict(zip(columns.ids, given, strict=True)) if all(given) else None
    return _Row(
        row["clean"],
        tokens.encode(row["clean"], prepend_bos).ids,
        {
            name: Corrupted(row[name], tokens.encode(row[name], prepend_bos).ids)
            for name in columns.corrupted
        },
        Claim(claimed, words),
    )


def _checked(pair: PromptPair) -> PromptPair:
    check_alone(pair)
    return pair


def _ioi_words(text: str, columns: Sequence[str]) -> dict[str, str] | None:
    """The answers that follow from the names in an IOI prompt; None if it is not one."""
    names = ioi_names(text)
    return None if names is None else dict(zip(columns, names, strict=False))


def _ids(cell: str, where: str) -> tuple[int, ...]:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise PairError(
            MALFORMED, f"{where}: {cell[:40]!r} is no token id and no list of them"
        ) from error
    return known_ids(value if isinstance(value, list) else [value], None, where)
