"""Attribution patching: estimates of every node's effect from one backward pass.

To first order a node's effect is `(a' - a) . d metric / d a` at the hook where it is patched
(Nanda, 2023; Syed et al., 2023). It is exact where the metric is linear in it, and can be far off,
also in its sign, behind norms, softmaxes and saturated activations. Hence it only chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

from visit_tl.causal.ablate import Patcher
from visit_tl.causal.metrics import Metric, scalar
from visit_tl.model.patch import Write
from visit_tl.model.replay import KeptRun


def estimates(
    base: KeptRun, patcher: Patcher, runs: Sequence[Sequence[Write]], metric: Metric
) -> list[float]:
    """The estimated effect of each run's changes on a metric.

    Args:
        base: The run that is changed.
        patcher: What made the changes.
        runs: The changes of each run.
        metric: A metric that torch can differentiate.

    Raises:
        InputError: the metric has no gradient, or is no scalar.
    """
    names = sorted({write.hook for writes in runs for write in writes})
    if not names:
        return [0.0] * len(runs)
    gradients = base.gradients(names, lambda logits: scalar(metric, logits))
    return [
        sum(
            float((patcher.change(write) * gradients[write.hook][write.index]).sum())
            for write in writes
        )
        for writes in runs
    ]


def best(values: Sequence[float], top: int) -> list[int]:
    """The places of the `top` largest absolute values, ties by place."""
    return sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:top]
