"""NodeId: the names of nodes. Ids are printed and parsed only here.

| kind          | printed          | what it is                                                   |
|---------------|------------------|--------------------------------------------------------------|
| `resid_pre`   | `L9.resid_pre`   | residual stream entering block 9                             |
| `attn_in`     | `L9.attn_in`     | the same after ln1                                           |
| `query`       | `L9.query`       | all heads' queries, read through W_K                         |
| `head_query`  | `L9H6.q`         | the query of head 6, read through W_K                        |
| `key`         | `L9H6.k3`        | memory key of key position 3, read through W_Q               |
| `value`       | `L9H6.v3`        | memory value of key position 3, after W_O                    |
| `head`        | `L9H6`           | output of head 6, after W_O                                  |
| `z`           | `L9.z`           | the concatenated heads, after W_O                            |
| `attn_neuron` | `L9O120`         | row 120 of W_O (rows counted over the concatenated heads)    |
| `b_O`         | `L9.b_O`         | output bias of the attention                                 |
| `attn_out`    | `L9.attn_out`    | what the attention adds to the residual stream               |
| `opaque`      | `L9.opaque`      | what a part that was not opened adds to the residual stream  |
| `resid_mid`   | `L9.resid_mid`   | residual stream between attention and MLP                    |
| `mlp_in`      | `L9.mlp_in`      | the same after ln2                                           |
| `router`      | `L9.router`      | rows of the router, by the weights of the chosen experts     |
| `neuron_key`  | `L9N120.k`       | column 120 of W_in; `L9E3N120.k` in expert 3                 |
| `neuron`      | `L9N120`         | row 120 of W_out; `L9E3N120` in expert 3                     |
| `b_out`       | `L9.b_out`       | output bias of the MLP; `L9E3.b_out` of expert 3             |
| `expert`      | `L9E3`           | what expert 3 adds to the residual stream, by its weight     |
| `mlp_out`     | `L9.mlp_out`     | what the MLP adds to the residual stream                     |
| `resid_post`  | `L9.resid_post`  | residual stream leaving block 9                              |
| `final_norm`  | `final_norm`     | the last resid_post after the final norm                     |
| `logits`      | `logits`         | the model's prediction                                       |
| `feature`     | `L9.z.F123`      | row 123 of the decoder of an SAE or transcoder               |
| `feature_error` | `L9.z.error`   | what the reconstruction misses                               |
| `feature_bias`  | `L9.z.b_dec`   | what the reconstruction has besides its features             |

The sites of features are `resid_pre`, `z`, `attn_out`, `resid_mid`, `mlp_out` and `resid_post`.
`L9ES0` is the first shared expert of block 9, which every token passes through; its index is -1,
that of the second -2.
In a graph whose memory values were followed back, the id of a node at another position than the
graph's own ends in that position: `L9H6@4`, `L9H6.v3@4`, `L9.resid_post@4`.

Heads can also be written as `9.6`, `a9.h6` and `A9.6`, the spellings of other tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, cast, get_args

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Position
from visit_tl.errors import GraphError

Kind = Literal[
    "resid_pre",
    "attn_in",
    "query",
    "head_query",
    "key",
    "value",
    "head",
    "z",
    "attn_neuron",
    "b_O",
    "attn_out",
    "opaque",
    "resid_mid",
    "mlp_in",
    "router",
    "neuron_key",
    "neuron",
    "b_out",
    "expert",
    "mlp_out",
    "resid_post",
    "final_norm",
    "logits",
    "feature",
    "feature_error",
    "feature_bias",
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Every kind, in the order in which a forward pass reaches it inside a block; then the kinds of
features, whose place depends on their site."""

FeatureSite = Literal["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
FEATURE_SITES: Final[tuple[FeatureSite, ...]] = get_args(FeatureSite)
"""The vectors that features can be parts of."""
FEATURE_KINDS: Final[tuple[Kind, ...]] = ("feature", "feature_error", "feature_bias")

_FINAL: Final = ("final_norm", "logits")
_HEAD_KINDS: Final = ("head_query", "key", "value", "head")
_MEMORY_KINDS: Final = ("key", "value")
_NEURON_KINDS: Final = ("attn_neuron", "neuron_key", "neuron")
_EXPERT_KINDS: Final = ("neuron_key", "neuron", "b_out", "expert")
"""The kinds that have the index of an expert; only `expert` must have one."""
_NOT_STATES: Final = (*_FINAL, *_HEAD_KINDS, *_NEURON_KINDS, *FEATURE_KINDS, "expert")
_STATES: Final = tuple(k for k in KINDS if k not in _NOT_STATES)

_NEEDS: Final = {
    kind: (
        ("layer", kind not in _FINAL),
        ("head", kind in _HEAD_KINDS),
        ("key_position", kind in _MEMORY_KINDS),
        ("neuron", kind in (*_NEURON_KINDS, "feature")),
    )
    for kind in KINDS
}
"""For each kind, every index and whether the kind needs it."""

_HEAD = re.compile(r"L([0-9]{1,9})H([0-9]{1,9})(?:\.(q|[kv]([0-9]{1,9})))?")
_NEURON = re.compile(r"L([0-9]{1,9})([NO])([0-9]{1,9})(\.k)?")
_EXPERT = re.compile(r"L([0-9]{1,9})E(S?)([0-9]{1,9})(?:N([0-9]{1,9})(\.k)?|(\.b_out))?")
_STATE = re.compile(r"L([0-9]{1,9})\.(" + "|".join(_STATES) + ")")
_FEATURE = re.compile(
    r"L([0-9]{1,9})\.(" + "|".join(FEATURE_SITES) + r")\.(?:F([0-9]{1,9})|(error|b_dec))"
)
_AT = re.compile(r"(.+)@([0-9]{1,9})", re.DOTALL)
_FOREIGN_HEAD = re.compile(r"[aA]?([0-9]{1,9})\.h?([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class NodeId:
    """The name of one node: a kind and the indices that this kind needs, no others.

    Attributes:
        kind: One of `KINDS`.
        layer: Block index; None for `final_norm` and `logits`.
        head: Query head index, for `head_query`, `key`, `value` and `head`.
        key_position: Position of the token that made a memory key or value.
        neuron: Row of W_O (`attn_neuron`) or W_out (`neuron`), column of W_in (`neuron_key`), row
            of a decoder (`feature`).
        position: Query position, if it differs from the graph's own; else None.
        site: For the kinds of features, which vector of the block they are parts of, one of
            `FEATURE_SITES`; else None.
        expert: Index of an expert, for `expert` and for neurons and biases inside one; shared
            experts count from -1 down. None elsewhere.

    Raises:
        GraphError: an index is missing, superfluous or negative, or the kind is unknown.
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    key_position: int | None = None
    neuron: int | None = None
    position: int | None = None
    site: FeatureSite | None = None
    expert: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GraphError(f"{self.kind!r} is no kind of node; the kinds are {', '.join(KINDS)}")
        for name, needed in _NEEDS[self.kind]:
            value = getattr(self, name)
            if needed and (type(value) is not int or value < 0):
                raise GraphError(
                    f"a node of kind {self.kind} needs {name} as an integer from 0 up, "
                    f"got {value!r}"
                )
            if not needed and value is not None:
                raise GraphError(f"a node of kind {self.kind} has no {name}, got {value!r}")
        if (self.kind in FEATURE_KINDS) != (self.site in FEATURE_SITES):
            raise GraphError(
                f"a node of kind {self.kind} has the site {self.site!r}; features, their error and "
                f"their bias have one of {', '.join(FEATURE_SITES)}, other nodes have None"
            )
        if (self.kind == "expert" and self.expert is None) or (
            self.expert is not None
            and (self.kind not in _EXPERT_KINDS or type(self.expert) is not int)
        ):
            raise GraphError(
                f"the expert of a node of kind {self.kind} is {self.expert!r}; it must be an "
                f"integer for an expert, and may be for {', '.join(_EXPERT_KINDS[:-1])}"
            )
        at = self.position
        if at is not None and (self.kind in _FINAL or type(at) is not int or at < 0):
            raise GraphError(
                f"the position of a node of kind {self.kind} is {at!r}; it must be an integer from "
                f"0 up, and the final norm and the logits have none"
            )

    def __str__(self) -> str:
        name = self._name()
        return name if self.position is None else f"{name}@{self.position}"

    def __repr__(self) -> str:
        return f"NodeId.parse({str(self)!r})"

    @checked
    def at(self, position: Position | None) -> NodeId:
        """The same node at another position."""
        # Mostly both positions are None, the graph's own: then no copy is needed.
        return self if position is self.position else replace(self, position=position)

    def _name(self) -> str:
        if self.kind in _FINAL:
            return self.kind
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        if self.kind == "head_query":
            return f"L{self.layer}H{self.head}.q"
        if self.kind in _MEMORY_KINDS:
            return f"L{self.layer}H{self.head}.{self.kind[0]}{self.key_position}"
        if self.kind == "attn_neuron":
            return f"L{self.layer}O{self.neuron}"
        block = f"L{self.layer}"
        if self.expert is not None:
            block += f"E{self.expert}" if self.expert >= 0 else f"ES{-1 - self.expert}"
        if self.kind == "expert":
            return block
        if self.kind == "neuron":
            return f"{block}N{self.neuron}"
        if self.kind == "neuron_key":
            return f"{block}N{self.neuron}.k"
        if self.kind in FEATURE_KINDS:
            return f"{block}.{self.site}.{_feature_part(self)}"
        return f"{block}.{self.kind}"

    @classmethod
    @checked
    def parse(cls, text: NodeName) -> NodeId:
        """Read a printed id, or a head in another tool's spelling.

        Args:
            text: `L9H6`, `L9H6.v3`, `L9N120`, `L9E3`, `L9.resid_mid`, `logits` ...; for heads also
                `9.6`, `a9.h6`, `A9.6`; all but `final_norm` and `logits` also with a position, as
                in `L9H6@4`. A NodeId is returned as it is.

        Raises:
            GraphError: the text has none of these forms.
        """
        if isinstance(text, NodeId):
            return text
        text = cast("str", text)
        at = _AT.fullmatch(text)
        name = text if at is None else at[1]
        found = (
            _read_head(name)
            or _read_neuron(name)
            or _read_state(name)
            or _read_expert(name)
            or _read_feature(name)
        )
        if at is not None and found is not None and found.kind not in _FINAL:
            return found.at(int(at[2]))
        if found is None or at is not None:
            raise GraphError(
                f"{text!r} is no node id; ids look like L9H6, L9H6.q, L9H6.k3, L9H6.v3, L9O120, "
                f"L9N120, L9N120.k, L9E3, L9.z.F3, L9.resid_mid, logits or, at another position, "
                f"L9H6@4"
            )
        return found


# A graph of 4,000 nodes uses an id 16,000 times, in its nodes and edges: 1 MB if each were an
# object of its own. 100 graphs of one model have 35,000 different ids.
@lru_cache(maxsize=1 << 16, typed=True)
def shared_id(
    kind: Kind,
    layer: int | None,
    head: int | None,
    key_position: int | None,
    neuron: int | None,
    position: int | None,
    expert: int | None = None,
) -> NodeId:
    """The NodeId of these indices; the same object is returned again while it is cached."""
    return NodeId(kind, layer, head, key_position, neuron, position, expert=expert)


def _read_head(text: str) -> NodeId | None:
    if foreign := _FOREIGN_HEAD.fullmatch(text):
        return NodeId("head", int(foreign[1]), int(foreign[2]))
    match = _HEAD.fullmatch(text)
    if match is None:
        return None
    layer, head, part, position = int(match[1]), int(match[2]), match[3], match[4]
    if part is None:
        return NodeId("head", layer, head)
    if part == "q":
        return NodeId("head_query", layer, head)
    return NodeId("key" if part[0] == "k" else "value", layer, head, int(position))


def _read_neuron(text: str) -> NodeId | None:
    match = _NEURON.fullmatch(text)
    if match is None:
        return None
    layer, matrix, neuron, is_key = int(match[1]), match[2], int(match[3]), match[4] is not None
    if matrix == "O":
        return None if is_key else NodeId("attn_neuron", layer, neuron=neuron)
    return NodeId("neuron_key" if is_key else "neuron", layer, neuron=neuron)


def _read_expert(text: str) -> NodeId | None:
    match = _EXPERT.fullmatch(text)
    if match is None:
        return None
    layer, shared, number, neuron, is_key, bias = match.groups()
    expert = -1 - int(number) if shared else int(number)
    if bias:
        return NodeId("b_out", int(layer), expert=expert)
    if neuron is None:
        return NodeId("expert", int(layer), expert=expert)
    kind: Kind = "neuron" if is_key is None else "neuron_key"
    return NodeId(kind, int(layer), neuron=int(neuron), expert=expert)


def _read_state(text: str) -> NodeId | None:
    if text in _FINAL:
        return NodeId(text)
    match = _STATE.fullmatch(text)
    return None if match is None else NodeId(match[2], int(match[1]))  # type: ignore[arg-type]


def _read_feature(text: str) -> NodeId | None:
    match = _FEATURE.fullmatch(text)
    if match is None:
        return None
    layer, site = int(match[1]), cast("FeatureSite", match[2])
    if match[3] is not None:
        return NodeId("feature", layer, neuron=int(match[3]), site=site)
    return NodeId("feature_error" if match[4] == "error" else "feature_bias", layer, site=site)


def _feature_part(node: NodeId) -> str:
    if node.kind == "feature":
        return f"F{node.neuron}"
    return "error" if node.kind == "feature_error" else "b_dec"


class HasId(Protocol):
    """Anything that has the id of a node."""

    @property
    def id(self) -> NodeId:
        """Its id."""
        ...


# Types of arguments that name nodes: first for type checkers, then for `checked` at run time.
if TYPE_CHECKING:
    NodeName = str | NodeId | HasId
    NodeNames = NodeName | Iterable[NodeName]
    Ends = tuple[str | NodeId, str | NodeId]
else:
    NodeName = Annotated[
        Any, Taken("the id of a node", "'L9H6'", classes=(str, NodeId), form=plain.node)
    ]
    NodeNames = Annotated[
        Any, Taken("a list of ids of nodes", "['L9H6', 'L10H0']", "NodeNames", form=plain.nodes)
    ]
    Ends = Annotated[Any, Taken("a source and a target", "'L9.query', 'L9H6.q'", "TwoNodeNames")]


def node_ids(value: NodeNames) -> list[str | NodeId]:
    """A list of ids, from ids or nodes; a single one gives a list of one."""
    return plain.nodes(value)
