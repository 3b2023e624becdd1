"""The measurement of lenses other than the logit lens: what carrying vectors to the end costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import torch

from visit_tl.bench.parts import Measurements, random_vectors
from visit_tl.bench.report import Figure, Timing
from visit_tl.lens import readout
from visit_tl.lenses.maps import Lens

_TARGET: Final = 5
_MAPS: Final = 256 << 20
"""Bytes of different maps; of wider models, blocks share them."""


def through_lens(measured: Measurements) -> Iterator[Timing]:
    """Time vectors carried by a lens, and read through it.

    The vectors are divided among all blocks but the last, in the order of the blocks. Carrying them
    is held against the bare products with the maps of their blocks, reading them against these and
    a readout by the logit lens. A model of one block has no maps.
    """
    view, n = measured.view, measured.vectors
    blocks = range(view.n_layers - 1)
    if not blocks:
        return
    lens = _random_lens(view.d_model, blocks)
    x = random_vectors(view, n)
    of = sorted(i % len(blocks) for i in range(n))
    counts = Counter(of)  # in the order of the blocks, as `of` is
    rows = x.split(list(counts.values()))
    maps = [lens.maps[block].to(x.device) for block in counts]

    def products() -> object:
        return [own @ matrix.T for own, matrix in zip(rows, maps, strict=True)]

    works = {
        "products": products,
        "carried": lambda: lens.carry(x, of, [True] * n),
        "plain": lambda: readout.read(view, x, [_TARGET]),
        "read": lambda: readout.read(view, x, [_TARGET], lens=lens, block=of),
    }
    products()
    seconds = measured.time_in_turns(works)
    product, carried = seconds["products"], seconds["carried"]
    plain, read = seconds["plain"], seconds["read"]
    what = f"products of {n} vectors with the maps of {len(rows)} blocks"
    yield Timing("lens", what, product, product)
    yield Timing("lens", "the same, carried by a lens", carried, product)
    measured.figures.append(Figure("vectors carried by a lens / bare products", carried / product))
    yield Timing("lens", "read by the logit lens", plain)
    yield Timing("lens", "read through a lens", read)
    what = "read through a lens / (read by the logit lens + bare products)"
    measured.figures.append(Figure(what, read / (plain + product)))


def _random_lens(d_model: int, blocks: range) -> Lens:
    different = max(1, min(len(blocks), _MAPS // (4 * d_model**2)))
    generator = torch.Generator().manual_seed(2)
    size = d_model**-0.5
    made = [torch.randn(d_model, d_model, generator=generator) * size for _ in range(different)]
    return Lens("random lens", {block: made[block % different] for block in blocks})
