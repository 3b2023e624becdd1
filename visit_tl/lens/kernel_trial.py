"""Find the fastest kernel on this machine by timing a small readout with each.

Processors differ in ways that cannot be looked up: which library multiplies faster, how large a
tile fits into the nearest cache, what a thread costs. So every kernel reads some vectors against
the same part of the vocabulary. This is repeated for several rounds, since other programs on the
machine disturb the timings. The shortest time of each kernel counts, and kernels that are far
slower than the fastest are left out of later rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from visit_tl.lens.kernel import Kernel
from visit_tl.lens.product import ways
from visit_tl.lens.threads import MOST
from visit_tl.lens.tiled_readout import TiledReadout
from visit_tl.model.view import ModelView

SECONDS: Final = 0.8
"""How long a trial may take; the timing that is running then is still finished."""
_ROUNDS: Final = 6
_BEHIND: Final = 1.25
"""A kernel that takes longer than this times the shortest time is not tried again."""
_CLEAR: Final = 0.97
"""A kernel replaces the default only if it takes less than this share of the default's time."""
_TILES: Final = ((256, 2048), (256, 4096), (512, 2048), (128, 4096), (512, 4096))
_DIVIDED: Final = ((256, 2048), (512, 2048))
"""Tiles that are tried with a thread each."""
_SPAN: Final = 4096
"""Tokens that are read per round."""
_K: Final = 5

Read = Callable[[int], None]
"""A function that reads vectors against the part of the vocabulary that the given round uses."""


@dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Attributes:
        kernel: The fastest kernel, or the default if no other is clearly faster.
        seconds: The time of each kernel that was tried, per vector and part of the vocabulary.
        complete: Whether every kernel was tried; on a busy machine time may run out before.
    """

    kernel: Kernel
    seconds: dict[Kernel, float]
    complete: bool


def candidates(view: ModelView, threads: int) -> list[Kernel]:
    """The kernels to try, likely ones first; with more threads, tiles have more rows."""
    share = min(4, max(1, threads // 4))
    found = ways(view.W_U.device, torch.float32)
    whole = [Kernel(way, rows * share, columns) for rows, columns in _TILES for way in found]
    if not 2 <= threads <= MOST:
        return whole
    return [
        *(Kernel(way, rows, columns, True) for rows, columns in _DIVIDED for way in found),
        *whole,
    ]


def trial(view: ModelView, usual: Kernel, threads: int) -> Trial:
    """Time the candidates on a model's own unembedding, for about a second at most.

    Args:
        view: The model whose unembedding is used.
        usual: The default kernel, chosen unless another is clearly faster.
        threads: How many threads torch uses.
    """
    kernels = candidates(view, threads)
    kernels = [usual, *(kernel for kernel in kernels if kernel != usual)]
    parts = max(1, view.d_vocab // _SPAN)
    generator = torch.Generator().manual_seed(0)

    def reader(kernel: Kernel) -> Read:
        n = _vectors(kernel, threads)
        vectors = torch.randn((n, view.d_model), generator=generator)
        targets = torch.zeros((n, 1), dtype=torch.long)
        tiled = TiledReadout(view, vectors, targets, _K, kernel, apply_norm=True)

        def read(turn: int) -> None:
            start = turn % parts * _SPAN
            tiled.see(start, min(start + _SPAN, view.d_vocab))

        return read

    with torch.no_grad():
        return compared(kernels, reader, time.perf_counter, threads)


def compared(
    kernels: Sequence[Kernel],
    reader: Callable[[Kernel], Read],
    clock: Callable[[], float],
    threads: int = 1,
) -> Trial:
    """Time the readers of the kernels in turn, each with as many vectors as its tiles have rows.

    Args:
        kernels: The kernels to try, the default first.
        reader: Makes the function that reads with a kernel.
        clock: A clock, in seconds.
        threads: How many threads torch uses.
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
        best[kernel] = min(
            best.get(kernel, float("inf")), (now - start) / _vectors(kernel, threads)
        )
        if now >= end:
            break
    quickest = min(best, key=lambda kernel: best[kernel])
    clear = best[quickest] < _CLEAR * best[kernels[0]]
    return Trial(quickest if clear else kernels[0], best, len(best) == len(kernels))


def _vectors(kernel: Kernel, threads: int) -> int:
    """How many vectors a kernel reads in the trial: a tile, or one for each thread."""
    return kernel.rows * (threads if kernel.threads else 1)


def _turns(kernels: Sequence[Kernel], best: dict[Kernel, float]) -> Iterator[tuple[int, Kernel]]:
    """Round numbers and kernels, round by round, without the kernels found to be too slow."""
    yield from ((0, kernel) for kernel in kernels)
    for turn in range(1, _ROUNDS):
        limit = _BEHIND * min(best.values())
        # First calls are slower, so no kernel is left out because of its first time.
        kept = [kernel for kernel in kernels if turn == 1 or best[kernel] <= limit]
        yield from ((turn, kernel) for kernel in kept)
