"""Measure a study on a few prompts, and compare its rows with those of loops."""

from __future__ import annotations

import pytest

from tests.sweeps.head_loops import Loops
from visit_tl import ModelView
from visit_tl.sweeps.measure import SweptPrompt, measure
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.registry import studies

# Two of one length, which are run together; one token; a BOS first and none.
IDS = [(0, 12, 13, 14), (0, 3, 11, 5), (7,), (0, 12, 4, 15, 1, 2, 16, 3)]


def swept_prompts(model, targets=True):
    """Prompts whose targets are, in turn, the model's prediction, another token and none."""
    prompts = []
    for i, ids in enumerate(IDS):
        predicted = Loops(model, ids).predicted
        target = [predicted, (predicted + 1) % 60, None][i % 3] if targets else None
        prompts.append(SweptPrompt(i, "", ids, target))
    return prompts


def measured(model, name, prompts, **options):
    """What a study measures on prompts."""
    return measure(SweptModel(ModelView(model)), prompts, [studies()[name].having(**options)])


def rows_of(columns):
    names = list(columns)
    return [
        dict(zip(names, row, strict=True))
        for row in zip(*(columns[n].tolist() for n in names), strict=True)
    ]


def assert_same(ours, looped):
    """The same rows, in any order."""
    assert len(ours) == len(looped)
    keys = [k for k, v in ours[0].items() if not isinstance(v, float)]

    def ordered(rows):
        return sorted(rows, key=lambda row: [str(row[key]).zfill(3) for key in keys])

    for own, other in zip(ordered(ours), ordered(looped), strict=True):
        assert set(own) == set(other)
        for name, value in own.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[name], rel=1e-4, abs=1e-6, nan_ok=True), (
                    name,
                    own,
                    other,
                )
            else:
                assert value == other[name], (name, own, other)


def assert_is_what_loops_give(model, name, k=None, looped=None, targets=True, **options):
    """A study on all prompts beside the same by loops, with the same options."""
    prompts = swept_prompts(model, targets)
    asked = options if k is None else options | {"k": k}
    found = measured(model, name, prompts, **asked)
    assert found.errors == []
    for prompt in prompts:
        loops = Loops(model, prompt.token_ids, prompt.target, prompt.index)
        assert_same(
            rows_of(found.tables[name][prompt.index]),
            getattr(loops, name)(k, **options, **(looped or {})),
        )
