"""Attention to later tokens, measured over prompts, equals loops over attention maps."""

import numpy as np
import pytest
import torch

import visit_tl as vt
from visit_tl.studies import later_attention

PROMPTS = [[3, 5, 7, 9, 11, 13], [2, 4, 6, 8]]
SPANS = [[(0, 3), (3, 5)], [(1, 4)]]


def by_hand(model, ids, spans):
    view = vt.ModelView(model)
    kept = []
    hooks = [
        (f"blocks.{i}.attn.hook_pattern", lambda tensor, hook: kept.append(tensor[0]))
        for i in range(view.n_layers)
    ]
    view.run(torch.tensor([ids]), hooks, vt.Segments.from_spans(spans))
    rows = {i: range(i + 1, end) for a, end in spans for i in range(a, end - 1)}
    return np.array(
        [
            [
                np.mean([sum(float(layer[h, i, j]) for j in js) for i, js in rows.items()])
                for h in range(view.n_heads)
            ]
            for layer in kept
        ]
    )


def test_the_sum_of_attention_to_later_tokens_is_that_of_a_loop(model):
    found = later_attention(model, PROMPTS, SPANS, verbose=False)
    for values, ids, spans in zip(found["later"], PROMPTS, SPANS, strict=True):
        assert values == pytest.approx(by_hand(model, ids, spans), abs=1e-6)
    # Queries 0 and 1 of three, and 3 of (3, 5): 2/3, 1/3 and 1/5 of what they see; then 2/4, 1/4.
    assert found["later if equal"][0, 0, 0] == pytest.approx((2 / 3 + 1 / 3 + 1 / 5) / 3)
    assert found["later if equal"][1, 1, 1] == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_reversed_attention_is_that_of_the_same_run(model):
    found = later_attention(model, PROMPTS[:1], SPANS[0], targets=7, verbose=False)
    own = vt.reversed_attention(model, PROMPTS[0], 7, segments=SPANS[0])
    assert found["reversed"][0] == pytest.approx(own.norms, abs=1e-7)
    R = own.map(0, 1)
    later = np.triu(R, 1)
    assert found["reversed later"][0, 0, 1] == pytest.approx((later**2).sum() / (R**2).sum())
    assert 0 < found["reversed later"][0, 0, 1] < 1


@pytest.mark.parametrize(
    ("segments", "targets", "message"),
    [
        (None, None, "no token has a later one"),
        ([(0, 1)], None, "no token has a later one"),
        (SPANS, [7], "2 prompts but 1 targets"),
        ([SPANS[0]] * 3, None, "2 prompts but 3 entries"),
    ],
)
def test_what_cannot_be_measured_is_refused(native, segments, targets, message):
    with pytest.raises(vt.InputError, match=message):
        later_attention(native, PROMPTS, segments, targets=targets, verbose=False)
