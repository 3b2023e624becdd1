"""How long things take on this machine with the model at hand, in one run, as ratios.

The yardstick is the bare product of as many vectors with the unembedding: nothing that reads
vectors as words can do without it.
"""

from __future__ import annotations

import copy
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from visit_tl import lens
from visit_tl.atlas.atlas import SETTING, forget
from visit_tl.circuits.prompts.make import ioi
from visit_tl.errors import InputError, VisitError
from visit_tl.graph.flow import FlowGraph
from visit_tl.memory import peak_of
from visit_tl.model.readout import theirs
from visit_tl.model.view import ModelView
from visit_tl.xray import flow_graph, flow_graphs

if TYPE_CHECKING:
    import pandas as pd

PROMPT: Final = "When Mary and John went to the store, John gave a drink to"
VOCABULARIES: Final = (32_768, 65_536, 131_072, 262_144)
_K: Final = 5
_TARGET: Final = 5


@dataclass(frozen=True)
class Timing:
    """One thing that was done.

    Attributes:
        part: What it belongs to, such as `readout` or `layers`.
        what: What was done.
        seconds: The quickest of a few times.
        product: Seconds of the bare product that it is held against; None if there is none.
        peak: Bytes by which memory rose above where it was; None where it was not measured.
    """

    part: str
    what: str
    seconds: float
    product: float | None = None
    peak: int | None = None

    @property
    def ratio(self) -> float | None:
        """How many times the bare product."""
        return None if self.product is None else self.seconds / self.product


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        machine: Processor, cores, dtype and releases.
        rows: The measurements, in their order.
    """

    machine: str
    rows: tuple[Timing, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """One row a measurement: part, what, seconds, ratio, peak_mb."""
        import pandas as pd

        columns = ["part", "what", "seconds", "ratio", "peak_mb"]
        return pd.DataFrame(
            [(r.part, r.what, r.seconds, r.ratio, _megabytes(r.peak)) for r in self.rows],
            columns=pd.Index(columns),
        )

    def markdown(self) -> str:
        """A table for a page."""
        lines = [self.machine, "", "| | | seconds | × product | peak MB |", "|---|---|--:|--:|--:|"]
        for row in self.rows:
            cells = (row.part, row.what, f"{row.seconds:.3f}", _cell(row.ratio, ".2f"))
            lines.append(f"| {' | '.join(cells)} | {_cell(_megabytes(row.peak), '.0f')} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        width = max((len(row.what) for row in self.rows), default=0)
        head = f"{'':<10}{'':<{width}}  seconds  x product  peak MB"
        lines = [self.machine, "", head]
        for row in self.rows:
            ratio, peak = _cell(row.ratio, ".2f"), _cell(_megabytes(row.peak), ".0f")
            lines.append(
                f"{row.part:<10}{row.what:<{width}}{row.seconds:>9.3f}{ratio:>11}{peak:>9}"
            )
        return "\n".join(lines)


def bench(
    model: Any,
    *,
    vectors: int = 3600,
    repeats: int = 3,
    prompts: Sequence[int] = (1, 4, 16),
    vocabularies: Sequence[int] = VOCABULARIES,
    verbose: bool = True,
) -> Bench:
    """Time the bare product, the readout, TransformerLens's readout, the forward pass and graphs.

    Args:
        model: As for `flow_graph`.
        vectors: How many vectors the readouts read.
        repeats: How often each is done; the quickest counts.
        prompts: For how many prompts at once graphs are timed.
        vocabularies: Sizes of made-up vocabularies, as wide as the model.
        verbose: Show a progress bar.

    Returns:
        One row a measurement; ratios compare what was measured in this run only.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: a number below 1.
    """
    from tqdm.auto import tqdm

    for name, number in (("vectors", vectors), ("repeats", repeats)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    view = ModelView(model)
    asked = _Asked(view, view.model, vectors, repeats)
    jobs = [
        asked.readout(view, view.name),
        asked.graph(),
        asked.layers(),
        asked.positions(),
        asked.prompts(prompts),
        *(asked.vocabulary(n) for n in vocabularies),
    ]
    rows: list[Timing] = []
    # What other processes left on disk would make it another measurement.
    with _in_memory():
        for job in tqdm(jobs, desc="bench", disable=not verbose):
            rows += job
    return Bench(_machine(view), tuple(rows))


@dataclass(frozen=True)
class _Asked:
    """What all measurements share."""

    view: ModelView
    model: Any
    vectors: int
    repeats: int

    def time(self, work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(self.repeats):
            start = time.perf_counter()
            work()
            if self.view.W_U.is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    def product(self, view: ModelView, n: int) -> float:
        x = _random(view, n)
        weights = view.W_U.to(x.dtype)
        return self.time(lambda: x @ weights)

    def readout(self, view: ModelView, name: str) -> Iterator[Timing]:
        """The bare product, our readout, and TransformerLens's of the model itself."""
        n = self.vectors
        x = _random(view, n)
        product = self.product(view, n)
        yield Timing("readout", f"{name}: product of {n} vectors", product, product)
        ours = self.time(lambda: lens.read(view, x, [_TARGET], k=_K))
        peak = peak_of(lambda: lens.read(view, x, [_TARGET], k=_K), x.device)[1]
        yield Timing("readout", f"{name}: visit_tl", ours, product, peak)
        read = theirs(self.model, _TARGET, _K) if view is self.view else None
        if read is not None:
            peak = peak_of(lambda: read(x), x.device)[1]
            seconds = self.time(lambda: read(x))
            yield Timing("readout", f"{name}: logit_readout", seconds, product, peak)

    def vocabulary(self, d_vocab: int) -> Iterator[Timing]:
        """Growth with the vocabulary, on weights that are made up when their turn comes."""
        yield from self.readout(_wide(self.view, d_vocab), f"vocabulary {d_vocab}")

    def graph(self) -> Iterator[Timing]:
        """One prompt, all blocks, from the forward pass to the page."""
        ids = torch.tensor([self.ids()], device=self.view.W_U.device)
        with torch.no_grad():
            forward = self.time(lambda: self.model(ids))
        yield Timing("graph", f"forward pass, {ids.shape[1]} tokens", forward)
        graph, peak = peak_of(self.one, self.view.W_U.device)
        product = self.product(self.view, len(graph))
        yield Timing("graph", f"product of its {len(graph)} vectors", product, product)
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

    def one(
        self, layers: int | None = None, ids: Sequence[int] | None = None, known: bool = False
    ) -> FlowGraph:
        """A graph of the last blocks, its rows of weights read anew or looked up."""
        if not known:
            forget()
        first = 0 if layers is None else self.view.n_layers - layers
        chosen = range(first, self.view.n_layers)
        return flow_graph(self.model, self.ids() if ids is None else ids, layers=chosen)

    def layers(self) -> Iterator[Timing]:
        """Growth with the number of blocks."""
        n = self.view.n_layers
        for layers in sorted({max(1, n // 4), max(1, n // 2), n}):
            seconds = self.time(lambda count=layers: self.one(count))
            yield Timing("layers", f"last {layers} blocks", seconds)

    def positions(self) -> Iterator[Timing]:
        """Growth with the length of the prompt."""
        ids = self.ids()
        for length in (16, 64, 256):
            if length > self.view.n_ctx:
                return
            longer = (ids * (length // len(ids) + 1))[:length]
            seconds = self.time(lambda many=longer: self.one(None, many))
            yield Timing("length", f"{length} tokens", seconds)

    def prompts(self, counts: Sequence[int]) -> Iterator[Timing]:
        """Growth with the number of prompts; the memory that graphs of many take."""
        for count in counts:
            many = self.many(count)

            def work(rows: list[list[int]] = many) -> list[FlowGraph]:
                forget()
                return flow_graphs(self.model, rows, verbose=False)

            start = time.perf_counter()
            peak = peak_of(work, self.view.W_U.device)[1]
            yield Timing("prompts", f"{count} prompts", time.perf_counter() - start, None, peak)

    def many(self, n: int) -> list[list[int]]:
        """Different prompts: of indirect object identification, where the tokenizer has names."""
        try:
            return [list(pair.ids) for pair in ioi(self.view, n)]
        except VisitError:
            ids, step = self.ids(), self.view.d_vocab // (n + 1)
            return [[(i + shift * step) % self.view.d_vocab for i in ids] for shift in range(n)]

    def ids(self) -> list[int]:
        """The prompt's tokens; of a model without a tokenizer, some from all over."""
        if getattr(self.model, "tokenizer", None) is not None:
            return list(self.view.tokens.encode(PROMPT, None).ids)
        return [(2 * i + 1) * self.view.d_vocab // 30 for i in range(15)]


@contextmanager
def _in_memory() -> Iterator[None]:
    """Have the atlas neither read nor write the disk."""
    before = os.environ.get(SETTING)
    os.environ[SETTING] = "memory"
    try:
        yield
    finally:
        del os.environ[SETTING]
        if before is not None:
            os.environ[SETTING] = before


def _wide(view: ModelView, d_vocab: int) -> ModelView:
    """The same model with another vocabulary, for the lens alone."""
    wide = copy.copy(view)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(view.d_model, d_vocab, generator=generator)
    wide.W_U, wide.b_U, wide.d_vocab = weights.to(view.W_U.device), None, d_vocab
    return wide


def _random(view: ModelView, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, view.d_model, generator=generator).to(view.W_U.device)


def _machine(view: ModelView) -> str:
    from importlib.metadata import version

    device = view.W_U.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    dtype = str(view.W_U.dtype).removeprefix("torch.")
    return (
        f"{view.name}, {dtype}, on {name}; torch {torch.__version__}, "
        f"TransformerLens {version('transformer-lens')}"
    )


def _megabytes(peak: int | None) -> float | None:
    return None if peak is None else peak / 2**20


def _cell(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)
