"""Options of a patching sweep, checked against the model and against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from visit_tl.arguments.several import integers
from visit_tl.arguments.vocabulary import MeanOver, Positions, PromptLike
from visit_tl.causal.metrics import Metric
from visit_tl.causal.patching.replacements import require_there
from visit_tl.errors import GraphError, InputError
from visit_tl.graph.container import GraphData, Nodes
from visit_tl.graph.ids import NodeId, node_ids
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

HOW: Final = ("resample", "mean", "zero")
DIRECTIONS: Final = ("noise", "denoise")
_STATES: Final = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True)
class Prompts:
    """The prompts of a sweep, tokenised, of equal length."""

    clean: Prompt
    corrupted: Prompt | None
    mean_over: tuple[Prompt, ...]

    @classmethod
    def read(
        cls,
        view: ModelView,
        clean: PromptLike,
        corrupted: PromptLike | None,
        mean_over: MeanOver | None,
        prepend_bos: bool | None,
        segments: Any = None,
    ) -> Prompts:
        """Tokenise the prompts; all get the segments of the clean one.

        Raises:
            InputError: their lengths differ.
        """
        first = view.encode(clean, prepend_bos, segments)

        def encode(text: PromptLike) -> Prompt:
            return view.encode_beside(first, text, prepend_bos)

        other = None if corrupted is None else encode(corrupted)
        means = tuple(encode(text) for text in mean_over or ())
        n = len(first.ids)
        named = [("corrupted", other), *((f"mean_over[{i}]", p) for i, p in enumerate(means))]
        for name, prompt in named:
            if prompt is not None and len(prompt.ids) != n:
                raise InputError(
                    f"{name} has {len(prompt.ids)} tokens but the prompt has {n}, so their "
                    f"positions do not match: {_split(view, prompt)} against {_split(view, first)}"
                )
        return cls(first, other, means)


@dataclass(frozen=True)
class Asked:
    """How nodes are patched."""

    how: str
    direction: str
    positions: tuple[int, ...]
    screen: str | None
    top: int
    metric: Metric

    def check(self, prompts: Prompts) -> None:
        """Check that the options are known and go together.

        Raises:
            InputError: an option is unknown, or two do not go together.
        """
        for name, value, known in (
            ("how", self.how, HOW),
            ("direction", self.direction, DIRECTIONS),
            ("screen", self.screen, (None, "attribution")),
        ):
            if value not in known:
                raise InputError(
                    f"{name}={value!r} is not known; choose {', '.join(map(repr, known))}"
                )
        resample = self.how == "resample"
        if prompts.corrupted is None and (resample or self.direction == "denoise"):
            raise InputError(
                "resample takes activations from a corrupted prompt; pass corrupted=..., or choose "
                "how='mean' or how='zero'"
            )
        if self.direction == "denoise" and not resample:
            raise InputError(
                f"denoise puts clean activations back, so it needs how='resample', not {self.how!r}"
            )
        if (self.how == "mean") != bool(prompts.mean_over):
            raise InputError(
                "how='mean' and mean_over=[prompts of as many tokens] go together; one is missing"
            )


def chosen_nodes(view: ModelView, nodes: Nodes | None, prompt: Prompt) -> tuple[NodeId, ...]:
    """The chosen nodes, without duplicates, checked to be in the model.

    Raises:
        InputError: there are none, one is not in the model, or a graph is of another prompt.
    """
    if nodes is None or (isinstance(nodes, str) and nodes == "heads"):
        attend = [layer for layer, parts in enumerate(view.parts) if parts.attention]
        if not attend:
            view.require_attention("patching heads")
        grid = [(layer, head) for layer in attend for head in range(view.n_heads)]
        return tuple(NodeId("head", layer, head) for layer, head in grid)
    if isinstance(nodes, GraphData):
        if nodes.token_ids != prompt.ids:
            raise InputError(
                f"the graph is of {len(nodes.token_ids)} tokens, {nodes.prompt!r}, but the prompt "
                f"has {len(prompt.ids)} other tokens; pass the graph's own prompt (its token_ids)"
            )
        chosen = [node.id for node in nodes]
    elif isinstance(nodes, str) and nodes in _STATES:
        chosen = [NodeId(nodes, layer) for layer in range(view.n_layers)]  # type: ignore[arg-type]
    elif isinstance(nodes, str):
        chosen = [_named(nodes)]
    else:
        chosen = [NodeId.parse(node) for node in node_ids(nodes)]
    if not chosen:
        raise InputError("no nodes were chosen; nodes=None is every head")
    for node in chosen:
        require_there(view, node, len(prompt.ids))
    return tuple(dict.fromkeys(chosen))


def chosen_positions(
    view: ModelView, nodes: Nodes | None, positions: Positions | None, prompt: Prompt
) -> tuple[int, ...]:
    """The positions at which nodes are patched, ascending.

    Raises:
        InputError: there are none, or one is outside the prompt.
    """
    n = len(prompt.ids)
    if positions is None:
        return (nodes.position if isinstance(nodes, GraphData) else n - 1,)
    if positions == "all":
        return tuple(range(n))
    chosen = integers(positions)
    if not chosen:
        raise InputError("no positions were chosen; positions=None is the graph's, or the last")
    return tuple(sorted({view.check_position(position, n) for position in chosen}))


def _named(name: str) -> NodeId:
    """Read one node id."""
    try:
        return NodeId.parse(name)
    except GraphError:
        raise InputError(
            f"nodes={name!r} is not known; choose 'heads', {', '.join(map(repr, _STATES))}, ids "
            f"such as ['L9H6'], or a graph"
        ) from None


def _split(view: ModelView, prompt: Prompt) -> str:
    return "|".join(view.tokens.text(i) for i in prompt.ids)
