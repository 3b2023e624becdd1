"""What a model answers before anything is patched; and that the real one does the task."""

from __future__ import annotations

import pytest
import torch

from tests.circuits import prompt_tokenizers
from visit_tl import InputError, ModelView
from visit_tl.circuits.prompts import baseline, ioi


@pytest.fixture(scope="module")
def model():
    return prompt_tokenizers.model()


@pytest.fixture(scope="module")
def prompts(model):
    return ioi(model, 9)


@pytest.mark.parametrize("corruption", [None, "ABC"])
def test_batches_give_what_one_prompt_at_a_time_gives(model, prompts, corruption):
    found = baseline(model, prompts, corruption=corruption, batch_size=2, verbose=False)
    assert len(set(prompts.lengths)) > 1
    for index, pair in enumerate(prompts):
        ids = pair.ids if corruption is None else pair.corrupted[corruption].ids
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        right, wrong = logits[pair.answers[0]], logits[pair.wrong[0]]
        assert found.logit_difference[index] == pytest.approx(float(right - wrong), abs=1e-4)
        assert found.probability[index] == pytest.approx(
            float(logits.softmax(-1)[pair.answers[0]]), abs=1e-5
        )
        assert found.rank[index] == int((logits > right).sum())


def test_the_summary_is_of_the_rows(model, prompts):
    found = baseline(ModelView(model), prompts, verbose=False)
    table = found.to_dataframe()
    assert found.mean == pytest.approx(table["logit_difference"].mean())
    assert found.share_positive == (table["logit_difference"] > 0).mean()
    by = found.by_template().set_index("template")
    assert by["prompts"].sum() == 9
    one = table[table["template"] == table["template"][0]]
    assert by.loc[one["template"].iloc[0], "mean"] == pytest.approx(one["logit_difference"].mean())
    assert repr(found).startswith("Baseline(9 clean prompts: mean logit difference ")
    assert "share_positive" in found._repr_html_()


def test_the_padded_batch_gives_the_same_logit_differences(model, prompts):
    tokens, _ = prompts.padded()
    with torch.no_grad():
        padded = prompts.logit_difference(model(tokens))
    found = baseline(model, prompts, verbose=False).logit_difference
    torch.testing.assert_close(padded, torch.tensor(found), atol=1e-4, rtol=1e-4)


def test_prompts_for_another_vocabulary_and_bad_batches_are_refused(native, prompts):
    with pytest.raises(InputError, match=r"hold the token id \d+, but .* 0\.\.59; .* for native"):
        baseline(native, prompts, verbose=False)
    with pytest.raises(InputError, match="batch_size must be an integer of at least 1, got 0"):
        baseline(native, prompts, batch_size=0)
    with pytest.raises(InputError, match="no corruption 'x'"):
        baseline(native, prompts, corruption="x")


@pytest.mark.model
def test_the_real_model_does_the_task_and_its_answer_flips(smol):
    prompts = ioi(smol, 12, same_length=True, prepend_bos=False)
    names = prompts.report.rows[0]
    assert names.rejected == ("Elena", "Brandon") and len(names.usable) == 104
    assert prompts.tokens.shape == (12, 17)
    # Measured over 480 prompts of all templates: 5.2 and 98.8%; flipped, over 120: -5.2 and 1.7%.
    clean = baseline(smol, prompts, verbose=False)
    assert clean.mean > 4 and clean.share_positive > 0.9
    flipped = baseline(smol, prompts, corruption="flip", verbose=False)
    assert flipped.mean < -3 and flipped.share_positive < 0.1
