"""Many patched runs of one prompt, batched where the model allows it, and always checked.

There are three ways to run, fastest first. All give the same logits:

- `rows`: run the blocks from the first changed one on, at the positions from the first one that a
  change can reach.
- `blocks`: run the same blocks at all positions.
- `model`: run the whole model, one patched run at a time.

Every batch includes two unpatched runs. If their logits differ from the model's own, or the blocks
cannot be called in this way, then this batch and all later ones are run in the next slower way. A
`PerformanceWarning` says so, once per model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import VisitError
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.model.replay.slow_way import say_once
from visit_tl.model.same_logits import allowed_error, error_of
from visit_tl.xray.conservation import tolerance

Way = Literal["rows", "blocks", "model"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)

# Limit on the rows (positions of runs) that go through the blocks together. Measured with
# SmolLM2-135M on two cores, all 270 heads at the end of 15 tokens: 1.0 s at 32 rows, 0.9 at 64,
# 0.6 at 128, 0.5 at 272; at 256 their logits take 50 MB.
_ROWS = 256
# Limit on how many numbers keys, values and scores of one batch take; 2^26 floats are 256 MB.
_NUMBERS = 2**26


class Replay:
    """Runs one prompt again with patches, many runs at a time.

    Args:
        kept: The unpatched run.
        way: The way to start with; the slower ones are for comparison.
        quiet: Whether to suppress the warning about a slower way.

    Attributes:
        kept: The unpatched run.
        way: The way of the last batch.
        reason: Why a slower way than the first one was taken; None if it was not.
    """

    def __init__(self, kept: KeptRun, way: Way = "rows", *, quiet: bool = False) -> None:
        self.kept, self._quiet = kept, quiet
        self.way: Way = way
        self.reason: str | None = None

    @property
    def logits(self) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the unpatched run."""
        return self.kept.logits

    def run(self, runs: Sequence[Sequence[Write]]) -> Iterator[tuple[int, Tensor]]:
        """The logits of each patched run, sorted by first changed position and block.

        The same tensor may be yielded every time, with new values: copy it to keep it.

        Args:
            runs: The writes of each run; a run without writes is the unpatched run.

        Yields:
            The run's index in `runs`, and its logits `[1, pos, d_vocab]`.
        """
        for batch, first in self._batches(runs):
            yield from self._logits([(i, runs[i]) for i in batch], first)

    def _batches(self, runs: Sequence[Sequence[Write]]) -> Iterator[tuple[list[int], int]]:
        """Batches of runs with one first position, by first block; each with that position."""
        kept = self.kept
        firsts: dict[int, list[int]] = {}
        for i, writes in enumerate(runs):
            reached = (kept.first_reached(write.position) for write in writes)
            firsts.setdefault(min(reached, default=kept.n_tokens - 1), []).append(i)
        for first in sorted(firsts):
            order = sorted(firsts[first], key=lambda i: kept.begin(runs[i]))
            size = self._size(kept.n_tokens - first)
            for at in range(0, len(order), size):
                yield order[at : at + size], first

    def _size(self, n_rows: int) -> int:
        """How many runs to put in one batch."""
        view, n = self.kept.view, self.kept.n_tokens
        numbers = view.n_heads * n * (2 * view.d_head + 2 * n_rows)
        return max(1, min(_ROWS // n_rows, _NUMBERS // numbers))

    def _logits(
        self, batch: list[tuple[int, Sequence[Write]]], first: int
    ) -> Iterator[tuple[int, Tensor]]:
        while self.way != "model":
            start = first if self.way == "rows" else 0
            rows = self._rows([writes for _, writes in batch], start)
            if isinstance(rows, str):
                # From position 0 on, `rows` and `blocks` are the same.
                self.way = "blocks" if start else "model"
                self.reason = rows
                if not self._quiet:
                    _warn(self.kept, self.way, rows, first)
                continue
            whole = self.logits.clone()
            for (i, _), row in zip(batch, rows, strict=True):
                whole[0, start:] = row
                yield i, whole
            return
        for i, writes in batch:
            yield i, self.kept.whole(writes)

    def _rows(self, runs: list[Sequence[Write]], first: int) -> Tensor | str:
        """The logits of these runs from `first` on; or a text: why the blocks do not give them."""
        begins = [self.kept.begin(writes) for writes in runs]
        guarded = [begins[0], *begins, begins[-1]]
        try:
            rows = self.kept.rows([(), *runs, ()], guarded, first)
        except Exception as error:  # a block that cannot be called like that may fail in any way
            return (
                str(error) if isinstance(error, VisitError) else f"{type(error).__name__}: {error}"
            )
        own = self.logits[0, first:]
        off = max(error_of(rows[0], own), error_of(rows[-1], own))
        # The rounding of half precision in a batch was measured with that of the laws.
        half = own.dtype in (torch.float16, torch.bfloat16)
        allowed = tolerance(self.kept.view) if half else allowed_error(own.dtype)
        if not off <= allowed:
            return (
                f"an unchanged run gave other logits, by {off:.1e} of the largest one (allowed "
                f"{allowed:.0e}); a hook that counts positions or prompts can cause this"
            )
        return rows[1:-1]


def _warn(kept: KeptRun, way: Way, reason: str, first: int) -> None:
    n = kept.n_tokens
    cost = (
        f"all {n} positions of the blocks after a change are run, not the {n - first} that it can "
        f"reach, which is {n / (n - first):.3g} times the work for a change at position {first}"
        if way == "blocks"
        else "the whole model is run once for each change, as in a loop of run_with_hooks"
    )
    say_once(kept.view.model, kept.view.name, way, cost, reason)
