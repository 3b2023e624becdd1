"""The paper's measurements in one call: which prompts they are of, and what is drawn from which."""

from __future__ import annotations

import pytest
import torch

import visit_tl as vt
from tests.conftest import made

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def prompts():
    """Prompts of which the model answers the first three."""
    view, given = vt.ModelView(made("native")), []
    for text in ("a b", "b a c", "c", "d e", "e a"):
        ids = view.encode(text, None).ids
        answer = int(view.model(torch.tensor([ids]))[0, -1].argmax())
        given.append((text, answer if len(given) < 3 else (answer + 1) % view.d_vocab))
    return given


@pytest.fixture(scope="module")
def paper(prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper") / "run"
    return vt.sweeps.visit_paper(
        made("native"), out, prompts, "head_effects", per_shard=2, verbose=False
    )


def test_all_studies_are_of_the_prompts_that_the_model_answers(paper):
    known = {name for name, one in vt.sweeps.studies().items() if one.paper}
    assert set(paper.correct.studies) == known | {"head_effects"}
    assert (paper.correct.n_prompts, paper.correct.measured) == (5, 3)
    assert set(paper.correct.table("heads_ov")["prompt"]) == {0, 1, 2}


def test_answers_and_others_are_compared_over_all_prompts(paper):
    assert paper.all.measured == 5
    found = paper.all.summary("final_prob_by_layer")
    assert found.groupby("correct")["n"].max().to_dict() == {False: 2, True: 3}
    figure = paper.figure("final_prob_by_layer")
    assert {one.name for one in figure.data if one.name} == {"correct no", "correct yes"}
    assert "3 prompts" in paper.figure("heads_ov").layout.title.text


def test_a_paper_run_is_opened_from_its_folder_saved_and_told(paper, tmp_path):
    opened = vt.sweeps.open_paper(paper.correct.path.parent)
    assert opened.correct.about == paper.correct.about and opened.all.about == paper.all.about
    assert str(opened).startswith("prompts that the model answers\n")
    assert "<pre>prompts that the model answers" in opened._repr_html_()
    page = opened.save(tmp_path / "paper.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == len(opened.correct.studies)
    with pytest.raises(vt.FileError):
        vt.sweeps.open_paper(tmp_path)


def test_without_targets_all_prompts_are_measured_in_one_run(tmp_path):
    found = vt.sweeps.visit_paper(
        made("native"), tmp_path / "run", ["a b", "b"], only=None, verbose=False
    )
    assert found.all is None and found.correct.measured == 2
    with pytest.raises(vt.InputError, match="needs a target for every prompt"):
        vt.sweeps.visit_paper(made("native"), tmp_path / "b", ["a b"], verbose=False)


def test_a_paper_run_is_kept_at_an_address(prompts):
    out = "memory://a-paper-run"
    made_now = vt.sweeps.visit_paper(made("native"), out, prompts, verbose=False)
    opened = vt.sweeps.open_paper(out)
    assert opened.correct.path == made_now.correct.path and opened.all.measured == 5


def test_a_model_that_answers_nothing_is_told_so(prompts, tmp_path):
    with pytest.raises(vt.InputError, match="answers none of the 2 prompts correctly"):
        vt.sweeps.visit_paper(made("native"), tmp_path / "run", prompts[3:], verbose=False)


def test_the_facts_come_with_the_package(tmp_path):
    found = vt.sweeps.visit_paper(made("native"), tmp_path / "run", n=2, only=None, verbose=False)
    assert found.correct.n_prompts == 2
    assert found.correct.table("prompts")["text"][0].startswith("Vinson Massif is located in")
