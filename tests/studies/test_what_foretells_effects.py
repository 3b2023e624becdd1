"""What the page on foretelling effects concludes holds in the data, and its comparison is exact."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import visit_tl
from visit_tl.circuits import metrics

ROOT = Path(visit_tl.__file__).parents[1]
PAGE = ROOT / "docs" / "studies" / "what_foretells_effects.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="not a checkout of the repository")


@functools.cache
def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_verdicts_of_the_page_are_those_of_the_data():
    module = script("what_foretells_effects")
    data = json.loads(module.DATA.read_text(encoding="utf-8"))["results"]
    mean = {
        name: {task: np.mean(own["scores"][name]["auroc"]) for task, own in data.items()}
        for name in module.SCORES
    }
    assert [n for n, own in mean.items() if min(own.values()) >= 0.95] == ["attribution patching"]
    norm = mean["norm"]
    assert min(norm, key=norm.get) == "gendered pronoun" and sorted(norm.values())[1] >= 0.905
    single = [name for name in module.RAW if name != "attribution patching"]
    best = max(single, key=lambda name: np.mean(list(mean[name].values())))
    assert best == "norm"
    on_pronouns = max(single, key=lambda name: mean[name]["gendered pronoun"])
    assert on_pronouns == "reversed attention, last row"
    even = mean[module.MEAN_OF_RANKS]
    assert min(even.values()) > max(min(mean[name].values()) for name in module.COMBINED) - 0.02
    assert {t for t, v in even.items() if round(v, 2) >= 0.95} == {
        "IOI", "country-capital", "product-company",
    }  # fmt: skip


def test_percentiles_are_counts_of_lower_scores():
    module = script("what_foretells_effects")
    found = module.percentiles(np.array([[[3.0, 1.0], [1.0, 2.0]]]))
    # 3 beats three of four, itself half; each 1 ties with the other.
    assert found.tolist() == [[0.875, 0.25, 0.25, 0.625]]


def test_a_task_is_not_fitted_on_itself():
    module = script("what_foretells_effects")
    stream = np.random.default_rng(0)
    ranks = {task: stream.random((2, 3, 8)) for task in "abc"}
    sizes = {task: stream.random((3, 2, 4)) for task in "abc"}
    before = module.fitted(ranks, sizes, "a")
    changed = {**ranks, "a": ranks["a"] + 1}, {**sizes, "a": sizes["a"] * 9 - 3}
    np.testing.assert_allclose(module.fitted(*changed, "a"), before)
    x = np.concatenate([module.design(ranks[task]) for task in "bc"])
    y = np.concatenate([module.percentiles(sizes[task]).ravel() for task in "bc"])
    np.testing.assert_allclose(x.T @ (y - x @ before), 0, atol=1e-9)


def test_large_effects_are_the_ten_largest_and_those_of_a_tenth():
    module = script("what_foretells_effects")
    stream = np.random.default_rng(1)
    effect, score = stream.normal(size=(4, 5, 6)), stream.random((4, 30))
    whole = np.array([5.0, 8.0, 0.5, 9.0])
    found = module.compared({"s": score}, effect, whole)
    sizes = np.abs(effect.reshape(4, -1))
    for i in range(4):
        members = np.isin(np.arange(30), np.argsort(-sizes[i])[:10])
        assert found["scores"]["s"]["auroc"][i] == metrics.auroc(score[i], members)
        assert found["large"][i] == (0 if i == 2 else int((sizes[i] >= whole[i] / 10).sum()))
