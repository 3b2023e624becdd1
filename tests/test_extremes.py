"""The extremes of rows that come in tiles, beside a stable sort of the whole rows."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from visit_tl.lens.extremes import Extremes


def whole(matrix, k):
    """The same from all columns at once: stable, so that ties are in the order of the columns."""
    down = matrix.sort(dim=-1, descending=True, stable=True)
    up = matrix.sort(dim=-1, stable=True)
    return down.values[:, :k], down.indices[:, :k], up.values[:, :k], up.indices[:, :k]


def in_tiles(matrix, k, starts, size):
    extremes = Extremes(matrix.shape[0], k)
    for start in starts:
        extremes.see(matrix[:, start : start + size].contiguous(), start)
    return extremes.best()


def assert_same(got, wanted):
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.equal(ours, theirs)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 5),
    columns=st.integers(1, 700),
    size=st.sampled_from([1, 3, 64, 128, 192, 256, 512]),
    levels=st.sampled_from([1, 2, 5, 1000]),
    data=st.data(),
)
def test_tiles_of_any_size_in_any_order_give_what_a_stable_sort_gives(
    seed, rows, columns, size, levels, data
):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randint(levels, (rows, columns), generator=generator).float() - levels / 2
    k = data.draw(st.integers(1, min(columns, 40)))
    starts = data.draw(st.permutations(range(0, columns, size))) if columns / size < 60 else None
    starts = range(0, columns, size) if starts is None else starts
    assert_same(in_tiles(matrix, k, starts, size), whole(matrix, k))


@pytest.mark.parametrize("k", [1, 5, 31, 33, 200])
def test_real_numbers_with_infinities_are_ordered(k):
    matrix = torch.randn(7, 1000, generator=torch.Generator().manual_seed(0))
    matrix[0, 3], matrix[0, 900], matrix[1, 5] = float("inf"), float("inf"), float("-inf")
    assert_same(in_tiles(matrix, k, range(0, 1000, 256), 256), whole(matrix, k))


def test_rows_of_one_number_are_not_kept_whole():
    rows, k, size = 50, 3, 512
    extremes = Extremes(rows, k)
    for start in range(0, 40 * size, size):
        extremes.see(torch.zeros(rows, size), start)
    kept = sum(len(key) for key, _, _ in extremes._found)
    assert kept <= 40 * 2 * rows * k
    assert torch.equal(extremes.best()[1], torch.arange(k).expand(rows, k))


def test_numbers_that_are_none_are_found_and_lose_no_row():
    matrix = torch.randn(2, 256, generator=torch.Generator().manual_seed(1))
    matrix[1, 100:] = float("nan")
    values, columns, low, low_columns = in_tiles(matrix, 4, range(0, 256, 64), 64)
    clean = whole(matrix[:1], 4)
    assert_same([values[:1], columns[:1], low[:1], low_columns[:1]], clean)
    assert values[1].isnan().all()
    assert low[1].isnan().all()
