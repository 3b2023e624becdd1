"""The full run of the study "Which lens foretells effects?" in SmolLM2-135M; results: docs/data.

python examples/lenses.py RAW     fit the lenses, measure and compare, with the folder RAW
python examples/lenses.py tables  write the tables into the page

A run that was stopped goes on where it was: what the folder has is not made again. The effects are
those of examples/what_foretells_effects.py, in the same folder.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from what_foretells_effects import (
    SETTINGS as EFFECTS,
)
from what_foretells_effects import (
    Question,
    largest,
    mean_and_error,
    measure,
    questions,
    rounded,
    table,
    write_tables,
)

import visit_tl as vt
from visit_tl.circuits import metrics as ranking
from visit_tl.lens.readout import read
from visit_tl.lenses import Lens
from visit_tl.model import components
from visit_tl.model.hooks import keeper
from visit_tl.studies.agreement import spearman

DATA = Path(__file__).parents[1] / "docs" / "data" / "lenses.json"
PASSAGES = DATA.parent / "lens_passages.json"
PAGE = DATA.parents[1] / "studies" / "lenses.md"
SETTINGS: dict[str, Any] = {
    "model": EFFECTS["model"],
    "tasks": EFFECTS["tasks"],
    "prompts": EFFECTS["prompts"],
    "largest": EFFECTS["largest"],
    "jacobian passages": [0, 4, 8, 12, 16, 20, 25, 29, 33, 37, 41, 45],
    "max_seq_len": 24,
    "skip_first": 4,
    "batch": 48,
    "ridge": 0.01,
    "low rank": 10,
}
LENSES = ("logit lens", "Jacobian lens", "regression lens")
SCORES = ("rank of target", "rank from an end", "attribution")
NORM = "norm of the head"

Grids = dict[str, np.ndarray]


# --- fitting -------------------------------------------------------------------------------------


def passages() -> list[str]:
    """Paragraphs of this project's documentation, as they were when the lenses were fitted."""
    return json.loads(PASSAGES.read_text(encoding="utf-8"))


def jacobian_lens(model: Any, folder: Path) -> Lens:
    """The mean of the Jacobian lenses of single passages; each is kept in the folder."""
    found = []
    for i in SETTINGS["jacobian passages"]:
        path, start = folder / f"jacobian_{i:02}.safetensors", time.time()
        if not path.exists():
            sizes = {name: SETTINGS[name] for name in ("max_seq_len", "skip_first", "batch")}
            lens = vt.lenses.fit(
                model, [passages()[i]], corpus="documentation", verbose=False, **sizes
            )
            vt.lenses.save(lens, path)
            sys.stderr.write(f"passage {i}: {time.time() - start:.0f} s\n")
        found.append(vt.lenses.load(path))
    maps = {b: torch.stack([lens.maps[b] for lens in found]).mean(0) for b in found[0].maps}
    return Lens(LENSES[1], maps, model=found[0].model, n_layers=found[0].n_layers, raw=True)


def regression_lens(view: Any, folder: Path) -> Lens:
    """Least squares from the state after each block to the last one, pulled to the identity."""
    path = folder / "regression.safetensors"
    if path.exists():
        return vt.lenses.load(path)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(view.n_layers)]
    grams = torch.zeros(2, view.n_layers, view.d_model, view.d_model, dtype=torch.float64)
    n = 0
    for text in passages():
        kept: dict[str, torch.Tensor] = {}
        ids = torch.tensor([view.tokens.encode(text, None).ids])
        view.run(ids, [(name, keeper(kept, name, "all", ())) for name in names])
        states = torch.stack([kept[name][1:] for name in names]).double()  # BOS is unlike others
        grams[0] += states.mT @ states
        grams[1] += states.mT @ (states[-1] - states)
        n += states.shape[1]
    eye = torch.eye(view.d_model, dtype=torch.float64)
    maps = {}
    for layer in range(view.n_layers - 1):
        gram, change = grams[:, layer]
        ridge = SETTINGS["ridge"] * gram.trace() / len(gram) * eye
        maps[layer] = eye + torch.linalg.solve(gram + ridge, change).T
    lens = Lens(LENSES[2], maps, model=view.name, n_layers=view.n_layers, raw=True,
                facts={"states": n})  # fmt: skip
    vt.lenses.save(lens, path)
    return lens


# --- measuring -----------------------------------------------------------------------------------


def of_heads(asked: Question, lenses: dict[str, Lens | None]) -> Grids:
    """Scores of all heads by each lens, and the norm of what each writes, as `[layer, head]`."""
    view, at = asked.view, asked.trace(asked.ids)
    stacks = [
        components.head_outputs(t.z, components.stream_weights(view, layer, t).W_O)
        for layer, t in at.layers.items()
    ]
    outputs, shape = torch.cat(stacks), (view.n_layers, view.n_heads)
    blocks = [layer for layer in at.layers for _ in range(view.n_heads)]
    wanted = [asked.target] if asked.against is None else [asked.target, asked.against]
    direction = view.W_U[:, wanted[0]].float()
    direction = direction - view.W_U[:, wanted[1]].float() if len(wanted) > 1 else direction
    frozen = view.final_norm.freeze(at.layers[view.n_layers - 1].resid_post)
    found = {NORM: components.row_norms(outputs)}
    for name, lens in lenses.items():
        through = {} if lens is None else {"lens": lens, "block": blocks, "parts": True}
        ranks = read(view, outputs, wanted, k=1, **through).target_ranks
        carried = outputs if lens is None else lens.carry(outputs, blocks, [False] * len(blocks))
        ends = torch.minimum(ranks, view.d_vocab - 1 - ranks).amin(-1)
        own = {
            "rank of target": -torch.log1p(ranks[:, 0].float()),
            "rank from an end": -torch.log1p(ends.float()),
            "attribution": (frozen.parts(carried) @ direction).abs(),
        }
        found |= {f"{name}: {score}": value for score, value in own.items()}
    return {name: value.double().numpy().reshape(shape) for name, value in found.items()}


def of_states(asked: Question, lenses: dict[str, Lens | None]) -> Grids:
    """The rank of the answer after each block but the last, by each lens."""
    others = {name: lens for name, lens in lenses.items() if lens is not None}
    found = vt.lens_ranks(asked.view.model, asked.ids, others, target=asked.target)
    return {
        f"{name}: states": np.array(ranks[1:-1], dtype=float)
        for name, ranks in zip(found.lenses, found.ranks, strict=True)
    }


def observe(folder: Path) -> None:
    """What the lenses read in every task, one file each."""
    view = vt.ModelView(vt.load_model(SETTINGS["model"], verbose=False))
    start = time.time()
    lenses: dict[str, Lens | None] = {
        LENSES[0]: None,
        LENSES[1]: jacobian_lens(view.model, folder),
        LENSES[2]: regression_lens(view, folder),
    }
    sys.stderr.write(f"lenses: {time.time() - start:.0f} s\n")
    for task in SETTINGS["tasks"]:
        path, start = folder / f"lenses {task}.npz", time.time()
        if path.exists():
            continue
        rows = [
            {**of_heads(asked, lenses), **of_states(asked, lenses)}
            for asked in questions(view, task, EFFECTS["shots"], SETTINGS["prompts"])
        ]
        np.savez_compressed(
            path, **{name: np.stack([row[name] for row in rows]) for name in rows[0]}
        )
        sys.stderr.write(f"{task}: {time.time() - start:.0f} s\n")


# --- comparing -----------------------------------------------------------------------------------


def compared(found: Grids, effect: np.ndarray) -> dict[str, Any]:
    """How well each score finds the heads with the largest effects, and how early states say it."""
    sizes, n = np.abs(effect.reshape(len(effect), -1)), len(effect)
    members = [largest(own, SETTINGS["largest"]) for own in sizes]
    result: dict[str, Any] = {}
    for name in (NORM, *(f"{lens}: {score}" for lens in LENSES for score in SCORES)):
        values = found[name].reshape(n, -1)
        result[name] = {
            "auroc": [ranking.auroc(values[i], members[i]) for i in range(n)],
            "spearman": [spearman(values[i], sizes[i]) for i in range(n)],
        }
    for lens in LENSES:
        low = found[f"{lens}: states"] < SETTINGS["low rank"]
        result[f"{lens}: states"] = {"low": low.mean(1).tolist()}
    return result


def compare(folder: Path) -> None:
    """Compare the scores with the effects, and write the results."""
    lines = []
    for task in SETTINGS["tasks"]:
        with np.load(folder / f"{task}.npz") as kept, np.load(folder / f"lenses {task}.npz") as own:
            result = compared({name: own[name] for name in own.files}, kept["effect"])
        lines.append(f"{json.dumps(task)}: {json.dumps(rounded(result))}")
    text = f'{{"settings": {json.dumps(SETTINGS)},\n"results": {{\n'
    DATA.write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")


# --- tables --------------------------------------------------------------------------------------


def tables() -> dict[str, list[str]]:
    """The tables of the page, by mark, as lines of Markdown."""
    kept = json.loads(DATA.read_text(encoding="utf-8"))
    results, tasks = kept["results"], kept["settings"]["tasks"]
    names = [NORM, *(f"{lens}: {score}" for score in SCORES for lens in LENSES)]

    def rows(chosen: list[str], key: str) -> list[list[str]]:
        found = []
        for name in chosen:
            cells = [results[task][name][key] for task in tasks]
            overall = mean_and_error([float(np.mean(one)) for one in cells])
            found.append([name.replace(": states", ""), *map(mean_and_error, cells), overall])
        return found

    heads = ["score", *tasks, "mean of tasks"]
    states = ["lens", *tasks, "mean of tasks"]
    return {
        "largest": table(heads, rows(names, "auroc")),
        "correlation": table(heads, rows(names, "spearman")),
        "states": table(states, rows([f"{lens}: states" for lens in LENSES], "low")),
    }


if __name__ == "__main__":
    if sys.argv[1:] != ["tables"]:
        where = Path(sys.argv[1])
        where.mkdir(parents=True, exist_ok=True)
        observe(where)
        measure(where)
        compare(where)
    write_tables(PAGE, tables())
