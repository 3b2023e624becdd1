"""agreement: how well observed scores of heads predict what patching them does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Name, Names
from visit_tl.circuits import metrics
from visit_tl.errors import InputError
from visit_tl.studies.head_scores import HeadScores, is_rank

if TYPE_CHECKING:
    import pandas as pd


@checked
def agreement(
    scores: HeadScores, truth: Name, *, k: Count, names: Names | None = None
) -> pd.DataFrame:
    """How well each score ranks the heads that have the largest effects.

    Absolute values are compared, so a head that hurts counts like one that helps. A score that is a
    rank is taken as -log(1 + rank), so a lower rank counts more.

    Args:
        scores: Observed scores and effects of the same prompts.
        truth: Name of the score that is the effect.
        k: The heads to find are those with the k largest absolute mean effects.
        names: Names of the scores to compare with the effect; None is all the others.

    Returns:
        One row per score, best AUROC first. Computed from means over the prompts: `auroc`,
        `average_precision`, and `spearman`, the rank correlation with the size of the effect, ties
        averaged. Computed for each prompt with the effects on that prompt, then averaged:
        `auroc_one` and `spearman_one`, which tell how well one graph predicts.

    Raises:
        InputError: there is no such score, one is missing for some heads, or k is not in
            1..heads - 1.
    """
    import pandas as pd

    chosen = [name for name in scores.names if name != truth] if names is None else list(names)
    if not chosen:
        raise InputError(f"no score is named to compare with {truth!r}")
    for name in (truth, *chosen):
        if not np.isfinite(scores[name]).all():
            raise InputError(f"{name!r} was not measured for every head; agreement needs them all")
    # The size of the mean, not the mean of sizes: an effect whose sign changes is noise.
    mean = np.abs(scores.mean(truth)).ravel()
    sizes = np.abs(scores[truth]).reshape(len(scores), -1)
    if not 1 <= k < len(mean):
        raise InputError(f"k is {k}; it must be in 1..{len(mean) - 1}, to leave some heads out")
    members = _largest(mean, k)
    rows = []
    for name in chosen:
        values = scores[name].reshape(len(scores), -1)
        values = -np.log1p(values) if is_rank(name) else values
        whole = _size(values.mean(0), name)
        single = [(_size(own, name), size) for own, size in zip(values, sizes, strict=True)]
        rows.append(
            {
                "score": name,
                "auroc": metrics.auroc(whole, members),
                "average_precision": metrics.average_precision(whole, members),
                "spearman": spearman(whole, mean),
                "auroc_one": _mean(metrics.auroc(own, _largest(size, k)) for own, size in single),
                "spearman_one": _mean(spearman(own, size) for own, size in single),
            }
        )
    table = pd.DataFrame(rows).set_index("score")
    return table.sort_values("auroc", ascending=False, kind="stable")


def spearman(a: Float[np.ndarray, " item"], b: Float[np.ndarray, " item"]) -> float:
    """Spearman's rank correlation, ties averaged; NaN where one of the two is constant."""
    x, y = (_ranks(values) for values in (a, b))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _largest(sizes: Float[np.ndarray, " item"], k: int) -> Bool[np.ndarray, " item"]:
    """Which items are the k largest; ties go to the earlier item."""
    members = np.zeros(len(sizes), dtype=bool)
    members[np.argsort(-sizes, kind="stable")[:k]] = True
    return members


def _size(values: Float[np.ndarray, " item"], name: str) -> Float[np.ndarray, " item"]:
    """The score as it is compared with the size of an effect: larger is more."""
    return values if is_rank(name) else np.abs(values)


def _ranks(values: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """Ranks from 0 up; tied values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[group.ravel()]


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))
