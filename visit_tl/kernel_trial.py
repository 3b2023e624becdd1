"""Which kernel is the quickest here, found by reading a little with each in turn.

Processors differ in more than can be looked up: in which library multiplies quicker, in how large a
tile stays in the nearest cache, in what a thread costs. So each kernel reads some vectors from the
same part of the vocabulary, several times round, since other work on the machine comes and goes;
the quickest time of each counts, and those that are far behind are left out of later rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from visit_tl.kernel import Kernel
from visit_tl.model.view import ModelView
from visit_tl.product import ways
from visit_tl.tiled_readout import TiledReadout

SECONDS: Final = 0.8
"""How long a trial may take; the kernel that is being tried then is still finished."""
_ROUNDS: Final = 6
_BEHIND: Final = 1.25
"""How many times the quickest a kernel may take to be tried again."""
_CLEAR: Final = 0.97
"""What a kernel must take of the usual one's time to be taken instead of it."""
_TILES: Final = ((256, 2048), (256, 4096), (512, 2048), (128, 4096), (512, 4096))
_SPAN: Final = 4096
"""Tokens that are read in a round."""
_K: Final = 5

Read = Callable[[int], None]
"""Read vectors from the part of the vocabulary of a round."""


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        kernel: The quickest, or the usual one if no other is clearly quicker.
        seconds: The time of each that was tried, per vector and part of the vocabulary.
        complete: Whether each was tried; on a busy machine there may be no time for it.
    """

    kernel: Kernel
    seconds: dict[Kernel, float]
    complete: bool


def candidates(view: ModelView, threads: int) -> list[Kernel]:
    """The kernels that are tried, likely ones first; the more threads, the higher the tiles."""
    share = min(4, max(1, threads // 4))
    found = ways(view.W_U.device, torch.float32)
    return [Kernel(way, rows * share, columns) for rows, columns in _TILES for way in found]


def trial(view: ModelView, usual: Kernel, threads: int) -> Trial:
    """Try the candidates on a model's own unembedding, for less than a second.

    Args:
        view: The model that is about to read.
        usual: The kernel that is taken unless another is clearly quicker.
        threads: How many threads torch has.
    """
    kernels = candidates(view, threads)
    kernels = [usual, *(kernel for kernel in kernels if kernel != usual)]
    parts = max(1, view.d_vocab // _SPAN)
    generator = torch.Generator().manual_seed(0)

    def reader(kernel: Kernel) -> Read:
        vectors = torch.randn((kernel.rows, view.d_model), generator=generator)
        targets = torch.zeros((kernel.rows, 1), dtype=torch.long)
        tiled = TiledReadout(view, vectors, targets, _K, kernel, apply_norm=True)

        def read(turn: int) -> None:
            start = turn % parts * _SPAN
            tiled.see(start, min(start + _SPAN, view.d_vocab))

        return read

    with torch.no_grad():
        return compared(kernels, reader, time.perf_counter)


def compared(
    kernels: Sequence[Kernel], reader: Callable[[Kernel], Read], clock: Callable[[], float]
) -> Trial:
    """Time the readers of kernels in turns, each for as many vectors as its tile is high.

    Args:
        kernels: What is tried, the usual one first.
        reader: Makes the reader of a kernel.
        clock: Seconds since some time.
    """
    end = clock() + SECONDS
    best: dict[Kernel, float] = {}
    readers: dict[Kernel, Read] = {}
    for turn, kernel in _turns(kernels, best):
        if kernel not in readers:
            readers[kernel] = reader(kernel)
        start = clock()
        readers[kernel](turn)
        now = clock()
        best[kernel] = min(best.get(kernel, float("inf")), (now - start) / kernel.rows)
        if now >= end:
            break
    quickest = min(best, key=lambda kernel: best[kernel])
    clear = best[quickest] < _CLEAR * best[kernels[0]]
    return Trial(quickest if clear else kernels[0], best, len(best) == len(kernels))


def _turns(kernels: Sequence[Kernel], best: dict[Kernel, float]) -> Iterator[tuple[int, Kernel]]:
    """Round after round of the kernels that are not known to be far behind."""
    yield from ((0, kernel) for kernel in kernels)
    for turn in range(1, _ROUNDS):
        limit = _BEHIND * min(best.values())
        # What is made and seen first takes longer: nothing is left out for it.
        kept = [kernel for kernel in kernels if turn == 1 or best[kernel] <= limit]
        yield from ((turn, kernel) for kernel in kept)
