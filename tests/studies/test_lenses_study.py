"""The page on which lens foretells effects says what its data say, and its sums are exact."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import visit_tl
from visit_tl.circuits import metrics

ROOT = Path(visit_tl.__file__).parents[1]
PAGE = ROOT / "docs" / "studies" / "lenses.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="not a checkout of the repository")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "examples"))  # it takes tasks and prompts of another script
    try:
        spec = importlib.util.spec_from_file_location("lenses", ROOT / "examples" / "lenses.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "examples"))
        for name in ("what_foretells_effects", "lenses"):
            sys.modules.pop(name, None)


def test_the_tables_of_the_page_are_those_of_the_data(script):
    text = PAGE.read_text(encoding="utf-8")
    for mark, lines in script.tables().items():
        found = text.split(f"<!-- {mark} -->\n")[1].split("<!-- end -->")[0]
        assert found.strip().splitlines() == lines, mark


def test_scores_are_compared_with_the_largest_effects_and_states_by_low_ranks(script):
    stream = np.random.default_rng(0)
    names = [script.NORM, *(f"{x}: {y}" for x in script.LENSES for y in script.SCORES)]
    found = {name: stream.random((3, 4, 5)) for name in names}
    ranks = np.array([[0, 9, 10, 500]] * 2 + [[99, 99, 99, 0]], float)
    found |= {f"{lens}: states": ranks for lens in script.LENSES}
    effect = stream.normal(size=(3, 4, 5))
    result = script.compared(found, effect)
    assert result["logit lens: states"]["low"] == [0.5, 0.5, 0.25]
    for i in range(3):
        sizes = np.abs(effect[i]).ravel()
        members = np.isin(np.arange(20), np.argsort(-sizes)[:10])
        for name in names:
            own = metrics.auroc(found[name][i].ravel(), members)
            assert result[name]["auroc"][i] == own


def test_the_verdicts_of_the_page_are_those_of_the_data(script):
    data = json.loads(script.DATA.read_text(encoding="utf-8"))["results"]

    def mean(name, key="auroc"):
        return {task: np.mean(own[name][key]) for task, own in data.items()}

    def overall(name):
        return round(float(np.mean(list(mean(name).values()))), 2)

    logit, jacobian, regression = (f"{lens}: rank from an end" for lens in script.LENSES)
    assert [overall(name) for name in (logit, jacobian, regression)] == [0.80, 0.85, 0.83]
    for fitted in (jacobian, regression):
        worse = [task for task in data if mean(fitted)[task] < mean(logit)[task]]
        assert worse == ["gendered pronoun"]
    attribution = [overall(f"{lens}: attribution") for lens in script.LENSES]
    assert attribution == [0.87, 0.87, 0.82]
    others = (f"{lens}: {score}" for lens in script.LENSES for score in script.SCORES)
    assert overall(script.NORM) == 0.92 > max(map(overall, others))
    low = {lens: mean(f"{lens}: states", "low") for lens in script.LENSES}
    shares = [round(float(np.mean(list(own.values()))), 2) for own in low.values()]
    assert shares == [0.07, 0.22, 0.22]
    early = [t for t in data if low["logit lens"][t] > low["Jacobian lens"][t]]
    assert early == ["gendered pronoun"]
