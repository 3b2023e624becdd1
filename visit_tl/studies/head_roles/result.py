"""HeadRoles: what every head does on generated probes, as a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
from jaxtyping import Bool, Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Name, ReferenceName, Theme
from visit_tl.circuits.known_circuits import load
from visit_tl.circuits.metrics import auroc
from visit_tl.circuits.references import Reference
from visit_tl.circuits.scores import check_shape
from visit_tl.drawn import Drawn
from visit_tl.errors import GraphError, InputError
from visit_tl.graph.circuit_edges import Shape
from visit_tl.graph.container import GRAPH, G
from visit_tl.graph.ids import NodeId, NodeName

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Grid = Float[np.ndarray, "layer head"]

ROLES: Final = (
    "previous",
    "duplicate",
    "induction",
    "retrieval",
    "copying",
    "successor",
    "sink",
    "sink-free",
)
"""The roles, in the order in which they are shown."""

WEAK: Final = ("sink", "sink-free")
"""Roles that say where a head looks when it has nothing to do; others come first."""


@dataclass(frozen=True, eq=False)
class HeadRoles(Drawn):
    """Scores of every head for several roles (docs/maths.md, "Roles of heads").

    Attributes:
        model: Name of the model.
        scores: By role, a share from 0 to 1 for every head; NaN where it was not measured.
        controls: By role, the same measure where the structure is broken.
        margin: How much a score must exceed the largest control.
        seed: Of the probes.
        notes: What the probes were, and what could not be measured.
    """

    model: str
    scores: Mapping[str, Grid] = field(repr=False)
    controls: Mapping[str, Grid] = field(repr=False)
    margin: float
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The roles that were asked for."""
        return tuple(self.scores)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks, and of heads in a block."""
        n_layers, n_heads = next(iter(self.scores.values())).shape
        return n_layers, n_heads

    @property
    def thresholds(self) -> Mapping[str, float]:
        """By role, what a score must exceed: the largest control plus the margin.

        For `sink-free` it is what equal attention to all tokens gives, without a margin. NaN where
        the role was not measured.
        """
        return {
            name: float(np.max(control)) + (0.0 if name == "sink-free" else self.margin)
            for name, control in self.controls.items()
        }

    @checked
    def __getitem__(self, role: Name) -> Grid:
        """The scores of one role.

        Raises:
            InputError: the role was not measured.
        """
        self._require(role)
        return self.scores[role]

    @checked
    def passing(self, role: Name) -> tuple[NodeId, ...]:
        """The heads that have a role, the highest score first.

        Raises:
            InputError: the role was not measured.
        """
        self._require(role)
        return self._ranked(role, int(self._has(role).sum()))

    @checked
    def top(self, role: Name, k: Count = 10) -> tuple[NodeId, ...]:
        """The heads with the highest scores for a role, whether they have it or not.

        Raises:
            InputError: the role was not measured, or there are fewer heads.
        """
        self._require(role)
        if not 1 <= k <= (most := int(np.isfinite(self.scores[role]).sum())):
            raise InputError(f"k is {k}, but {most} heads have a score for {role!r}")
        return self._ranked(role, k)

    @checked
    def of(self, head: NodeName) -> tuple[str, ...]:
        """The roles of one head, the strongest first; `sink` and `sink-free` come last.

        How strong a role is: by how much the score exceeds the threshold, as a share of how much
        it could.

        Raises:
            GraphError: this is not a head of the model.
        """
        node = NodeId.parse(head)
        n_layers, n_heads = self.shape
        layer, number = node.layer, node.head
        inside = layer is not None and number is not None and layer < n_layers and number < n_heads
        if node.kind != "head" or not inside:
            raise GraphError(
                f"{node} is no head of {self.model}, which has {n_layers} blocks of {n_heads} heads"
            )
        return self._roles[layer, number]  # type: ignore[index]

    @property
    def _roles(self) -> Mapping[tuple[int, int], tuple[str, ...]]:
        limits, found = self.thresholds, {}
        for at in np.ndindex(*self.shape):
            has = {
                name: (float(grid[at]) - limits[name]) / max(1 - limits[name], 1e-9)
                for name, grid in self.scores.items()
                if grid[at] > limits[name]
            }
            found[at] = tuple(sorted(has, key=lambda name: (name in WEAK, -has[name])))
        return found

    @checked
    def onto(self, graph: Annotated[G, GRAPH]) -> G:
        """The graph with the roles of its heads on them; views colour heads by the first one.

        Raises:
            GraphError: the graph is of another model.
        """
        if graph.model != self.model or graph.n_layers != self.shape[0]:
            raise GraphError(
                f"the roles are of {self.model} with {self.shape[0]} blocks, the graph is of "
                f"{graph.model} with {graph.n_layers}; measure the roles of the graph's model"
            )
        own = self._roles
        nodes = (
            replace(node, roles=own[node.id.layer, node.id.head])  # type: ignore[index]
            if node.kind == "head"
            else node
            for node in graph.nodes
        )
        return replace(graph, nodes=tuple(nodes))

    @checked
    def compared(self, reference: Reference | ReferenceName) -> pd.DataFrame:
        """How well each role finds each class of heads of a reference circuit.

        Returns:
            One row per class and role: the number of heads in the class, how many of them have the
            role, how many heads have it in all, and the AUROC of the role's scores for the class.

        Raises:
            InputError: the reference is of a model of another shape.
        """
        import pandas as pd

        known = reference if isinstance(reference, Reference) else load(reference)
        check_shape(Shape(*self.shape), known, f"the roles are of {self.model},")
        rows = []
        for name, heads in known.classes.items():
            members = np.zeros(self.shape, dtype=bool)
            for head in heads:
                members[head.layer, head.head] = True
            for role, grid in self.scores.items():
                measured = bool(np.isfinite(grid).all()) and not members.all()
                area = auroc(grid.ravel().tolist(), members.ravel().tolist()) if measured else None
                has = self._has(role)
                rows.append(
                    {
                        "class": name,
                        "role": role,
                        "heads": int(members.sum()),
                        "with role": int((has & members).sum()),
                        "with role in all": int(has.sum()),
                        "auroc": np.nan if area is None else area,
                    }
                )
        return pd.DataFrame(rows).set_index(["class", "role"])

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head, by name: its roles, and the score of each role."""
        import pandas as pd

        n_layers, n_heads = self.shape
        layers, heads = (each.ravel() for each in np.indices((n_layers, n_heads)))
        own = self._roles
        columns = {
            "roles": [", ".join(own[at]) for at in np.ndindex(n_layers, n_heads)],
            **{name: grid.ravel() for name, grid in self.scores.items()},
        }
        names = [f"L{layer}H{head}" for layer, head in zip(layers, heads, strict=True)]
        return pd.DataFrame(columns, index=pd.Index(names, name="head"))

    @checked
    def text(self, top: Count = 8) -> str:
        """The roles as text: for each, its threshold and the strongest heads that have it.

        Args:
            top: How many heads of a role are named.
        """
        return self._drawn("text", top)

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """A map of layers x heads for each role; heads that have it are marked."""
        return self._drawn("figure", theme)

    def _require(self, role: str) -> None:
        if role not in self.scores:
            raise InputError(f"there is no role {role!r}; measured are {', '.join(self.scores)}")

    def _has(self, role: str) -> Bool[np.ndarray, "layer head"]:
        return self.scores[role] > self.thresholds[role]

    def _ranked(self, role: str, k: int) -> tuple[NodeId, ...]:
        sizes = np.nan_to_num(self.scores[role], nan=-np.inf).ravel()
        order = np.argsort(-sizes, kind="stable")[:k]
        n_heads = self.shape[1]
        return tuple(NodeId("head", int(i) // n_heads, int(i) % n_heads) for i in order)
