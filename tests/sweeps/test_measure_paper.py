"""What studies of the paper ask of a run: other prompts, targets of their own, shared vectors."""

import numpy as np
import pytest
import torch

from tests import tiny
from tests.sweeps.conftest import opened
from tests.sweeps.tables import IDS, swept_prompts
from visit_tl import InputError, ModelView
from visit_tl.sweeps import measure as measuring
from visit_tl.sweeps.measure import measure
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.registry import Study, studies


def swept(model):
    return SweptModel(ModelView(model))


def test_reading_a_few_vectors_at_a_time_changes_nothing(monkeypatch):
    model = opened("gpt2")
    paper = [one for one in studies().values() if one.paper]
    whole = measure(swept(model), swept_prompts(model), paper)
    monkeypatch.setattr(measuring, "_VECTORS", 1)
    parts = measure(swept(model), swept_prompts(model), paper)
    assert whole.errors == parts.errors
    for name, table in whole.tables.items():
        assert list(parts.tables[name]) == list(table)
        for index, columns in table.items():
            for column, values in columns.items():
                got = parts.tables[name][index][column]
                if values.dtype == np.float64:
                    np.testing.assert_allclose(got, values, rtol=1e-4, atol=1e-6)
                else:
                    assert np.array_equal(got, values), (name, column)


def test_no_more_vectors_wait_than_are_read_together(monkeypatch):
    model = opened("gpt2")
    most = []

    def counted(asking, found):
        most.append(sum(measuring._size(asked) for _, _, _, asked in asking))
        answer(asking, found)

    answer = measuring._answer
    monkeypatch.setattr(measuring, "_VECTORS", 100)
    monkeypatch.setattr(measuring, "_answer", counted)
    prompts = [measuring.SweptPrompt(i, "", IDS[3]) for i in range(8)]
    measure(swept(model), prompts, [studies()["memory_values_all"]])
    # Per prompt 2 blocks of 4 heads, each with 8 memory values and itself: 72.
    assert most == [144] * 4


def read_rows(monkeypatch, model, names, **options):
    """What studies give of one prompt of 8 tokens, and how many vectors are read for it."""
    count = []
    for name in ("top_ids", "read", "read_targets"):
        read = getattr(measuring, name)
        monkeypatch.setattr(
            measuring,
            name,
            lambda view, stack, *more, read=read, **k: (
                count.append(len(stack)),
                read(view, stack, *more, **k),
            )[1],
        )
    chosen = [studies()[name].having(**options.get(name, {})) for name in names]
    found = measure(swept(model), [measuring.SweptPrompt(0, "", IDS[3])], chosen)
    assert found.errors == []
    monkeypatch.undo()
    return found.tables, sum(count)


QUICK = {"k_vs_v": {"naive": False}, "q_vs_k": {"naive": False}}
MEMORIES = ["memory_values_top3", "memory_values_all", "memory_values_by_head"]


@pytest.mark.parametrize(
    ("names", "vectors"),
    [
        # 2 blocks of 4 heads and 8 tokens: 8 heads, 2 attention outputs, 2 states, 64 memories.
        (["heads_ov"], 8 + 2 + 2), (["target_by_head"], 8), (["top_heads"], 6 + 2 + 2),
        (["heads_ov", "top_heads"], 8 + 2 + 2), (["top_heads", "heads_ov"], 8 + 2 + 2),
        # The other prompt is run first, and is read beside what the prompt itself has left.
        (["correct_vs_random", "heads_ov"], 8 + 2 + 2 + 6 + 2 + 2),
        (["memory_values_top3"], 24 + 8), (["memory_values_top3", "memory_values_by_head"], 24 + 8),
        (["memory_values_all", "k_vs_v"], 64 + 8 + 64), ([*MEMORIES, "k_vs_v"], 64 + 8 + 64),
        (["k_vs_v", "q_vs_k"], 64 + 64 + 8), (["input_token_prob"], 64),
        (["heads_ov", "top_heads", *MEMORIES, "k_vs_v", "q_vs_k", "target_by_head"],
         8 + 2 + 2 + 64 + 64 + 8 + 8),
    ],
)  # fmt: skip
def test_rows_of_a_stack_that_is_read_are_not_read_again(monkeypatch, names, vectors):
    model = opened("gpt2")
    together, count = read_rows(monkeypatch, model, names, **QUICK)
    assert count == vectors
    for name in names:
        alone, _ = read_rows(monkeypatch, model, [name], **QUICK)
        for column, values in alone[name][0].items():
            np.testing.assert_allclose(together[name][0][column], values, rtol=1e-5, atol=1e-7)


def test_ranks_by_norm_and_other_k_are_rows_too(monkeypatch):
    model = opened("llama")
    options = {"memory_values_all": {"rank_by": "norm", "k": 7}, "k_vs_v": {"naive": False}}
    _, count = read_rows(monkeypatch, model, list(options), **options)
    assert count == 64 + 8 + 64 + 64, "the memories are read for the 7 and for the 50 first"
    options["k_vs_v"]["k"] = 7
    _, count = read_rows(monkeypatch, model, list(options), **options)
    assert count == 64 + 8 + 64


def test_another_prompt_is_run_as_if_it_were_of_the_file():
    model = opened("llama")

    def last_states(run):
        first = yield run.other(IDS[3])
        one, two = yield run.other(IDS[1]), run.other(IDS[2])
        tokens = [r.n_tokens for r in (first, one, two)]
        norms = [float(r.resid_post[-1].norm()) for r in (first, one, two)]
        return {"tokens": tokens, "norm": norms}

    asked = Study("last_states", last_states, {"tokens": "int64", "norm": "float64"}, ())
    found = measure(swept(model), swept_prompts(model), [asked])
    assert found.errors == []
    runs = [swept(model).passes([(0, ids, None, "")])[0] for ids in (IDS[3], IDS[1], IDS[2])]
    norms = [float(run.resid_post[-1].norm()) for run in runs]
    for columns in found.tables["last_states"].values():
        assert columns["tokens"].tolist() == [8, 4, 1]
        np.testing.assert_allclose(columns["norm"], norms, rtol=1e-5)


def test_vectors_may_have_targets_of_their_own():
    model = opened("gpt2")

    def both(run):
        mine = torch.tensor([3, 9])
        vectors = run.resid_post
        own, given = yield run.read(vectors, targets=mine), run.read(vectors)
        assert own.target_ids[:, 0].tolist() == [3, 9]
        assert given.target_ids[:, 0].tolist() == [run.target] * 2
        return {"rank": own.target_ranks[:, 0]}

    found = measure(
        swept(model), swept_prompts(model), [Study("both", both, {"rank": "int64"}, ())]
    )
    assert found.errors == [] and len(found.tables["both"]) == 4


def test_memory_values_sum_to_the_heads_and_heads_to_the_attention(decoder):
    run = swept(decoder).passes([(0, IDS[3], None, "")])[0]
    memories = run.written(run.values)
    torch.testing.assert_close(
        torch.einsum("lhp,lhpd->lhd", run.pattern, memories), run.heads, atol=1e-5, rtol=1e-4
    )
    for layer, weights in enumerate(run.swept.weights):
        whole = run.heads[layer].sum(0)
        if run.swept.post_norms:
            whole = whole + (
                0 if weights.b_O is None else run._post_norms[layer].parts(weights.b_O)
            )
        elif weights.b_O is not None:
            whole = whole + weights.b_O
        torch.testing.assert_close(whole, run.attn_out[layer], atol=1e-5, rtol=1e-4)


def test_a_study_of_an_mlp_is_an_error_where_there_is_none():
    model = tiny.native(attn_only=True)

    def activations(run):
        return {"largest": run.mlp_post.amax(-1)}

    asked = Study("activations", activations, {"largest": "float64"}, ())
    found = measure(swept(model), swept_prompts(model), [asked, studies()["heads_ov"]])
    assert [(i, name) for i, name, _ in found.errors] == [(i, "activations") for i in range(4)]
    assert all(text.startswith("native has no MLP") for _, _, text in found.errors)
    assert len(found.tables["heads_ov"]) == 4


@pytest.mark.parametrize("k", [0, -1, 2.5, "7", None])
def test_k_that_is_no_number_of_tokens(k):
    run = swept(opened("gpt2")).passes([(0, IDS[0], None, "")])[0]
    with pytest.raises(InputError, match="k is the number of top tokens, at least 1, not"):
        run._k(k)
