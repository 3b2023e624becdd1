"""Handling of rows of a file that cannot be used: raise an error, or leave out and report them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from visit_tl.circuits.prompts.report import Report, Unusable, count_kinds
from visit_tl.errors import InputError

T = TypeVar("T")
U = TypeVar("U")

SEVERAL_TOKENS = "an answer of several tokens"
UNEQUAL = "clean and corrupted of unequal lengths"
OTHER_TOKENIZER = "ids of another tokenizer"
DISAGREE = "ids and words disagree"
MALFORMED = "a malformed row"
NOT_IOI = "no prompt of IOI"
YEARS = "no prompt of greater-than"
_OTHER = "refused by the tokenizer"


class PairError(InputError):
    """A row that cannot be used.

    Args:
        kind: The reason in a few words; the same for all rows with this problem.
        message: What is wrong with this row, without its number.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RowErrors:
    """Raises, or collects for the report, the rows of one file that cannot be used.

    Args:
        source: The file, for messages.
        unusable: `raise` or `skip`, as the caller gave it.
        row: The word for a row in messages.

    Raises:
        InputError: `unusable` is neither.
    """

    def __init__(self, source: Any, unusable: str, row: str = "pair") -> None:
        if unusable not in ("raise", "skip"):
            raise InputError(
                f"unusable is 'raise' (a pair that cannot be used is an error) or 'skip' (such "
                f"pairs are left out and reported); got {unusable!r}"
            )
        self.skips = unusable == "skip"
        self._source = str(source)
        self._row = row
        self._offered = 0
        self._unusable: list[Unusable] = []
        self._texts: Mapping[int, str] = {}

    def begin(self, texts: Mapping[int, str]) -> None:
        """Set the rows that the file has, by number, with the text of each."""
        self._texts, self._offered = texts, len(texts)

    def each(self, rows: Mapping[int, T], read: Callable[[T], U]) -> dict[int, U]:
        """Apply `read` to each row; return the results by row number, without the unusable rows.

        Raises:
            InputError: a row cannot be used and such rows are not skipped; or no row is left.
        """
        done: dict[int, U] = {}
        for index, row in rows.items():
            try:
                done[index] = read(row)
            except InputError as error:
                self._refuse(index, error)
        if rows and not done:
            raise InputError(
                f"none of the {self._offered} {self._row}s of {self._source} can be used: "
                f"{count_kinds(self._unusable)}. The first: {self._first()}"
            )
        return done

    def report(self, report: Report) -> Report:
        """Add the rows that were left out to a report."""
        return Report(
            report.rows,
            report.notes,
            self._offered,
            tuple(sorted(self._unusable, key=lambda each: each.index)),
        )

    def _refuse(self, index: int, error: InputError) -> None:
        text = self._texts.get(index, "")
        if not self.skips:
            named = f" ({shorten(text)})" if text else ""
            raise InputError(f"{self._row} {index} of {self._source}{named}: {error}") from error
        kind = error.kind if isinstance(error, PairError) else _OTHER
        self._unusable.append(Unusable(index, text, kind, str(error)))

    def _first(self) -> str:
        first = min(self._unusable, key=lambda each: each.index)
        return f"{self._row} {first.index} ({shorten(first.text)}): {first.reason}"


def shorten(text: str, limit: int = 60) -> str:
    """A text in quotes, cut off after `limit` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
