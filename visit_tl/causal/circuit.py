"""A model reduced to a circuit: every reader sees what the circuit's edges bring it, live.

What comes along an edge outside the circuit is the writer's other value: that of the corrupted run,
of the mean, or none. What comes along an edge of the circuit is what its writer writes in this very
run, which follows from what it read itself (Conmy et al., 2023; Hanna et al., 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from visit_tl.causal.blocks import BlockRows
from visit_tl.causal.choice import shape_of
from visit_tl.causal.paths import SLOT, check_put
from visit_tl.causal.writes import Writes, WrittenRun, head_writes
from visit_tl.circuits.names import HEAD_INPUTS, Edge, Part


class CircuitRun:
    """Runs any circuit of one prompt.

    Args:
        clean: The run of the whole model.
        base: What parts write along edges outside the circuit. Biases that are no part's always
            are those of the circuit's own run.

    Raises:
        ModelError: a block does not do with new values what it did with the old.
    """

    def __init__(self, clean: WrittenRun, base: Writes) -> None:
        self.clean, self.base = clean, base
        self.view = clean.view
        self.shape = shape_of(clean.view)

    @cached_property
    def _blocks(self) -> list[BlockRows]:
        """The blocks, each tried with the stream of another row first."""
        blocks = []
        for layer in range(self.view.n_layers):
            block = BlockRows(self.clean, layer)
            for entry, slots in self._readers(block).items():
                own = self.clean.at(layer, entry)
                # Rolled over positions, the stream is another one, of the same size.
                streams = torch.stack([own, own.roll(1, 0)])
                check_put(block, block({entry: streams}, slots), 1)
            blocks.append(block)
        return blocks

    def _readers(self, block: BlockRows) -> dict[str, tuple[str, ...]]:
        """What is read of a block, by the hook where its stream is put in."""
        attention = (*SLOT.values(), "z", "attn_out")
        if "mlp_out" not in block.hooks:
            return {"resid_pre": attention}
        if "resid_mid" not in block.hooks:
            return {"resid_pre": (*attention, "mlp_out")}
        return {"resid_pre": attention, "resid_mid": ("mlp_out",)}

    def logits(self, edges: Iterable[Edge]) -> Float[Tensor, "1 pos d_vocab"]:
        """The logits of the model reduced to these edges."""
        into: dict[tuple[Part, str | None], set[Part]] = {}
        for edge in edges:
            into.setdefault((edge.target, edge.input), set()).add(edge.source)
        live = _Stream(self.base)
        live.add({Part("input"): self.clean.writes.parts[Part("input")]})
        for block in self._blocks:
            mlp = into.get((Part("mlp", block.layer), None), set())
            # In parallel blocks the MLP reads what the heads read, else what they leave.
            early = self._mlp(block, live, mlp) if self.shape.parallel else None
            live.add(*self._heads(block, live, into))
            if self.shape.mlps:
                live.add(early or self._mlp(block, live, mlp))
        last = live.see(live.mask(into.get((Part("logits"), None), ()))[None])
        with torch.no_grad():
            return self.clean.kept.head(last.to(self.view.W_U.dtype))

    def _heads(
        self, block: BlockRows, live: _Stream, into: Mapping[tuple[Part, str | None], set[Part]]
    ) -> tuple[dict[Part, Tensor], Tensor]:
        """What the heads of a block write, and the bias beside them."""
        heads = [Part("head", block.layer, h) for h in range(self.view.n_heads)]
        masks = [live.mask(into.get((head, read), ())) for head in heads for read in HEAD_INPUTS]
        own = self.clean.writes
        if live.same(own) and all(bool(mask.all()) for mask in masks):
            return {head: own.parts[head] for head in heads}, own.biases[block.layer]
        z = self._attend(block, live, masks)
        written, bias = head_writes(self.view, block.layer, z)
        return {head: written[:, h] for h, head in enumerate(heads)}, bias

    def _mlp(self, block: BlockRows, live: _Stream, sources: set[Part]) -> dict[Part, Tensor]:
        """What the MLP of a block writes."""
        part, mask = Part("mlp", block.layer), live.mask(sources)
        if live.same(self.clean.writes) and bool(mask.all()):
            return {part: self.clean.writes.parts[part]}
        entry = "resid_mid" if "resid_mid" in block.hooks else "resid_pre"
        return {part: block({entry: live.see(mask[None])}, ["mlp_out"])["mlp_out"][0]}

    def _attend(
        self, block: BlockRows, live: _Stream, masks: list[Bool[Tensor, " part"]]
    ) -> Float[Tensor, "pos head d_head"]:
        """Every head of a block, its queries, keys and values each of a stream of their own."""
        streams, row = torch.stack(masks).unique(dim=0, return_inverse=True)
        seen = block({"resid_pre": live.see(streams)}, list(SLOT.values()))
        triples, of_head = row.view(-1, len(HEAD_INPUTS)).unique(dim=0, return_inverse=True)
        put = {SLOT[read]: seen[SLOT[read]][triples[:, i]] for i, read in enumerate(HEAD_INPUTS)}
        z = block(put, ["z"])["z"]
        return torch.stack([z[int(of_head[h]), :, h] for h in range(self.view.n_heads)], dim=1)


class _Stream:
    """What was written so far, in this run and otherwise, and what a reader sees of it."""

    def __init__(self, base: Writes) -> None:
        self.base = base
        self.order: dict[Part, int] = {}
        self.live: dict[Part, Tensor] = {}
        self.extra: list[Tensor] = []
        self.common: Tensor | None = None

    def add(self, parts: dict[Part, Tensor], bias: Tensor | None = None) -> None:
        """Append what parts wrote, and what was written whatever the circuit."""
        for part, live in parts.items():
            other = self.base.parts[part]
            self.order[part] = len(self.order)
            self.live[part] = live
            self.extra.append(live - other)
            self.common = other if self.common is None else self.common + other
        if bias is not None and self.common is not None:
            self.common = self.common + bias

    def same(self, writes: Writes) -> bool:
        """Whether all that was written so far is, to the very tensor, what another run wrote."""
        return all(value is writes.parts[part] for part, value in self.live.items())

    def mask(self, sources: Iterable[Part]) -> Bool[Tensor, " part"]:
        """Which of the parts so far a reader sees live."""
        mask = torch.zeros(len(self.order), dtype=torch.bool)
        mask[[self.order[part] for part in sources]] = True
        return mask

    def see(self, masks: Bool[Tensor, "row part"]) -> Float[Tensor, "row pos d_model"]:
        """The streams of readers that see these parts live."""
        assert self.common is not None
        extra = torch.stack(self.extra)
        weights = masks.to(extra.device, extra.dtype)
        return self.common + torch.einsum("rs,spd->rpd", weights, extra)
