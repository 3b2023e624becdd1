"""A picture in stages: the states at once, then the heads, then the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.calls import flow_graph
from visit_tl.causal.patching.change_hooks import change_hooks
from visit_tl.errors import InputError
from visit_tl.escaping import visible
from visit_tl.explorer import limits
from visit_tl.explorer.requests import Request
from visit_tl.explorer.spans import spans
from visit_tl.flow import FlowGraph
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Hook
from visit_tl.model.hooks import FwdHooks, keeper
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.xray.node_reader import Reader
from visit_tl.xray.unread_nodes import Draft

FEW: Final[dict[str, Any]] = {"heads": 3, "values": 1, "neurons": 0}
"""The budget of the second stage."""

_POSITIONS: Final = 16
"""Positions whose states are read in the first stage; the last ones that the query sees."""

_TOP: Final = 10
"""Tokens of the prediction."""


@dataclass(frozen=True)
class Run:
    """A request, read with its model: everything that the calls take.

    Attributes:
        view: The model.
        prompt: The tokens.
        position: The query position, from 0.
        target: The id of the token to follow; None is the run's own prediction.
        layers: The blocks.
        expand: Steps that memories are followed back.
        hooks: What changes the run.
    """

    view: ModelView
    prompt: Prompt
    position: int
    target: int | None
    layers: tuple[int, ...]
    expand: int
    hooks: FwdHooks

    @classmethod
    def of(cls, view: ModelView, asked: Request, target: int | None = None) -> Run:
        """Read a request.

        Args:
            view: The model.
            asked: The request.
            target: The token to follow if the request names none.

        Raises:
            InputError: something in it does not fit the model.
        """
        prompt = view.encode(prompt_text(view, asked), bos(asked), spans(asked.segments))
        require_size(view, prompt)
        own = view.tokens.single(asked.target) if asked.target else target
        hooks: FwdHooks = ()
        position = view.check_position(asked.position, len(prompt.ids))
        if asked.changes:
            hooks = change_hooks(view.model, list(prompt.ids), **change_options(view, asked))
        return cls(view, prompt, position, own, blocks(view, asked), asked.expand, hooks)

    def graph(self, **budget: Any) -> FlowGraph:
        """The graph, in this budget; None of a number is the usual one."""
        return flow_graph(
            self.view.model,
            list(self.prompt.ids),
            target=self.target,
            position=self.position,
            expand=self.expand,
            fwd_hooks=self.hooks,
            segments=self.prompt.segments,
            layers=self.layers,
            **budget,
        )

    def logits(self) -> Tensor:
        """The logits of the run at the query position: `[d_vocab]`."""
        ids = torch.tensor([self.prompt.ids], device=self.view.W_U.device)
        logits = self.view.run(ids, self.hooks, self.prompt.segments)
        return logits[0, self.position].float()


def prompt_text(view: ModelView, asked: Request, text: str | None = None) -> str:
    """The text that goes through the model: with the chat template around it, if asked for.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    text = asked.prompt if text is None else text
    if not asked.chat:
        return text
    tokenizer: Any = getattr(view.model, "tokenizer", None)
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"{view.name} has no chat template; leave chat out")
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def bos(asked: Request) -> bool | None:
    """Whether a BOS goes before the text; a chat template writes its own."""
    return False if asked.chat else asked.bos


def blocks(view: ModelView, asked: Request) -> tuple[int, ...]:
    """The blocks of a request, ascending; both ends are checked before any range is made of them.

    Raises:
        InputError: a block does not exist, or the first is after the last.
    """
    if asked.layers is None:
        return view.check_layers(None)
    first, last = asked.layers
    view.check_layers([first, last], gaps=True)
    if first > last:
        raise InputError(f"the first layer, {first}, is after the last, {last}")
    return tuple(range(first, last + 1))


def require_size(view: ModelView, prompt: Prompt) -> None:
    """Check that a prompt is not longer than the explorer takes.

    Raises:
        InputError: it is.
    """
    most = min(limits.TOKENS, view.n_ctx)
    if len(prompt.ids) > most:
        raise InputError(
            f"the prompt has {len(prompt.ids)} tokens and the explorer takes {most}; call "
            f"vt.flow_graph for longer ones"
        )


def change_options(view: ModelView, asked: Request) -> dict[str, Any]:
    """The arguments of `change_hooks` but for model and prompt."""
    others = [
        list(view.tokens.encode(prompt_text(view, asked, other), bos(asked)).ids)
        for other in asked.others
    ]
    hows = {change.how for change in asked.changes}
    return {
        "changes": [change.pair for change in asked.changes],
        "position": asked.position,
        "corrupted": others[0] if others and "resample" in hows else None,
        "mean_over": others if "mean" in hows else None,
        "segments": spans(asked.segments),
    }


def states(run: Run) -> dict[str, Any]:
    """The residual stream at the last positions as words, and the prediction, from one run."""
    view, prompt = run.view, run.prompt
    end = prompt.seen_until(run.position)
    at = list(range(max(0, end - _POSITIONS), end))
    if run.position not in at:
        at = [run.position, *at[1:]]
    rows = (NodeId("resid_pre", run.layers[0]), *(NodeId("resid_post", i) for i in run.layers))
    hooks = {row: f"blocks.{row.layer}.hook_{row.kind}" for row in rows}
    kept: dict[str, Tensor] = {}
    ids = torch.tensor([prompt.ids], device=view.W_U.device)
    keepers = [(name, keeper(kept, name, "row", at)) for name in hooks.values()]
    logits = view.run(ids, [*run.hooks, *keepers], prompt.segments)[0, run.position].float()
    follow = int(logits.argmax()) if run.target is None else run.target
    draft = Draft()
    for row, name in hooks.items():
        where: list[dict[str, object]] = [{"hook": Hook(name, (0, i))} for i in at]
        draft.add([row.at(i) for i in at], kept[name], where)
    reader = Reader(view, 1)
    read = {node.id: node for node in reader.nodes([reader.read(draft, follow)])[0]}
    return {
        "positions": at,
        "rows": ["in" if row.kind == "resid_pre" else str(row.layer) for row in rows],
        "cells": [
            [[visible(n.label), n.rank, round(n.prob, 4)] for n in (read[row.at(i)] for i in at)]
            for row in rows
        ],
        **prediction(view, logits, follow),
    }


def prediction(view: ModelView, logits: Tensor, follow: int) -> dict[str, Any]:
    """The first tokens of a prediction, and how the followed token stands in it."""
    probs = logits.softmax(-1)
    top = probs.topk(min(_TOP, len(probs)))
    return {
        "vocabulary": view.d_vocab,
        "prediction": [
            [visible(view.tokens.text(i)), p]
            for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ],
        "target": visible(view.tokens.text(follow)),
        "target_text": view.tokens.text(follow),
        "target_id": follow,
        "prob": float(probs[follow]),
        "rank": int((probs > probs[follow]).sum()),
    }


def chips(view: ModelView, prompt: Prompt, most: int | None = None) -> list[dict[str, Any]]:
    """The tokens as the page shows them."""
    return [
        {"text": visible(view.tokens.text(token)), "bos": i == 0 and prompt.prepend_bos}
        for i, token in enumerate(prompt.ids[:most])
    ]


def stages(run: Run) -> Iterator[tuple[str, Any]]:
    """The stages of one run: `states`, `heads` and `whole`."""
    yield "states", states(run)
    yield "heads", run.graph(**FEW)
    yield "whole", run.graph()
