"""Batches of `SegmentCollator`: labels, masks, the leak of prompt labels, and gradients."""

import itertools
import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from tests import tiny
from visit_tl.errors import InputError
from visit_tl.segments import SegmentCollator

PAD = 59
SIDES = ("right", "left")


@st.composite
def prompts(draw):
    """A row of the collator: tokens, where the answer begins, and spans inside the prompt."""
    length = draw(st.integers(1, 9))
    prompt = draw(st.integers(0, length))
    cuts = sorted(draw(st.sets(st.integers(0, prompt), max_size=6)))
    spans = [pair for pair in itertools.pairwise(cuts) if draw(st.booleans())]
    ids = draw(st.lists(st.integers(0, PAD - 1), min_size=length, max_size=length))
    return {"input_ids": ids, "prompt_length": prompt, "spans": spans}


def row(ids, prompt, spans=()):
    return {"input_ids": list(ids), "prompt_length": prompt, "spans": list(spans)}


# --- labels and masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(prompts(), min_size=1, max_size=4), everything=st.booleans())
def test_labels_are_the_answer_alone_and_padding_is_none(side, rows, everything):
    batch = SegmentCollator(PAD, padding_side=side, prompt_labels=everything)(rows)
    size = max(len(one["input_ids"]) for one in rows)
    for i, one in enumerate(rows):
        ids, labels = one["input_ids"], list(one["input_ids"])
        for k in range(len(ids)):
            if k < one["prompt_length"] and not everything:
                labels[k] = -100
        empty = size - len(ids)
        if side == "right":
            ids, labels = ids + [PAD] * empty, labels + [-100] * empty
        else:
            ids, labels = [PAD] * empty + ids, [-100] * empty + labels
        assert batch["input_ids"][i].tolist() == ids
        assert batch["labels"][i].tolist() == labels


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(prompts(), min_size=1, max_size=4), segmented=st.booleans())
def test_the_mask_is_that_of_a_loop_over_queries_and_keys(side, rows, segmented):
    mask = SegmentCollator(PAD, padding_side=side, segmented=segmented)(rows)["attention_mask"]
    size = max(len(one["input_ids"]) for one in rows)
    assert mask.shape == (len(rows), 1, size, size) and mask.dtype == torch.float32
    for i, one in enumerate(rows):
        length = len(one["input_ids"])
        first = 0 if side == "right" else size - length
        for q in range(size):
            for k in range(size):
                a, b = q - first, k - first
                if not 0 <= a < length:
                    sees = q == k  # padding sees itself alone
                elif not 0 <= b < length:
                    sees = False
                else:
                    both = any(s <= a < e and s <= b < e for s, e in one["spans"])
                    sees = b <= a or (segmented and both)
                found = float(mask[i, 0, q, k])
                assert found == (0 if sees else torch.finfo(torch.float32).min), (i, q, k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_mask_has_the_dtype_that_was_asked_for_and_stays_finite(dtype):
    mask = SegmentCollator(PAD, dtype=dtype)([row(range(4), 3, [(0, 3)])])["attention_mask"]
    assert mask.dtype == dtype and bool(torch.isfinite(mask).all())


@pytest.mark.parametrize("segmented", [True, False])
def test_a_segment_that_reaches_into_the_answer_is_refused(segmented):
    good, bad = row(range(6), 4, [(0, 4)]), row(range(6), 4, [(0, 2), (2, 5)])
    make = SegmentCollator(PAD, segmented=segmented)
    make([good])
    with pytest.raises(InputError, match=r"\(2, 5\) of row 1 reaches into the answer.*at 4"):
        make([good, bad])


def test_a_side_that_is_none_is_refused():
    with pytest.raises(InputError, match="padding_side"):
        SegmentCollator(PAD, padding_side="middle")([row(range(3), 2)])


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("make", [tiny.hf_llama, tiny.hf_gpt2])
def test_gradients_of_a_batch_are_those_of_its_prompts_one_by_one(make, side):
    if make is tiny.hf_gpt2 and Version(transformers.__version__) < Version("4.57"):
        pytest.skip("in transformers 4.51, GPT-2 takes a mask of padding only")
    model = make(attn_implementation="eager").double()
    rows = [
        row([3, 9, 4, 8, 5, 7, 6], 5, [(0, 2), (2, 4)]),
        row([11, 2, 30], 2, [(0, 2)]),
        row([20, 21, 22, 23, 24], 3, [(1, 3)]),
    ]
    collate = SegmentCollator(PAD, dtype=torch.float64, padding_side=side)

    def gradients(batches):
        model.zero_grad()
        answers = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        for batch in batches:
            own = int((batch["labels"] != -100).sum())
            (model(**batch).loss * own / answers).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    whole = gradients([collate(rows)])
    alone = gradients([collate([one]) for one in rows])
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for name, found in whole.items():
        assert torch.allclose(found, alone[name], atol=1e-10, rtol=1e-8), name


# --- the leak -----------------------------------------------------------------------------------

VOCABULARY, LENGTH = 12, 6


def random_prompts(n, seed):
    """Tokens that nothing can predict, one segment, and an answer of one token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (n, LENGTH + 1), generator=generator).tolist()
    return [row(one, LENGTH, [(0, LENGTH)]) for one in ids]


def loss_of_fresh_prompts(segmented):
    """What a model loses on the tokens of new prompts after training on prompt labels."""
    model = tiny.hf_llama(hidden_size=32, intermediate_size=64, vocab_size=VOCABULARY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.mul_(0.5)
    collate = SegmentCollator(0, segmented=segmented, prompt_labels=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(120):
        optimizer.zero_grad()
        model(**collate(random_prompts(32, step))).loss.backward()
        optimizer.step()
    batch = collate(random_prompts(500, 10_000))
    batch["labels"][:, LENGTH:] = -100  # the loss of the prompt alone
    with torch.no_grad():
        return float(model(**batch).loss)


def test_prompt_labels_leak_under_the_mask_of_segments_and_not_under_the_causal_one():
    """Position i sees token i + 1, its own label, so random tokens are told without an error."""
    chance = math.log(VOCABULARY)
    assert loss_of_fresh_prompts(segmented=True) < 0.1 * chance
    assert loss_of_fresh_prompts(segmented=False) > 0.99 * chance
