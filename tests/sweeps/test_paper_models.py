"""Every study of heads, memories, states, queries and keys on models that lack something."""

from functools import cache

import pytest

from tests import tiny
from tests.sweeps.tables import assert_is_what_loops_give, measured, swept_prompts
from visit_tl.sweeps.registry import studies

NAMES = [
    "heads_naive",
    "heads_ov",
    "top_heads",
    "correct_vs_random",
    "target_by_head",
    "memory_values_top3",
    "memory_values_all",
    "memory_values_by_head",
    "input_token_prob",
    "final_prob_by_layer",
    "attn_vs_residual",
    "k_vs_v",
    "q_vs_k",
]
WITHOUT_K = {"target_by_head", "input_token_prob", "final_prob_by_layer"}


@cache
def without(part):
    return tiny.native(**{"mlp": {"attn_only": True}, "more blocks": {"n_layers": 1}}[part])


@pytest.mark.parametrize("part", ["mlp", "more blocks"])
@pytest.mark.parametrize("name", NAMES)
def test_no_mlp_and_a_single_block(name, part):
    k = None if name in WITHOUT_K else 7
    assert_is_what_loops_give(without(part), name, k)


@pytest.mark.parametrize("name", sorted(set(NAMES) - WITHOUT_K))
def test_by_default_k_is_50(name):
    study = studies()[name]
    assert study.options["k"] == 50 and study.paper and study.source.startswith("VISIT, Fig. ")
    model = without("mlp")
    found = measured(model, name, swept_prompts(model)[:1])
    names = ("final", "qk", "resid_pre", "head_overlap")
    (share,) = (column for column in found.tables[name][0] if column in names)
    assert set((found.tables[name][0][share] * 50 % 1).round(6)) <= {0.0, 1.0}
