"""Studies and prompts of the tests, and the plain loop that a sweep is held against."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd

import visit_tl as vt
from visit_tl.sweeps.measure import measure
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.prompt_sources import given_prompts, tokenised
from visit_tl.sweeps.registry import chosen_studies

study = vt.sweeps.study


@study(
    columns={"layer": "int64", "norm": "float64", "name": "string", "large": "bool"}, by=["layer"]
)
def stream_norms(run, threshold: float = 1.0):
    norms = run.resid_post.norm(dim=-1)
    names = [None if i % 2 else f"block {i}" for i in run.layers]
    return {"layer": run.layers, "norm": norms, "name": names, "large": norms > threshold}


@study(columns={"layer": "int64", "token": "int64", "prob": "float64"}, by=["layer"])
def top_of_blocks(run, k: int = 3):
    tops, read = yield run.top(run.resid_post, k), run.read(run.resid_post)
    last = yield run.top(run.resid_post[-1:], 1)
    assert last.item() == tops[-1, 0].item()
    probs = read.target_probs[:, :1].expand(-1, k)
    return {"layer": np.repeat(run.layers, k), "token": tops.ravel(), "prob": probs.ravel()}


STUDIES = ["stream_norms", "top_of_blocks", "heads_ov"]


def prompts(n: int = 30, seed: int = 0) -> list[str]:
    """Texts of several lengths, mixed."""
    draw = random.Random(seed)
    return [" ".join(draw.choices("abcde", k=draw.randint(1, 6))) for _ in range(n)]


def sweep(model, given, studies, out, **options):
    return vt.sweep(model, given, studies, out, **{"verbose": False, **options})


def one_by_one(model, given, studies, prepend_bos=None, only=None):
    """The rows of each study, every prompt by itself."""
    view, chosen = vt.ModelView(model), chosen_studies(studies)
    found = {one.name: [] for one in chosen}
    for i, prompt in enumerate(given_prompts(given)):
        ready = tokenised(view, [(i, prompt)], prepend_bos)
        for name, rows in measure(SweptModel(view), ready, chosen, only=only).tables.items():
            found[name] += [pd.DataFrame({"prompt": p, **rows[p]}) for p in rows]
    return {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}


def assert_close(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same rows, floats but for the last bits: batches of other sizes round differently."""
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-6, check_dtype=False)


def assert_same(one, other, tables=(*STUDIES, "prompts", "errors")) -> None:
    """The same runs to the last bit."""
    for table in tables:
        pd.testing.assert_frame_equal(one.table(table), other.table(table), check_exact=True)


def files_of(run):
    """The bytes of all files of a run but its manifest."""
    return {
        str(file.relative_to(run.path)): file.read_bytes()
        for file in run.path.rglob("*")
        if file.is_file() and file.name not in ("manifest.json", ".lock")
    }
