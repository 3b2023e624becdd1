"""The residual stream before and after every block, at every position, read as words."""

from __future__ import annotations

import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Count,
    Flag,
    Layers,
    Model,
    PromptLike,
    SegmentsLike,
    Token,
)
from visit_tl.errors import ModelError
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Hook
from visit_tl.graph.state_table import LensTable
from visit_tl.model.hooks import keeper
from visit_tl.model.standing_hooks import watched
from visit_tl.model.view import ModelView
from visit_tl.xray import conservation as conserve
from visit_tl.xray.node_reader import Reader
from visit_tl.xray.unread_nodes import Draft


@checked
def lens_table(
    model: Model,
    prompt: PromptLike,
    *,
    target: Token | None = None,
    layers: Layers | None = None,
    prepend_bos: Flag | None = None,
    k: Count = 5,
    segments: SegmentsLike | None = None,
) -> LensTable:
    """Read the residual stream before the first block and after each, at every position.

    Takes one forward pass and one call of the lens. The last row at the last position is the
    model's own prediction.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        target: The token to follow; None is the model's own prediction after the last token.
        layers: Consecutive blocks, one or several; None or `all` is all.
        prepend_bos: As for `flow_graph`.
        k: How many top and bottom tokens each cell keeps.
        segments: As for `flow_graph`.

    Raises:
        ModelError: the model has no residual stream that can be read.
        InputError: a prompt, target or layer that does not fit.
        DecompositionError: the lens of the last state is not the model's own prediction.
    """
    view = ModelView(model)
    tokens = view.encode(prompt, prepend_bos, segments)
    chosen = view.check_layers(layers)
    given = None if target is None else view.tokens.single(target)
    rows = (NodeId("resid_pre", chosen[0]), *(NodeId("resid_post", i) for i in chosen))
    hooks = {row: f"blocks.{row.layer}.hook_{row.kind}" for row in rows}
    kept: dict[str, Tensor] = {}
    ids = torch.tensor([tokens.ids], device=view.W_U.device)
    last = f"blocks.{view.n_layers - 1}.hook_resid_post"
    keepers = [(name, keeper(kept, name, "all", ())) for name in {*hooks.values(), last}]
    with watched(view.model) as changes:
        logits = view.run(ids, keepers, tokens.segments)
    if silent := [name for name, _ in keepers if name not in kept]:
        raise ModelError(
            f"the hook {silent[0]} of {view.name} did not fire in this forward pass, so its "
            f"residual stream cannot be read"
        )
    if not conserve.after_the_stream(changes.names):
        conserve.check_lens(view, logits[0, -1].float(), kept[last][-1].float())
    follow = int(logits[0, -1].argmax()) if given is None else given
    draft, n = Draft(), len(tokens.ids)
    for row, name in hooks.items():
        where: list[dict[str, object]] = [{"hook": Hook(name, (0, i))} for i in range(n)]
        draft.add([row.at(i) for i in range(n)], kept[name], where)
    reader = Reader(view, k)
    read = {node.id: node for node in reader.nodes([reader.read(draft, follow)])[0]}
    return LensTable(
        model=view.name,
        prompt=tokens.text,
        tokens=tuple(view.tokens.text(i) for i in tokens.ids),
        target=view.tokens.text(follow),
        target_given=given is not None,
        d_vocab=view.d_vocab,
        rows=rows,
        cells=tuple(tuple(read[row.at(i)] for i in range(n)) for row in rows),
        patched=tuple(changes.standing),
        segments=tokens.spans,
    )
