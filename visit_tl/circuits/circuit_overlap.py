"""Result of an overlap of two circuits: numbers, tables, text and figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Theme
from visit_tl.circuits.scores import Level
from visit_tl.drawn import Drawn
from visit_tl.graph.circuit_parts import Edge, Part

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Weighted:
    """The weighted Jaccard index: sum of the smaller weights over sum of the larger ones.

    Attributes:
        value: The index, in [0, 1].
        expected: Its mean when the weights of one side are shuffled among all items.
        p: The share of permutations, with the observed one, that reach it.
    """

    value: float
    expected: float
    p: float


@dataclass(frozen=True, slots=True)
class GroupOverlap:
    """The overlap in one layer, one role, or all of the model.

    Attributes:
        name: `all`, the layer, or the role. An edge belongs to the layer that it ends in, and has
            the roles of its two ends.
        items: How many heads or edges the group has.
        a: How many of them are in the first circuit.
        b: How many are in the second one.
        shared: How many are in both.
        jaccard: Shared over those in either; 1 if none is in either.
        expected: Mean number of shared items in this group, if the second circuit were drawn at
            random from all items of the model.
        p: The probability that it then shares at least as many in this group; exact.
        weighted: The weighted index of the group; None if no item of it has weight.
    """

    name: str
    items: int
    a: int
    b: int
    shared: int
    jaccard: float
    expected: float
    p: float
    weighted: Weighted | None


@dataclass(frozen=True, slots=True)
class InLayers:
    """Chance, if circuits are random within each layer but have as many items there as observed.

    Attributes:
        expected: Mean number of shared items.
        p: The probability of at least as many as observed; exact.
    """

    expected: float
    p: float


@dataclass(frozen=True, slots=True)
class SharedItem:
    """One head or edge.

    Attributes:
        item: The head or the edge.
        score_a: Its score in the first circuit; of a reference, 1 for members; None if it has none.
        score_b: The same in the second one.
        in_a: Whether it is in the first circuit.
        in_b: Whether it is in the second one.
        layer: The layer that it is counted in.
        role: Its role; empty if it has none.
    """

    item: Part | Edge
    score_a: float | None
    score_b: float | None
    in_a: bool
    in_b: bool
    layer: str
    role: str


@dataclass(frozen=True)
class CircuitOverlap(Drawn):
    """What the circuits of two tasks share.

    Attributes:
        a: What the first circuit was read from.
        b: What the second one was.
        what: What the numbers of the two sides are, such as `norm`, or `members`.
        level: Whether heads or edges are compared.
        model: The model; None if neither side says it.
        n: How many of the highest scores are a circuit; None with a threshold.
        threshold: The least score of a circuit; None with n.
        whole: The overlap in all of the model.
        expected_jaccard: Mean Jaccard index of two random circuits of the same sizes; exact.
        in_layers: The chance of circuits that are random within each layer.
        layers: The overlap in each layer.
        roles: The overlap in each role; empty if there are no roles.
        items: Every head or edge that was compared, in the order of the forward pass.
        permutations: Number of permutations for the weighted index.
        seed: Their seed.
        notes: What was left out or combined.
    """

    a: str
    b: str
    what: tuple[str, str]
    level: Level
    model: str | None
    n: int | None
    threshold: float | None
    whole: GroupOverlap
    expected_jaccard: float
    in_layers: InLayers
    layers: tuple[GroupOverlap, ...]
    roles: tuple[GroupOverlap, ...]
    items: tuple[SharedItem, ...] = field(repr=False)
    permutations: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def jaccard(self) -> float:
        """The Jaccard index: shared over those in either circuit."""
        return self.whole.jaccard

    @property
    def weighted(self) -> Weighted | None:
        """The weighted Jaccard index; None if no item has weight."""
        return self.whole.weighted

    @property
    def shared(self) -> tuple[Part | Edge, ...]:
        """The heads or edges that are in both circuits."""
        return tuple(one.item for one in self.items if one.in_a and one.in_b)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for the whole, one per layer, and one per role, with the numbers of each."""
        import pandas as pd

        of = [("all", [self.whole]), ("layer", self.layers), ("role", self.roles)]
        rows = [_row(kind, group) for kind, groups in of for group in groups]
        return pd.DataFrame(rows)

    def members(self) -> pd.DataFrame:
        """One row per head or edge that is in a circuit: in which, its scores, layer and role."""
        import pandas as pd

        rows = [
            {
                "item": str(one.item),
                "in_a": one.in_a,
                "in_b": one.in_b,
                "score_a": one.score_a,
                "score_b": one.score_b,
                "layer": one.layer,
                "role": one.role,
            }
            for one in self.items
            if one.in_a or one.in_b
        ]
        columns = ["item", "in_a", "in_b", "score_a", "score_b", "layer", "role"]
        return pd.DataFrame(rows, columns=columns).set_index("item")

    def rows(self) -> list[tuple[str, str]]:
        """The displayed rows, top to bottom, as pairs of a name and a value."""
        all_of, rule = self.whole, f"the {self.n} highest scores"
        if self.threshold is not None:
            rule = f"scores from {self.threshold:.4g} up"
        chosen = ("all members" if what == "members" else f"{what}, {rule}" for what in self.what)
        first, second = (
            f"{name}: {told}" for name, told in zip((self.a, self.b), chosen, strict=True)
        )
        rows = [
            ("a", f"{first} ({all_of.a} {self.level})"),
            ("b", f"{second} ({all_of.b} {self.level})"),
            (self.level, f"{all_of.items}{'' if self.model is None else f' of {self.model}'}"),
            (
                "shared",
                f"{all_of.shared} (by chance {all_of.expected:.3g}, p {_p(all_of.p)}; in the same "
                f"layers {self.in_layers.expected:.3g}, p {_p(self.in_layers.p)})",
            ),
            ("Jaccard", f"{all_of.jaccard:.3f} (by chance {self.expected_jaccard:.3f})"),
            ("weighted Jaccard", _weighted(all_of.weighted)),
        ]
        if self.shared and len(self.shared) <= 40:
            rows.append(("in both", ", ".join(map(str, self.shared))))
        for kind, groups in (("layer ", self.layers), ("", self.roles)):
            rows += [(f"  {kind}{g.name}", _told(g)) for g in groups if g.a or g.b]
        return [*rows, *(("note", note) for note in self.notes)]

    def text(self) -> str:
        """The numbers as text."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    __str__ = text

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """Plot the overlap: the shared items of each layer, beside a map if heads are compared."""
        return self._drawn("figure", theme)


def _row(kind: str, group: GroupOverlap) -> dict[str, Any]:
    own = group.weighted
    return {
        "of": kind,
        "group": group.name,
        "items": group.items,
        "a": group.a,
        "b": group.b,
        "shared": group.shared,
        "jaccard": group.jaccard,
        "expected_shared": group.expected,
        "p": group.p,
        "weighted": None if own is None else own.value,
        "expected_weighted": None if own is None else own.expected,
        "p_weighted": None if own is None else own.p,
    }


def _told(group: GroupOverlap) -> str:
    return (
        f"{group.shared} shared of {group.a} and {group.b} (by chance {group.expected:.2g}, "
        f"p {_p(group.p)})"
    )


def _weighted(found: Weighted | None) -> str:
    if found is None:
        return "not defined: nothing has weight"
    return f"{found.value:.3f} (shuffled {found.expected:.3f}, p {_p(found.p)})"


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
