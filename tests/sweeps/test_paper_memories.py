"""Studies of memory values beside loops over heads and positions."""

import pytest

from tests.sweeps.conftest import opened
from tests.sweeps.tables import assert_is_what_loops_give, measured, swept_prompts
from visit_tl.sweeps.registry import studies


@pytest.mark.parametrize("top", [1, 3, 20])
def test_memory_values_of_highest_attention(decoder, top):
    assert_is_what_loops_give(decoder, "memory_values_top3", 7, top=top)


@pytest.mark.parametrize("rank_by", ["attention", "norm"])
@pytest.mark.parametrize("k", [7, 200])
def test_all_memory_values(decoder, k, rank_by):
    assert_is_what_loops_give(decoder, "memory_values_all", k, rank_by=rank_by)


def test_by_head_are_the_same_rows_summarised_otherwise(decoder):
    assert_is_what_loops_give(decoder, "memory_values_by_head", 7)
    assert studies()["memory_values_by_head"].by == ("layer", "head")


def test_the_probability_of_a_memorys_own_token(decoder):
    assert_is_what_loops_give(decoder, "input_token_prob")


def test_with_one_token_a_head_is_its_memory_value(decoder):
    found = measured(decoder, "memory_values_all", swept_prompts(decoder))
    only = found.tables["memory_values_all"][2]
    assert set(only["rank"]) == set(only["position"]) == {0}
    assert set(only["head_overlap"]) == {1.0}


def test_another_ranking_is_an_error_of_the_study():
    model = opened("gpt2")
    found = measured(model, "memory_values_all", swept_prompts(model)[:1], rank_by="key")
    reason = "memory values are ranked by attention or norm, not by 'key'"
    assert found.errors == [(0, "memory_values_all", reason)]
