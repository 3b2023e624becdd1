"""Reference circuits: circuits that others found in a model, as data with their sources.

A circuit has no single ground truth: the same heads were coded as 182, 963 or 1041 edges, and an
edge that matters under zero ablation may not matter under resampling. So each reference is one
coding (one way to write the circuit down), with its own name and its sources.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final

from visit_tl.arguments.kinds import Taken
from visit_tl.graph.circuit_edges import Shape
from visit_tl.graph.circuit_parts import Edge, Part

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Final = 1


@dataclass(frozen=True)
class Reference:
    """A circuit that someone reported, in one coding.

    Attributes:
        name: Such as `ioi-wang-2022`.
        circuit: The circuit, such as `ioi`; references with the same value are codings of it.
        coding: What this coding contains, in a few words.
        model: The model in which it was found.
        shape: The shape of that model: layers, heads, whether it has MLPs, and whether its blocks
            are parallel.
        classes: The heads by class.
        mlp_groups: The MLPs by group; empty if the circuit has none.
        edges: The edges, in the order of the forward pass; empty if the coding has none.
        internal: Whether the edges inside heads are counted, as ACDC does.
        task: The task that the circuit performs.
        prompt: Other settings that the result depends on: `bos`, `corruption`, `metric`.
        sources: Papers and files that the reference was taken from.
        notes: Differences from other codings, and other pitfalls.
    """

    name: str
    circuit: str
    coding: str
    model: str
    shape: Shape
    classes: Mapping[str, tuple[Part, ...]]
    mlp_groups: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    edges: tuple[Edge, ...] = field(default=(), repr=False)
    internal: bool = False
    task: str = ""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of blocks of the model."""
        return self.shape.n_layers

    @property
    def n_heads(self) -> int:
        """Number of heads in each block of the model."""
        return self.shape.n_heads

    @cached_property
    def class_of(self) -> Mapping[Part, str]:
        """The class of each head, by head."""
        return {head: name for name, heads in self.classes.items() for head in heads}

    @cached_property
    def heads(self) -> tuple[Part, ...]:
        """The heads, layer by layer."""
        return tuple(sorted(self.class_of, key=lambda head: head.order))

    @cached_property
    def mlps(self) -> tuple[Part, ...]:
        """The MLPs, layer by layer."""
        found = (mlp for mlps in self.mlp_groups.values() for mlp in mlps)
        return tuple(sorted(found, key=lambda mlp: mlp.order))

    def text(self) -> str:
        """The reference as text, without the list of edges."""
        lines = [f"{name:<11}{value}" for name, value in self._facts()]
        lines += [f"  {name}: {_listed(heads)}" for name, heads in self._groups()]
        return "\n".join([*lines, *(f"  - {note}" for note in self.notes)])

    __str__ = text

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head or MLP: part, kind, layer, head, class."""
        import pandas as pd

        rows = [
            {"part": str(p), "kind": p.kind, "layer": p.layer, "head": p.head, "class": name}
            for name, parts in self._groups()
            for p in parts
        ]
        columns = ["part", "kind", "layer", "head", "class"]
        frame = pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})
        return frame.set_index("part")

    def edges_dataframe(self) -> pd.DataFrame:
        """One row per edge: edge, source, target, input, and the classes at its two ends."""
        import pandas as pd

        group = {part: name for name, parts in self._groups() for part in parts}
        rows = [
            {
                "edge": str(e),
                "source": str(e.source),
                "target": str(e.target),
                "input": e.input,
                "source_class": group.get(e.source, str(e.source)),
                "target_class": group.get(e.target, str(e.target)),
            }
            for e in self.edges
        ]
        columns = ["edge", "source", "target", "input", "source_class", "target_class"]
        return pd.DataFrame(rows, columns=columns).set_index("edge")

    def _facts(self) -> list[tuple[str, str]]:
        prompt = "; ".join(f"{name}: {value}" for name, value in self.prompt.items())
        counts = f"{len(self.heads)} heads, {len(self.mlps)} MLPs, {len(self.edges)} edges"
        return [
            ("reference", self.name),
            ("coding", self.coding),
            ("model", f"{self.model}, {self.shape}"),
            ("holds", counts),
            ("task", self.task),
            ("prompt", prompt),
            ("sources", "; ".join(self.sources)),
        ]

    def _groups(self) -> list[tuple[str, tuple[Part, ...]]]:
        return [*self.classes.items(), *self.mlp_groups.items()]

    def _repr_html_(self) -> str:
        rows = [*self._facts(), *((name, _listed(parts)) for name, parts in self._groups())]
        rows += [("note", note) for note in self.notes]
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in rows
        )
        return f"<table>{cells}</table>"


def _listed(parts: tuple[Part, ...]) -> str:
    return ", ".join(map(str, parts))


if TYPE_CHECKING:
    KnownCircuit = Reference
else:
    KnownCircuit = Annotated[
        Any, Taken("a known circuit", "vt.circuits.load('ioi-wang-2022')", classes=(Reference,))
    ]
