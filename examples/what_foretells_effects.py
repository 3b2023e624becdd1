"""The full run of the study "What foretells effects?" in SmolLM2-135M; results go to docs/data.

python examples/what_foretells_effects.py RAW     measure into the folder RAW, then compare
python examples/what_foretells_effects.py tables  write the tables into the page

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
    "largest": 10,
    "large": 0.1,
    "least whole": 1.0,
    "resamples": 200,
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
        np.savez_compressed(
            path, **{name: np.stack([row[name] for row in rows]) for name in rows[0]}
        )
        sys.stderr.write(f"{task}: {len(rows)} prompts, {time.time() - start:.0f} s\n")


# --- comparing -----------------------------------------------------------------------------------


def percentiles(grids: np.ndarray) -> np.ndarray:
    """Ranks of heads from 0 (lowest) to 1 (highest) within each prompt; ties share their mean."""
    flat = grids.reshape(len(grids), -1)
    return np.stack(
        [(own[:, None] > own).mean(1) + (own[:, None] == own).mean(1) / 2 for own in flat]
    )


def fitted(ranks: dict[str, np.ndarray], sizes: dict[str, np.ndarray], left_out: str) -> np.ndarray:
    """Coefficients of a least squares fit on all tasks but one.

    What is fitted is the rank of the effect's size in its prompt, from the ranks of the scores and
    their squares, so that no task counts more than another by the scale of its metric.
    """
    others = [task for task in ranks if task != left_out]
    x = np.concatenate([design(ranks[task]) for task in others])
    y = np.concatenate([percentiles(sizes[task]).ravel() for task in others])
    return np.linalg.lstsq(x, y, rcond=None)[0]


def design(ranks: np.ndarray) -> np.ndarray:
    """A row of 1, the ranks of the scores, and their squares, for each head of each prompt."""
    flat = ranks.reshape(len(ranks), -1).T
    return np.concatenate([np.ones((len(flat), 1)), flat, flat**2], axis=1)


def scores_of(found: dict[str, Grids]) -> dict[str, Grids]:
    """For each task, every score as `[prompt, head]`, combined ones among them."""
    made = {
        task: {name: own[name].reshape(len(own[name]), -1) for name in RAW}
        for task, own in found.items()
    }
    ranks = {
        task: np.stack([percentiles(own[name]) for name in COMBINED]) for task, own in made.items()
    }
    sizes = {task: np.abs(own["effect"]) for task, own in found.items()}
    for task, own in made.items():
        own[MEAN_OF_RANKS] = ranks[task].mean(0)
        own[FITTED] = (design(ranks[task]) @ fitted(ranks, sizes, task)).reshape(own["norm"].shape)
    return made


def largest(sizes: np.ndarray, k: int) -> np.ndarray:
    """Which heads have the k largest effects, as `agreement` defines them."""
    members = np.zeros(len(sizes), dtype=bool)
    members[np.argsort(-sizes, kind="stable")[:k]] = True
    return members


def compared(scores: Grids, effect: np.ndarray, whole: np.ndarray) -> dict[str, Any]:
    """How well each score finds the heads with large effects, and ranks all."""
    sizes, n = np.abs(effect.reshape(len(effect), -1)), len(effect)
    means = np.abs(effect.reshape(n, -1).mean(0))
    # A tenth of the whole; where heads do next to nothing together, no head does a tenth of it.
    large = (sizes >= SETTINGS["large"] * whole[:, None]) & (whole >= SETTINGS["least whole"])[
        :, None
    ]
    some = [i for i in range(n) if large[i].any()]
    draws = np.random.default_rng(0).integers(0, n, (SETTINGS["resamples"], n))
    k = SETTINGS["largest"]

    def of_means(values: np.ndarray, rows: np.ndarray) -> float:
        mean = np.abs(effect.reshape(n, -1)[rows].mean(0))
        return ranking.auroc(values[rows].mean(0), largest(mean, k))

    result: dict[str, Any] = {
        "n": n,
        "whole": whole.tolist(),
        "large": large.sum(1).tolist(),
        "largest": float(means.max()),
        "scores": {},
    }
    for name, values in scores.items():
        result["scores"][name] = {
            "auroc": [ranking.auroc(values[i], largest(sizes[i], k)) for i in range(n)],
            "spearman": [spearman(values[i], sizes[i]) for i in range(n)],
            "auroc of large": [ranking.auroc(values[i], large[i]) for i in some],
            "auroc of means": of_means(values, np.arange(n)),
            "error of means": float(np.std([of_means(values, rows) for rows in draws])),
        }
    return result


def compare(folder: Path) -> None:
    """Compare the scores with the effects, and write the results."""
    found = {}
    for task in SETTINGS["tasks"]:
        with np.load(folder / f"{task}.npz") as kept:
            found[task] = {name: kept[name] for name in kept.files}
    scores = scores_of(found)
    results = {
        task: compared(scores[task], own["effect"], own["whole"]) for task, own in found.items()
    }
    lines = [f"{json.dumps(task)}: {json.dumps(rounded(own))}" for task, own in results.items()]
    text = f'{{"settings": {json.dumps(SETTINGS)},\n"results": {{\n'
    DATA.write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Numbers with four digits, in lists and dicts too."""
    if isinstance(value, float):
        return None if value != value else round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


# --- tables --------------------------------------------------------------------------------------


def mean_and_error(values: list[float]) -> str:
    """A mean with its standard error."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2f}"


def tables() -> list[str]:
    """The tables of the page, as lines of Markdown."""
    kept = json.loads(DATA.read_text(encoding="utf-8"))
    results, tasks = kept["results"], kept["settings"]["tasks"]
    lines = table(
        ["task", "prompts", "whole", "largest mean effect", "heads of a tenth", "prompts with any"],
        [
            [
                task,
                str(own["n"]),
                mean_and_error(own["whole"]),
                f"{own['largest']:.2f}",
                f"{np.mean(own['large']):.1f}",
                str(sum(count > 0 for count in own["large"])),
            ]
            for task in tasks
            for own in [results[task]]
        ],
    )
    for key in ("auroc", "spearman"):
        rows = []
        for name in SCORES:
            cells = [results[task]["scores"][name][key] for task in tasks]
            overall = mean_and_error([float(np.mean(one)) for one in cells])
            rows.append([name, *map(mean_and_error, cells), overall])
        lines += ["", *table(["score", *tasks, "mean of tasks"], rows)]
    rows = []
    for name in SCORES:
        own = [results[task]["scores"][name] for task in tasks]
        cells = [f"{one['auroc of means']:.2f} ± {one['error of means']:.2f}" for one in own]
        rows.append([name, *cells, mean_and_error([one["auroc of means"] for one in own])])
    lines += ["", *table(["score", *tasks, "mean of tasks"], rows)]
    with_large = [task for task in tasks if sum(n > 0 for n in results[task]["large"]) > 2]
    rows = [
        [
            name,
            *(
                mean_and_error(results[task]["scores"][name]["auroc of large"])
                for task in with_large
            ),
        ]
        for name in SCORES
    ]
    return [*lines, "", *table(["score", *with_large], rows)]


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *rows]]


PAGE = DATA.parents[1] / "studies" / "what_foretells_effects.md"
MARKS = ("tasks", "largest", "correlation", "means", "tenth")


def by_mark() -> dict[str, list[str]]:
    """The tables by the mark of their place in the page."""
    parts = "\n".join(tables()).split("\n\n")
    return {mark: part.splitlines() for mark, part in zip(MARKS, parts, strict=True)}


def write_tables(page: Path, by_mark: dict[str, list[str]]) -> None:
    """Write each table into a page, between its mark and the next end."""
    text = page.read_text(encoding="utf-8")
    for mark, lines in by_mark.items():
        before, _, rest = text.partition(f"<!-- {mark} -->\n")
        text = (
            "\n".join([f"{before}<!-- {mark} -->", "", *lines, "", ""])
            + rest[rest.index("<!-- end -->") :]
        )
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["tables"]:
        where = Path(sys.argv[1])
        where.mkdir(parents=True, exist_ok=True)
        measure(where)
        compare(where)
    write_tables(PAGE, by_mark())
