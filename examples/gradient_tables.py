"""The tables of the three studies of gradients, from docs/data; a test finds them in the pages.

python examples/gradient_tables.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visit_tl.studies import Perturbation

DATA = Path(__file__).parents[1] / "docs" / "data"
ORDER = ("reversed", "attribution", "effect at last", "output", "forward", "random")


def results(name: str) -> dict[str, Any]:
    """Settings and results of a full run."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def number(value: float | None, error: float | None = None, digits: int = 2) -> str:
    """A number, with its standard error if there is one."""
    if value is None or value != value:
        return ""
    text = f"{round(value, digits) + 0.0:,.{digits}f}" + (
        "" if error is None else f" ± {error:.{digits}f}"
    )
    return text.replace("-", "−")


def curves() -> Perturbation:
    """The perturbation test of the full run."""
    full = results("reversed_attention_tasks")
    shots, shares = full["settings"]["shots"], full["settings"]["shares"]
    right = {
        (task, shots, score): np.array(curve, dtype=float)
        for task, scores in full["results"].items()
        if " " not in task
        for score, curve in scores.items()
    }
    return Perturbation(tuple(map(float, shares)), right)


def reversed_attention_tasks() -> list[str]:
    """Accuracy without any patch; areas by task and score; how far R is ahead."""
    full = results("reversed_attention_tasks")["results"]
    base = {k.removeprefix("base "): v for k, v in full.items() if k.startswith("base ")}
    lines = table(
        ["task", "n", "0 shots", "1 shot", "5 shots", "loss at 5 shots"],
        [
            [task, str(found["5"]["n"])]
            + [number(found[shots]["accuracy"]) for shots in ("0", "1", "5")]
            + [number(found["5"]["loss"])]
            for task, found in base.items()
        ],
    )
    found = curves()
    areas = found.auc().set_index(["task", "score"])
    rows = []
    for task in dict.fromkeys(areas.index.get_level_values("task")):
        own = areas.loc[task]
        cells = [number(own.loc[s, "auc"], own.loc[s, "auc_se"]) for s in ORDER]
        rows.append([task, str(own["n"].iloc[0]), number(own["base"].iloc[0]), *cells])
    lines += table(["task", "n", "all heads", *ORDER], rows)
    compared = found.compared().set_index("score").loc[list(ORDER)]
    lines += table(
        ["score", "mean area", "reversed is ahead by", "on tasks"],
        [
            [
                score,
                number(row["auc"], row["auc_se"]),
                "" if score == "reversed" else number(row["ahead"], row["ahead_se"]),
                "" if score == "reversed" else f"{row['wins']:.0f} of {row['n']:.0f}",
            ]
            for score, row in compared.iterrows()
        ],
    )
    return lines


def attention_patching_tasks() -> list[str]:
    """Accuracy and loss by alpha."""
    full = results("attention_patching_tasks")["results"]
    lines = []
    for what in ("accuracy", "loss"):
        keys = [
            (maps, row["alpha"])
            for maps in ("reversed", "forward")
            for row in next(iter(full.values()))
            if row["maps"] == maps
        ]
        rows = []
        for key, found in full.items():
            task, shots = key.rsplit(" ", 1)
            own = {(row["maps"], row["alpha"]): row for row in found}
            cells = [number(own[at][what]) for at in keys]
            name = task if task == "IOI" else f"{task}, {shots}"
            rows.append([name, str(found[0]["n"]), *cells])
        heads = [f"{maps[0].upper()} {alpha:g}".replace("-", "−") for maps, alpha in keys]
        lines += table([what, "n", *heads], rows)
    return lines


def backward_lens_facts() -> list[str]:
    """Ranks, norms by segment, and edits."""
    full = results("backward_lens_facts")["results"]
    segments = pd.DataFrame(full["segments"])
    out = segments[segments["matrix"] == "W_out"]
    shown = [0, 5, 10, 15, 20, 25, 29]
    lines = []
    for what, digits in (("norm", 3), ("rank", 0)):
        rows = []
        for name, own in out.groupby("segment", sort=False):
            by_layer = own.set_index("layer")
            cells = [
                number(by_layer.loc[n, what], digits=digits) if n in by_layer.index else ""
                for n in shown
            ]
            rows.append([str(name), str(int(own["n"].max())), *cells])
        lines += table([what, "n", *(f"layer {n}" for n in shown)], rows)
    scores = ("efficacy", "paraphrase", "neighbourhood", "drift")
    rows = [
        [
            "none" if row["layer"] is None else f"shift, layer {row['layer']:.0f}",
            "" if row["layer"] is None else f"{row['eta']:g}",
            *(number(row[score], row[f"{score}_se"]) for score in scores),
        ]
        for row in full["shift"]
    ]
    for key, found in full.items():
        if key.startswith("trained "):
            _, layer, rate = key.split()
            values = pd.DataFrame(found)
            cells = [number(values[s].mean(), values[s].sem()) for s in scores]
            rows.append([f"trained, layer {layer}", rate, *cells])
    lines += table(["edit", "eta or rate", *scores], rows)
    return lines


TABLES = {
    "reversed_attention_tasks": reversed_attention_tasks,
    "attention_patching_tasks": attention_patching_tasks,
    "backward_lens_facts": backward_lens_facts,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        sys.stdout.write("\n".join([name, *TABLES[name](), "", ""]))
