"""Attribution patching: estimate every node's effect with one backward pass.

To first order, a node's effect is `(a' - a) . d metric / d a` at the hook where it is patched
(Nanda, 2023; Syed et al., 2023). It is exact where the metric is linear in the activation. Behind
norms, softmaxes and saturated activations it can be far off, even in sign. So it is only used to
choose which nodes to measure.
"""

from __future__ import annotations

from collections.abc import Sequence

from visit_tl.causal.metrics import Metric, scalar
from visit_tl.causal.patching.replacements import Patcher
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write


def estimates(
    base: KeptRun, patcher: Patcher, runs: Sequence[Sequence[Write]], metric: Metric
) -> list[float]:
    """Estimate the effect of each run's writes on a metric.

    Args:
        base: The unpatched run.
        patcher: The patcher that made the writes.
        runs: The writes of each run.
        metric: A metric that torch can differentiate.

    Raises:
        InputError: the metric has no gradient, or is not a scalar.
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
    """Indices of the `top` largest absolute values; ties go to the lower index."""
    return sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:top]
