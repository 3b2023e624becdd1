"""Studies of heads beside loops over heads."""

import numpy as np
import pytest

from tests import tiny
from tests.sweeps.conftest import opened
from tests.sweeps.tables import assert_is_what_loops_give, measured, swept_prompts
from visit_tl.sweeps.measure import SweptPrompt


@pytest.mark.parametrize("k", [7, 200])
def test_heads_before_W_O_are_at_their_own_entries(padded_decoder, k):
    assert_is_what_loops_give(padded_decoder, "heads_naive", k)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_heads_in_the_stream(decoder, k):
    assert_is_what_loops_give(decoder, "heads_ov", k)


@pytest.mark.parametrize("top", [1, 3, 9])
def test_top_heads_are_those_of_largest_norm(decoder, top):
    assert_is_what_loops_give(decoder, "top_heads", 7, top=top)


@pytest.mark.parametrize("seed", [0, 5])
def test_random_prompts_are_as_long_and_the_same_each_time(decoder, seed):
    assert_is_what_loops_give(decoder, "correct_vs_random", 7, seed=seed)


def test_a_random_prompt_depends_on_the_index_alone():
    model = opened("gpt2")
    columns = []
    for i in (4, 4, 5):
        found = measured(model, "correct_vs_random", [SweptPrompt(i, "", (1, 2, 3))])
        columns.append(found.tables["correct_vs_random"][i])
    norms = [one["norm"] for one in columns]
    assert columns[0]["random"].tolist() == [False] * 6 + [True] * 6
    assert np.array_equal(norms[0], norms[1])
    assert np.array_equal(norms[0][:6], norms[2][:6])
    assert not np.array_equal(norms[0][6:], norms[2][6:])


@pytest.mark.parametrize("targets", [True, False])
def test_rank_and_probability_of_the_target(decoder, targets):
    assert_is_what_loops_give(decoder, "target_by_head", targets=targets)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="made as a bridge")
def test_heads_that_are_too_wide_are_an_error_of_the_study():
    model = opened("qwen3")
    found = measured(model, "heads_naive", swept_prompts(model))
    assert found.tables == {"heads_naive": {}}
    assert [(i, name) for i, name, _ in found.errors] == [(i, "heads_naive") for i in range(4)]
    reason = "the 4 heads of tiny-qwen3 are 6 wide, 24 together, which does not fit into d_model"
    assert all(reason in text for _, _, text in found.errors)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("top_heads", {"top": 0}, "top is how many are kept, at least 1, not 0"),
        ("heads_ov", {"k": 0}, "k is the number of top tokens, at least 1, not 0"),
    ],
)
def test_options_that_cannot_be(name, options, reason):
    model = opened("gpt2")
    found = measured(model, name, swept_prompts(model)[:1], **options)
    assert found.errors == [(0, name, reason)]
