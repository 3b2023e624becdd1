"""Node, Edge and the records inside them; all are frozen and need neither torch nor plotly."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args, overload

from visit_tl.graph.ids import FeatureSite, Kind, NodeId

EdgeKind = Literal["coefficient", "sum", "flow"]
"""What an edge's score is (paper, A.4).

- `coefficient`: the number that the target is multiplied by: attention, activation, an entry of z.
- `sum`: the L2 norm of what the source adds to the target.
- `flow`: a function of one vector (a norm, a projection, a copy); the L2 norm of the source.
"""
EDGE_KINDS: Final[tuple[EdgeKind, ...]] = get_args(EdgeKind)


_INTEGER: Final = struct.Struct("i").unpack_from
_FLOAT: Final = struct.Struct("f").unpack_from


@dataclass(frozen=True, slots=True)
class TokenProb:
    """One token of a readout.

    Attributes:
        token: Its text, as the tokenizer decodes it. Plain text, not markup: views escape it.
        id: Its index in the vocabulary.
        prob: Its probability under the logit lens, in [0, 1].
    """

    token: str
    id: int
    prob: float


class TokenProbs(Sequence[TokenProb]):
    """The tokens of one readout, packed; compares, adds and prints like a tuple of TokenProb.

    A graph has 40,000 such tokens: 5 MB as objects, 1.2 MB packed.

    Args:
        ids: Their indices in the vocabulary, below 2^31.
        probs: Their probabilities, stored as float32, the precision of the readout.
        texts: The text of each id. It may hold other ids too: many readouts can share it.
    """

    __slots__ = ("_numbers", "_texts")

    def __init__(
        self, ids: Sequence[int], probs: Sequence[float], texts: Mapping[int, str]
    ) -> None:
        self._numbers = struct.pack(f"{len(ids)}i{len(probs)}f", *ids, *probs)
        self._texts = texts

    @overload
    def __getitem__(self, index: int) -> TokenProb: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TokenProb, ...]: ...
    def __getitem__(self, index: int | slice) -> TokenProb | tuple[TokenProb, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        n = len(self)
        at = index if 0 <= index < n else range(n)[index]
        # Native byte order and sizes, 4 bytes a number, so that an entry is found by its offset.
        (token,) = _INTEGER(self._numbers, 4 * at)
        (prob,) = _FLOAT(self._numbers, 4 * (n + at))
        return TokenProb(self._texts[token], token, prob)

    def __len__(self) -> int:
        return len(self._numbers) // 8

    def __iter__(self) -> Iterator[TokenProb]:
        n = len(self)
        numbers = struct.unpack(f"{n}i{n}f", self._numbers)
        texts = map(self._texts.__getitem__, numbers[:n])
        return map(TokenProb, texts, numbers[:n], numbers[n:])

    def unpacked(self) -> tuple[list[str], tuple[float, ...]]:
        """The texts and the probabilities of the tokens, without making objects of them."""
        n = len(self)
        numbers = struct.unpack(f"{n}i{n}f", self._numbers)
        return [self._texts[token] for token in numbers[:n]], numbers[n:]

    def __add__(self, other: Iterable[TokenProb]) -> tuple[TokenProb, ...]:
        return (*self, *other)

    def __radd__(self, other: Iterable[TokenProb]) -> tuple[TokenProb, ...]:
        return (*other, *self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenProbs | tuple):
            return NotImplemented
        return tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        ids, probs = [t.id for t in self], [t.prob for t in self]
        return TokenProbs, (ids, probs, {t.id: t.token for t in self})


@dataclass(frozen=True, slots=True)
class Hook:
    """The place in the model of a node's vector, or of the coefficient that multiplies it.

    Attributes:
        name: TransformerLens hook name, such as `blocks.9.attn.hook_z`.
        index: Index into that hook's tensor, batch first, such as `(0, 13, 6)`.
    """

    name: str
    index: tuple[int, ...]


# Graphs of one model have mostly the same hooks, half a MB per graph if not shared; 100 graphs
# have 25,000 different ones.
@lru_cache(maxsize=1 << 16)
def shared_hook(name: str, index: tuple[int, ...]) -> Hook:
    """The Hook of this place; the same object is returned again while it is cached."""
    return Hook(name, index)


@dataclass(frozen=True, slots=True)
class Effect:
    """What changing one node or one edge does to a metric (docs/maths.md, "Causes").

    Attributes:
        value: Metric after the change, minus the metric before it.
        exact: True if the model was run with the change, False if attribution patching estimated
            it.
    """

    value: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of a loss at one node, read as tokens (docs/maths.md, "Gradients").

    Attributes:
        norm: L2 norm of the gradient at the node's own vector; for a head, at its z.
        rank: 0-based rank of the graph's target in the gradient read by the lens; None if the
            gradient is 0.
        top: The tokens that the gradient promotes most; empty if it is 0.
        bottom: The tokens that it promotes least, the worst first: what descent adds.
    """

    norm: float
    rank: int | None
    top: Sequence[TokenProb] = ()
    bottom: Sequence[TokenProb] = ()


@dataclass(frozen=True, slots=True)
class Reversed:
    """The reversed attention of one head (docs/maths.md, "Gradients").

    Attributes:
        norm: Frobenius norm of the head's whole map R.
        row: The row of R at the node's position, over all key positions.
    """

    norm: float
    row: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScorePair:
    """One term of an attention score: a part at the query times a part at the key.

    Attributes:
        query: The part that wrote at the query's position, such as `L20H1`, `embed` or `b_Q`.
        key: The part that wrote at the key's position.
        value: What the pair adds to the score.
    """

    query: str
    key: str
    value: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a head looked at one position: its score, as a sum (docs/maths.md, "Attention scores").

    Attributes:
        head: The head, without a position.
        query: The position that looked, from 0.
        key: The position that was looked at.
        score: The head's score of the two before the softmax, and before a softcap.
        capped: The score after the softcap; None where there is none.
        attention: What the softmax made of it, in [0, 1].
        pairs: The largest terms, by absolute value.
        others: The sum of all other terms; with `pairs` it gives the score.
    """

    head: NodeId
    query: int
    key: int
    score: float
    capped: float | None
    attention: float
    pairs: tuple[ScorePair, ...]
    others: float


@dataclass(frozen=True, slots=True)
class Node:
    """One vector of the forward pass (or one row of a weight matrix), read as tokens.

    Attributes:
        id: Its name, with kind, layer, head, key_position, neuron and position.
        top: The tokens that it promotes most, best first; a tuple, or packed (`TokenProbs`).
        bottom: The tokens that it promotes least, worst first; likewise.
        entropy: Entropy of its distribution over the vocabulary, in nats.
        norm: L2 norm of the vector that was read.
        rank: 0-based rank of the graph's target in its distribution (0 is the argmax).
        prob: The target's probability, in [0, 1].
        token: For keys and values, the token that made them; else None.
        coefficient: For rows and columns of weight matrices and for memories, the number that the
            forward pass multiplied them by; else None.
        attention: For heads, the attention over all key positions at the graph's position; else
            None.
        hook: Its place in the model; None for biases.
        attribution: Its direct logit attribution to the target, where measured; else None.
        effect: What patching it does to a metric, where measured; else None.
        gradient: The gradient of a loss there, where measured; else None.
        reversed: For heads, the reversed attention of a loss, where measured; else None.
        roles: For heads, the roles that they have on other prompts, the strongest first; empty
            where there are none or none were measured.
        explanation: For features, what somebody says that they are; None where nobody did.
        unopened: Where a part of the model was not taken apart: its name, its class and the reason;
            else None.
    """

    id: NodeId
    top: Sequence[TokenProb]
    bottom: Sequence[TokenProb]
    entropy: float
    norm: float
    rank: int
    prob: float
    token: str | None = None
    coefficient: float | None = None
    attention: tuple[float, ...] | None = None
    hook: Hook | None = None
    attribution: float | None = None
    effect: Effect | None = None
    gradient: Gradient | None = None
    reversed: Reversed | None = None
    roles: tuple[str, ...] = ()
    explanation: str | None = None
    unopened: str | None = None

    @property
    def kind(self) -> Kind:
        """Kind of the node, from its id."""
        return self.id.kind

    @property
    def layer(self) -> int | None:
        """Block of the node, from its id; None for the final norm and the logits."""
        return self.id.layer

    @property
    def negative(self) -> bool:
        """Whether the forward pass subtracts this row, so that it promotes its bottom tokens."""
        return (
            self.kind in ("attn_neuron", "neuron", "feature")
            and self.coefficient is not None
            and self.coefficient < 0
        )

    @property
    def label(self) -> str:
        """The token that this node promotes: its top token, or its bottom token if negative."""
        return self.promoted[0].token

    @property
    def is_zero(self) -> bool:
        """Whether the vector is zero, so that it says nothing; such as a head that was set to 0."""
        return self.norm == 0

    @property
    def promoted(self) -> Sequence[TokenProb]:
        """The tokens that this node promotes, given the sign of its coefficient."""
        return self.bottom if self.negative else self.top

    @property
    def suppressed(self) -> Sequence[TokenProb]:
        """The tokens at the other end of `promoted`."""
        return self.top if self.negative else self.bottom


@dataclass(frozen=True, slots=True)
class Edge:
    """One interaction between two nodes; what its score means depends on its kind.

    Attributes:
        source: Id of the node that comes first in the forward pass.
        target: Id of the node that it acts on.
        kind: What the score is; see `EdgeKind`.
        score: Signed for `coefficient`, a norm for `sum` and `flow`.
        effect: What patching it does to a metric, where measured; else None.
    """

    source: NodeId
    target: NodeId
    kind: EdgeKind
    score: float
    effect: Effect | None = None


@dataclass(frozen=True, slots=True)
class Hidden:
    """How many nodes pruning left out of one block.

    Views show these counts, so that nobody takes a pruned graph for the whole.

    Attributes:
        heads: Heads not shown.
        values: Memory values not shown, of heads that are shown.
        attn_neurons: Rows of W_O not shown.
        neurons: MLP neurons not shown.
        features: Active features of SAEs and transcoders not shown.
    """

    heads: int = 0
    values: int = 0
    attn_neurons: int = 0
    neurons: int = 0
    features: int = 0


def total(parts: Iterable[Hidden]) -> Hidden:
    """The sums of the counts of several blocks."""
    counts = [[getattr(part, name) for name in Hidden.__slots__] for part in parts]
    return Hidden(*(sum(column) for column in zip(*counts, strict=True)))


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """The SAE or transcoder of one site, and how well it reconstructs the site at the position.

    Attributes:
        name: Its name, such as the name of its folder.
        layer: The block of its site.
        site: The vector that its features are parts of.
        architecture: How it encodes: `standard`, `topk`, `jumprelu`, `gated`, `transcoder` ...
        hook: The hook that its encoder reads.
        hook_out: The hook that its decoder reconstructs.
        n_features: How many features it has.
        active: How many of them are not 0.
        error_share: L2 norm of the error, over that of the whole.
        explained: 1 - the squared norm of the error over that of the whole.
        neuronpedia: Its id on Neuronpedia, such as `gpt2-small/9-att-kk`; None if it has none.
    """

    name: str
    layer: int
    site: FeatureSite
    architecture: str
    hook: str
    hook_out: str
    n_features: int
    active: int
    error_share: float
    explained: float
    neuronpedia: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """Blocks at another position, whose state a memory of the graph was made from.

    Attributes:
        position: The position, counted from 0.
        hops: Smallest number of memories that lead back to it from the graph's own position.
        layers: The blocks shown whole, ascending from the graph's first. Of the block after them,
            only the state that its attention read is shown.
        hidden: By block, how much pruning left out.
        residual_error: By block, the largest relative error of the conservation laws.
    """

    position: int
    hops: int
    layers: tuple[int, ...]
    hidden: Mapping[int, Hidden]
    residual_error: Mapping[int, float]
