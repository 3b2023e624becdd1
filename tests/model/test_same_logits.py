"""What counts as the same logits: rounding of any processor, and nothing more."""

import pytest
import torch

from visit_tl.model.same_logits import differ, error_of

LOGITS = torch.linspace(-20, 20, 12).reshape(3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_processors_round_differently_is_the_same(dtype):
    # SmolLM2's special tokens, one row against six, AMD EPYC: 2.6e-5.
    found, expected = LOGITS.to(dtype).clone(), LOGITS.to(dtype)
    found[1, 2] += 20 * 3e-5
    assert error_of(found, expected) == pytest.approx(3e-5, rel=0.2)
    assert not differ(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_lost_row_changes_is_not(dtype):
    found = LOGITS.to(dtype).clone()
    found[1, 2] += 20 * 5e-3
    assert differ(found, LOGITS.to(dtype))


def test_a_number_that_is_none_is_never_the_same():
    found = LOGITS.clone()
    found[0, 0] = torch.nan
    assert differ(found, LOGITS)
