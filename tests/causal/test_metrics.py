"""Metrics: by hand, in their units, and refused where they are no single finite number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import made
from visit_tl import InputError, ModelView
from visit_tl.causal import metrics

# Two positions, three tokens; the last row is log(1), log(2), log(5), so 1/8, 2/8, 5/8.
LOGITS = torch.tensor([[[9.0, 0.0, 0.0], [0.0, math.log(2), math.log(5)]]])


def test_metrics_by_hand():
    assert float(metrics.logit_difference(2, 1)(LOGITS)) == pytest.approx(math.log(2.5))
    assert float(metrics.logit_difference(0, 1, 0)(LOGITS)) == 9.0
    assert float(metrics.probability(1)(LOGITS)) == pytest.approx(0.25)
    assert float(metrics.log_probability(2)(LOGITS)) == pytest.approx(math.log(0.625))


def test_the_probability_difference_by_hand():
    both = metrics.probability_difference([2], [0, 1])
    assert float(both(LOGITS)) == pytest.approx(5 / 8 - 3 / 8)
    assert float(metrics.probability_difference([1, 2], [])(LOGITS)) == pytest.approx(7 / 8)
    # First tokens 0 and 2 decide at position 0; after a 1 it is what comes next that counts.
    split = metrics.probability_difference([2], [0], first=(1, (2,), (0,)))
    first = torch.tensor([[1.0, 3.0, 4.0], [1.0, 2.0, 5.0]]).log()[None]
    assert float(split(first)) == pytest.approx(4 / 8 - 1 / 8 + 3 / 8 * (5 / 8 - 1 / 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "both sides are empty"),
        (([1, 2], [2]), "the token 2 is on both sides"),
        (([1], [9]), "the metric's token id 9 is outside 0..2"),
        (([1], [2], 0, (1, (), ())), "need the position before theirs; 0 has none"),
    ],
)
def test_probability_differences_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        metrics.probability_difference(*arguments)(LOGITS)


def test_kl_by_hand_and_in_its_direction():
    other = torch.zeros(1, 2, 3)
    p = [1 / 8, 2 / 8, 5 / 8]
    by_hand = sum(x * math.log(x * 3) for x in p)
    assert float(metrics.kl(LOGITS)(other)) == pytest.approx(by_hand, abs=1e-6)
    assert float(metrics.kl(other)(LOGITS)) == pytest.approx(
        sum(math.log(1 / 3 / x) / 3 for x in p), abs=1e-6
    )
    assert float(metrics.kl(LOGITS[0])(LOGITS)) == pytest.approx(0, abs=1e-7)


@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6), st.floats(-5, 5))
def test_adding_a_constant_to_all_logits_changes_no_metric(numbers, constant):
    logits = torch.tensor(numbers, dtype=torch.float64).view(1, 2, 3)
    for metric in (
        metrics.logit_difference(0, 2),
        metrics.probability(1),
        metrics.log_probability(1, 0),
        metrics.probability_difference([0], [1, 2], first=(1, (2,), (0,))),
        metrics.kl(LOGITS.double()),
    ):
        before, after = (
            metrics.evaluate(metric, logits),
            metrics.evaluate(metric, logits + constant),
        )
        assert after == pytest.approx(before, rel=1e-4, abs=1e-4)


def test_texts_become_ids_and_kl_gets_its_clean_run():
    view = ModelView(made("gpt2"))
    clean = torch.randn(1, 3, view.d_vocab, generator=torch.Generator().manual_seed(0))
    bound = metrics.bind(metrics.logit_difference(" a", "b"), view, clean)
    assert bound == metrics.logit_difference(view.tokens.single(" a"), view.tokens.single("b"))
    several = metrics.bind(metrics.probability_difference([" a", "b"], [3]), view, clean)
    assert several.correct == (bound.correct, bound.wrong) and several.wrong == (3,)
    kl = metrics.bind(metrics.kl(), view, clean)
    assert float(kl(clean)) == pytest.approx(0, abs=1e-6)
    given_one = metrics.kl(clean + 1)
    assert metrics.bind(given_one, view, clean) is given_one
    plain = len
    assert metrics.bind(plain, view, clean) is plain


def test_names_say_tokens_and_position():
    assert metrics.metric_name(metrics.logit_difference(" a", 3)) == "logit_difference(' a', 3, -1)"
    assert metrics.metric_name(metrics.log_probability(5, 2)) == "log_probability(5, 2)"
    assert metrics.metric_name(metrics.kl(position=1)) == "kl(1)"
    some, others = (metrics.probability_difference([1, each], [2]).name for each in (3, 4))
    assert some.startswith("probability_difference(2 tokens, 1 tokens, -1, ") and some != others
    assert metrics.metric_name(_last_logit) == "_last_logit"


def _last_logit(logits):
    return logits[0, -1, 0]


def test_numbers_and_scalars_are_taken():
    assert metrics.evaluate(_last_logit, LOGITS) == 0.0
    assert metrics.evaluate(lambda logits: 3, LOGITS) == 3.0
    assert metrics.evaluate(lambda logits: logits.shape[1] * 0.5, LOGITS) == 1.0


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (lambda logits: logits[0, -1], r"a tensor of shape \[3\], but one number is needed"),
        (lambda logits: logits[:, -1, 0], r"a tensor of shape \[1\]"),
        (lambda logits: None, "gave None"),
        (lambda logits: True, "gave True"),
        (lambda logits: float("nan"), "must be finite"),
        (lambda logits: logits[0, 0, 0] / 0, "is inf"),
        (metrics.logit_difference(0, 3), r"token id 3 is outside 0\.\.2"),
        (metrics.logit_difference(0, -1), r"token id -1 is outside 0\.\.2"),
        (metrics.logit_difference(0, 1, 2), "asks for position 2, but the run has 2 tokens"),
        (metrics.probability(" a"), "has the text ' a' where an id is needed"),
        (metrics.kl(), "does not have; pass that run's logits"),
        (metrics.kl(LOGITS[:, :1]), r"shape \[1, 1, 3\], but this run has \[1, 2, 3\]"),
    ],
)
def test_what_is_no_metric_is_refused(metric, says):
    with pytest.raises(InputError, match=says):
        metrics.evaluate(metric, LOGITS)


def test_what_cannot_be_called_or_is_two_tokens_is_refused():
    view = ModelView(made("gpt2"))
    with pytest.raises(InputError, match="a metric is a callable"):
        metrics.bind("logit_difference", view, LOGITS)
    with pytest.raises(InputError, match="is 2 tokens"):
        metrics.bind(metrics.probability("ab"), view, LOGITS)
