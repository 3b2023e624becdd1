"""One block at one position: the nodes it keeps, their vectors and edges (paper, Appendix A)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from visit_tl.graph.ids import Kind, NodeId, shared_id
from visit_tl.graph.records import Hidden, Hook, shared_hook
from visit_tl.model import components
from visit_tl.model.experts import ExpertsTrace
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.layer_weights import LayerWeights
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import budget as prune
from visit_tl.xray.conservation import check_layer
from visit_tl.xray.memories import Read
from visit_tl.xray.unread_nodes import Draft

_STATES: Final[tuple[Kind, ...]] = (
    "resid_pre",
    "attn_in",
    "attn_out",
    "opaque",
    "resid_mid",
    "mlp_in",
    "mlp_out",
    "resid_post",
)


@dataclass(frozen=True)
class Block:
    """One block at the position of a trace.

    Attributes:
        draft: Where nodes and edges go.
        view: The model.
        trace: What the model computed at the position.
        layer: Index of the block.
        budget: What to keep.
        at: The position in the node ids; None at the graph's own.
        reads: The memories that `add` kept, to be followed back to other positions.
    """

    draft: Draft
    view: ModelView
    trace: Trace
    layer: int
    budget: prune.Budget
    at: int | None
    reads: list[Read]

    @property
    def t(self) -> LayerTrace:
        """What the block computed."""
        return self.trace.layers[self.layer]

    @cached_property
    def w(self) -> LayerWeights:
        """Its weights, as the residual stream sees them."""
        return components.stream_weights(self.view, self.layer, self.t)

    def check(self) -> float:
        """The largest relative error of its conservation laws; see `conservation.check_layer`."""
        return check_layer(self.view, self.layer, self.t, self.w, self.trace.replaced)

    def add(self) -> Hidden:
        """Add the nodes and edges of the block (A.1 to A.3); return how many nodes pruning hid."""
        attends = self.view.parts[self.layer].attention
        for kind in _STATES:
            if attends or kind not in ("attn_in", "attn_out"):
                self.state(kind)
        heads = values = attn_neurons = neurons = 0
        if attends:
            heads, values = self._attention()
            attn_neurons = self._attn_neurons()
            self._link("resid_pre", "attn_in", "flow", self.t.resid_pre)
            self._link("attn_in", "query", "flow", self.t.attn_in)
        if self.t.mlp_in is not None:
            before: Kind = "resid_pre" if self.t.resid_mid is None else "resid_mid"
            self._link(before, "mlp_in", "flow", getattr(self.t, before))
        if self.t.mlp_post is not None:
            neurons = self._mlp()
        elif (experts := components.stream_experts(self.view, self.layer, self.t)) is not None:
            neurons = self._experts(experts)
        elif self.t.mlp_out is not None and self.t.mlp_in is not None:
            self._link("mlp_in", "mlp_out", "flow", self.t.mlp_in)
        self._sums()
        return Hidden(heads=heads, values=values, attn_neurons=attn_neurons, neurons=neurons)

    def entry(self) -> None:
        """Add only the state that enters the block, and the one that its attention reads."""
        self.state("resid_pre")
        assert self.view.parts[self.layer].attention  # only memories lead here
        self.state("attn_in")
        self._link("resid_pre", "attn_in", "flow", self.t.resid_pre)

    def state(self, kind: Kind) -> None:
        """Add a state or the output of a sub-block, if the block has it."""
        vector = getattr(self.t, kind)
        if vector is None:
            return
        facts: dict[str, object] = {"hook": self._hook(kind)}
        parts = self.view.parts[self.layer]
        closed = {"opaque": parts.opaque_words, "mlp_out": parts.mlp_words}
        if (words := closed.get(kind)) is not None:
            facts["unopened"] = words
        self.draft.add([self.id(kind)], vector[None], [facts])

    def id(
        self,
        kind: Kind,
        *,
        head: int | None = None,
        key_position: int | None = None,
        neuron: int | None = None,
        expert: int | None = None,
    ) -> NodeId:
        """The id of one of the block's nodes."""
        return shared_id(kind, self.layer, head, key_position, neuron, self.at, expert)

    def _hook(self, slot: str, *index: int) -> Hook | None:
        """The place of a slot in the model; None where it is known by difference alone."""
        if slot not in self.t.hooks:
            return None
        at = (self.trace.position, *index)
        if slot == "z" and len(index) == 1 and self.t.z.shape[-1] != self.view.d_head:
            return None  # one head is no row of what the hook shows
        if self.t.latent is not None and slot == "query":
            if not index:
                return None  # shown by head first, so all heads of a position are not one row
            at = (*index, self.trace.position)
        return shared_hook(self.t.hooks[slot], (0, *at))

    def _link(self, source: Kind, target: Kind, kind: str, vector: Tensor) -> None:
        ends = self.id(source), self.id(target)
        self.draft.link(*ends, kind, float(vector.norm()))  # type: ignore[arg-type]

    def _sums(self) -> None:
        """Add the edges of the residual stream: each term of a sum, scored by its norm."""
        t = self.t
        parts: list[tuple[Kind, Tensor]] = [("resid_pre", t.resid_pre)]
        if self.view.parts[self.layer].attention:
            parts.append(("attn_out", t.attn_out))
        if t.opaque is not None:
            self._link("resid_pre", "opaque", "flow", t.resid_pre)
            parts.append(("opaque", t.opaque))
        if t.resid_mid is not None:
            for kind, vector in parts:
                self._link(kind, "resid_mid", "sum", vector)
            parts = [("resid_mid", t.resid_mid)]
        if t.mlp_out is not None:
            parts.append(("mlp_out", t.mlp_out))
        for kind, vector in parts:
            self._link(kind, "resid_post", "sum", vector)

    def _attention(self) -> tuple[int, int]:
        """Add queries, memories and heads (A.1, 2-5); return how many heads, values are hidden."""
        t, w, draft = self.t, self.w, self.draft
        outputs = components.head_outputs(t.z, w.W_O)
        norms = components.row_norms(outputs)
        kept = prune.keep_heads(norms, self.budget)
        pattern = t.pattern[kept]
        rows, positions = prune.keep_values(pattern, self.budget)
        kv = self.view.kv_head(w.W_K.shape[0]).to(kept.device)
        queries = components.query_readings(t.query, w.W_K[kv], t.key_norm)
        z = outputs.sum(0)
        draft.one(self.id("query"), queries.sum(0), self._hook("query"))
        draft.one(self.id("z"), z, self._hook("z"))
        heads = kept.tolist()
        draft.add(
            [self.id("head_query", head=h) for h in heads],
            queries[kept],
            [{"hook": self._hook("query", h)} for h in heads],
        )
        draft.add(
            [self.id("head", head=h) for h in heads],
            outputs[kept],
            [
                {"hook": self._hook("z", h), "attention": tuple(row)}
                for h, row in zip(heads, pattern.tolist(), strict=True)
            ],
        )
        query_norms = components.row_norms(queries).tolist()
        for h in heads:
            ends = self.id("query"), self.id("head_query", head=h)
            draft.link(*ends, "flow", query_norms[h])
            draft.link(self.id("head", head=h), self.id("z"), "sum", float(norms[h]))
        self._memories(kept[rows], positions)
        alive = int((pattern > 0).sum())
        return self.view.n_heads - len(heads), alive - len(positions)

    def _memories(self, heads: Tensor, positions: Tensor) -> None:
        """Add the kept memory keys and values, one per (head, position), with their attention."""
        t, w, draft = self.t, self.w, self.draft
        key_kv = self.view.kv_head(t.keys.shape[1]).to(heads.device)[heads]
        value_kv = self.view.kv_head(t.values.shape[1]).to(heads.device)[heads]
        norm = t.query_norm
        norm = None if norm is None else replace(norm, gain=norm.gain[heads])
        keys = components.key_readings(t.keys[positions, key_kv], w.W_Q[heads], t.rotation, norm)
        own = components.through_heads_norm(t, t.values[positions, value_kv], heads)
        values = components.memory_values(own, w.W_O[heads])
        attention = t.pattern[heads, positions]
        pairs = list(zip(heads.tolist(), positions.tolist(), strict=True))
        stacks: list[tuple[Kind, str, Tensor, Tensor]] = [
            ("key", "keys", keys, key_kv),
            ("value", "values", values, value_kv),
        ]
        tokens = self.view.tokens
        for kind, slot, vectors, kv in stacks:
            draft.add(
                [self.id(kind, head=h, key_position=j) for h, j in pairs],
                vectors,
                [
                    {
                        "hook": shared_hook(
                            t.hooks[slot], (0, j, group) if t.latent is None else (0, group, j)
                        ),
                        "token": tokens.text(self.trace.prompt.ids[j]),
                        "coefficient": a,
                    }
                    for (_, j), group, a in zip(pairs, kv.tolist(), attention.tolist(), strict=True)
                ],
            )
        shares = attention * components.row_norms(values) / (t.resid_pre + t.attn_out).norm()
        for (h, j), a, share in zip(pairs, attention.tolist(), shares.tolist(), strict=True):
            query, head = self.id("head_query", head=h), self.id("head", head=h)
            memory = [self.id(kind, head=h, key_position=j) for kind in ("key", "value")]
            for source, target in zip((query, *memory), (*memory, head), strict=True):
                draft.link(source, target, "coefficient", a)
            self.reads.append(Read(self.layer, j, self.trace.position, share, *memory))

    def _attn_neurons(self) -> int:
        """Add kept rows of W_O and the output bias (A.1, 6); return how many rows are hidden."""
        t, w = self.t, self.w
        rows = components.attn_neurons(w.W_O)
        coefficients = t.z.flatten()
        norms = components.row_norms(rows)
        kept = prune.keep_neurons(coefficients, norms, self.budget)
        neurons, entries = kept.tolist(), coefficients[kept].tolist()
        self.draft.add(
            [self.id("attn_neuron", neuron=n) for n in neurons],
            rows[kept],
            [
                {"hook": self._hook("z", *divmod(n, self.view.d_head)), "coefficient": c}
                for n, c in zip(neurons, entries, strict=True)
            ],
        )
        for n, c, norm in zip(neurons, entries, norms[kept].tolist(), strict=True):
            row = self.id("attn_neuron", neuron=n)
            self.draft.link(self.id("z"), row, "coefficient", c)
            self.draft.link(row, self.id("attn_out"), "sum", abs(c) * norm)
        if not neurons:
            self._link("z", "attn_out", "sum", components.head_outputs(t.z, w.W_O).sum(0))
        self._bias("b_O", w.b_O, "attn_out")
        return int((coefficients != 0).sum()) - len(neurons)

    def _mlp(self) -> int:
        """Add kept MLP neurons, key and value, and the bias (A.2); return how many are hidden."""
        t, w, draft = self.t, self.w, self.draft
        assert t.mlp_post is not None and t.mlp_pre is not None and t.mlp_in is not None
        assert w.W_in is not None and w.W_out is not None
        norms = components.row_norms(w.W_out)
        kept = prune.keep_neurons(t.mlp_post, norms, self.budget)
        neurons, pre, post = kept.tolist(), t.mlp_pre[kept].tolist(), t.mlp_post[kept].tolist()
        stacks: list[tuple[Kind, Tensor, str, list[float]]] = [
            ("neuron_key", w.W_in[:, kept].T, "mlp_pre", pre),
            ("neuron", w.W_out[kept], "mlp_post", post),
        ]
        for kind, vectors, slot, numbers in stacks:
            draft.add(
                [self.id(kind, neuron=n) for n in neurons],
                vectors,
                [
                    {"hook": self._hook(slot, n), "coefficient": c}
                    for n, c in zip(neurons, numbers, strict=True)
                ],
            )
        sizes = norms[kept].tolist()
        for n, inner, activation, norm in zip(neurons, pre, post, sizes, strict=True):
            key, value = self.id("neuron_key", neuron=n), self.id("neuron", neuron=n)
            draft.link(self.id("mlp_in"), key, "coefficient", inner)
            draft.link(key, value, "coefficient", activation)
            draft.link(value, self.id("mlp_out"), "sum", abs(activation) * norm)
        if not neurons:
            self._link("mlp_in", "mlp_out", "flow", t.mlp_in)
        self._bias("b_out", w.b_out, "mlp_out")
        return int((t.mlp_post != 0).sum()) - len(neurons)

    def _experts(self, found: ExpertsTrace) -> int:
        """Add the router, its chosen experts and their kept neurons; return how many are hidden."""
        draft, t = self.draft, self.t
        assert t.mlp_in is not None
        if found.router is not None:
            draft.one(self.id("router"), found.router, self._hook("router"))
            self._link("mlp_in", "router", "flow", t.mlp_in)
        names = [self.id("expert", expert=e) for e in found.indices]
        outputs, weights = found.outputs, found.weights.tolist()
        facts = [
            {"hook": self._hook("router", e) if e >= 0 else None, "coefficient": weight}
            for e, weight in zip(found.indices, weights, strict=True)
        ]
        draft.add(names, outputs, facts)
        for name, weight, norm in zip(names, weights, components.row_norms(outputs), strict=True):
            if found.router is not None and (name.expert or 0) >= 0:
                draft.link(self.id("router"), name, "coefficient", weight)
            draft.link(name, self.id("mlp_out"), "sum", float(norm))
        shown = self._expert_neurons(found)
        for i, name in enumerate(names):
            if not len(shown[i]):
                draft.link(self.id("mlp_in"), name, "flow", float(t.mlp_in.norm()))
            bias = found.b_out[i]
            if bias is not None:
                own = self.id("b_out", expert=name.expert)
                draft.one(own, bias, None)
                draft.link(own, name, "sum", float(bias.norm()))
        self._bias("b_out", components.experts_bias(self.view, self.layer, t), "mlp_out")
        alive = sum(int((post != 0).sum()) for post in found.post)
        return alive - sum(map(len, shown))

    def _expert_neurons(self, found: ExpertsTrace) -> list[Tensor]:
        """Add the kept neurons of all experts; return the indices of those of each expert."""
        norms = [components.row_norms(W) for W in found.W_out]
        sizes = [len(post) for post in found.post]
        kept = prune.keep_neurons(torch.cat(found.post), torch.cat(norms), self.budget)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        shown = [
            kept[(kept >= start) & (kept < start + size)] - start
            for start, size in zip(starts, sizes, strict=True)
        ]
        for i, (expert, own) in enumerate(zip(found.indices, shown, strict=True)):
            self._neurons_of(expert, own, (found.W_in[i], found.W_out[i]), found.pre[i],
                             found.post[i], norms[i])  # fmt: skip
        return shown

    def _neurons_of(
        self,
        expert: int,
        kept: Tensor,
        matrices: tuple[Tensor, Tensor],
        pre: Tensor,
        post: Tensor,
        norms: Tensor,
    ) -> None:
        """Add some neurons of one expert, key and value."""
        neurons = kept.tolist()
        keys = [self.id("neuron_key", neuron=n, expert=expert) for n in neurons]
        values = [self.id("neuron", neuron=n, expert=expert) for n in neurons]
        W_in, W_out = matrices
        # No hook holds what is inside an expert.
        for ids, rows, numbers in ((keys, W_in[:, kept].T, pre), (values, W_out[kept], post)):
            facts = [{"hook": None, "coefficient": c} for c in numbers[kept].tolist()]
            self.draft.add(ids, rows, facts)
        owner = self.id("expert", expert=expert)
        columns = (pre[kept].tolist(), post[kept].tolist(), norms[kept].tolist())
        for key, value, inner, amount, norm in zip(keys, values, *columns, strict=True):
            self.draft.link(self.id("mlp_in"), key, "coefficient", inner)
            self.draft.link(key, value, "coefficient", amount)
            self.draft.link(value, owner, "sum", abs(amount) * norm)

    def _bias(self, kind: Kind, bias: Tensor | None, out: Kind) -> None:
        if bias is not None:
            self.draft.one(self.id(kind), bias, None)
            self._link(kind, out, "sum", bias)
