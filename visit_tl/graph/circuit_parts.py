"""The heads, MLPs and edges of a circuit, in the spellings that other tools use.

| what      | accepted spellings                                                                  |
|-----------|-------------------------------------------------------------------------------------|
| head      | `L9H6`, `9.6`, `a9.h6`, `A9.6`, `<a9.6>`, `(9, 6)`, a `NodeId`                      |
| its input | the same followed by `.Q`, `_q` or `<q>`, such as `A9.6.Q`, `<a9.6_q>`, `a9.h6<q>`  |
| MLP       | `m3`, `<m3>`, `mlp3`, `MLP 3`, `L3.mlp_out`, `3_mlp_out`                            |
| the ends  | `input`, `embed`, `Resid Start`; `logits`, `output`, `unembed`, `Resid End`         |
| edge      | `a0.h1->a5.h5<k>`, `L0H1 → L5H5.k`, `("0.1", "5.5", "k")`, ACDC's four-tuples       |

Printed, a head is `L9H6`, an MLP `m3` and an edge `L0H1->L5H5<k>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Spelled
from visit_tl.arguments.words import short
from visit_tl.errors import GraphError
from visit_tl.graph.acdc_edges import is_index, read_edge
from visit_tl.graph.ids import NodeId

PartKind = Literal["input", "head", "mlp", "logits"]

PART_KINDS: Final[tuple[PartKind, ...]] = get_args(PartKind)
HEAD_INPUTS: Final = ("q", "k", "v")

_INPUT: Final = frozenset(
    ("input", "embed", "embedding", "embeddings", "pos_embed", "resid start", "resid_start")
)
# ACDC draws the end as <resid_post>, TransformerLens labels it final_post.
_LOGITS: Final = frozenset(
    ("logits", "output", "unembed", "resid end", "resid_end", "resid_post", "final_post")
)
_BRACKETS: Final = re.compile(r"<([^<>]+)>")
_SUFFIX: Final = re.compile(r"(.+?)(?:[._]([qkvQKV])|<([qkvQKV])>)")
_MLP: Final = re.compile(r"(?:m|mlp)[ _]?([0-9]{1,9})|([0-9]{1,9})_mlp_out", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model that a circuit may contain: a head, an MLP, the input or the logits.

    Attributes:
        kind: One of `PART_KINDS`.
        layer: Block index of a head or an MLP; else None.
        head: Index of a head; else None.

    Raises:
        GraphError: an index is missing, superfluous or negative, or the kind is unknown.
    """

    kind: PartKind
    layer: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in PART_KINDS:
            raise GraphError(
                f"{self.kind!r} is not a part of a model; the parts are {', '.join(PART_KINDS)}"
            )
        for name, needed in (
            ("layer", self.kind in ("head", "mlp")),
            ("head", self.kind == "head"),
        ):
            value = getattr(self, name)
            if needed and (type(value) is not int or value < 0):
                raise GraphError(
                    f"a {self.kind} needs {name} as an integer from 0 up, got {value!r}"
                )
            if not needed and value is not None:
                raise GraphError(f"the {self.kind} has no {name}, got {value!r}")

    def __str__(self) -> str:
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        return f"m{self.layer}" if self.kind == "mlp" else self.kind

    @property
    def node(self) -> NodeId:
        """The node of a FlowGraph that holds what this part writes."""
        if self.kind == "head":
            return NodeId("head", self.layer, self.head)
        if self.kind == "mlp":
            return NodeId("mlp_out", self.layer)
        return NodeId("resid_pre", 0) if self.kind == "input" else NodeId("logits")

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key in the order of the forward pass: a block's heads before its MLP."""
        if self.layer is None:
            return (-1 if self.kind == "input" else 1 << 31, 0, 0)
        return (self.layer, int(self.kind == "mlp"), self.head or 0)

    @checked
    def feeds(self, other: Part, *, parallel: Flag = False) -> bool:
        """Whether the other part can read what this part writes.

        Args:
            other: The part that reads.
            parallel: Whether attention and MLP of a block run in parallel.
        """
        if self.kind == "logits" or other.kind == "input":
            return False
        if self.kind == "input" or other.kind == "logits":
            return True
        assert self.layer is not None and other.layer is not None
        within = not parallel and (self.kind, other.kind) == ("head", "mlp")
        return self.layer < other.layer or (within and self.layer == other.layer)

    @classmethod
    @checked
    def parse(cls, spelled: Spelled) -> Part:
        """Read a part in any spelling of the table above.

        Raises:
            GraphError: the spelling is unknown, or names an input of a head instead of the head.
        """
        part, read = parse_end(spelled)
        if read is not None:
            raise GraphError(
                f"{_shown(spelled)} names the {read} input of {part}, but a whole part is wanted "
                f"here, such as {part}"
            )
        return part


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of a circuit: what one part adds to what another part reads.

    An edge from a head to itself is what ACDC calls a direct computation: it leads from the input
    of the head's queries, keys or values to the queries, keys or values themselves. GPT-2 small
    has 432 = 3 x 144 of them.

    Attributes:
        source: The part that writes.
        target: The part that reads.
        input: If the target is a head, which of its inputs reads: `q`, `k` or `v`; else None.

    Raises:
        GraphError: the input is missing, superfluous or unknown, or the edge runs against the
            forward pass.
    """

    source: Part
    target: Part
    input: str | None = None

    def __post_init__(self) -> None:
        if self.target.kind == "head" and self.input not in HEAD_INPUTS:
            raise GraphError(
                f"the edge {self.source}->{self.target} ends at a head and must say at which of "
                f"its inputs: {self.target}<q>, <k> or <v>; got {self.input!r}"
            )
        if self.target.kind != "head" and self.input is not None:
            raise GraphError(
                f"the edge {self.source}->{self.target} does not end at a head and has no q, k or "
                f"v; got {self.input!r}"
            )
        if not (self.internal or self.source.feeds(self.target)):
            raise GraphError(f"the edge {self} runs against the forward pass")

    def __str__(self) -> str:
        end = "" if self.input is None else f"<{self.input}>"
        return f"{self.source}->{self.target}{end}"

    @property
    def internal(self) -> bool:
        """Whether it stays inside one head."""
        return self.source == self.target and self.source.kind == "head"

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: by source, then target, then q, k, v."""
        return (self.source.order, self.target.order, "qkv".find(self.input or "q"))

    @classmethod
    @checked
    def parse(cls, spelled: Spelled) -> Edge:
        """Read an edge in any spelling of the table above.

        Args:
            spelled: `source->target<input>`, or a tuple of source and target (and input), or
                ACDC's (receiver hook, receiver index, sender hook, sender index).

        Raises:
            GraphError: the spelling is unknown, or its two ends make no edge.
        """
        if isinstance(spelled, Edge):
            return spelled
        if isinstance(spelled, str):
            ends: list[Any] = [end.strip() for end in re.split("->|→", spelled)]
            if len(ends) != 2:
                raise GraphError(
                    f"{spelled!r} is no edge; edges look like a0.h1->a5.h5<k>, m3->m7 or "
                    f"input->logits"
                )
        else:
            ends = list(spelled) if isinstance(spelled, tuple | list) else []
            if len(ends) == 4:
                start, end, into = read_edge(*ends)
                return cls(Part.parse(start), Part.parse(end), into)
            if len(ends) not in (2, 3):
                raise GraphError(
                    f"{_shown(spelled)} is no edge; as a tuple it is (source, target), (source, "
                    f"target, input) or ACDC's (hook, index, hook, index)"
                )
        source, (target, read) = Part.parse(ends[0]), parse_end(ends[1])
        if len(ends) == 3 and ends[2] is not None:
            given = str(ends[2]).lower()
            if read not in (None, given):
                raise GraphError(f"{_shown(spelled)} names two inputs, {read} and {given}")
            read = given
        return cls(source, target, read)


def is_edge(spelled: Any) -> bool:
    """Whether something has the form of an edge, not of a part; it may still be invalid."""
    if isinstance(spelled, str):
        return "->" in spelled or "→" in spelled
    if isinstance(spelled, tuple | list):
        return len(spelled) != 2 or not all(is_index(index) for index in spelled)
    return isinstance(spelled, Edge)


def parse_end(spelled: Any) -> tuple[Part, str | None]:
    """Read a part, or the input of a head, in any spelling of the table above.

    Returns:
        The part, and q, k or v where the spelling names that input of a head; else None.

    Raises:
        GraphError: the spelling is unknown.
    """
    if isinstance(spelled, Part):
        return spelled, None
    if isinstance(spelled, tuple | list) and len(spelled) == 2 and all(map(is_index, spelled)):
        return Part("head", int(spelled[0]), int(spelled[1])), None
    if not isinstance(spelled, str | NodeId):
        raise _unknown(spelled)
    return _end(str(spelled))


@lru_cache(maxsize=4096)
def _end(text: str) -> tuple[Part, str | None]:
    plain = text.strip()
    if bracketed := _BRACKETS.fullmatch(plain):
        plain = bracketed[1].strip()
    if (part := _part(plain)) is not None:
        return part, None
    if suffixed := _SUFFIX.fullmatch(plain):
        part = _part(suffixed[1])
        if part is not None and part.kind == "head":
            return part, (suffixed[2] or suffixed[3]).lower()
    raise _unknown(text)


def _part(text: str) -> Part | None:
    """Read a part that is spelled without brackets and without an input."""
    low = text.lower()
    if low in _INPUT:
        return Part("input")
    if low in _LOGITS:
        return Part("logits")
    if mlp := _MLP.fullmatch(text):
        return Part("mlp", int(mlp[1] or mlp[2]))
    try:
        node = NodeId.parse(text)
    except GraphError:
        return None
    if getattr(node, "position", None) is not None:
        return None  # a part of a circuit has no position
    if node.kind == "head":
        return Part("head", node.layer, node.head)
    if node.kind == "mlp_out":
        return Part("mlp", node.layer)
    return Part("input") if node == NodeId("resid_pre", 0) else None


def _unknown(spelled: Any) -> GraphError:
    return GraphError(
        f"{_shown(spelled)} is no part of a circuit; heads look like L9H6, 9.6, a9.h6 or A9.6, "
        f"their inputs like A9.6.Q, <a9.6_q> or a9.h6<q>, MLPs like m3 or MLP 3, and the ends are "
        f"input and logits"
    )


def _shown(spelled: Any) -> str:
    return repr(str(spelled)) if isinstance(spelled, NodeId | Part) else short(spelled)
