"""Sets of edges: all of a model, those between groups of parts, and those inside heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from visit_tl.graph.circuit_parts import HEAD_INPUTS, Edge, Part

INPUT: Final = Part("input")
LOGITS: Final = Part("logits")


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties of a model that decide which heads and edges it has.

    Attributes:
        n_layers: Number of blocks.
        n_heads: Number of heads of each block.
        mlps: Whether blocks have MLPs.
        parallel: Whether attention and MLP of a block run in parallel, so that a head does not
            feed the MLP of its own block.
    """

    n_layers: int
    n_heads: int
    mlps: bool = True
    parallel: bool = False

    def __str__(self) -> str:
        return f"{self.n_layers} layers x {self.n_heads} heads"

    @property
    def heads(self) -> tuple[Part, ...]:
        """Every head, layer by layer."""
        indices = ((layer, h) for layer in range(self.n_layers) for h in range(self.n_heads))
        return tuple(Part("head", layer, h) for layer, h in indices)

    def holds(self, part: Part) -> bool:
        """Whether a model of this shape has that part."""
        if part.layer is None:
            return True
        deep = part.layer < self.n_layers
        return deep and (self.mlps if part.head is None else part.head < self.n_heads)


@lru_cache(maxsize=8)
def model_edges(shape: Shape, internal: bool = False) -> tuple[Edge, ...]:
    """Every edge between the input, the heads' q, k and v, the MLPs and the logits.

    GPT-2 small has 32491, and 32923 with those inside heads (the counts of EAP-IG's and of
    ACDC's graph).

    Args:
        shape: The shape of the model.
        internal: Whether to include the edges inside heads.
    """
    parts = [INPUT, *shape.heads, LOGITS]
    if shape.mlps:
        parts += [Part("mlp", layer) for layer in range(shape.n_layers)]
    parts.sort(key=lambda part: part.order)
    joined = join(parts, parts, HEAD_INPUTS, parallel=shape.parallel)
    within = (Edge(head, head, read) for head in shape.heads if internal for read in HEAD_INPUTS)
    return tuple(sorted((*joined, *within), key=lambda edge: edge.order))


def join(
    sources: Iterable[Part],
    targets: Iterable[Part],
    inputs: Iterable[str],
    *,
    parallel: bool = False,
) -> Iterable[Edge]:
    """The edges from each source to each target that it feeds.

    Args:
        sources: Parts that write.
        targets: Parts that read.
        inputs: Which of q, k and v to join, where the target is a head.
        parallel: Whether attention and MLP of a block run in parallel.
    """
    reads = tuple(inputs)
    targets = tuple(targets)
    for source in sources:
        for target in targets:
            if source.feeds(target, parallel=parallel):
                for read in reads if target.kind == "head" else (None,):
                    yield Edge(source, target, read)


def inside(edges: Iterable[Edge]) -> list[Edge]:
    """The edges inside heads: one for every input of a head at which some edge ends.

    This is what ACDC counts on top of the edges between parts: 78 for IOI, 27 for greater-than, 13
    for docstring.
    """
    into = (edge for edge in edges if edge.target.kind == "head")
    return list(dict.fromkeys(Edge(edge.target, edge.target, edge.input) for edge in into))


def named(groups: Mapping[str, Iterable[Part]], names: Iterable[str]) -> list[Part]:
    """The parts with these names, each once; a name is that of a group or of a part.

    Raises:
        GraphError: a name is neither.
    """
    parts: dict[Part, None] = {}
    for name in names:
        found = groups[name] if name in groups else (Part.parse(name),)
        parts |= dict.fromkeys(found)
    return list(parts)
