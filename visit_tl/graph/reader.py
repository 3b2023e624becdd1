"""Drafts to nodes: one call reads what prompts made; rows of weights come from the atlas."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visit_tl import components, lens
from visit_tl.atlas.atlas import Atlas
from visit_tl.atlas.sheet import NAMES, columns_of
from visit_tl.graph.draft import Draft
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.graph.records import Node, TokenProb
from visit_tl.model.view import ModelView

Words = tuple[TokenProb, ...]


class Reader:
    """Reads the drafts of one model; what several graphs say alike is one object in all of them.

    Args:
        view: The model.
        k: How many top and bottom tokens each node keeps.
        atlas: What is known of rows of weights; None to read them with the rest.
    """

    def __init__(self, view: ModelView, k: int, atlas: Atlas | None = None) -> None:
        self.view, self.k, self.atlas = view, min(k, view.d_vocab), atlas
        # One integer a token and one pair of tuples a row of weights, not one for each place that
        # names them: a third of the memory of many graphs.
        self._ids: dict[int, int] = {}
        self._rows: dict[int, tuple[Words, Words]] = {}

    def nodes(self, drafts: Sequence[Draft], targets: Sequence[int]) -> list[tuple[Node, ...]]:
        """The nodes of each draft, in the order of the forward pass.

        Args:
            drafts: What is read.
            targets: The target of each.
        """
        stacks = [stack for draft in drafts for stack in draft.stacks]
        places = np.concatenate([self._places(draft) for draft in drafts])
        counts = [len(draft.ids) for draft in drafts]
        aims = np.repeat(np.array(targets, np.int64), counts)
        norms = torch.cat([components.row_norms(stack) for stack in stacks]).tolist()
        columns = self._read(drafts, stacks, places, aims)
        tops, bottoms = self._words(columns, places)
        rest = [columns[name].tolist() for name in ("entropy", "target_ranks", "target_probs")]
        ids = (node for draft in drafts for node in draft.ids)
        facts = (fact for draft in drafts for fact in draft.facts)
        nodes = [
            Node(node, top, bottom, entropy, norm, rank, prob, **known)  # type: ignore[arg-type]
            for node, top, bottom, entropy, norm, rank, prob, known in zip(
                ids, tops, bottoms, rest[0], norms, rest[1], rest[2], facts, strict=True
            )
        ]
        ends = np.cumsum(counts).tolist()
        return [
            tuple(
                sorted(nodes[end - n : end], key=lambda node: _place(node.id, self.view.n_layers))
            )
            for n, end in zip(counts, ends, strict=True)
        ]

    def _places(self, draft: Draft) -> NDArray[np.int64]:
        """Where each row stands in the atlas; -1 for what the prompt made."""
        if self.atlas is None:
            return np.full(len(draft.ids), -1)
        of = self.atlas.places.place
        return np.array([-1 if (at := of(node)) is None else at for node in draft.ids])

    def _read(
        self,
        drafts: Sequence[Draft],
        stacks: Sequence[Tensor],
        places: NDArray[np.int64],
        aims: NDArray[np.int64],
    ) -> dict[str, NDArray[Any]]:
        """What each row reads as, with its own target."""
        starts = np.cumsum([0, *(len(stack) for stack in stacks)])
        known = places[starts[:-1]] >= 0
        rows = torch.cat([stack for stack, at in zip(stacks, known, strict=True) if not at])
        static = places >= 0
        self._end(drafts, rows, np.cumsum(~static) - 1)
        asked = torch.from_numpy(aims[~static])[:, None]
        readout = lens.read(self.view, rows, asked, k=self.k)
        made = columns_of(readout, np.arange(len(rows)), np.zeros(len(rows), np.int64))
        if self.atlas is None or not static.any():
            return made
        rows = torch.cat([stack for stack, at in zip(stacks, known, strict=True) if at])
        found = self.atlas.read(self.view, places[static], rows, aims[static])
        columns = {}
        for name in NAMES:
            columns[name] = np.empty((len(places), *made[name].shape[1:]), made[name].dtype)
            columns[name][~static], columns[name][static] = made[name], found[name]
        return columns

    def _end(self, drafts: Sequence[Draft], rows: Tensor, at: NDArray[np.int64]) -> None:
        """Read the ends as the last resid_post: their vectors are normalised already."""
        last, start = NodeId("resid_post", self.view.n_layers - 1), 0
        for draft in drafts:
            final = [i for i, node in enumerate(draft.ids) if node.kind in _FINAL]
            if final:
                rows[at[start + np.array(final)]] = rows[at[start + draft.ids.index(last)]].clone()
            start += len(draft.ids)

    def _words(
        self, columns: Mapping[str, NDArray[Any]], places: NDArray[np.int64]
    ) -> tuple[list[Words], list[Words]]:
        """Top and bottom tokens of each row."""
        tops, bottoms = [], []
        ids, probs = columns["top_ids"].tolist(), columns["top_probs"].tolist()
        low_ids, low_probs = columns["bottom_ids"].tolist(), columns["bottom_probs"].tolist()
        for i, place in enumerate(places.tolist()):
            words = self._rows.get(place)
            if words is None:
                words = self._tokens(ids[i], probs[i]), self._tokens(low_ids[i], low_probs[i])
                if place >= 0:
                    self._rows[place] = words
            tops.append(words[0])
            bottoms.append(words[1])
        return tops, bottoms

    def _tokens(self, ids: Sequence[int], probs: Sequence[float]) -> Words:
        text, same = self.view.tokens.text, self._ids
        return tuple(
            TokenProb(text(i), same.setdefault(i, i), min(p, 1.0))
            for i, p in zip(ids, probs, strict=True)
        )


_FINAL: Final = ("final_norm", "logits")
_KIND_PLACE: Final[Mapping[str, int]] = {kind: place for place, kind in enumerate(KINDS)}


def _place(node: NodeId, n_layers: int) -> tuple[int, ...]:
    """Where a node stands in the forward pass."""
    layer = n_layers if node.layer is None else node.layer
    # The graph's own position comes last: attention looks back.
    position = sys.maxsize if node.position is None else node.position
    indices = (node.head, node.key_position, node.neuron)
    return (layer, _KIND_PLACE[node.kind], position, *(-1 if i is None else i for i in indices))
