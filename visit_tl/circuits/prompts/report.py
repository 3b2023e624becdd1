"""What could be used of what was offered to a maker of prompts, and why not the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Usable:
    """Words or templates of one kind.

    Attributes:
        kind: `names`, `places`, `objects`, `templates`.
        usable: Those that could be used.
        rejected: Those that the tokenizer splits, or that were left out for another reason.
        reason: Why those were left out.
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
class Report:
    """How a set of prompts came about.

    Attributes:
        rows: What was usable, one row a kind.
        notes: What a reader of a file should know of it, one sentence each.
    """

    rows: tuple[Usable, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """One row a kind: offered, usable, rejected and why."""
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

    def __str__(self) -> str:
        return "\n".join([*map(str, self.rows), *self.notes])
