"""change_hooks: several changes of one run, as hooks for a patched graph.

`effects` measures one change at a time; this makes them all act in one run. The changes are made in
the order of the forward pass, each on the run as the earlier ones left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Any, Final

import torch
from einops import einsum
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.plain import plain
from visit_tl.arguments.vocabulary import (
    Flag,
    MeanOver,
    Model,
    Position,
    PromptLike,
    SegmentsLike,
)
from visit_tl.arguments.words import short
from visit_tl.causal.patching import replacements
from visit_tl.causal.patching.expert_patches import add_expert_values
from visit_tl.causal.patching.options import Prompts
from visit_tl.causal.patching.replacements import Patcher, Unpatchable, require_there
from visit_tl.errors import GraphError, InputError, ModelError
from visit_tl.graph.ids import FEATURE_KINDS, Kind, NodeId
from visit_tl.model.hooks import hook_names
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

Changes = Annotated[Any, Unchecked("change_hooks says what it takes, and what is wrong with it")]
Hooks = list[tuple[str, Callable[[Tensor, Any], Tensor]]]

REPLACED: Final = ("zero", "mean", "resample")
LOOKS: Final = ("look away", "look only")
_WORDS: Final = "'zero', 'mean', 'resample', 'look away', 'look only' or a factor such as 0.5"

_ORDER: Final[dict[Kind, int]] = {
    "resid_pre": 0,
    **dict.fromkeys(("query", "head_query"), 1),
    **dict.fromkeys(("key", "value"), 2),
    **dict.fromkeys(("head", "z", "attn_neuron"), 3),
    # What takes the place of attention, or is beside it, reads what attention reads.
    **dict.fromkeys(("attn_out", "opaque"), 4),
    "resid_mid": 5,
    **dict.fromkeys(("neuron", "expert"), 6),
    "mlp_out": 7,
    "resid_post": 8,
}
"""In which order the nodes of a block are computed."""


_LEFT_OUT: Final[dict[Kind, str]] = {
    **replacements.LEFT_OUT,
    **dict.fromkeys(FEATURE_KINDS, "what it does is measured by effects, with saes="),
}


@dataclass(frozen=True)
class _Change:
    """One change: a node with its position, and what is done to it."""

    node: NodeId
    position: int
    how: str | float

    @property
    def place(self) -> tuple[int, int]:
        return self.node.layer or 0, _ORDER[self.node.kind]


@checked
def change_hooks(
    model: Model,
    prompt: PromptLike,
    changes: Changes,
    *,
    position: Position = -1,
    corrupted: PromptLike | None = None,
    mean_over: MeanOver | None = None,
    prepend_bos: Flag | None = None,
    segments: SegmentsLike | None = None,
) -> Hooks:
    """Make hooks that change several nodes of one run, for `flow_graph` and `run_with_hooks`.

        hooks = vt.causal.change_hooks(model, prompt, [("L9H6", "zero"), ("L8H2.v3", 0.5)])
        vt.flow_graph(model, prompt, fwd_hooks=hooks)

    The values that the hooks write are of runs of this prompt, so they are for this prompt only.
    The changes are made in the order of the forward pass, each on the run as those before it left
    it. A single change does what `effects` measures (docs/maths.md, "Causes").

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        changes: Pairs of a node and what is done to it: `zero`; `mean` over `mean_over` at the same
            position; `resample`, the activation of `corrupted`; or a number by which the node's own
            value is multiplied. For a memory value such as `L9H6.v3`, also `look away`: its
            attention becomes 0 and the others of the head grow so that they sum to 1 again; and
            `look only`: all of the head's attention goes there.
        position: Where nodes are changed whose ids have no position.
        corrupted: For `resample`, a prompt of as many tokens.
        mean_over: For `mean`, prompts of as many tokens.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`; the other prompts run under the same mask.

    Returns:
        Pairs of a hook's name and a function, in the order of the forward pass.

    Raises:
        InputError: a node that is not there or cannot be changed, a change that is not known or is
            given twice, an expert together with a neuron inside it, or prompts that are missing or
            of another length.
        ModelError: the model's heads are not sums of memories, so one cannot be changed alone.
    """
    view = ModelView(model)
    prompts = Prompts.read(view, prompt, corrupted, mean_over, prepend_bos, segments)
    n = len(prompts.clean.ids)
    asked = _read(view, changes, view.check_position(position, n), n)
    for how, given in (("resample", prompts.corrupted), ("mean", prompts.mean_over)):
        if not given and any(change.how == how for change in asked):
            word = "corrupted" if how == "resample" else "mean_over"
            raise InputError(f"{how!r} takes activations from other prompts; pass {word}=...")
    hooks: Hooks = []
    for _, group in groupby(sorted(asked, key=lambda one: one.place), key=lambda one: one.place):
        hooks += _Step(view, prompts, list(group), hooks).hooks()
    return hooks


def _read(view: ModelView, changes: Any, position: int, n_tokens: int) -> list[_Change]:
    """The changes, checked."""
    words = f"changes are pairs of a node and {_WORDS}, such as [('L9H6', 'zero')]"
    if isinstance(changes, str | bytes) or not isinstance(changes, Sequence):
        raise InputError(f"{words}, got {short(changes)}")
    found: list[_Change] = []
    for one in changes:
        if not isinstance(one, list | tuple) or len(one) != 2:
            raise InputError(f"{words}, got {short(one)}")
        change = _one(view, one[0], one[1], position, n_tokens)
        if any((c.node, c.position) == (change.node, change.position) for c in found):
            raise InputError(f"{change.node} is changed twice; say one of the two")
        found.append(change)
    return found


def _one(view: ModelView, node: Any, how: Any, position: int, n_tokens: int) -> _Change:
    try:
        name = NodeId.parse(node)
    except (GraphError, TypeError, AttributeError) as error:
        raise InputError(f"{short(node)} is no node; ids are such as 'L9H6'") from error
    require_there(view, name, n_tokens)
    if name.kind not in _ORDER:
        raise InputError(f"{name} cannot be changed: {_LEFT_OUT[name.kind]}")
    how = plain(how)
    if isinstance(how, str):
        if how not in (*REPLACED, *LOOKS):
            raise InputError(f"{how!r} is no change of {name}; changes are {_WORDS}")
        if how in LOOKS and name.kind != "value":
            raise InputError(f"{how!r} is for a memory value such as L9H6.v3, not for {name}")
    elif isinstance(how, bool) or not isinstance(how, int | float) or not abs(how) < 1e30:
        raise InputError(f"{short(how)} is no change of {name}; changes are {_WORDS}")
    at = position if name.position is None else name.position
    return _Change(name.at(None), at, how if isinstance(how, str) else float(how))


class _Step:
    """Changes of nodes that are computed at the same time, on the run as it was left so far."""

    def __init__(
        self, view: ModelView, prompts: Prompts, changes: list[_Change], before: Hooks
    ) -> None:
        self.view, self.changes = view, changes
        self.layer = changes[0].node.layer or 0
        nodes = [change.node for change in changes]
        keep = replacements.needed(view, nodes)
        if any(node.expert is not None for node in nodes):
            keep[f"blocks.{self.layer}.mlp.hook_out"] = "row"
        rows = sorted({change.position for change in changes})

        def kept(prompt: Prompt) -> KeptRun:
            run = KeptRun(view, prompt, keep, rows)
            add_expert_values(run, nodes)
            return run

        with view.model.hooks(fwd_hooks=before) if before else nullcontext():
            self.base = kept(prompts.clean)
        wanted = {change.how for change in changes}
        others: dict[str, Any] = {"zero": None}
        if "resample" in wanted and prompts.corrupted is not None:
            others["resample"] = kept(prompts.corrupted).kept
        if "mean" in wanted:
            others["mean"] = replacements.mean_of(kept(p).kept for p in prompts.mean_over)
        self.patchers = {how: Patcher(self.base, other) for how, other in others.items()}

    def hooks(self) -> Hooks:
        """The hooks of this step."""
        memories = [change for change in self.changes if change.node.kind == "value"]
        keys = [change for change in self.changes if change.node.kind == "key"]
        heads = [(c.node.head, c.position) for c in (*memories, *keys)]
        if keys and len(set(heads)) < len(heads):
            raise InputError(
                f"{keys[0].node} and another memory of the same head cannot be changed together"
            )
        self._require_apart()
        rest = [change for change in self.changes if change not in memories]
        writes = self._set([write for change in rest for write in self._of(change)])
        for head, position in dict.fromkeys((c.node.head or 0, c.position) for c in memories):
            own = [c for c in memories if (c.node.head, c.position) == (head, position)]
            writes.append(self._memories(head, position, own))
        return [(write.hook, _writer(write)) for write in writes]

    def _of(self, change: _Change) -> Iterable[Write]:
        """The writes of one change that is not of a memory value."""
        scaled = not isinstance(change.how, str)
        patcher = self.patchers["zero" if scaled else str(change.how)]
        try:
            for write in patcher.writes(change.node, [change.position]):
                value = write.value
                if scaled:
                    gone = patcher.change(write)
                    value = write.value - float(change.how) * gone
                yield replace(write, value=value)
        except Unpatchable as reason:
            raise InputError(f"{change.node} cannot be changed: {reason}") from None

    def _require_apart(self) -> None:
        """Refuse an expert and a neuron inside it together: the change of the one holds the other.

        Raises:
            InputError: there are such.
        """
        whole = {(c.node.expert, c.position) for c in self.changes if c.node.kind == "expert"}
        for change in self.changes:
            inside = change.node.kind == "neuron" and change.node.expert is not None
            if inside and (change.node.expert, change.position) in whole:
                expert = NodeId("expert", self.layer, expert=change.node.expert)
                raise InputError(
                    f"{change.node} and its expert {expert} cannot be changed together; say one"
                )

    def _set(self, writes: Iterable[Write]) -> list[Write]:
        """The same writes, with what is added to one place summed and set: hooks may fire twice."""
        found: list[Write] = []
        added: dict[tuple[str, int], Tensor] = {}
        for write in writes:
            if not write.add:
                found.append(write)
                continue
            place = write.hook, write.position
            value = write.value.to(self.view.W_U.device)
            added[place] = added[place] + value if place in added else value
        for (hook, position), value in added.items():
            row = self.base.row(hook, position)
            found.append(Write(hook, (position,), row + value.to(row.device)))
        return found

    def _memories(self, head: int, position: int, changes: list[_Change]) -> Write:
        """The write of a head's z, a sum over keys of attention x value, with some changed."""
        names = hook_names(self.view, self.layer)
        if "values" not in names:
            # Patching it as `effects` does says why it cannot be.
            list(self._of(replace(changes[0], how="zero")))
        values = self.base.kept[names["values"]]
        kv = int(self.view.kv_head(values.shape[1])[head])
        weights = self.base.row(names["pattern"], position)[head].clone()
        mine = values[:, kv].clone()
        if not self.patchers["zero"].sums(self.layer):
            raise ModelError(
                f"the heads of {self.view.name} are not the sums of their memories, so a memory "
                f"cannot be changed alone; change the head"
            )
        z = self.base.row(names["z"], position)[head]
        before = einsum(weights, mine, "pos, pos d_head -> d_head")
        away: list[int] = []
        for change in changes:
            key = change.node.key_position or 0
            if change.how == "look away":
                away.append(key)
            elif change.how == "look only":
                weights = torch.zeros_like(weights)
                weights[key] = 1.0
            elif isinstance(change.how, str):
                other = self.patchers[change.how].other
                new = None if other is None else other[names["values"]][key, kv]
                mine[key] = torch.zeros_like(mine[key]) if new is None else new
            else:
                mine[key] *= float(change.how)
        if away:
            weights[away] = 0.0
            if not float(left := weights.sum()) > 0:
                raise InputError(f"L{self.layer}H{head} would look at nothing; leave it a key")
            weights = weights / left
        after = einsum(weights, mine, "pos, pos d_head -> d_head")
        return Write(names["z"], (position, head), z + after - before)


def _writer(write: Write) -> Callable[[Tensor, Any], Tensor]:
    """A hook function. What it writes does not depend on what is there: it may be called twice."""

    def change(tensor: Tensor, hook: Any) -> Tensor:
        tensor = tensor.clone()
        at = (slice(None), *write.index)
        tensor[at] = write.value.to(tensor.device, tensor.dtype)
        return tensor

    return change
