"""What a comparison with a reference circuit found: numbers, tables, text and figure."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Theme
from visit_tl.circuits.metrics import Selection
from visit_tl.circuits.names import Edge, Part
from visit_tl.circuits.references import Reference
from visit_tl.circuits.scores import Level

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Scored:
    """One head or edge of the reference's model.

    Attributes:
        item: The head or the edge.
        score: Its score as it was ranked; None where it has none.
        place: 1 for the highest score; tied items have the same, those without a score the last.
        member: Whether the reference has it.
        label: The class of a head, or the two classes that an edge joins; empty for others.
    """

    item: Part | Edge
    score: float | None
    place: int
    member: bool
    label: str


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """How much of one class is among the k highest scores.

    Attributes:
        label: The class of heads, or the two classes that edges join.
        hits: How many of it are; a fraction where a tie crosses k.
        members: How many there are.
    """

    label: str
    hits: float
    members: int

    @property
    def recall(self) -> float:
        """Share of the class that is found."""
        return self.hits / self.members


@dataclass(frozen=True)
class Comparison:
    """Scores held against a reference.

    Every head, or every edge, of the reference's model is ranked. What has no score (pruned, or not
    measured) ranks below all others, tied.

    Attributes:
        reference: What the scores are compared with: one coding of one circuit.
        level: Whether heads or edges are compared.
        what: What was scored, such as `norm`.
        absolute: Whether the sizes of the scores were ranked, not the scores.
        model: The model that the scores are of, where that is known.
        auroc: Ties averaged; None where every item is a member.
        pessimistic_auc: ACDC's, where a tie counts against the scores; None like `auroc`.
        average_precision: With tied items as one step.
        at_k: Precision, recall and F1 of the k highest scores.
        at_threshold: The same of the scores from the threshold up, if one was given.
        recalls: Recall at k of each class.
        unscored: How many items have no score.
        unscored_members: How many of them the reference has.
        items: Every head or edge, in the order of the forward pass.
        notes: What was left out or put together.
    """

    reference: Reference
    level: Level
    what: str
    absolute: bool
    model: str | None
    auroc: float | None
    pessimistic_auc: float | None
    average_precision: float
    at_k: Selection
    at_threshold: Selection | None
    recalls: tuple[ClassRecall, ...]
    unscored: int
    unscored_members: int
    items: tuple[Scored, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def coding(self) -> str:
        """Which coding of the circuit was taken for the truth."""
        return f"{self.reference.name}: {self.reference.coding}"

    @property
    def chance(self) -> float:
        """The share of members among all items: what average precision is by chance."""
        return self.at_k.members / len(self.items)

    @property
    def recall_by_class(self) -> dict[str, float]:
        """Recall at k of each class."""
        return {part.label: part.recall for part in self.recalls}

    def to_dataframe(self) -> pd.DataFrame:
        """One row, with the reference's name as its index: put several together with concat."""
        import pandas as pd

        row: dict[str, Any] = {
            "reference": self.reference.name,
            "coding": self.reference.coding,
            "level": self.level,
            "score": self.what,
            "absolute": self.absolute,
            "items": len(self.items),
            "members": self.at_k.members,
            "unscored": self.unscored,
            "unscored_members": self.unscored_members,
            "auroc": self.auroc,
            "pessimistic_auc": self.pessimistic_auc,
            "average_precision": self.average_precision,
            "chance": self.chance,
            "k": self.at_k.selected,
            **_numbers(self.at_k, "at_k"),
        }
        if self.at_threshold is not None:
            row |= {"threshold": self.at_threshold.threshold}
            row |= _numbers(self.at_threshold, "at_threshold")
        row |= {f"recall: {label}": value for label, value in self.recall_by_class.items()}
        return pd.DataFrame([row]).set_index("reference")

    def ranking(self) -> pd.DataFrame:
        """One row a head or edge, best first: its place, score, membership and class."""
        import pandas as pd

        rows = [
            {
                "item": str(i.item),
                "place": i.place,
                "score": math.nan if i.score is None else i.score,
                "member": i.member,
                "class": i.label,
            }
            for i in sorted(self.items, key=lambda i: i.place)
        ]
        return pd.DataFrame(rows).set_index("item")

    def rows(self) -> list[tuple[str, str]]:
        """What is shown: names and values, top to bottom."""
        sizes = "sizes of " if self.absolute else ""
        whose = "" if self.model is None else f", of {self.model}"
        n = len(self.items)
        rows = [
            ("reference", f"{self.coding} ({self.reference.model})"),
            ("scores", f"{sizes}{self.what}{whose}"),
            (self.level, f"{n}, of which the reference has {self.at_k.members}"),
        ]
        if self.unscored:
            told = f"{self.unscored} (the reference has {self.unscored_members}): last, tied"
            rows.append(("no score", told))
        rows += [
            ("AUROC", _share(self.auroc)),
            ("pessimistic AUC", _share(self.pessimistic_auc)),
            ("average precision", f"{self.average_precision:.3f} (chance {self.chance:.3f})"),
            (f"k = {self.at_k.selected}", _told(self.at_k)),
        ]
        if self.at_threshold is not None:
            found = self.at_threshold
            told = f"{_told(found)} ({found.selected} selected)"
            rows.append((f"from {found.threshold:.4g} up", told))
        rows += [
            (f"  {part.label}", f"{part.hits:.3g} of {part.members} at k") for part in self.recalls
        ]
        return [*rows, *(("note", note) for note in self.notes)]

    def text(self) -> str:
        """The numbers as text."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    __str__ = text

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(name.strip())}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in self.rows()
        )
        return f"<table>{cells}</table>"

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """Heads: the map of their scores, the reference's outlined. Edges: precision and recall."""
        if self.level == "edges":
            from visit_tl.view.precision import precision_recall

            return precision_recall(self, theme=theme)
        import numpy as np

        from visit_tl.view.head_map import head_map

        scores = np.full((self.reference.n_layers, self.reference.n_heads), np.nan)
        for i in self.items:
            assert isinstance(i.item, Part)
            scores[i.item.layer, i.item.head] = np.nan if i.score is None else i.score
        return head_map(
            scores,
            reference=self.reference,
            title=f"{self.reference.name} · AUROC {_share(self.auroc)} · average precision "
            f"{self.average_precision:.3f}",
            score=f"|{self.what}|" if self.absolute else self.what,
            theme=theme,
        )


def _numbers(found: Selection, suffix: str) -> dict[str, float]:
    return {
        f"precision_{suffix}": found.precision,
        f"recall_{suffix}": found.recall,
        f"f1_{suffix}": found.f1,
    }


def _told(found: Selection) -> str:
    return f"precision {found.precision:.3f}, recall {found.recall:.3f}, F1 {found.f1:.3f}"


def _share(value: float | None) -> str:
    return "not defined: everything is in the reference" if value is None else f"{value:.3f}"
