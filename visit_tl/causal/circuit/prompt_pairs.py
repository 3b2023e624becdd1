"""Pairs of prompts, and the metric of the model reduced to circuits on each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from visit_tl.causal.circuit.circuit_run import CircuitRun
from visit_tl.causal.metrics import Metric, bind, evaluate, metric_name
from visit_tl.causal.paths.chosen_edges import other_writes
from visit_tl.causal.residual_writes import WrittenRun
from visit_tl.errors import InputError
from visit_tl.graph.circuit_parts import Edge
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.segments.of_prompts import segments_of_each


class Pairs:
    """A model, pairs of prompts, and a metric for each pair.

    Args:
        model: As for `faithfulness`.
        pairs: As there.
        metric: As there.
        how: As there.
        mean_over: As there.
        prepend_bos: As there.
        segments: As there.

    Attributes:
        view: The model.
        corrupted: The metric of each corrupted run, once measured; None if one is missing.

    Raises:
        InputError: no pairs, or metrics or prompts that do not fit them.
    """

    def __init__(
        self,
        model: Any,
        pairs: Sequence[Any],
        metric: Metric | Sequence[Metric],
        how: str,
        mean_over: Sequence[Any] | None,
        prepend_bos: bool | None,
        segments: Any = None,
    ) -> None:
        self.view = model if isinstance(model, ModelView) else ModelView(model)
        self.how = how
        encode = self.view.tokens.encode
        each = segments_of_each(segments, len(pairs))
        self.pairs: list[tuple[Prompt, Prompt | None]] = []
        for pair, own in zip(pairs, each, strict=True):
            clean, corrupted = _ends(pair)
            first = self.view.encode(clean, prepend_bos, own)
            other = None
            if corrupted is not None:
                other = self.view.encode_beside(first, corrupted, prepend_bos)
            self.pairs.append((first, other))
        self.others = [encode(other, prepend_bos) for other in mean_over or ()]
        if not self.pairs:
            raise InputError("there are no pairs of prompts to measure on")
        self.metrics = [metric] * len(self.pairs) if callable(metric) else list(metric)
        if len(self.metrics) != len(self.pairs):
            raise InputError(
                f"there are {len(self.pairs)} pairs but {len(self.metrics)} metrics; give one "
                f"metric, or one per pair"
            )
        self.corrupted: tuple[float, ...] | None = None

    @property
    def metric_name(self) -> str:
        """Name of the metric; for several, that of the first, and `and others`."""
        more = "" if len(set(map(id, self.metrics))) == 1 else " and others"
        return metric_name(self.metrics[0]) + more

    def measure(
        self, circuits: Sequence[Collection[Edge]], what: str, verbose: bool
    ) -> list[tuple[float, ...]]:
        """The metric of each circuit on each pair, `[circuit][pair]`.

        It goes pair by pair, to have the writes of only one pair in memory at a time.
        """
        from tqdm.auto import tqdm

        table: list[list[float]] = []
        corrupted: list[float] = []
        total = len(self.pairs) * len(circuits)
        with tqdm(total=total, desc=what, disable=not verbose) as bar:
            for (clean, other), metric in zip(self.pairs, self.metrics, strict=True):
                run = WrittenRun(self.view, clean)
                others = [replace(one, segments=clean.segments) for one in self.others]
                base, ran = other_writes(self.view, run, self.how, other, others)
                bound = bind(metric, self.view, run.logits)
                reduced = CircuitRun(run, base)
                row, known = [], dict[frozenset[Edge], float]()
                for circuit in circuits:
                    key = frozenset(circuit)
                    if key not in known:
                        known[key] = evaluate(bound, reduced.logits(key))
                    row.append(known[key])
                    bar.update()
                table.append(row)
                if ran is not None:
                    corrupted.append(evaluate(bound, ran.logits))
        self.corrupted = tuple(corrupted) if len(corrupted) == len(table) else None
        return list(zip(*table, strict=True))


def _ends(pair: Any) -> tuple[Any, Any]:
    """The clean prompt of a pair and the corrupted one, if any."""
    if isinstance(pair, str | Tensor):
        return pair, None
    if isinstance(pair, list | tuple) and pair and all(isinstance(x, int) for x in pair):
        return pair, None
    if isinstance(pair, list | tuple) and len(pair) == 2:
        return pair[0], pair[1]
    raise InputError(
        f"a pair is (clean, corrupted), two prompts as texts or token ids, or one prompt alone; "
        f"got {type(pair).__name__}{f' of {len(pair)}' if hasattr(pair, '__len__') else ''}"
    )
