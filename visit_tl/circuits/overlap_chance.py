"""What two sets share by chance: exact, from the hypergeometric distribution, and by permutation.

Two circuits of `a` and `b` items, drawn at random from the same `n`, share k items with probability
C(a, k) C(n - a, b - k) / C(n, b).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

CUT = 1e-12
"""A permutation that is less than the observed index by no more than this counts as reaching it."""


def shared_chances(n: int, a: int, b: int) -> dict[int, float]:
    """The probability of each number of shared items of two random sets of `a` and `b` of `n`."""
    low = max(0, a + b - n)
    ways = math.comb(a, low) * math.comb(n - a, b - low)
    found, total = {}, math.comb(n, b)
    for k in range(low, min(a, b) + 1):
        found[k] = ways / total
        # The next product of binomials from this one; the division leaves no rest.
        ways = ways * (a - k) * (b - k) // ((k + 1) * (n - a - b + k + 1))
    return found


def at_least(chances: dict[int, float], k: int) -> float:
    """The probability of k or more, at most 1."""
    return min(1.0, math.fsum(chance for each, chance in chances.items() if each >= k))


def expected_jaccard(n: int, a: int, b: int) -> float:
    """The mean Jaccard index of two random sets of `a` and `b` of `n`; 1 for two empty sets."""
    if not a + b:
        return 1.0
    return math.fsum(c * k / (a + b - k) for k, c in shared_chances(n, a, b).items())


def layered_chances(layers: Sequence[tuple[int, int, int]]) -> dict[int, float]:
    """The probability of each number of shared items of sets that are random within each layer.

    Args:
        layers: For each layer, its number of items, and how many of them are in each set.
    """
    total = {0: 1.0}
    for layer in layers:
        here = shared_chances(*layer)
        sums: dict[int, float] = {}
        for k, chance in total.items():
            for more, own in here.items():
                sums[k + more] = sums.get(k + more, 0.0) + chance * own
        total = sums
    return total


def weighted_jaccard(
    a: Float[np.ndarray, " item"], b: Float[np.ndarray, " item"], groups: Int[np.ndarray, " item"]
) -> Float[np.ndarray, " group"]:
    """Sum of the smaller over sum of the larger weights, by group; NaN where all are 0."""
    least = np.bincount(groups, np.minimum(a, b))
    most = np.bincount(groups, np.maximum(a, b))
    return np.divide(least, most, out=np.full(len(least), np.nan), where=most > 0)


def permuted(
    a: Float[np.ndarray, " item"],
    b: Float[np.ndarray, " item"],
    groupings: Sequence[Int[np.ndarray, " item"]],
    n: int,
    seed: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Mean and p-value of `weighted_jaccard` when the weights of `b` are shuffled among all items.

    Args:
        a: Weights, at least 0.
        b: Weights of the same items.
        groupings: Several divisions of the items into groups 0, 1, ...
        n: Number of permutations; the p-value is (1 + those at least as large) / (1 + n).
        seed: Seed of the permutations.

    Returns:
        For each division, the mean over permutations by group, and the p-value by group.
    """
    # NumPy takes no negative seeds.
    stream = np.random.default_rng(seed if seed >= 0 else [1, -seed])
    observed = [weighted_jaccard(a, b, groups) for groups in groupings]
    sums = [np.zeros(len(one)) for one in observed]
    reached = [np.ones(len(one)) for one in observed]
    for _ in range(n):
        shuffled = stream.permutation(b)
        for i, groups in enumerate(groupings):
            # A group without weight in a permutation shares nothing there.
            now = np.nan_to_num(weighted_jaccard(a, shuffled, groups))
            sums[i] += now
            reached[i] += now >= observed[i] - CUT
    return [total / n for total in sums], [count / (1 + n) for count in reached]
