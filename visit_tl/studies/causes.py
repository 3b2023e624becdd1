"""causes: what patching heads does to the metric of a task, on many prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import At, Flag, Model, Name
from visit_tl.causal.patching.effects_result import Effects
from visit_tl.causal.patching.node_effects import effects
from visit_tl.circuits.prompts.pair import END
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.model.view import ModelView
from visit_tl.studies.head_scores import HeadScores
from visit_tl.studies.heads_by_name import named_heads, require_corruption


@checked
def causes(
    model: Model,
    prompts: PromptSet,
    at: At = END,
    *,
    corruption: Name = "ABC",
    verbose: Flag = True,
) -> HeadScores:
    """Measure the effect of each head at named positions, on every prompt.

    A head's activation at one position is replaced by the one in the corrupted prompt (`effects`,
    `resample`), one head and one position at a time. The effect is the metric of the task
    (`prompts.metrics`; the logit difference of IOI, answer minus wrong answer, at END) with the
    patch, minus that without: below 0 where the head helps.

    Args:
        model: As for `flow_graph`.
        prompts: Prompts of a task with a metric.
        at: The position, by its name in the prompts, at which every head is patched; or a mapping
            from several positions to the heads to patch there (None is all). Other heads are NaN.
        corruption: Name of the corrupted prompts that activations are taken from.
        verbose: Show a progress bar.

    Returns:
        One score per position, `effect at END` and so on. Ctrl-C ends the sweep and returns the
        prompts that are done.

    Raises:
        InputError: there is no such position, corruption or head; a prompt has no
            metric; or the sweep was interrupted before any prompt was done.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    view.require_attention("patching every head")
    chosen = _chosen(view, prompts, {at: None} if isinstance(at, str) else at)
    require_corruption(prompts, corruption)
    metrics = prompts.metrics
    found: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    rows = tqdm(zip(prompts, metrics, strict=True), total=len(prompts), disable=not verbose)
    for pair, metric in rows:
        where = pair.positions
        measured = effects(
            view.model,
            list(pair.ids),
            metric,
            nodes=[head.at(where[name]) for name, heads in chosen.items() for head in heads],
            corrupted=list(pair.corrupted[corruption].ids),
            verbose=False,
        )
        if not measured.complete:
            rows.close()
            break
        for name, heads in chosen.items():
            found[name].append(_grid(view, measured, heads, where[name]))
    if not all(found.values()):
        raise InputError("interrupted before the first prompt was done: there are no effects")
    values = {f"effect at {name}": np.stack(grids) for name, grids in found.items()}
    return HeadScores(view.name, values)


def _chosen(
    view: ModelView, prompts: PromptSet, at: Mapping[str, Iterable[NodeId | str] | None]
) -> dict[str, list[NodeId]]:
    """The heads to patch at each position.

    Raises:
        InputError: no position is given, one is not in the prompts, or a name is not a head's.
    """
    known = prompts[0].positions
    unknown = sorted(at.keys() - known.keys())
    if unknown or not at:
        raise InputError(
            f"heads are patched at positions of the prompts, {', '.join(known)}; got "
            f"{', '.join(unknown) or 'none'}"
        )
    every = [NodeId("head", i, h) for i in range(view.n_layers) for h in range(view.n_heads)]
    chosen: dict[str, list[NodeId]] = {}
    for name, heads in at.items():
        chosen[name] = every if heads is None else named_heads(view, heads, f"patched at {name}")
        if not chosen[name]:
            raise InputError(f"no head is named to be patched at {name}; None would be all of them")
    return chosen


def _grid(view: ModelView, measured: Effects, heads: list[NodeId], position: int) -> np.ndarray:
    """Effects at one position as `[layer, head]`, NaN where there is none."""
    grid = np.full((view.n_layers, view.n_heads), np.nan)
    for head in heads:
        grid[head.layer, head.head] = measured[head.at(position)].value
    return grid
