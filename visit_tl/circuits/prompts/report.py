"""Report of what was used to build a prompt set, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Usable:
    """Words or templates of one kind: the usable and the rejected ones.

    Attributes:
        kind: `names`, `places`, `objects` or `templates`.
        usable: Those that could be used.
        rejected: Those that the tokenizer splits, or that were left out for another reason.
        reason: Why they were rejected.
    """

    kind: str
    usable: tuple[str, ...]
    rejected: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        offered = len(self.usable) + len(self.rejected)
        text = f"{self.kind}: {len(self.usable)} of {offered} usable"
        return f"{text} ({self.reason}: {', '.join(self.rejected)})" if self.rejected else text


@dataclass(frozen=True)
class Unusable:
    """A row of a file that was left out.

    Attributes:
        index: Number of the row, counted from 0.
        text: Its clean prompt; empty if it has none.
        kind: The reason in a few words; rows with the same kind are counted together.
        reason: What is wrong with this row.
    """

    index: int
    text: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.index} ({self.text!r}): {self.reason}"


@dataclass(frozen=True)
class Report:
    """What a set of prompts was made from.

    Attributes:
        rows: Usable and rejected words and templates, one entry per kind.
        notes: What to know about the file that was read, one sentence each.
        offered: How many pairs the file has; None if no file was read.
        unusable: The rows that were left out, in the order of the file.
    """

    rows: tuple[Usable, ...] = ()
    notes: tuple[str, ...] = ()
    offered: int | None = None
    unusable: tuple[Unusable, ...] = ()

    @property
    def left_out(self) -> str:
        """How many pairs were left out and why, in one line; empty if none was."""
        if not self.unusable:
            return ""
        of = "" if self.offered is None else f" of {self.offered}"
        return f"{len(self.unusable)}{of} pairs left out: {count_kinds(self.unusable)}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per kind: offered, usable, rejected and why."""
        import pandas as pd

        columns = ["kind", "offered", "usable", "rejected", "reason"]
        rows = [
            (
                row.kind,
                len(row.usable) + len(row.rejected),
                len(row.usable),
                ", ".join(row.rejected),
                row.reason if row.rejected else "",
            )
            for row in self.rows
        ]
        return pd.DataFrame(rows, columns=columns)

    def unusable_to_dataframe(self) -> pd.DataFrame:
        """One row per pair that was left out: its number in the file, text, kind and reason."""
        import pandas as pd

        rows = [(each.index, each.text, each.kind, each.reason) for each in self.unusable]
        return pd.DataFrame(rows, columns=["index", "text", "kind", "reason"])

    def __str__(self) -> str:
        left_out = [self.left_out, *map(str, self.unusable)] if self.unusable else []
        return "\n".join([*map(str, self.rows), *self.notes, *left_out])


def count_kinds(unusable: Iterable[Unusable]) -> str:
    """The reasons with their counts, most frequent first."""
    counts = Counter(each.kind for each in unusable)
    return ", ".join(f"{kind} ({count})" for kind, count in counts.most_common())
