"""Read the vectors of drafts, and make their nodes.

Activations are read at once, in one call of the lens per draft. Readouts of rows of weights come
from the atlas. These rows are collected over several drafts first, so that none is read twice.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visit_tl.atlas.row_cache import Atlas
from visit_tl.atlas.row_table import columns_of
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.graph.records import Node, TokenProbs
from visit_tl.lens import readout as lens
from visit_tl.model import components
from visit_tl.model.view import ModelView
from visit_tl.xray.unread_nodes import Draft

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Half:
    """A draft whose activations are read, and whose rows of weights are not; it holds no vectors.

    Attributes:
        draft: Its nodes and facts.
        target: Token id whose rank and probability each node gets.
        norms: L2 norm of every vector.
        made: Readouts of the activations, which are the vectors that depend on the prompt.
        places: For each node, its row in the atlas; -1 for activations.
        waiting: For each row of weights, in order, its index among the rows collected to be read.
    """

    draft: Draft
    target: int
    norms: list[float]
    made: Columns
    places: NDArray[np.int64]
    waiting: NDArray[np.int64]


class Reader:
    """Reads the drafts of one model. Readouts that several graphs share are one object in all.

    Args:
        view: The model.
        k: How many top and bottom tokens each node keeps.
        atlas: Cached readouts of rows of weights; None to read these rows like activations.
    """

    def __init__(self, view: ModelView, k: int, atlas: Atlas | None = None) -> None:
        self.view, self.k, self.atlas = view, min(k, view.d_vocab), atlas
        # Rows of weights collected to be read, each once: place in the atlas to index.
        self._collected: dict[int, int] = {}
        self._stacks: list[Tensor] = []
        # By place in the atlas, top and bottom tokens of a row of weights, shared by all graphs.
        self._rows: dict[int, tuple[TokenProbs, TokenProbs]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the rows collected to be read."""
        return sum(stack.nbytes for stack in self._stacks)

    def read(self, draft: Draft, target: int) -> Half:
        """Read the activations of a draft, and collect its rows of weights to be read later."""
        places = self._places(draft)
        # A stack is of one kind: it is read from the atlas as a whole, or not at all.
        ends = np.cumsum([len(stack) for stack in draft.stacks])
        stacks: list[tuple[Tensor, bool]] = []
        for stack, own in zip(draft.stacks, np.split(places, ends[:-1]), strict=True):
            stacks.append((stack, bool(own.min() >= 0)))
            if not stacks[-1][1]:
                own[:] = -1  # a view, so this changes `places`
        norms = torch.cat([components.row_norms(stack) for stack in draft.stacks]).tolist()
        made = torch.cat([stack for stack, static in stacks if not static])
        self._set_final_vectors(draft, made, np.cumsum(places < 0) - 1)
        readout = lens.read(self.view, made, [target], k=self.k)
        whole = np.arange(len(made))
        columns = columns_of(readout, whole, np.zeros_like(whole))
        waiting = self._collect([s for s, static in stacks if static], places[places >= 0].tolist())
        draft.stacks.clear()
        return Half(draft, target, norms, columns, places, waiting)

    def nodes(self, halves: Sequence[Half]) -> list[tuple[Node, ...]]:
        """The nodes of each draft, in the order of the forward pass; clears the drafts' facts."""
        counts = [len(half.waiting) for half in halves]
        found: Columns = {}
        if self.atlas is not None and any(counts):
            which = np.concatenate([half.waiting for half in halves])
            aims = np.repeat(np.array([half.target for half in halves], np.int64), counts)
            rows, places = torch.cat(self._stacks), np.array(list(self._collected), np.int64)
            self._stacks.clear()
            found = self.atlas.read(self.view, rows, places, which, aims)
        self._collected.clear()
        ends = np.cumsum(counts).tolist()
        return [
            self._nodes(half, {name: column[end - n : end] for name, column in found.items()})
            for half, n, end in zip(halves, counts, ends, strict=True)
        ]

    def _places(self, draft: Draft) -> NDArray[np.int64]:
        if self.atlas is None:
            return np.full(len(draft.ids), -1)
        of = self.atlas.places.place
        return np.array([-1 if (at := of(node)) is None else at for node in draft.ids])

    def _set_final_vectors(self, draft: Draft, made: Tensor, at: NDArray[np.int64]) -> None:
        """Give final_norm and logits the vector of the last resid_post: theirs are normalised."""
        final = [i for i, node in enumerate(draft.ids) if node.kind in _FINAL]
        if final:
            last = draft.ids.index(NodeId("resid_post", self.view.n_layers - 1))
            made[at[final]] = made[at[last]].clone()

    def _collect(self, stacks: Sequence[Tensor], places: Sequence[int]) -> NDArray[np.int64]:
        """Collect rows of weights that are new; return the index of every row."""
        start = 0
        for stack in stacks:
            new = [
                i
                for i, place in enumerate(places[start : start + len(stack)])
                if place not in self._collected
            ]
            for i in new:
                self._collected[places[start + i]] = len(self._collected)
            self._stacks.append(stack[new])
            start += len(stack)
        return np.array([self._collected[place] for place in places], np.int64)

    def _nodes(self, half: Half, found: Columns) -> tuple[Node, ...]:
        static = half.places >= 0
        columns: dict[str, NDArray[Any]] = {}
        for name, made in half.made.items():
            columns[name] = np.empty((len(static), *made.shape[1:]), made.dtype)
            columns[name][~static] = made
            if static.any():
                columns[name][static] = found[name]
        tops, bottoms = self._words(columns, half.places)
        numbers = (columns[name].tolist() for name in ("entropy", "target_ranks", "target_probs"))
        nodes = (
            Node(node, top, bottom, entropy, norm, rank, prob, **facts)  # type: ignore[arg-type]
            for node, top, bottom, norm, facts, entropy, rank, prob in zip(
                half.draft.ids, tops, bottoms, half.norms, half.draft.facts, *numbers, strict=True
            )
        )
        whole = tuple(sorted(nodes, key=lambda node: _place(node.id, self.view.n_layers)))
        half.draft.facts.clear()  # 1 MB per draft
        return whole

    def _words(
        self, columns: Columns, places: NDArray[np.int64]
    ) -> tuple[list[TokenProbs], list[TokenProbs]]:
        """Top and bottom tokens of each row."""
        tops, bottoms = [], []
        ids, low_ids = columns["top_ids"].tolist(), columns["bottom_ids"].tolist()
        probs, low_probs = (
            np.minimum(columns[name], 1).tolist() for name in ("top_probs", "bottom_probs")
        )
        texts = self.view.tokens.texts(chain(*ids, *low_ids))
        for i, place in enumerate(places.tolist()):
            words = self._rows.get(place)
            if words is None:
                top = TokenProbs(ids[i], probs[i], texts)
                words = top, TokenProbs(low_ids[i], low_probs[i], texts)
                if place >= 0:
                    self._rows[place] = words
            tops.append(words[0])
            bottoms.append(words[1])
        return tops, bottoms


_FINAL: Final = ("final_norm", "logits")
_KIND_PLACE: Final[Mapping[str, int]] = {kind: place for place, kind in enumerate(KINDS)}


def _place(node: NodeId, n_layers: int) -> tuple[int, ...]:
    """Sort key: where a node is in the forward pass."""
    layer = n_layers if node.layer is None else node.layer
    # The graph's own position comes last: attention looks back.
    position = sys.maxsize if node.position is None else node.position
    indices = (node.head, node.key_position, _expert_place(node.expert), node.neuron)
    return (layer, _KIND_PLACE[node.kind], position, *(-1 if i is None else i for i in indices))


def _expert_place(expert: int | None) -> int | None:
    """Shared experts, whose indices are negative, come after the others."""
    return expert if expert is None or expert >= 0 else sys.maxsize // 2 - expert
