"""Studies of the residual stream beside loops over blocks."""

import pytest

from tests.sweeps.tables import assert_is_what_loops_give, measured, swept_prompts


@pytest.mark.parametrize("targets", [True, False])
def test_the_final_prediction_in_every_state(decoder, targets):
    assert_is_what_loops_give(decoder, "final_prob_by_layer", targets=targets)


def test_the_last_state_predicts_what_the_model_predicts(decoder):
    found = measured(decoder, "final_prob_by_layer", swept_prompts(decoder))
    columns = found.tables["final_prob_by_layer"]
    assert {int(c["rank"][-1]) for c in columns.values()} == {0}
    # Targets are the prediction, another token and none.
    assert [set(columns[i]["correct"].tolist()) for i in range(4)] == [
        {True},
        {False},
        {False},
        {True},
    ]


@pytest.mark.parametrize("k", [7, 200])
def test_attention_beside_the_stream(decoder, k):
    assert_is_what_loops_give(decoder, "attn_vs_residual", k)
