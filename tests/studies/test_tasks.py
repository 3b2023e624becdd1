"""Prompts of tasks, facts and edits: what is drawn for a tokenizer of words, and the real one."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest
import torch

from tests.circuits import prompt_tokenizers
from visit_tl import InputError, ModelView
from visit_tl.gradients import Edit
from visit_tl.studies import edits, facts, few_shot, known_facts, task_prompts, tasks

DATA = resources.files("visit_tl.studies") / "data"


@pytest.fixture(scope="module")
def model():
    """A random model whose tokens are words; some words of the tasks are among them."""
    return prompt_tokenizers.model()


@pytest.fixture
def few(monkeypatch):
    """A task of ten pairs, two of them with the same input, one with an answer of two words."""
    words = sorted(set(prompt_tokenizers.vocabulary()))[:10]
    pairs = [*zip(words, words[1:] + words[:1], strict=True), (words[0], words[5])]
    pairs[3] = (words[3], f"{words[4]} {words[5]}")
    monkeypatch.setattr(task_prompts, "_pairs", lambda: {"next": pairs})
    return pairs


def test_the_data_are_there_with_their_licences():
    found = json.loads((DATA / "tasks.json").read_text(encoding="utf-8"))
    assert tuple(found) == tasks() and len(found) == 12
    assert all(0 < len(pairs) <= 300 for pairs in found.values())
    assert found["antonym"][0] == ["flawed", "perfect"]
    rows = json.loads((DATA / "facts.json").read_text(encoding="utf-8"))
    assert len(rows) == 1209
    assert set(rows[0]) == {"prompt", "subject", "attribute", "template", "relation_id"}
    for name, year in (("function_vectors", "2023 Eric Todd"), ("rome", "2022 Kevin Meng")):
        licence = (DATA / f"LICENSE.{name}").read_text(encoding="utf-8")
        assert licence.startswith("MIT License") and f"Copyright (c) {year}" in licence
        assert f"LICENSE.{name}" in (DATA / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_a_prompt_has_the_format_of_the_papers_and_never_shows_its_query(model, few, shots):
    drawn = few_shot(model, "next", shots=shots)
    usable = {x: y for x, y in few[:10] if " " not in y}
    assert len(drawn) == len(usable) == 9
    for prompt, target in drawn:
        *shown, query = re.findall(r"Q: (\w+)\nA:(?: (\w+)\n\n)?", prompt)
        assert prompt == "".join(f"Q: {x}\nA: {y}\n\n" for x, y in shown) + f"Q: {query[0]}\nA:"
        assert target == f" {usable[query[0]]}"
        assert len(shown) == shots == len({x for x, _ in shown} - {query[0]})
        assert all(usable[x] == y for x, y in shown)
    assert {re.findall(r"Q: (\w+)\nA:$", prompt)[0] for prompt, _ in drawn} == set(usable)


def test_the_draw_is_decided_by_its_arguments(model, few):
    first = few_shot(model, "next", shots=2, n=4)
    assert first == few_shot(model, "next", shots=2, n=4)
    assert first == few_shot(model, "next", shots=2, n=9)[:4]
    assert first != few_shot(model, "next", shots=2, n=4, seed=1)


def test_prompts_of_one_length_are_of_the_most_common_one(model, monkeypatch):
    words = prompt_tokenizers.vocabulary()
    pairs = [(word, words[0]) for word in words[:6]] + [("a b c", words[0]), ("a b", words[0])]
    monkeypatch.setattr(task_prompts, "_pairs", lambda: {"one": pairs})
    view = ModelView(model)

    def lengths(found):
        return {len(view.tokens.encode(prompt, None).ids) for prompt, _ in found}

    assert len(lengths(few_shot(model, "one", shots=0))) == 3
    same = few_shot(model, "one", shots=0, same_length=True)
    assert len(same) == 6 and len(lengths(same)) == 1
    again = few_shot(model, "one", shots=2, same_length=True, n=5)
    assert len(again) == 5 and len(lengths(again)) == 1


def test_what_cannot_be_drawn_is_refused(model, few):
    with pytest.raises(InputError, match="there is no task 'anton'; there are next"):
        few_shot(model, "anton")
    with pytest.raises(InputError, match="9 shots need at least 10"):
        few_shot(model, "next", shots=9)


# --- facts ---------------------------------------------------------------------------------------


@pytest.fixture
def world(monkeypatch):
    """Facts of two relations in words that the tokenizer knows, and a model that knows some."""
    people, places = ["Mary", "John", "Tom", "Zed"], ["store", "cat", "dog", "drink"]
    found = [
        facts.Fact(f"{who} {verb}", who, f" {where}", "P1")
        for who, where in zip(people, places, strict=True)
        for verb in ("went", "met")
    ]
    found.append(facts.Fact("Xi gave", "Xi", " cat dog", "P2"))
    monkeypatch.setattr(facts, "all_facts", lambda: tuple(found))
    return found


def test_known_facts_are_those_whose_target_the_model_says(model, world, monkeypatch):
    view = ModelView(model)
    right = {world[i].prompt for i in (0, 3, 5, 8)}
    first = {fact.prompt: view.tokens.split(fact.target)[0] for fact in world}

    def said(view, prompts):
        out = torch.zeros(len(prompts), view.d_vocab)
        for row, ids in zip(out, prompts, strict=True):
            (prompt,) = (p for p in first if view.tokens.encode(p, None).ids == ids)
            row[first[prompt] if prompt in right else 0] = 1
        return out

    monkeypatch.setattr(facts, "last_logits", said)
    monkeypatch.setattr(facts, "_AT_ONCE", 2)
    known = known_facts(model)
    assert [fact.prompt for fact in known] == [world[i].prompt for i in (0, 3, 5, 8)]
    assert known_facts(model, 2) == known[:2]
    assert known_facts(model, one_token=True) == known[:3]
    assert known[0].template == "{} went"


def test_edits_have_a_false_target_paraphrases_and_known_neighbours(model, world):
    made = edits(model, world, 20)
    assert made == edits(model, world, 20) and made[:2] == edits(model, world, 2)
    assert len(made) == 8 and all(isinstance(edit, Edit) for edit in made)
    by_prompt = {fact.prompt: fact for fact in world}
    for edit in made:
        fact = by_prompt[edit.prompt]
        assert edit.target in {f.target for f in world if f.relation == "P1"} - {fact.target}
        other = "met" if fact.prompt.endswith("went") else "went"
        assert edit.paraphrases == (f"{fact.subject} {other}",)
        assert 1 <= len(edit.neighbours) <= 5
        for prompt, own in edit.neighbours:
            near = by_prompt[prompt]
            assert own == near.target != edit.target
            assert near.subject != fact.subject and near.relation == fact.relation
    assert all(len(edit.neighbours) == 1 for edit in edits(model, world, 3, most=1))
    with pytest.raises(InputError, match=r"facts are visit_tl\.studies\.Fact, got tuple"):
        edits(model, [("a", "b", "c")], 1)


@pytest.mark.model
def test_the_real_tokenizer_and_model(smol):
    drawn = few_shot(smol, "antonym", shots=5, n=3)
    assert drawn[0][0].count("Q: ") == 6 and drawn[0][0].endswith("\nA:")
    view = ModelView(smol)
    assert all(len(view.tokens.split(target)) == 1 for _, target in drawn)
    same = few_shot(smol, "country-capital", shots=1, n=30, same_length=True)
    assert len(same) == 30
    assert len({len(view.tokens.encode(prompt, None).ids) for prompt, _ in same}) == 1
    known = known_facts(smol, 12, one_token=True)
    assert len(known) == 12
    for fact in known[:3]:
        ids = torch.tensor([view.tokens.encode(fact.prompt, None).ids])
        assert int(view.run(ids, [])[0, -1].argmax()) == view.tokens.single(fact.target)
    assert len(edits(smol, known, 3)) == 3
