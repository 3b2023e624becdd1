"""I_k by hand."""

import numpy as np
import torch

from tests import tiny
from visit_tl import ModelView
from visit_tl.lens.top_tokens import top_ids
from visit_tl.sweeps.measure import SweptPrompt, measure
from visit_tl.sweeps.overlap import top_overlap
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.registry import studies


def test_it_is_the_share_of_the_ids_in_both_whatever_their_order():
    one = torch.tensor([[3, 1, 2, 9], [4, 5, 6, 7], [0, 1, 2, 3]])
    other = torch.tensor([[9, 8, 1, 7], [0, 1, 2, 3], [3, 2, 1, 0]])
    assert top_overlap(one, other).tolist() == [0.5, 0.0, 1.0]


def test_stacks_broadcast():
    one = torch.tensor([[[0, 1], [1, 2]], [[2, 3], [4, 5]]])
    other = torch.tensor([[1, 0], [5, 9]])
    assert np.array_equal(top_overlap(one, other[:, None]), [[1.0, 0.5], [0.0, 0.5]])


def test_vectors_are_read_and_compared_as_on_paper():
    """No norm and an unembedding of ones: the logits are the vector itself."""
    view = ModelView(tiny.hand_set())
    vectors = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 4.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    tops = top_ids(view, vectors, 2)
    assert tops.tolist() == [[1, 3], [0, 1], [3, 0]]
    assert top_overlap(tops[0], tops[1]) == 0.5
    assert top_overlap(tops[1], tops[2]) == 0.5
    assert top_overlap(tops[0], tops[2]) == 0.5


def test_heads_of_the_model_on_paper():
    """tests/test_by_hand.py: prompt [0, 1, 2], of which the last token asks.

    Head 0 attends 1/2, 1/4, 1/4 and its values are (3, 0), (0, 3), (0, 0), so its output is
    0.75 x 2 in dimension 1 and 1.5 in dimension 3; the other head sees only the last token, by
    thirds: its output is -1/3 in dimension 0.
    """
    prompts = [SweptPrompt(0, "", (0, 1, 2), 1)]
    swept = SweptModel(ModelView(tiny.hand_set()))
    found = measure(swept, prompts, [studies()["heads_ov"].having(k=2), studies()["top_heads"]])
    assert found.errors == []
    # Attention's output is (-1/3, 1.5, 0.5, 1.5): tokens 1 and 3, which are those of head 0. Those
    # of head 1 are 1 and 2: all of its logits but the first are 0, and ties go to the lower id.
    assert found.tables["heads_ov"][0]["attn"].tolist() == [1.0, 0.5]
    top = found.tables["top_heads"][0]
    assert top["head"].tolist() == [0, 1]
    np.testing.assert_allclose(top["norm"], [1.5 * 2**0.5, 1 / 3], rtol=1e-5)
    # The vocabulary has 4 tokens, so k is cut to 4, and all overlap.
    assert top["attn"].tolist() == top["block"].tolist() == top["final"].tolist() == [1.0, 1.0]
