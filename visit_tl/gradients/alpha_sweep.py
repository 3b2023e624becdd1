"""patching_sweep: accuracy and loss of many prompts by the strength of attention patching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Budgets, Flag, Model, PromptsLike, TargetsOrMetric
from visit_tl.errors import InputError
from visit_tl.gradients.loss import first_token
from visit_tl.gradients.patched_attention import (
    AnyMaps,
    MeanMaps,
    each_prompt,
    each_target,
    maps_by_layer,
)
from visit_tl.graph.ids import NodeNames
from visit_tl.model.added_attention import attention_added
from visit_tl.model.last_logits import last_logits
from visit_tl.model.view import ModelView

if TYPE_CHECKING:
    import pandas as pd

ALPHAS = (-120.0, -60.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0)
CONTROL = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Factors of the mean attention, the paper's control."""


@dataclass(frozen=True)
class PatchingSweep:
    """Accuracy and loss of prompts by alpha.

    Attributes:
        rows: Dicts with `maps` (`reversed`, or `forward` for the control), alpha, accuracy (share
            of prompts whose most probable token is the target), loss (mean `-log p(target)` in
            nats), their standard errors over the prompts (`accuracy_se`, `loss_se`), and n.
    """

    rows: tuple[dict[str, float | int | str], ...] = field(repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.rows))

    def best(self) -> dict[str, float | int | str]:
        """The row of the reversed maps with the largest accuracy; of those, the least loss."""
        rows = [row for row in self.rows if row["maps"] == "reversed"]
        return max(rows, key=lambda row: (row["accuracy"], -float(row["loss"])))


@checked
def patching_sweep(
    model: Model,
    maps: AnyMaps,
    prompts: PromptsLike,
    targets: TargetsOrMetric,
    *,
    alphas: Budgets = ALPHAS,
    control: Budgets = CONTROL,
    heads: NodeNames | None = None,
    prepend_bos: Flag | None = None,
    verbose: Flag = True,
) -> PatchingSweep:
    """Patch the attention of many prompts with several alphas, and measure accuracy and loss.

    Args:
        model: As for `flow_graph`.
        maps: As for `attention_patching`; of the `MeanMaps` of other prompts, the forward maps are
            the control.
        prompts: Prompts with as many tokens as the maps. Use others than those of the maps.
        targets: A target for each prompt, or one for all.
        alphas: Factors of the reversed maps; 0 is the unpatched model.
        control: Factors of the mean forward maps, where `maps` has them.
        heads: As for `attention_patching`.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Raises:
        InputError: prompts of another length than the maps, or not one target for each.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    ids = [view.tokens.encode(prompt, prepend_bos).ids for prompt in each_prompt(prompts)]
    wanted = [first_token(view, target) for target in each_target(targets, len(ids))]
    if not ids:
        raise InputError("no prompts were given")
    own = torch.tensor(wanted, device=view.W_U.device)
    jobs = [("reversed", maps_by_layer(view, maps, heads), alpha) for alpha in alphas]
    if isinstance(maps, MeanMaps):
        forward = maps_by_layer(view, maps.forward, heads)
        jobs += [("forward", forward, alpha) for alpha in control]
    rows: list[dict[str, float | int | str]] = []
    for name, chosen, alpha in tqdm(jobs, desc="attention patching", disable=not verbose):
        with attention_added(view, {layer: alpha * one.float() for layer, one in chosen.items()}):
            log_p = last_logits(view, ids).log_softmax(-1)
        right = (log_p.argmax(-1) == own).double().cpu().numpy()
        loss = -log_p.gather(1, own[:, None])[:, 0].double().cpu().numpy()
        rows.append(
            {
                "maps": name,
                "alpha": alpha,
                "accuracy": float(right.mean()),
                "accuracy_se": standard_error(right),
                "loss": float(loss.mean()),
                "loss_se": standard_error(loss),
                "n": len(ids),
            }
        )
    return PatchingSweep(tuple(rows))


def standard_error(values: Float[np.ndarray, " prompt"]) -> float:
    """Standard error of the mean over prompts; NaN for one prompt."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
