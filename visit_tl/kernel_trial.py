"""Which kernel is the quickest here, found by reading a little with each in turn.

Processors differ in more than can be looked up: in which library multiplies quicker, in how large a
tile stays in the nearest cache, in what a thread costs. So each kernel reads the same vectors from
the same part of the vocabulary, several times round, since other work on the machine comes and
goes; the quickest time of each counts, and those that are far behind are left out of later rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
_K: Final = 5
_TILES: Final = ((256, 2048), (256, 4096), (512, 2048), (128, 4096), (512, 4096))
_WIDE: Final = 1024
"""The d_model from which on the product is so much of the work that fewer vectors tell."""


def candidates(view: ModelView, threads: int) -> list[Kernel]:
    """The kernels that are tried, likely ones first: tiles are as high as there are threads."""
    share = min(4, max(1, threads // 4))
    found = ways(view.W_U.device, torch.float32)
    return [Kernel(way, rows * share, columns) for rows, columns in _TILES for way in found]


def quickest(view: ModelView, usual: Kernel, threads: int) -> Kernel:
    """Try the candidates on a model's own unembedding, for less than a second.

    Args:
        view: The model that is about to read.
        usual: The kernel that is taken unless another is clearly quicker.
        threads: How many threads torch has.
    """
    kernels = candidates(view, threads)
    kernels = [usual, *(kernel for kernel in kernels if kernel != usual)]
    rows = max(kernel.rows for kernel in kernels) // (1 if view.d_model <= _WIDE else 2)
    last = min(view.d_vocab, max(kernel.columns for kernel in kernels))
    with torch.no_grad():
        vectors = view.W_U[:, torch.arange(rows, device=view.W_U.device) % view.d_vocab].T.float()
        targets = torch.zeros((rows, 1), dtype=torch.long, device=vectors.device)

        def reader(kernel: Kernel) -> Callable[[], None]:
            tiled = TiledReadout(view, vectors, targets, _K, kernel, apply_norm=True)
            return lambda: tiled.see(0, last)

        return _quickest(kernels, reader, time.perf_counter)


def _quickest(
    kernels: Sequence[Kernel],
    reader: Callable[[Kernel], Callable[[], None]],
    clock: Callable[[], float],
) -> Kernel:
    """The kernel whose reader was the quickest; the first, unless another is clearly quicker."""
    best: dict[Kernel, float] = {}
    readers: dict[Kernel, Callable[[], None]] = {}
    end = clock() + SECONDS
    for kernel in _turns(kernels, best):
        if kernel not in readers:
            readers[kernel] = reader(kernel)
        start = clock()
        readers[kernel]()
        now = clock()
        best[kernel] = min(best.get(kernel, float("inf")), now - start)
        if now >= end:
            break
    found = min(best, key=lambda kernel: best[kernel])
    return found if best[found] < _CLEAR * best[kernels[0]] else kernels[0]


def _turns(kernels: Sequence[Kernel], best: dict[Kernel, float]) -> Iterator[Kernel]:
    """Round after round of the kernels, as what is known of them leaves them in the trial."""
    yield from kernels
    for _ in range(_ROUNDS - 1):
        limit = _BEHIND * min(best.values())
        yield from [kernel for kernel in kernels if best[kernel] <= limit]
