"""Result of a comparison with a reference circuit: numbers, tables, text and figure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Theme
from visit_tl.circuits.metrics import Selection
from visit_tl.circuits.references import Reference
from visit_tl.circuits.scores import Level
from visit_tl.drawn import Drawn
from visit_tl.graph.circuit_parts import Edge, Part

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Scored:
    """One head or edge of the reference's model, with its score.

    Attributes:
        item: The head or the edge.
        score: The score that was ranked (an absolute value if `absolute`); None if it has none.
        place: 1 for the highest score; tied items share a place, and items without a score share
            the last one.
        member: Whether it is in the reference.
        label: The class of a head, or the two classes that an edge joins; empty if the item is not
            in the reference.
    """

    item: Part | Edge
    score: float | None
    place: int
    member: bool
    label: str


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """Recall of one class at k.

    Attributes:
        label: The class of heads, or the two classes that edges join.
        hits: How many of its members are among the k highest scores; a fraction if scores tie at k.
        members: How many members the class has.
    """

    label: str
    hits: float
    members: int

    @property
    def recall(self) -> float:
        """Share of the class that is among the k highest scores."""
        return self.hits / self.members


@dataclass(frozen=True)
class Comparison(Drawn):
    """Comparison of scores with a reference circuit.

    All heads, or all edges, of the reference's model are ranked. Items without a score (pruned, or
    not measured) rank below all others, tied.

    Attributes:
        reference: The reference that the scores are compared with: one coding of one circuit.
        level: Whether heads or edges are compared.
        what: What was scored, such as `norm`.
        absolute: Whether absolute values were ranked instead of signed scores.
        model: The model that the scores belong to; None if unknown.
        auroc: Area under the ROC curve, a tie counting one half; None if every item is a member.
        pessimistic_auc: ACDC's AUC, in which a tie counts zero; None if every item is a member.
        average_precision: Average precision, with tied items as one step.
        at_k: Precision, recall and F1 of the k highest scores.
        at_threshold: The same for scores of at least the threshold; None if none was given.
        recalls: Recall at k of each class.
        unscored: How many items have no score.
        unscored_members: How many of the items without a score are in the reference.
        items: Every head or edge, in the order of the forward pass.
        notes: What was left out or combined.
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
        """The coding that was used as ground truth: name and description."""
        return f"{self.reference.name}: {self.reference.coding}"

    @property
    def chance(self) -> float:
        """The share of members among all items: the average precision by chance."""
        return self.at_k.members / len(self.items)

    @property
    def recall_by_class(self) -> dict[str, float]:
        """Recall at k of each class."""
        return {part.label: part.recall for part in self.recalls}

    def to_dataframe(self) -> pd.DataFrame:
        """One row, indexed by the reference's name; combine several with `pandas.concat`."""
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
            **_columns(self.at_k, "at_k"),
        }
        if self.at_threshold is not None:
            row |= {"threshold": self.at_threshold.threshold}
            row |= _columns(self.at_threshold, "at_threshold")
        row |= {f"recall: {label}": value for label, value in self.recall_by_class.items()}
        return pd.DataFrame([row]).set_index("reference")

    def ranking(self) -> pd.DataFrame:
        """One row per head or edge, best first: place, score, membership and class."""
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
        """The displayed rows, top to bottom, as pairs of a name and a value."""
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
            ("AUROC", share(self.auroc)),
            ("pessimistic AUC", share(self.pessimistic_auc)),
            ("average precision", f"{self.average_precision:.3f} (chance {self.chance:.3f})"),
            (f"k = {self.at_k.selected}", _summary(self.at_k)),
        ]
        if self.at_threshold is not None:
            found = self.at_threshold
            told = f"{_summary(found)} ({found.selected} selected)"
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

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """Plot the comparison.

        For heads, a map of their scores with the reference's heads outlined; for edges, precision
        and recall.
        """
        return self._drawn("figure", theme)


def _columns(found: Selection, suffix: str) -> dict[str, float]:
    return {
        f"precision_{suffix}": found.precision,
        f"recall_{suffix}": found.recall,
        f"f1_{suffix}": found.f1,
    }


def _summary(found: Selection) -> str:
    return f"precision {found.precision:.3f}, recall {found.recall:.3f}, F1 {found.f1:.3f}"


def share(value: float | None) -> str:
    """Format an area; None means that every item is in the reference, so it is not defined."""
    return "not defined: everything is in the reference" if value is None else f"{value:.3f}"
