"""A model reduced to a circuit, computed block by block.

Along an edge outside the circuit, a reader gets the writer's replacement value: that of the
corrupted run, of the mean, or zeros. Along an edge of the circuit it gets the live value: what the
writer writes in this reduced run, given what it read itself (Conmy et al., 2023; Hanna et al.,
2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from visit_tl.causal.patching.block_replay import BlockRows
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.causal.paths.path_patching import SLOT, check_put
from visit_tl.causal.residual_writes import Writes, WrittenRun, head_writes
from visit_tl.graph.circuit_parts import HEAD_INPUTS, Edge, Part


class CircuitRun:
    """Runs any circuit on one prompt.

    Args:
        clean: The run of the whole model.
        base: What parts write along edges outside the circuit. Biases that belong to no part are
            always those of the reduced run.

    Raises:
        ModelError: new values at the hooks of a block do not have the effect that they have when
            the model computes them.
    """

    def __init__(self, clean: WrittenRun, base: Writes) -> None:
        self.clean, self.base = clean, base
        self.view = clean.view
        self.shape = shape_of(clean.view)

    @cached_property
    def _blocks(self) -> list[BlockRows]:
        """The blocks, each checked with a changed stream first."""
        blocks = []
        for layer in range(self.view.n_layers):
            block = BlockRows(self.clean, layer)
            for entry, slots in self._readers(block).items():
                own = self.clean.at(layer, entry)
                # Rolling it over positions gives another stream of the same norm.
                streams = torch.stack([own, own.roll(1, 0)])
                check_put(block, block({entry: streams}, slots), 1)
            blocks.append(block)
        return blocks

    def _readers(self, block: BlockRows) -> dict[str, tuple[str, ...]]:
        """The slots that are read in a block, by the slot at which its input stream is set."""
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
            # In parallel blocks the MLP reads the stream that the heads read, else the next one.
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
        """What the heads of a block write, and the bias of its attention."""
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
        """All heads' z in a block; each query, key and value input reads a stream of its own."""
        streams, row = torch.stack(masks).unique(dim=0, return_inverse=True)
        seen = block({"resid_pre": live.see(streams)}, list(SLOT.values()))
        triples, of_head = row.view(-1, len(HEAD_INPUTS)).unique(dim=0, return_inverse=True)
        put = {SLOT[read]: seen[SLOT[read]][triples[:, i]] for i, read in enumerate(HEAD_INPUTS)}
        z = self.view.by_head(block.layer, block(put, ["z"])["z"])
        return torch.stack([z[int(of_head[h]), :, h] for h in range(self.view.n_heads)], dim=1)


class _Stream:
    """What parts wrote so far, live and as replacement, and the streams that readers see."""

    def __init__(self, base: Writes) -> None:
        self.base = base
        self.order: dict[Part, int] = {}
        self.live: dict[Part, Tensor] = {}
        self.extra: list[Tensor] = []
        self.common: Tensor | None = None

    def add(self, parts: dict[Part, Tensor], bias: Tensor | None = None) -> None:
        """Append what parts wrote, and a bias that every reader sees."""
        for part, live in parts.items():
            other = self.base.parts[part]
            self.order[part] = len(self.order)
            self.live[part] = live
            self.extra.append(live - other)
            self.common = other if self.common is None else self.common + other
        if bias is not None and self.common is not None:
            self.common = self.common + bias

    def same(self, writes: Writes) -> bool:
        """Whether every live value so far is the same tensor object as in `writes`."""
        return all(value is writes.parts[part] for part, value in self.live.items())

    def mask(self, sources: Iterable[Part]) -> Bool[Tensor, " part"]:
        """Mask over the parts so far, with True for those that a reader sees live."""
        mask = torch.zeros(len(self.order), dtype=torch.bool)
        mask[[self.order[part] for part in sources]] = True
        return mask

    def see(self, masks: Bool[Tensor, "row part"]) -> Float[Tensor, "row pos d_model"]:
        """The streams of readers that see these parts live."""
        assert self.common is not None
        extra = torch.stack(self.extra)
        weights = masks.to(extra.device, extra.dtype)
        return self.common + torch.einsum("rs,spd->rpd", weights, extra)
