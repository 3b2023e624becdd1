"""The full run of the study "What foretells effects?" in SmolLM2-135M; results go to docs/data.

python examples/what_foretells_effects.py RAW     measure into the folder RAW, then compare
python examples/what_foretells_effects.py tables  print the tables of the page

A run that was stopped goes on where it was: what the folder has is not measured again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import visit_tl as vt
from visit_tl.causal.attribution.direct import attribute_trace
from visit_tl.causal.metrics import evaluate
from visit_tl.circuits import metrics as ranking
from visit_tl.circuits.prompts import gendered_pronoun, ioi
from visit_tl.lens import readout
from visit_tl.model import components
from visit_tl.model.trace import Trace
from visit_tl.studies import few_shot
from visit_tl.studies.agreement import spearman

DATA = Path(__file__).parents[1] / "docs" / "data" / "what_foretells_effects.json"
SETTINGS = {
    "model": "smollm2-135m",
    "tasks": [
        "IOI",
        "gendered pronoun",
        "capitalize",
        "country-capital",
        "singular-plural",
        "present-past",
        "product-company",
    ],
    "shots": 5,
    "prompts": 8,
    "mean over": 3,
    "large": 0.1,
    "resamples": 1000,
}
RAW = (
    "norm",
    "rank of target",
    "rank from an end",
    "attribution",
    "reversed attention",
    "reversed attention, last row",
    "gradient x activation",
    "attribution patching",
)
"""Scores of one prompt that need no patching; the last one needs the run that is patched in."""

COMBINED = ("norm", "attribution", "reversed attention, last row", "gradient x activation")
MEAN_OF_RANKS = "mean of four ranks"
FITTED = "least squares of four"
SCORES = (*RAW, MEAN_OF_RANKS, FITTED)

MADE = {"IOI": (ioi, "ABC"), "gendered pronoun": (gendered_pronoun, "person")}
"""Tasks with a wrong answer: what makes their prompts, and the corruption that heads come from."""

Grids = dict[str, np.ndarray]


# --- measuring -----------------------------------------------------------------------------------


class Question:
    """One prompt, its metric, and what replaces a head.

    Args:
        view: The model.
        ids: The prompt.
        target: The answer.
        against: The wrong answer; None measures the log-probability of the answer alone.
        others: The corrupted prompt of `resample`, or the prompts of `mean`.
    """

    def __init__(
        self, view: Any, ids: list[int], target: int, against: int | None, others: list[list[int]]
    ) -> None:
        self.view, self.ids, self.target, self.against, self.others = (
            view, ids, target, against, others,
        )  # fmt: skip
        self.metric = (
            vt.causal.log_probability(target)
            if against is None
            else vt.causal.logit_difference(target, against)
        )
        self.patch: dict[str, Any] = (
            {"how": "mean", "mean_over": others} if against is None else {"corrupted": others[0]}
        )

    def effects(self, **options: Any) -> np.ndarray:
        """Effects of all heads at the last position, as `[layer, head]`."""
        found = vt.causal.effects(
            self.view.model, self.ids, self.metric, verbose=False, **{**self.patch, **options}
        )
        return np.asarray(found.heads(), dtype=float)

    def trace(self, ids: list[int]) -> Trace:
        """A forward pass, read at the last position."""
        return Trace.run_at(self.view, self.view.tokens.encode(ids, None), [len(ids) - 1])[
            len(ids) - 1
        ]

    def whole(self) -> float:
        """By how much the metric falls with all heads replaced at once at the last position."""
        runs = [self.trace(ids).layers for ids in self.others]
        last = len(self.ids) - 1

        def replaced(layer: int) -> Callable[..., Any]:
            z = torch.stack([run[layer].z for run in runs]).mean(0)

            def hook(value: Any, hook: Any) -> Any:
                value[:, last] = z.to(value)
                return value

            return hook

        hooks = [(at.hooks["z"], replaced(layer)) for layer, at in runs[0].items()]
        tokens = torch.tensor([self.ids])
        with torch.no_grad():
            clean = self.view.model(tokens)
            without = self.view.model.run_with_hooks(tokens, fwd_hooks=hooks)
        return evaluate(self.metric, clean) - evaluate(self.metric, without)

    def observed(self) -> Grids:
        """The scores that need one forward pass."""
        view, at = self.view, self.trace(self.ids)
        outputs = torch.cat(
            [
                components.head_outputs(t.z, components.stream_weights(view, layer, t).W_O)
                for layer, t in at.layers.items()
            ]
        )
        wanted = [self.target] if self.against is None else [self.target, self.against]
        ranks = readout.read(view, outputs, wanted, k=1).target_ranks
        own = {
            "norm": components.row_norms(outputs),
            "rank of target": -torch.log1p(ranks[:, 0].float()),
            "rank from an end": -torch.log1p(
                torch.minimum(ranks, view.d_vocab - 1 - ranks).amin(-1).float()
            ),
            "attribution": attribute_trace(view, at, self.target, self.against).heads().abs(),
        }
        shape = view.n_layers, view.n_heads
        return {name: grid.double().cpu().numpy().reshape(shape) for name, grid in own.items()}

    def gradients(self) -> Grids:
        """The scores that need one backward pass."""
        maps = vt.reversed_attention(self.view.model, self.ids, self.metric)
        last = np.linalg.norm(maps.maps()[:, :, -1], axis=-1)
        zero = {"how": "zero", "mean_over": (), "corrupted": None}
        screened: dict[str, Any] = {"screen": "attribution", "top": 0}
        return {
            "reversed attention": maps.norms.astype(float),
            "reversed attention, last row": last.astype(float),
            "gradient x activation": np.abs(self.effects(**zero, **screened)),
            "attribution patching": np.abs(self.effects(**screened)),
        }


def questions(view: Any, task: str, shots: int, n: int) -> list[Question]:
    """The prompts of a task, all of one length."""
    if task in MADE:
        make, corruption = MADE[task]
        return [
            Question(
                view, list(p.ids), p.answers[0], p.wrong[0], [list(p.corrupted[corruption].ids)]
            )
            for p in make(view, n, prepend_bos=False, same_length=True)
        ]
    drawn = few_shot(view.model, task, shots=shots, n=n, same_length=True)
    ids = [list(view.tokens.encode(prompt, None).ids) for prompt, _ in drawn]
    few = range(1, SETTINGS["mean over"] + 1)
    return [
        Question(
            view, ids[i], view.tokens.single(target), None, [ids[(i + j) % len(ids)] for j in few]
        )
        for i, (_, target) in enumerate(drawn)
    ]


def measure(folder: Path) -> None:
    """Measure every task, one file each."""
    view = vt.ModelView(vt.load_model(SETTINGS["model"], verbose=False))
    for task in SETTINGS["tasks"]:
        path, start = folder / f"{task}.npz", time.time()
        if path.exists():
            continue
        rows = [
            {
                **asked.observed(),
                **asked.gradients(),
                "effect": asked.effects(),
                "whole": np.array(asked.whole()),
            }
            for asked in questions(view, task, SETTINGS["shots"], SETTINGS["prompts"])
        ]
        np.savez_compressed(path, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
        sys.stderr.write(f"{task}: {len(rows)} prompts, {time.time() - start:.0f} s\n")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(parents=True, exist_ok=True)
    measure(where)
