"""The perturbation test: all heads off, then those that a score puts first on again.

Katz and Wolf, "Reversed Attention" (NAACL 2025): a good score brings the accuracy back with few
heads. A head is off when its z is 0 at every position, as if its rows of W_O were 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Budgets, Flag, MeanOver, Model, Name, Tokens, Whole
from visit_tl.errors import InputError
from visit_tl.gradients.alpha_sweep import standard_error
from visit_tl.gradients.loss import first_token
from visit_tl.gradients.patched_attention import each_target
from visit_tl.model.kept_heads import logits_with_heads
from visit_tl.model.view import ModelView

if TYPE_CHECKING:
    import pandas as pd

SHARES: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)
"""Percentages of the heads that are on, as in the paper."""

Grids = Annotated[
    Mapping[str, Any],
    Taken("a dict of scores [layer, head] by name", "importances(...)", classes=(Mapping,),
          form=plain.as_it_is),
]  # fmt: skip
Key = tuple[str, int, str]
"""Task, shots and score."""


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Which prompts a model answers with some of its heads, by the score that chose them.

    Attributes:
        shares: Percentages of the heads that are on.
        right: By task, shots and score, for each share and test prompt, whether the most probable
            token is the target; a fraction where several grids have one score (random ones).
    """

    shares: tuple[float, ...]
    right: Mapping[Key, Float[np.ndarray, "share prompt"]] = field(repr=False)

    @checked
    def joined(self, other: Perturbation) -> Perturbation:
        """These curves and those of other tasks, shots or scores.

        Raises:
            InputError: the shares differ, or curves are in both.
        """
        if other.shares != self.shares or self.right.keys() & other.right.keys():
            raise InputError("curves are joined if their shares agree and none is in both")
        return Perturbation(self.shares, {**self.right, **other.right})

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each curve and share: task, shots, score, p, accuracy, accuracy_se, n."""
        import pandas as pd

        rows = [
            {
                "task": task,
                "shots": shots,
                "score": score,
                "p": p,
                "accuracy": float(prompts.mean()),
                "accuracy_se": standard_error(prompts),
                "n": len(prompts),
            }
            for (task, shots, score), curve in self.right.items()
            for p, prompts in zip(self.shares, curve, strict=True)
        ]
        return pd.DataFrame(rows)

    def auc(self) -> pd.DataFrame:
        """The area under each curve, in [0, 1], by the trapezoid rule.

        The area is the mean of the areas of single prompts, so its standard error is theirs.

        Returns:
            Columns: task, shots, score, auc, auc_se, base (accuracy with all heads that the shares
            have), n.
        """
        import pandas as pd

        rows = []
        for (task, shots, score), curve in self.right.items():
            areas = self._areas(curve)
            rows.append(
                {
                    "task": task,
                    "shots": shots,
                    "score": score,
                    "auc": float(areas.mean()),
                    "auc_se": standard_error(areas),
                    "base": float(curve[int(np.argmax(self.shares))].mean()),
                    "n": len(areas),
                }
            )
        return pd.DataFrame(rows)

    @checked
    def compared(self, score: Name = "reversed") -> pd.DataFrame:
        """Each score's area, over tasks, and how much larger that of one score is.

        Returns:
            By shots and score: auc (mean over tasks), auc_se, ahead (area of the chosen score minus
            this one's, mean over tasks), ahead_se, wins (tasks where it is larger), and n, the
            number of tasks. Standard errors are over tasks.

        Raises:
            InputError: there is no curve of this score for a task.
        """
        import pandas as pd

        table = self.auc().set_index(["task", "shots", "score"])["auc"].unstack("score")
        if score not in table or table[score].isna().any():
            raise InputError(f"not every task has a curve of {score!r}")
        rows = []
        for shots, own in table.groupby(level="shots"):
            for name in own:
                ahead = own[score] - own[name]
                rows.append(
                    {
                        "shots": shots,
                        "score": name,
                        "auc": float(own[name].mean()),
                        "auc_se": float(own[name].sem()),
                        "ahead": float(ahead.mean()),
                        "ahead_se": float(ahead.sem()),
                        "wins": int((ahead > 0).sum()),
                        "n": int(own[name].count()),
                    }
                )
        return pd.DataFrame(rows)

    def _areas(self, curve: Float[np.ndarray, "share prompt"]) -> Float[np.ndarray, " prompt"]:
        widths = np.diff(np.array(self.shares) / 100)
        return (widths[:, None] * (curve[1:] + curve[:-1]) / 2).sum(0)


@checked
def perturbation_test(
    model: Model,
    scores: Grids,
    prompts: MeanOver,
    targets: Tokens,
    *,
    shares: Budgets = SHARES,
    task: Name = "",
    shots: Whole = 0,
    prepend_bos: Flag | None = None,
) -> Perturbation:
    """Switch all heads off, and on again from the highest score down; measure the accuracy.

    Args:
        model: As for `flow_graph`.
        scores: By name, a score of every head `[layer, head]`, as `importances` gives it; or a list
            of such grids, whose accuracies are averaged. Ties go to the earlier head.
        prompts: Test prompts, of any lengths; others than those of the scores.
        targets: A target for each prompt, or one for all.
        shares: Percentages of the heads that are on, in ascending order.
        task: Name of the task, for the table.
        shots: Number of its demonstrations, for the table.
        prepend_bos: As for `flow_graph`.

    Raises:
        InputError: scores of another shape, shares that do not ascend in 0..100, no prompts, or not
            one target for each.
    """
    view = ModelView(model)
    view.require_attention("turning heads off")
    ids = [view.tokens.encode(prompt, prepend_bos).ids for prompt in prompts]
    wanted = [first_token(view, target) for target in each_target(targets, len(ids))]
    if not ids:
        raise InputError("no prompts were given")
    if list(shares) != sorted(set(shares)) or not all(0 <= p <= 100 for p in shares):
        raise InputError(f"shares are percentages in ascending order, 0..100; got {list(shares)}")
    orders = _orders(view, scores)
    # Choices that several orders share, such as none and all, are run once.
    places: dict[bytes, int] = {}
    choices: list[Bool[np.ndarray, "layer head"]] = []
    at: dict[str, list[list[int]]] = {}
    for name, order in orders:
        own: list[int] = []
        for p in shares:
            kept = np.zeros(view.n_layers * view.n_heads, bool)
            kept[order[: round(p / 100 * len(order))]] = True
            place = places.setdefault(kept.tobytes(), len(choices))
            if place == len(choices):
                choices.append(kept.reshape(view.n_layers, view.n_heads))
            own.append(place)
        at.setdefault(name, []).append(own)
    logits = logits_with_heads(view, ids, torch.tensor(np.stack(choices)))
    own_token = torch.tensor(wanted, device=logits.device)
    right = (logits.argmax(-1) == own_token).double().cpu().numpy()
    found = {
        (task, shots, name): np.mean([right[own] for own in several], axis=0)
        for name, several in at.items()
    }
    return Perturbation(tuple(float(p) for p in shares), found)


def _orders(view: ModelView, scores: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    """The heads in the order of each grid, best first.

    Raises:
        InputError: something is no grid of finite scores of this model.
    """
    found: list[tuple[str, np.ndarray]] = []
    for name, several in scores.items():
        for grid in several if isinstance(several, Sequence) else [several]:
            try:
                values = np.asarray(grid, dtype=float)
            except (TypeError, ValueError) as error:
                raise InputError(f"{name!r} is no grid of numbers: {error}") from error
            if values.shape != (view.n_layers, view.n_heads) or not np.isfinite(values).all():
                raise InputError(
                    f"scores are finite and [layer, head], here [{view.n_layers}, {view.n_heads}]; "
                    f"{name!r} is {list(values.shape)}"
                )
            found.append((str(name), np.argsort(-values.ravel(), kind="stable")))
    if not found:
        raise InputError("no scores were given")
    return found
