"""The values that replace a node's activation, and the writes that set them.

A node is patched where the model computes it: a head at its z, a neuron at its activation, a state
at its own hook. A memory value or key is patched for one head at one query position only; other
heads and queries keep the old one. The head's new z at that position is computed from the model's
own scores and values, or by running the block again, and is then written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from einops import einsum
from torch import Tensor

from visit_tl.causal.patching.expert_patches import expert_writes, require_expert
from visit_tl.causal.patching.feature_patches import FeaturePatches
from visit_tl.errors import InputError
from visit_tl.graph.ids import Kind, NodeId
from visit_tl.model.hooks import ROWS, hook_names
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative, tolerance

# The activations that patching a node of each kind needs, as slots of `hook_names`; the first one
# is patched.
SLOTS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "resid_pre": ("resid_pre",),
    "query": ("query",),
    "head_query": ("query",),
    "key": ("z", "keys", "values", "pattern"),
    "value": ("z", "values", "pattern"),
    "head": ("z",),
    "z": ("z",),
    "attn_neuron": ("z",),
    "attn_out": ("attn_out",),
    "opaque": ("opaque", "resid_pre", "resid_post"),
    "resid_mid": ("attn_out", "opaque", "resid_mid", "resid_pre"),
    "neuron": ("mlp_post",),
    "expert": ("mlp_in", "router"),
    "mlp_out": ("mlp_out",),
    "resid_post": ("resid_post",),
}

LEFT_OUT: Final[Mapping[Kind, str]] = {
    "attn_in": "it is a function of resid_pre alone; patch attn_out for what the attention adds",
    "mlp_in": "it is a function of the residual stream alone; patch mlp_out for what the MLP adds",
    "router": "its weights choose experts and scale what they add; patch the experts",
    "neuron_key": "it is a column of W_in, the same in every run; patch the neuron",
    "b_O": "a bias is the same in every run",
    "b_out": "a bias is the same in every run",
    "final_norm": "it is a function of the last resid_post alone; patch that",
    "logits": "the metric reads it",
}


class Unpatchable(Exception):  # noqa: N818 - not an error: `effects` lists it in `left_out`
    """Why one node cannot be patched in this model."""


def needed(view: ModelView, nodes: Iterable[NodeId]) -> dict[str, str]:
    """The hooks that patching these nodes needs, and which part of each to keep (see `KeptRun`)."""
    keep: dict[str, str] = {}
    kinds: set[tuple[int, Kind]] = {(_layer(node), node.kind) for node in nodes}
    for layer, kind in kinds:
        if kind not in SLOTS:
            continue
        names = hook_names(view, layer)
        slots = SLOTS[kind]
        if kind == "neuron" and view.parts[layer].mixture is not None:
            slots = SLOTS["expert"]
        keep |= {names[slot]: ROWS[slot] for slot in slots if slot in names}
    return dict(sorted(keep.items()))


def require_there(view: ModelView, node: NodeId, n_tokens: int) -> None:
    """Check that the indices of a node are within the model and the prompt.

    Raises:
        InputError: one is not; the message names it.
    """
    limits = {
        "layer": view.n_layers,
        "head": view.n_heads,
        "key_position": n_tokens,
        "position": n_tokens,
    }
    if node.kind == "attn_neuron":
        limits["neuron"] = view.z_width(_layer(node)) if _layer(node) < view.n_layers else 0
    if node.expert is not None:
        require_expert(view, node)
    for name, limit in limits.items():
        value = getattr(node, name)
        if value is not None and value >= limit:
            raise InputError(
                f"{node} is not in {view.name} with this prompt: its {name} is outside "
                f"0..{limit - 1}"
            )


class Patcher:
    """Makes the writes that patch nodes.

    Args:
        base: The run to patch, with the hooks of `needed` kept.
        other: The activations that replace those of the base, by hook, at the same positions; None
            is zeros.
        features: The SAEs and transcoders whose nodes are patched; None is none.
    """

    def __init__(
        self,
        base: KeptRun,
        other: Mapping[str, Tensor] | None,
        features: FeaturePatches | None = None,
    ) -> None:
        self.base, self.other, self.view, self.features = base, other, base.view, features
        self._names = {layer: hook_names(base.view, layer) for layer in range(base.view.n_layers)}
        self._scores: dict[int, tuple[Tensor, Tensor] | None] = {}
        self._summed: dict[int, bool] = {}

    def writes(self, node: NodeId, positions: Sequence[int]) -> list[Write]:
        """The writes that patch a node at these positions together.

        Raises:
            Unpatchable: this node cannot be patched in this model; the message says why.
            InputError: the node is not in the model.
        """
        if node.kind in LEFT_OUT:
            raise Unpatchable(LEFT_OUT[node.kind])
        if node.site is not None:
            if self.features is None or not self.features.known(node):
                raise Unpatchable("the SAE that it is of is not at hand; pass it in saes=")
            hook = self._hook(node, self._adds_to(node, node.site))
            return [self.features.write(node, hook, self.base, self.other, p) for p in positions]
        if node.expert is not None:
            return expert_writes(self.base, self.other, node, positions)
        if node.kind in ("key", "value"):
            return [self._memory(node, position) for position in positions]
        if node.kind == "opaque" and "opaque" not in self._names[_layer(node)]:
            return [self._whole_block(node, position) for position in positions]
        if node.kind == "resid_mid":
            return [self._resid_mid(node, position) for position in positions]
        hook = self._hook(node, SLOTS[node.kind][0])
        inner = self._inner(node)
        if node.kind == "neuron" and inner[0] >= (d_mlp := self.base.kept[hook].shape[-1]):
            raise InputError(
                f"{node} is not in {self.view.name}: its neuron is outside 0..{d_mlp - 1}"
            )
        return [
            Write(hook, (p, *inner), self._other_row(hook, p)[inner].clone()) for p in positions
        ]

    def change(self, write: Write) -> Tensor:
        """The change that a write makes to the value in the base run."""
        if write.add:
            return write.value
        own = self.base.row(write.hook, write.position)[write.index[1:]]
        return write.value.to(own.device) - own

    # --- hooks and indices ---------------------------------------------------------------------

    def _hook(self, node: NodeId, slot: str) -> str:
        names = self._names[_layer(node)]
        if slot not in names:
            if f"latent_{slot}" in names:
                raise Unpatchable(
                    f"the latent attention of block {node.layer} of {self.view.name} makes {slot} "
                    f"from a compressed state; its heads can be patched"
                )
            words = self.view.parts[_layer(node)].opaque_words if slot == "opaque" else None
            raise Unpatchable(
                f"block {node.layer} of {self.view.name} has no {slot}"
                if words is None
                else f"no hook holds what it adds: {words}"
            )
        return names[slot]

    def _inner(self, node: NodeId) -> tuple[Any, ...]:
        """Index of the node within the activation at one position."""
        if node.kind == "attn_neuron" and node.neuron is not None:
            return divmod(node.neuron, self.view.d_head)
        if node.kind == "head" and node.head is not None:
            return self.view.head_index(_layer(node), node.head)
        if node.kind == "head_query" and node.head is not None:
            return (node.head,)
        return () if node.neuron is None else (node.neuron,)

    # --- values --------------------------------------------------------------------------------

    def _other_row(self, hook: str, position: int) -> Tensor:
        own = self.base.row(hook, position)
        if self.other is None:
            return torch.zeros_like(own)
        return self.other[hook][self.base.positions.index(position)]

    def _other_all(self, hook: str) -> Tensor:
        own = self.base.kept[hook]
        return torch.zeros_like(own) if self.other is None else self.other[hook]

    def _resid_mid(self, node: NodeId, position: int) -> Write:
        # The hook is set and not added to: rounding would turn zeros into small numbers, which ln2
        # would amplify.
        names, mid = self._names[_layer(node)], self._hook(node, "resid_mid")
        out = self._hook(node, self._adds_to(node, "resid_mid"))
        before = self.base.row(self._hook(node, "resid_pre"), position)
        if "attn_out" in names and self.view.parts[_layer(node)].opaque is not None:
            before = before + self.base.row(self._hook(node, "opaque"), position)
        return Write(out, (position,), self._other_row(mid, position) - before)

    def _adds_to(self, node: NodeId, slot: str) -> str:
        """The slot whose hook is changed in order to change this one.

        In a TransformerBridge, hook_resid_mid is only what ln2 reads; the residual connection past
        it would keep the old value. So what was added last is changed.
        """
        if slot != "resid_mid":
            return slot
        return "attn_out" if "attn_out" in self._names[_layer(node)] else "opaque"

    def _whole_block(self, node: NodeId, position: int) -> Write:
        """The write of a block that is one opaque part without a hook: what leaves it changes."""
        if self.view.parts[_layer(node)].between:
            self._hook(node, "opaque")  # says why there is none
        pre, post = self._hook(node, "resid_pre"), self._hook(node, "resid_post")
        own = self.base.row(post, position) - self.base.row(pre, position)
        new = self._other_row(post, position) - self._other_row(pre, position)
        return Write(post, (position,), new - own, add=True)

    def _memory(self, node: NodeId, position: int) -> Write:
        """The write of a head's z with one memory value or key replaced."""
        layer, head, key = _layer(node), node.head or 0, node.key_position or 0
        z, values = self._hook(node, "z"), self._hook(node, "values")
        own_z = self.base.row(z, position)[head]
        own = self.base.kept[values]
        kv = int(self.view.kv_head(own.shape[1])[head])
        pattern = self.base.row(self._hook(node, "pattern"), position)[head]
        replaced = pattern if node.kind == "value" else self._pattern(node, position, pattern)
        if replaced is None or not self.sums(layer):
            return Write(z, (position, head), self._run_again(node, kv)[position, head])
        if node.kind == "value":
            delta = pattern[key] * (self._other_all(values)[key, kv] - own[key, kv])
        else:
            delta = (replaced - pattern) @ own[:, kv]
        return Write(z, (position, head), own_z + delta)

    def _pattern(self, node: NodeId, position: int, pattern: Tensor) -> Tensor | None:
        """The head's pattern with the score of one key replaced; None if its scores are unknown."""
        layer, head, key = _layer(node), node.head or 0, node.key_position or 0
        if layer not in self._scores:
            self._scores[layer] = self._read_scores(node)
        found = self._scores[layer]
        if found is None:
            return None
        own, other = found
        scores = own[head, position].double()
        if relative(scores.softmax(-1).float(), pattern) > tolerance(self.view):
            return None
        scores = scores.clone()
        scores[key] = other[head, position, key]
        return scores.softmax(-1).float()

    def _read_scores(self, node: NodeId) -> tuple[Tensor, Tensor] | None:
        """Attention scores of a block, unpatched and with every key replaced: `[head, query, key]`.

        None if the hook does not fire. Where another library computes the attention, the hook may
        hold the pattern instead of the scores.
        """
        hook = f"blocks.{node.layer}.attn.hook_attn_scores"
        if not self.view.has_hook(hook):
            return None
        keys = self._hook(node, "keys")
        write = Write(keys, (slice(None),), self._other_all(keys))
        own = self.base.block(_layer(node), [], [hook]).get(hook)
        other = self.base.block(_layer(node), [write], [hook]).get(hook)
        return None if own is None or other is None else (own, other)

    def _run_again(self, node: NodeId, kv: int) -> Tensor:
        """All heads' z when the block runs again with one key or value replaced for all queries."""
        key, z = node.key_position or 0, self._hook(node, "z")
        hook = self._hook(node, "values" if node.kind == "value" else "keys")
        write = Write(hook, (key, kv), self._other_all(hook)[key, kv])
        return self.base.block(_layer(node), [write], [z])[z]

    def sums(self, layer: int) -> bool:
        """Whether each z is the attention-weighted sum of values; output gates break this."""
        if layer not in self._summed:
            names = self._names[layer]
            values = self.base.kept[names["values"]]
            each = values[:, self.view.kv_head(values.shape[1]).to(values.device)]
            self._summed[layer] = all(
                relative(
                    einsum(
                        self.base.row(names["pattern"], position),
                        each,
                        "head pos, pos head d_head -> head d_head",
                    ),
                    self.base.row(names["z"], position),
                )
                <= tolerance(self.view)
                for position in self.base.positions
            )
        return self._summed[layer]


def mean_of(
    runs: Iterable[Mapping[str, Tensor]], each: Callable[[], None] = lambda: None
) -> dict[str, Tensor]:
    """The mean of kept activations over runs, with one run in memory at a time."""
    total: dict[str, Tensor] = {}
    n = 0
    for kept in runs:
        for name, tensor in kept.items():
            total[name] = tensor.clone() if name not in total else total[name] + tensor
        n += 1
        each()
    return {name: tensor / n for name, tensor in total.items()}


def _layer(node: NodeId) -> int:
    return 0 if node.layer is None else node.layer
