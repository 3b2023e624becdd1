"""Attention of chosen heads from every position: one run, drawn by CircuitsVis."""

from __future__ import annotations

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Model, PromptLike, SegmentsLike
from visit_tl.errors import InputError
from visit_tl.graph.descriptions import segments_words
from visit_tl.graph.ids import NodeId, NodeNames, node_ids
from visit_tl.model.attention_patterns import patterns
from visit_tl.model.standing_hooks import watched
from visit_tl.model.view import ModelView
from visit_tl.view.attention import AttentionView
from visit_tl.view.attention import attention as draw


@checked
def attention(
    model: Model,
    prompt: PromptLike,
    heads: NodeNames,
    *,
    prepend_bos: Flag | None = None,
    segments: SegmentsLike | None = None,
) -> AttentionView:
    """Draw the attention of some heads from every position, with CircuitsVis.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        heads: Ids of the heads, such as `L29H1` or `29.1`.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`.

    Returns:
        A view that draws itself in a notebook, and saves as one `.html` file.

    Raises:
        InputError: no heads were given, or one that the model does not have.
        GraphError: an id that cannot be read.
    """
    view = ModelView(model)
    tokens = view.encode(prompt, prepend_bos, segments)
    chosen: list[tuple[int, int]] = []
    for node in (NodeId.parse(head) for head in node_ids(heads)):
        layer, head = node.layer, node.head
        if layer is None or head is None or layer >= view.n_layers or head >= view.n_heads:
            raise InputError(
                f"{node} is no head of {view.name}, which has L0H0..L{view.n_layers - 1}"
                f"H{view.n_heads - 1}"
            )
        chosen.append((layer, head))
    if not chosen:
        raise InputError("no heads were given; name some, such as ['L9H6', 'L10H0']")
    view.require_attention("drawing attention", [layer for layer, _ in chosen])
    with watched(view.model) as changes:
        found = patterns(view, tokens, chosen)
    patched = f" (patched at {', '.join(changes.standing)})" if changes.standing else ""
    masked = f" (segments: {segments_words(tokens.spans)})" if tokens.spans else ""
    return draw(
        found.numpy(),
        [view.tokens.text(i) for i in tokens.ids],
        [str(NodeId("head", *pair)) for pair in chosen],
        title=f"{view.name}: {tokens.text}{masked}{patched}",
        segments=tokens.spans,
    )
