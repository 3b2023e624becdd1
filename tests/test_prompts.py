"""Several prompts, padded batches and continuations: each graph is that of its prompt alone."""

import pytest
import torch

import visit_tl as vt
from visit_tl import InputError

PROMPTS = ["a b c", "d", "e d c b a b"]


def test_several_prompts_give_the_graph_of_each_alone(model):
    graphs = vt.flow_graphs(model, PROMPTS, verbose=False)
    assert graphs == [vt.flow_graph(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_the_graph_of_each_prompt_alone(model, side):
    rows = [model.to_tokens(prompt)[0].tolist() for prompt in PROMPTS]
    width = max(map(len, rows))
    batch = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        batch[i, at], mask[i, at] = torch.tensor(row), 1
    graphs = vt.flow_graphs(model, batch, attention_mask=mask, verbose=False)
    assert graphs == [vt.flow_graph(model, row) for row in rows]


def test_each_prompt_can_have_its_own_target(native):
    graphs = vt.flow_graphs(native, PROMPTS, target=[" a", " b", 3], verbose=False)
    assert [g.target_id for g in graphs] == [12, 13, 3]
    assert [g.target for g in vt.flow_graphs(native, PROMPTS, target=" a", verbose=False)] == [
        " a"
    ] * 3


def test_every_new_token_gets_the_graph_that_made_it(model):
    graphs = vt.generate(model, "a b", 3, verbose=False)
    ids = list(graphs[0].token_ids)
    for graph in graphs:
        assert list(graph.token_ids) == ids and graph.prepend_bos
        assert graph.position == len(ids) - 1
        with torch.no_grad():
            chosen = int(model(torch.tensor([ids]))[0, -1].argmax())
        assert graph.target_id == chosen == graph["logits"].top[0].id
        ids.append(chosen)


def test_a_continuation_ends_with_the_text_or_the_context(native):
    full = vt.generate(native, [1] * 30, 5, verbose=False)
    ended = any(g.target_id == 0 for g in full)
    assert len(full) <= 3 and (ended or len(full[-1].token_ids) == 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a b",), "prompts must be a list of prompts, each a text or token ids, got 'a b'"),
        ((torch.tensor([1, 2]),), r"a batch of token ids is \[batch, pos\], got \[2\]"),
        ((["a", ""],), "the prompt is empty"),
    ],
)
def test_prompts_that_are_none_are_refused(native, arguments, message):
    with pytest.raises(InputError, match=message):
        vt.flow_graphs(native, *arguments, verbose=False)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 3), r"the attention_mask is \[1, 3\], the batch \[2, 3\]"),
        (torch.tensor([[1, 0, 1], [1, 1, 1]]), "row 0 of the attention_mask has 2 tokens that"),
        (torch.tensor([[1, 1, 1], [0, 0, 0]]), "row 1 of the attention_mask has 0 tokens that"),
    ],
)
def test_masks_that_do_not_fit_are_refused(native, mask, message):
    batch = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(InputError, match=message):
        vt.flow_graphs(native, batch, attention_mask=mask, verbose=False)


def test_targets_and_masks_that_go_with_nothing_are_refused(native):
    with pytest.raises(InputError, match="there are 3 prompts but 2 targets"):
        vt.flow_graphs(native, PROMPTS, target=[" a", " b"], verbose=False)
    with pytest.raises(InputError, match="needs a batch of token ids"):
        vt.flow_graphs(native, PROMPTS, attention_mask=torch.ones(3, 3), verbose=False)
    with pytest.raises(InputError, match="n must be an integer of at least 1, got 0"):
        vt.generate(native, "a", 0, verbose=False)
