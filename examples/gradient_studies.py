"""The full runs of the three studies of gradients in SmolLM2-135M; results go to docs/data.

python examples/gradient_studies.py reversed_attention_tasks
python examples/gradient_studies.py attention_patching_tasks
python examples/gradient_studies.py backward_lens_facts

A run that was stopped goes on where it was: what the file has is not measured again.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import visit_tl as vt
from visit_tl.circuits.prompts import ioi
from visit_tl.gradients import mean_maps, patching_sweep, segment_summary, shift_sweep, similarity
from visit_tl.gradients.shift_edit import hidden_activations
from visit_tl.lens import readout
from visit_tl.model.last_logits import last_logits
from visit_tl.studies import (
    edits,
    few_shot,
    importances,
    known_facts,
    one_matrix_trained,
    perturbation_test,
)
from visit_tl.studies.agreement import spearman

DATA = Path(__file__).parents[1] / "docs" / "data"
TASKS = (
    "capitalize",
    "country-capital",
    "singular-plural",
    "present-past",
    "antonym",
    "landmark-country",
    "person-sport",
    "next_item",
    "product-company",
    "synonym",
    "english-french",
)
PATCHED = (
    ("IOI", 0),
    ("capitalize", 0),
    ("present-past", 0),
    ("singular-plural", 0),
    ("antonym", 0),
    ("present-past", 5),
    ("antonym", 5),
    ("singular-plural", 5),
    ("country-capital", 0),
)
MATRICES = ("W_in", "W_gate", "W_out")
OTHERS = [
    "The quick brown fox jumps over the lazy",
    "Once upon a time there was a",
    "In the middle of the night, the",
    "To make a cake, you first need to",
    "The results of the experiment show that",
]


class Kept:
    """Results by key, written to a file after each."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.path = DATA / f"{name}.json"
        self.found: dict[str, Any] = {"settings": settings, "results": {}}
        if self.path.exists():
            before = json.loads(self.path.read_text(encoding="utf-8"))
            if before["settings"] == settings:
                self.found = before

    def __contains__(self, key: str) -> bool:
        return key in self.found["results"]

    def __getitem__(self, key: str) -> Any:
        return self.found["results"][key]

    def add(self, key: str, result: Any, start: float) -> None:
        """Keep one result."""
        self.found["results"][key] = result
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.found["results"].items()]
        text = f'{{"settings": {json.dumps(self.found["settings"])},\n"results": {{\n'
        self.path.write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
        sys.stderr.write(f"{key}: {time.time() - start:.0f} s\n")


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers with few digits, in lists and dicts too."""
    if isinstance(value, float):
        return None if value != value else round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    return [rounded(one, digits) for one in value] if isinstance(value, (list, tuple)) else value


def reversed_attention_tasks(model: Any) -> None:
    """The perturbation test: scores of heads on the tasks that the model can do."""
    settings = {
        "model": "smollm2-135m",
        "base": 30,
        "shots of base": [0, 1, 5],
        "can do": 0.25,
        "shots": 5,
        "train": 4,
        "train of effects": 2,
        "test": 16,
        "shares": [0, 30, 50, 70, 85, 100],
        "random seeds": [0, 1],
    }
    kept = Kept("reversed_attention_tasks", settings)
    train, causal, shots = (settings[name] for name in ("train", "train of effects", "shots"))
    for task in TASKS:
        key, start = f"base {task}", time.time()
        if key not in kept:
            base = {str(n): base_of(model, task, n, settings["base"]) for n in (0, 1, 5)}
            kept.add(key, rounded(base), start)
    if "orders of capitalize" not in kept:
        start = time.time()
        kept.add("orders of capitalize", rounded(orders_of(model, "capitalize", shots, 4)), start)
    for task in TASKS:
        start = time.time()
        if task in kept or kept[f"base {task}"][str(shots)]["accuracy"] < settings["can do"]:
            continue
        drawn = few_shot(model, task, shots=shots, n=train + settings["test"])
        prompts, targets = ([pair[i] for pair in drawn] for i in (0, 1))
        first = prompts[:train], targets[:train]
        names = ["reversed", "forward", "attribution", "output"]
        scores: dict[str, Any] = importances(model, *first, scores=names, verbose=False)
        few = prompts[:causal], targets[:causal]
        scores |= importances(model, *few, scores="effect at last", verbose=False)
        scores["random"] = [
            importances(model, *few, scores="random", random=seed)["random"]
            for seed in settings["random seeds"]
        ]
        found = perturbation_test(
            model,
            scores,
            prompts[train:],
            targets[train:],
            shares=settings["shares"],
            task=task,
            shots=shots,
        )
        right = {name: curve.tolist() for (_, _, name), curve in found.right.items()}
        kept.add(task, rounded(right), start)


def orders_of(model: Any, task: str, shots: int, n: int) -> dict[str, Any]:
    """How alike the orders of heads are, and in which blocks the first 30% of two of them are."""
    drawn = few_shot(model, task, shots=shots, n=n)
    prompts, targets = ([pair[i] for pair in drawn] for i in (0, 1))
    names = ["reversed", "forward", "attribution", "output"]
    scores = importances(model, prompts, targets, scores=names, verbose=False)
    by = scores["attribution"].ravel()
    first = {
        name: set(np.argsort(-grid.ravel(), kind="stable")[: round(0.3 * by.size)].tolist())
        for name, grid in scores.items()
    }
    n_heads = scores["attribution"].shape[1]
    missed = sorted(first["attribution"] - first["reversed"])
    return {
        "first": len(first["attribution"]),
        "in both": len(first["attribution"] & first["reversed"]),
        "blocks of those that reversed misses": [i // n_heads for i in missed],
        "spearman with attribution": {
            name: spearman(grid.ravel(), by) for name, grid in scores.items()
        },
    }


def base_of(model: Any, task: str, shots: int, n: int) -> dict[str, float]:
    """Accuracy of the model as it is, and its loss."""
    view = vt.ModelView(model)
    drawn = few_shot(model, task, shots=shots, n=n, seed=1)
    logits = last_logits(view, [view.tokens.encode(prompt, None).ids for prompt, _ in drawn])
    targets = [view.tokens.single(target) for _, target in drawn]
    right = [int(row.argmax()) == target for row, target in zip(logits, targets, strict=True)]
    loss = [-float(row.log_softmax(-1)[t]) for row, t in zip(logits, targets, strict=True)]
    return {"accuracy": sum(right) / len(right), "loss": sum(loss) / len(loss), "n": len(right)}


def attention_patching_tasks(model: Any) -> None:
    """Mean maps of training prompts, added to the attention in held-out prompts of one length."""
    settings = {
        "model": "smollm2-135m",
        "train": 25,
        "test": 20,
        "alphas": [-100, -30, -10, -3, -1, 0, 3],
        "control": [-1, 0.5, 1],
    }
    kept = Kept("attention_patching_tasks", settings)
    train, test = settings["train"], settings["test"]
    for task, shots in PATCHED:
        key, start = f"{task} {shots}", time.time()
        if key in kept:
            continue
        drawn = (
            ioi_prompts(model, train + test)
            if task == "IOI"
            else few_shot(model, task, shots=shots, n=train + test, same_length=True)
        )
        prompts, targets = ([pair[i] for pair in drawn] for i in (0, 1))
        maps = mean_maps(model, prompts[:train], targets[:train], verbose=False)
        found = patching_sweep(
            model,
            maps,
            prompts[train:],
            targets[train:],
            alphas=settings["alphas"],
            control=settings["control"],
            verbose=False,
        )
        kept.add(key, rounded(list(found.rows)), start)


def ioi_prompts(model: Any, n: int) -> list[tuple[list[int], int]]:
    """IOI prompts of the length that most have, and their answers, as ids."""
    pairs = [(list(pair.ids), pair.answers[0]) for pair in ioi(model, 240, prepend_bos=False)]
    length = Counter(len(ids) for ids, _ in pairs).most_common(1)[0][0]
    return [(ids, answer) for ids, answer in pairs if len(ids) == length][:n]


def backward_lens_facts(model: Any) -> None:
    """Gradients of facts that the model knows, and edits of them, by shift and by training."""
    settings = {
        "model": "smollm2-135m",
        "facts": 100,
        "facts of edits": 60,
        "edits": 16,
        "layers": [16, 22, 26, 28],
        "etas": [0.03, 0.1, 0.3],
        "rates": [[16, 0.1], [26, 0.1]],
        "steps": 25,
        "others": OTHERS,
    }
    kept = Kept("backward_lens_facts", settings)
    known = known_facts(model, settings["facts"], one_token=True)
    if "segments" not in kept:
        start = time.time()
        triples = [(fact.prompt, fact.subject, fact.target) for fact in known]
        table = segment_summary(model, triples, verbose=False)
        kept.add("segments", rounded(table.to_dict("list")), start)
    if "ranks" not in kept:
        start = time.time()
        kept.add("ranks", rounded(ranks_and_cosines(model, known)), start)
    changes = edits(model, known[: settings["facts of edits"]], settings["edits"])
    if "shift" not in kept:
        start = time.time()
        sweep = shift_sweep(
            model,
            changes,
            layers=settings["layers"],
            etas=settings["etas"],
            others=OTHERS,
            verbose=False,
        )
        kept.add("shift", rounded(list(sweep.rows)), start)
    if "directions" not in kept:
        start = time.time()
        kept.add("directions", rounded(directions(model, changes, settings["layers"])), start)
    for layer, rate in settings["rates"]:
        key, start = f"trained {layer} {rate}", time.time()
        if key not in kept:
            rows = [trained(model, one, layer, rate, settings["steps"]) for one in changes]
            kept.add(key, rounded(rows), start)


def ranks_and_cosines(model: Any, facts: Any) -> dict[str, Any]:
    """Over facts, by layer: ranks of gradients; of the last VJPs of W_out, ranks and cosines."""
    tokens, ranks, cosines, of_target = [], [], [], []
    for fact in facts:
        lens = vt.backward_lens(
            model,
            fact.prompt,
            fact.target,
            positions=-1,
            matrices=MATRICES,
            k=1,
            check="none",
        )
        tokens.append(len(lens.tokens))
        found = lens.gradient_ranks()
        ranks.append([found[matrix] for matrix in MATRICES])
        cosines.append(similarity(lens).to_numpy())
        of_target.append(lens.ranks["W_out"][:, 0])
    below = np.array(tokens)[:, None, None] - np.array(ranks)
    last = np.array(of_target)
    return {
        "n": len(tokens),
        "vocabulary": lens.d_vocab,
        "full rank": dict(zip(MATRICES, (below == 0).mean(0).tolist(), strict=True)),
        "most below full, but for the last layer": int(below[:, :, :-1].max()),
        "rank 1 in the last layer": float((np.array(ranks)[:, :, -1] == 1).mean()),
        "median rank of the target": np.median(last, 0).tolist(),
        "target among the last 100": (last >= lens.d_vocab - 100).mean(0).tolist(),
        "cosines": np.mean(cosines, 0).tolist(),
    }


def directions(model: Any, changes: Any, layers: Any) -> dict[str, Any]:
    """Where targets rank in their own unembedding, and how alike activations of prompts are."""
    view = vt.ModelView(model)

    def hidden(prompt: str) -> dict[int, Any]:
        tokens = view.tokens.encode(prompt, None)
        return hidden_activations(view, tokens, layers, len(tokens.ids) - 1)

    targets = [view.tokens.single(edit.target) for edit in changes]
    read = readout.read(view, view.W_U[:, targets].T.float(), targets, k=1)
    far = [hidden(prompt) for prompt in OTHERS]
    own = [hidden(edit.prompt) for edit in changes]
    return {
        "targets": [edit.target for edit in changes],
        "ranks": read.target_ranks.diagonal().tolist(),
        "first": [view.tokens.text(int(token)) for token in read.top_ids[:, 0]],
        "overlap": {
            layer: [
                float(np.mean([float(x[layer] @ y[layer] / x[layer].square().sum()) for y in far]))
                for x in own
            ]
            for layer in layers
        },
    }


def trained(model: Any, edit: Any, layer: int, rate: float, steps: int) -> dict[str, float]:
    """What training W_out of one block on one edit does, as a row of `shift_sweep`."""
    view = vt.ModelView(model)
    far = [view.tokens.encode(prompt, None).ids for prompt in OTHERS]
    clean = last_logits(view, far).log_softmax(-1)
    with one_matrix_trained(
        model, edit.prompt, edit.target, layer=layer, rate=rate, steps=steps
    ) as taken:
        now = last_logits(view, far).log_softmax(-1)
        row = shift_sweep(model, [edit], layers=layer, etas=(), verbose=False).rows[0]
    scores = {name: row[name] for name in ("efficacy", "paraphrase", "neighbourhood")}
    drift = float((clean.exp() * (clean - now)).sum(-1).mean())
    return scores | {"drift": drift, "steps": taken}


STUDIES = {
    "reversed_attention_tasks": reversed_attention_tasks,
    "attention_patching_tasks": attention_patching_tasks,
    "backward_lens_facts": backward_lens_facts,
}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(STUDIES)
    smol = vt.load_model("smollm2-135m", verbose=False)
    for name in chosen:
        STUDIES[name](smol)
