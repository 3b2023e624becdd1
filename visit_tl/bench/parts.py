"""The measurements of the benchmark: readouts, graphs and patching, each with its baseline."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from visit_tl.atlas.row_cache import SETTING, forget
from visit_tl.bench.report import Figure, Timing
from visit_tl.calls import flow_graph, flow_graphs
from visit_tl.causal.metrics import logit_difference
from visit_tl.causal.patching.node_effects import effects
from visit_tl.circuits.prompts.ioi_prompts import ioi
from visit_tl.errors import VisitError
from visit_tl.flow import FlowGraph
from visit_tl.lens import readout as lens
from visit_tl.lens.product import ways
from visit_tl.memory import peak_of
from visit_tl.model.transformer_lens_readout import theirs
from visit_tl.model.view import ModelView

PROMPT: Final = "When Mary and John went to the store, John gave a drink to"
OURS: Final = "visit_tl: top, bottom, target with rank, entropy"
THEIRS: Final = "logit_readout: top, target with rank, entropy in two calls; no bottom"
_K: Final = 5
_TARGET: Final = 5
_LOOPED: Final = 30
"""How many heads are patched by plain hooks; the time of all heads is extrapolated."""


class Measurements:
    """All measurements of one model.

    Args:
        view: The model.
        vectors: How many vectors the readouts read.
        repeats: How often each measurement is repeated; the quickest counts.

    Attributes:
        figures: Summary numbers of the measurements done so far.
    """

    def __init__(self, view: ModelView, vectors: int, repeats: int) -> None:
        self.view, self.model = view, view.model
        self.vectors, self.repeats = vectors, repeats
        self.figures: list[Figure] = []

    def time(self, work: Callable[[], object]) -> float:
        """Seconds of the quickest of several runs."""
        return self.time_in_turns({"": work})[""]

    def time_in_turns(self, works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Seconds of the quickest run of each; they take turns, as a machine's speed varies."""
        best = dict.fromkeys(works, float("inf"))
        for _ in range(self.repeats):
            for what, work in works.items():
                start = time.perf_counter()
                work()
                if self.view.W_U.is_cuda:
                    torch.cuda.synchronize()
                best[what] = min(best[what], time.perf_counter() - start)
        return best

    def products(self, view: ModelView, n: int) -> dict[str, float]:
        """Time the product of n vectors with the unembedding, by each method available here."""
        x = random_vectors(view, n)
        weights = view.W_U.to(x.dtype)
        found = {"torch": self.time(lambda: x @ weights)}
        if "onednn" in ways(x.device, x.dtype):
            rows, columns = x.to_mkldnn(), weights.T.contiguous().to_mkldnn()
            found["onednn"] = self.time(lambda: functional.linear(rows, columns))
        return found

    def readout(self, view: ModelView, name: str, figure: str) -> Iterator[Timing]:
        """Time the products, our readout, and TransformerLens's readout for the model itself."""
        n = self.vectors
        x = random_vectors(view, n)
        products = self.products(view, n)
        product = min(products.values())
        for way, seconds in products.items():
            yield Timing("readout", f"{name}: product of {n} vectors, {way}", seconds, product)
        if view.W_U.dtype != x.dtype:
            half, weights = x.to(view.W_U.dtype), view.W_U
            seconds = self.time(lambda: half @ weights)
            yield Timing("readout", f"{name}: the same in {_name(weights)}", seconds, product)
        lens.read(view, x[:64], [_TARGET], k=_K)
        ours = self.time(lambda: lens.read(view, x, [_TARGET], k=_K))
        peak = peak_of(lambda: lens.read(view, x, [_TARGET], k=_K), x.device)[1]
        yield Timing("readout", f"{name}: {OURS}", ours, product, peak)
        self.figures.append(Figure(f"{figure} / quickest bare product", ours / product))
        if peak is not None:
            self.figures.append(Figure(f"{figure}: peak memory", peak / 2**20, "MB"))
        read = theirs(self.model, _TARGET, _K) if view is self.view else None
        if read is not None:
            given = x.to(view.W_U.dtype)
            peak = peak_of(lambda: read(given), x.device)[1]
            seconds = self.time(lambda: read(given))
            yield Timing("readout", f"{name}: {THEIRS}", seconds, product, peak)

    def own_readout(self) -> Iterator[Timing]:
        """Time readouts with the model's own vocabulary."""
        yield from self.readout(self.view, self.view.name, f"readout of {self.vectors} vectors")

    def vocabulary(self, d_vocab: int) -> Iterator[Timing]:
        """Time readouts with another vocabulary size, on random weights made when needed."""
        what = f"vocabulary {d_vocab}"
        yield from self.readout(_wide(self.view, d_vocab), what, f"the same, {what}")

    def graph(self) -> Iterator[Timing]:
        """Time one prompt and all blocks, from the forward pass to the page."""
        ids = torch.tensor([self.ids()], device=self.view.W_U.device)
        with torch.no_grad():
            forward = self.time(lambda: self.model(ids))
        yield Timing("graph", f"forward pass, {ids.shape[1]} tokens", forward)
        graph, peak = peak_of(self.one, self.view.W_U.device)
        product = min(self.products(self.view, len(graph)).values())
        yield Timing("graph", f"product of its {len(graph)} vectors, quickest", product, product)
        cold = self.time(self.one)
        yield Timing("graph", "all blocks, rows of weights unknown", cold, product, peak)
        self.one(known=True)
        warm = self.time(lambda: self.one(known=True))
        yield Timing("graph", "all blocks, rows of weights known", warm, product)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.html"
            page = self.time(lambda: graph.save(path))
        yield Timing("graph", "its page, written", page, product)
        for what, built in (("unknown", cold), ("known", warm)):
            what = f"{what}, and the page (× forward + product)"
            yield Timing("graph", what, built + page, forward + product)
        what = f"cold graph of {self.view.n_layers} blocks / (forward + product)"
        self.figures.append(Figure(what, cold / (forward + product)))
        self.figures.append(Figure("its page, written", page, "s"))
        if peak is not None:
            self.figures.append(Figure("the graph: peak memory", peak / 2**20, "MB"))

    def one(
        self, layers: int | None = None, ids: Sequence[int] | None = None, known: bool = False
    ) -> FlowGraph:
        """A graph of the last blocks, with its rows of weights read again or (`known`) cached."""
        if not known:
            forget()
        first = 0 if layers is None else self.view.n_layers - layers
        chosen = range(first, self.view.n_layers)
        return flow_graph(self.model, self.ids() if ids is None else ids, layers=chosen)

    def layers(self) -> Iterator[Timing]:
        """Time graphs by number of blocks."""
        n = self.view.n_layers
        for layers in sorted({max(1, n // 4), max(1, n // 2)}):
            seconds = self.time(lambda count=layers: self.one(count))
            yield Timing("layers", f"last {layers} blocks", seconds)

    def positions(self) -> Iterator[Timing]:
        """Time graphs by length of the prompt."""
        ids = self.ids()
        for length in (16, 256):
            if length > self.view.n_ctx:
                return
            longer = (ids * (length // len(ids) + 1))[:length]
            seconds = self.time(lambda many=longer: self.one(None, many))
            yield Timing("length", f"{length} tokens", seconds)

    def prompts(self, counts: Sequence[int]) -> Iterator[Timing]:
        """Time graphs by number of prompts, and measure their peak memory."""
        for count in counts:
            many = self.many(count)

            def work(rows: list[list[int]] = many) -> list[FlowGraph]:
                forget()
                return flow_graphs(self.model, rows, verbose=False)

            start = time.perf_counter()
            peak = peak_of(work, self.view.W_U.device)[1]
            seconds = time.perf_counter() - start
            yield Timing("prompts", f"{count} prompts", seconds, None, peak)
            self.figures.append(Figure(f"{count} prompts, each", seconds / count, "s"))

    def sweep(self) -> Iterator[Timing]:
        """Time patching every head, against a loop of plain hooks with a whole run per head."""
        ids, heads = self.ids(), self.view.n_layers * self.view.n_heads
        metric = logit_difference(ids[1], ids[0])

        def ours() -> object:
            return effects(self.model, ids, metric, how="zero", verbose=False)

        seconds = self.time(ours)
        peak = peak_of(ours, self.view.W_U.device)[1]
        yield Timing("patching", f"{heads} heads: visit_tl.effects", seconds, None, peak)
        chosen = range(0, heads, max(1, heads // _LOOPED))
        given = torch.tensor([ids], device=self.view.W_U.device)

        def loop() -> None:
            for head in chosen:
                layer, index = divmod(head, self.view.n_heads)
                hook = (f"blocks.{layer}.attn.hook_z", _zeroed(index))
                with torch.no_grad():
                    logits = self.model.run_with_hooks(given, fwd_hooks=[hook])
                float(logits[0, -1, ids[1]] - logits[0, -1, ids[0]])

        looped = self.time(loop) / len(chosen) * heads
        what = f"{heads} heads: a loop of hooks, from {len(chosen)} of them"
        yield Timing("patching", what, looped)
        self.figures.append(
            Figure(f"sweep of {heads} heads: a loop of hooks / visit_tl", looped / seconds)
        )

    def many(self, n: int) -> list[list[int]]:
        """Different prompts: of indirect object identification, if the tokenizer has the names."""
        try:
            return [list(pair.ids) for pair in ioi(self.view, n)]
        except VisitError:
            ids, step = self.ids(), self.view.d_vocab // (n + 1)
            return [[(i + shift * step) % self.view.d_vocab for i in ids] for shift in range(n)]

    def ids(self) -> list[int]:
        """The prompt's tokens; without a tokenizer, ids spread over the vocabulary."""
        if getattr(self.model, "tokenizer", None) is not None:
            return list(self.view.tokens.encode(PROMPT, None).ids)
        return [(2 * i + 1) * self.view.d_vocab // 30 for i in range(15)]


@contextmanager
def in_memory() -> Iterator[None]:
    """Keep the atlas in memory, so that it neither reads nor writes the disk."""
    before = os.environ.get(SETTING)
    os.environ[SETTING] = "memory"
    try:
        yield
    finally:
        del os.environ[SETTING]
        if before is not None:
            os.environ[SETTING] = before


def _zeroed(head: int) -> Callable[..., Tensor]:
    def hook(z: Tensor, **_: Any) -> Tensor:
        z[0, -1, head] = 0
        return z

    return hook


def _wide(view: ModelView, d_vocab: int) -> ModelView:
    """The same model with random weights for another vocabulary; only for the lens."""
    wide = copy.copy(view)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(view.d_model, d_vocab, generator=generator).to(view.W_U)
    wide.W_U, wide.b_U, wide.d_vocab = weights, None, d_vocab
    return wide


def random_vectors(view: ModelView, n: int) -> Tensor:
    """Vectors of the residual stream's width, the same each time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, view.d_model, generator=generator).to(view.W_U.device)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
