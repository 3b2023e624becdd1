"""Prompts of greater-than, docstring, gendered pronouns and coloured objects, made here."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import visit_tl as vt
from tests import tiny
from tests.circuits import prompt_tokenizers
from visit_tl import InputError
from visit_tl.circuits.prompts import (
    PromptSet,
    baseline,
    colored_objects,
    docstring,
    for_circuit,
    gendered_pronoun,
    greater_than,
    ioi,
)
from visit_tl.circuits.prompts.for_circuit import MAKERS
from visit_tl.circuits.prompts.task_material import task_material

WORDS = prompt_tokenizers.words(tasks=True)
WHOLE, SPLIT = prompt_tokenizers.numbers(2), prompt_tokenizers.numbers(1)
YEARS = {"nouns": ["war", "siege"]}

GOLDEN = {
    "gendered pronoun": "So Linda is such a kind neighbour, isn't",
    "docstring": "def sugar(self, end, host, key, offset):\n"
    '    """ doctor farmer crime\n\n'
    "    :param end: winter church\n"
    "    :param host: horse army\n"
    "    :param",
    "colored objects": "Q: On the carpet, there is a silver bottle, a yellow ball and "
    "a brown lamp. What color is the bottle?\nA: silver\nQ: On the bench, there is a red pen, "
    "a gray plate and a green brush. What color is the brush?\nA:",
    "greater-than": "The siege went on from the year 1220 until the year 122",
}


def text_of(token: int, tokenizer=WORDS) -> str:
    return tokenizer.convert_ids_to_tokens(token).replace("\u0120", "")


def word(pair, name: str, ids=None, tokenizer=WORDS) -> str:
    return text_of((ids or pair.ids)[pair.positions[name]], tokenizer)


def changed(pair, name: str) -> set[int]:
    other = pair.corrupted[name].ids
    return {i for i, (a, b) in enumerate(zip(pair.ids, other, strict=True)) if a != b}


def arguments_of(text: str) -> tuple[list[str], list[str]]:
    """The arguments that a docstring prompt defines, and those that it describes."""
    defined = re.search(r"\((?:self|cls), ([^)]*)\)", text)[1].split(", ")
    return defined, re.findall(r":param (\w+):", text)


def made(task: str, n: int, **options) -> PromptSet:
    if task == "greater-than":
        return greater_than(SPLIT, n, **YEARS, **options)
    return MAKERS[task](WORDS, n, **options)


# --- what holds of every task ---------------------------------------------------------------------


@pytest.mark.parametrize("task", GOLDEN)
def test_prompts_are_different_in_order_and_the_same_everywhere(task):
    prompts = made(task, 24, seed=3)
    assert len({pair.ids for pair in prompts}) == 24 and prompts.task == task
    assert made(task, 9, seed=3).pairs == prompts.pairs[:9]
    assert prompts[0].text == GOLDEN[task]
    assert made(task, 1, seed=4)[0].text != prompts[0].text
    counts = [sum(p.template == each for p in prompts) for each in {p.template for p in prompts}]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("task", GOLDEN)
def test_ids_are_those_of_the_texts_and_sets_are_saved(task, tmp_path):
    prompts = made(task, 6)
    tokenizer = SPLIT if task == "greater-than" else WORDS
    for pair in prompts:
        assert list(pair.ids) == [1, *tokenizer(pair.text)["input_ids"]]
        assert pair.positions["END"] == len(pair.ids) - 1
        for corrupted in pair.corrupted.values():
            assert list(corrupted.ids) == [1, *tokenizer(corrupted.text)["input_ids"]]
    assert PromptSet.load(prompts.save(tmp_path / "set.json")) == prompts
    assert len(set(made(task, 6, same_length=True).lengths)) == 1
    assert made(task, 2, prepend_bos=False)[0].ids[0] != 1


@pytest.mark.parametrize("name", prompt_tokenizers.TASKS)
def test_no_word_is_there_twice_or_in_a_sentence(name):
    own = task_material(name)
    words = [word for several in own.words.values() for word in several]
    assert len(words) == len(set(words))
    used = {w for s in own.sentences for w in re.findall(r"\w+", re.sub(r"\{\w+\}", "", s.text))}
    assert not used & set(words)
    assert all(len(s.slots) == len(set(s.slots)) for s in own.sentences if "YEAR" not in s.slots)
    # No slot opens a sentence: its token would have no space.
    assert not any(re.search(r"(?<! )\{(?!CENTURY)", s.text) for s in own.sentences)


# --- gendered pronouns ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(st.integers(), st.integers(1, 12))
def test_a_name_has_its_pronoun_and_flip_the_other(seed, n):
    own = task_material("gendered_pronoun").words
    for pair in gendered_pronoun(WORDS, n, seed=seed):
        name = word(pair, "NAME")
        right = "he" if name in own["men"] else "she"
        assert (text_of(*pair.answers), {text_of(*pair.wrong), right}) == (right, {"he", "she"})
        assert word(pair, "NAME+1") == "is" and pair.text.startswith(f"So {name} is")
        person = pair.corrupted["person"]
        assert person.text == pair.text.replace(f"So {name}", "That person")
        assert changed(pair, "person") == {1, 2} and pair.positions["NAME"] == 2
        other = word(pair, "NAME", pair.corrupted["flip"].ids)
        assert (other in own["men"]) != (name in own["men"])
        assert changed(pair, "flip") == {2}


def test_a_person_of_another_length_is_left_out_and_told(monkeypatch):
    place = "visit_tl.circuits.prompts.gendered_pronoun_prompts._PERSON"
    monkeypatch.setattr(place, "That kind person")
    prompts = gendered_pronoun(WORDS, 2)
    assert prompts.corruptions == ("flip",)
    assert "there is no corruption 'person'" in prompts.report.notes[0]


# --- docstring ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(st.integers(), st.integers(1, 8))
def test_the_third_argument_is_the_answer_and_corruptions_rename(seed, n):
    for pair in docstring(WORDS, n, seed=seed):
        defined, described = arguments_of(pair.text)
        assert described == defined[:2] and len(set(defined)) == len(defined) >= 3
        assert text_of(*pair.answers) == defined[2]
        assert [text_of(token) for token in pair.wrong] == defined[:2] + defined[3:]
        for i, name in enumerate(("A_def", "B_def", "C_def")):
            assert word(pair, name) == defined[i]
        assert (word(pair, "A_doc"), word(pair, "B_doc")) == tuple(described)
        assert pair.positions["B_def+1"] == pair.positions["B_def"] + 1
        assert pair.text.endswith(":param") and word(pair, "END") == "param"
        new = {name: arguments_of(one.text) for name, one in pair.corrupted.items()}
        both, of_def, of_doc = (new[f"random-{x}"] for x in ("random", "def", "doc"))
        assert not {*both[0], *both[1]} & {*defined} and not {*both[0]} & {*both[1]}
        assert len({*both[0], *both[1]}) == len(defined) + 2
        assert of_def == (both[0], described) and of_doc == (defined, both[1])


# --- coloured objects -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(st.integers(), st.integers(1, 8))
def test_the_colour_of_the_object_is_the_answer(seed, n):
    for pair in colored_objects(WORDS, n, seed=seed):
        things = re.findall(r"a (\w+) (\w+)(?=,| and|\.| on)", pair.text)
        asked = re.findall(r"(?:is|has) the (\w+)\?", pair.text)
        assert len(things) == 6 and len({w for pair_ in things for w in pair_}) == 12
        colour = {thing: c for c, thing in things}
        solved, open_ = things[:3], things[3:]
        assert asked[0] in dict(map(reversed, solved)) and asked[1] in dict(map(reversed, open_))
        assert f"A: {colour[asked[0]]}\n" in pair.text
        assert text_of(*pair.answers) == colour[asked[1]]
        others = [c for c, thing in open_ if thing != asked[1]]
        assert [text_of(token) for token in pair.wrong] == others
        where = {name: word(pair, name) for name in pair.positions if name != "END"}
        assert where == {
            "ASKED": asked[0], "ANSWER": colour[asked[0]], "COLOR": colour[asked[1]],
            "OBJECT1": asked[1], "OBJECT2": asked[1],
        }  # fmt: skip
        assert pair.positions["OBJECT1"] == pair.positions["COLOR"] + 1
        assert changed(pair, "other-object") == {pair.positions["OBJECT2"]}
        now = word(pair, "OBJECT2", pair.corrupted["other-object"].ids)
        assert now in [thing for _, thing in open_] and now != asked[1]
        new = re.findall(r"a (\w+) \w+(?=,| and|\.| on)", pair.corrupted["other-colors"].text)
        assert new[:3] == [c for c, _ in solved]
        assert not {*new[3:]} & {c for c, _ in things} and len({*new[3:]}) == 3


# --- greater-than ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(st.integers(), st.integers(1, 8))
def test_later_years_are_right_whatever_writes_them(seed, n):
    for tokenizer in (WHOLE, SPLIT):
        for pair in greater_than(tokenizer, n, seed=seed, **YEARS):
            year = re.search(r"year (\d{4})", pair.text)[1]
            last = int(year[2:])
            noun = word(pair, "NOUN", tokenizer=tokenizer)
            assert noun in ("war", "siege") and 2 <= last <= 98
            if tokenizer is WHOLE:
                assert word(pair, "XX", tokenizer=WHOLE) == year[:2]
                assert word(pair, "YY", tokenizer=WHOLE) == year[2:]
                assert [int(text_of(t, WHOLE)) for t in pair.answers] == [*range(last + 1, 100)]
                assert [int(text_of(t, WHOLE)) for t in pair.wrong] == [*range(last + 1)]
                assert pair.text.endswith(f"year {year[:2]}") and pair.first is None
            else:
                digits = [word(pair, name, tokenizer=SPLIT) for name in ("XX", "YY-1", "YY")]
                assert digits == [*year[1:]] and pair.text.endswith(f"year {year[:3]}")
                right = [10 * int(text_of(t, SPLIT)) for t in pair.first.right]
                assert right == [*range(last // 10 * 10 + 10, 100, 10)]
                assert [int(text_of(t, SPLIT)) for t in pair.answers] == [
                    *range(last % 10 + 1, 10 if last % 10 < 9 else 0)
                ]
            other = pair.corrupted["01"].text
            assert other == pair.text.replace(year, f"{year[:2]}01")


def test_years_of_one_token_are_left_out_and_counted():
    tokenizer = prompt_tokenizers.numbers(2, ("1312", "1401"))
    years = greater_than(tokenizer, 3, **YEARS).report.rows[1]
    # Without 1401 no prompt of the century 14 has its corruption.
    assert years.rejected == ("1312", *(f"14{year:02d}" for year in range(2, 99)))
    assert len(years.usable) + len(years.rejected) == 7 * 97


def test_a_tokenizer_that_writes_years_in_another_way_is_refused_by_name():
    with pytest.raises(InputError, match="neither as one token each nor digit by digit"):
        greater_than(prompt_tokenizers.numbers(3), 2, **YEARS)
    every = tuple(f"{century}01" for century in range(11, 18))
    with pytest.raises(InputError, match="writes none of the years 1102 to 1798 as a century"):
        greater_than(prompt_tokenizers.numbers(2, every), 2, **YEARS)


# --- words ----------------------------------------------------------------------------------------


def test_words_that_are_no_token_are_left_out_and_told():
    tokenizer = prompt_tokenizers.words(tasks=True, without=("John", "size", "river", "red", "cup"))
    rows = {
        row.kind: row.rejected
        for prompts in (
            gendered_pronoun(tokenizer, 40),
            docstring(tokenizer, 40),
            colored_objects(tokenizer, 40),
        )
        for row in prompts.report.rows
        if not any(w in p.text.split() for p in prompts for w in ("John", "river", "red"))
    }
    assert {kind: own for kind, own in rows.items() if own} == {
        "men": ("John",), "arguments": ("size",), "nouns": ("river",), "colors": ("red",),
        "objects": ("cup",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (gendered_pronoun, {"men": ["Qqq"]}, r"these men are not single tokens .*'Qqq'"),
        (gendered_pronoun, {"men": ["Mary"]}, r"the names Mary are in men and in women"),
        (gendered_pronoun, {"n": 601}, r"601 prompts .* make only 600 different ones"),
        (docstring, {"arguments": ["load", "size"]}, r"2 of 2 arguments .* and 12 are needed"),
        (docstring, {"nouns": ["load"] * 2}, r"the nouns 'load' were given more than once"),
        (
            docstring,
            {"nouns": ["load", *task_material("docstring").words["nouns"][:8]]},
            r"load are in arguments and in nouns",
        ),
        (colored_objects, {"colors": ["red"]}, r"1 of 1 colors .* and 9 are needed"),
        (colored_objects, {"places": ["red", "desk"]}, r"red are in two of colors, objects and"),
        (greater_than, {"nouns": ["war"]}, r"neither as one token each nor digit by digit"),
    ],
)
def test_bad_words_are_named(make, options, message):
    with pytest.raises(InputError, match=message):
        make(WORDS, **({"n": 2} | options))


def test_pronouns_that_are_no_token_are_refused():
    tokenizer = prompt_tokenizers.words(tasks=True, without=("she",))
    with pytest.raises(InputError, match=r"the pronouns are not single tokens .*'she' = '<unk>'"):
        gendered_pronoun(tokenizer, 2)


# --- metrics --------------------------------------------------------------------------------------


def test_each_task_has_its_own_metric():
    torch.manual_seed(0)
    for task, kind in (
        ("gendered pronoun", "logit_difference"),
        ("docstring", "logit_margin"),
        ("colored objects", "logit_margin"),
        ("greater-than", "probability_difference"),
    ):
        prompts = made(task, 5)
        size = len(SPLIT if task == "greater-than" else WORDS)
        logits = torch.randn(5, max(prompts.lengths), size)
        assert all(metric.name.startswith(kind) for metric in prompts.metrics)
        for i, (pair, metric) in enumerate(zip(prompts, prompts.metrics, strict=True)):
            row = logits[i, : len(pair.ids)]
            if kind == "probability_difference":
                expected = float(prompts.probability_difference(logits)[i])
            else:
                expected = float(row[-1, pair.answers[0]] - max(row[-1, t] for t in pair.wrong))
            assert float(metric(row[None])) == pytest.approx(expected, abs=1e-6)


def test_a_set_without_a_metric_says_so():
    from dataclasses import replace

    prompts = made("docstring", 2)
    several = replace(prompts, pairs=(replace(prompts[0], answers=(3, 4)),))
    with pytest.raises(InputError, match="prompt 0 has 2 right answers and .* make a metric"):
        _ = several.metrics


# --- in the rest of the package -------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return prompt_tokenizers.model(tasks=True)


@pytest.mark.parametrize("task", ["gendered pronoun", "docstring", "colored objects"])
def test_baseline_reads_what_one_prompt_at_a_time_gives(model, task):
    prompts = MAKERS[task](model, 5)
    found = baseline(model, prompts, batch_size=2, verbose=False)
    assert found.metric == ("logit difference" if "pronoun" in task else "logit margin")
    for i, pair in enumerate(prompts):
        with torch.no_grad():
            last = model(torch.tensor([pair.ids]))[0, -1]
        margin = float(last[pair.answers[0]] - max(last[token] for token in pair.wrong))
        assert found.score[i] == pytest.approx(margin, abs=1e-4)
        assert found.rank[i] == int((last > last[pair.answers[0]]).sum())
        assert found.right[i] == (int(last.argmax()) == pair.answers[0])
        assert found.probability[i] == pytest.approx(
            float(last.softmax(-1)[pair.answers[0]]), abs=1e-5
        )
    assert found.accuracy == sum(found.right) / 5
    if task == "docstring":
        with pytest.raises(InputError, match="the metric of docstring is the logit margin"):
            _ = found.logit_difference


def test_baseline_of_two_tokens_follows_the_first():
    digits = tiny.native(d_vocab=len(SPLIT), n_ctx=96)  # runs on ids; its own tokenizer is unused
    prompts = greater_than(SPLIT, 6, **YEARS)
    found = baseline(digits, prompts, verbose=False)
    assert found.rank == () and "rank" not in found.to_dataframe()
    for i, pair in enumerate(prompts):
        with torch.no_grad():
            logits = digits(torch.tensor([pair.ids]))[0]
        before, last = logits[-2].softmax(-1), logits[-1].softmax(-1)
        year = int(re.search(r"year (\d{4})", pair.text)[1]) % 100
        ids = [SPLIT.convert_tokens_to_ids(str(digit)) for digit in range(10)]
        tens = sum(float(before[ids[d]]) for d in range(10) if 10 * d > year)
        units = sum(float(last[ids[d]]) for d in range(10) if pair.first.token in ids and
                    10 * ids.index(pair.first.token) + d > year)  # fmt: skip
        own = float(before[pair.first.token]) * units if year % 10 != 9 else 0.0
        assert found.probability[i] == pytest.approx(tens + own, abs=1e-5)
        first = int(before.argmax())
        right = first in pair.first.right or (
            first == pair.first.token and int(last.argmax()) in pair.answers
        )
        assert found.right[i] == right


@pytest.mark.parametrize("task", ["gendered pronoun", "docstring", "colored objects"])
def test_effects_edges_sweeps_and_comparisons_take_them(model, task, tmp_path):
    prompts = MAKERS[task](model, 2)
    pair, metric = prompts[0], prompts.metrics[0]
    patch = {"corrupted": list(pair.corrupted[prompts.corruptions[0]].ids), "verbose": False}
    found = vt.causal.effects(model, list(pair.ids), metric, **patch)
    with torch.no_grad():
        clean = float(metric(model(torch.tensor([pair.ids]))))
    assert found.clean == pytest.approx(clean, abs=1e-4) and found.corrupted is not None
    edges = vt.causal.edge_effects(model, list(pair.ids), metric, edges=["L0H1->logits"], **patch)
    assert edges.clean == pytest.approx(clean, abs=1e-4)
    layers, heads = found.heads().shape
    reference = tmp_path / "reference.json"
    shape = {"name": "native", "n_layers": layers, "n_heads": heads}
    reference.write_text(json.dumps({
        "schema": 1, "name": "own", "circuit": task, "coding": "one head", "model": shape,
        "heads": {"mover": ["1.0"]}, "sources": ["this test"],
    }))  # fmt: skip
    assert vt.circuits.compare(found, str(reference)).auroc is not None
    of_each = vt.studies.causes(
        model, prompts, "END", corruption=prompts.corruptions[0], verbose=False
    )
    assert of_each["effect at END"][0] == pytest.approx(found.heads(), abs=1e-6)
    run = vt.sweep(model, prompts, ["observed_heads"], tmp_path / "run", verbose=False)
    table = run.table("observed_heads")
    assert len(table) == 2 * layers * heads


@pytest.mark.parametrize("name", vt.circuits.available())
def test_every_reference_has_prompts_or_says_why_not(name):
    reference = vt.circuits.load(name)
    tokenizer = {"ioi": prompt_tokenizers.words(), "greater-than": SPLIT}.get(
        reference.circuit, WORDS
    )
    if reference.circuit.startswith("tracr"):
        with pytest.raises(InputError, match="a compiled program has tokens of its own"):
            for_circuit(tokenizer, name, 2)
        return
    prompts = for_circuit(tokenizer, reference, 2)
    assert prompts.task == reference.circuit
    assert (prompts[0].ids[0] == 1) == reference.prompt.get("bos", True)
    assert for_circuit(tokenizer, name, 2, prepend_bos=True)[0].ids[0] == 1


def test_a_circuit_can_be_named_alone():
    assert for_circuit(WORDS, "docstring", 2, seed=5).pairs == docstring(WORDS, 2, seed=5).pairs
    assert for_circuit(prompt_tokenizers.words(), "ioi", 2) == ioi(prompt_tokenizers.words(), 2)
    with pytest.raises(InputError, match="'x' is no reference circuit"):
        for_circuit(WORDS, "x", 2)


# --- the real model -------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize(
    ("task", "positive", "negative"),
    [("greater-than", 0.9, "01"), ("docstring", 0.8, "random-random"),
     ("gendered pronoun", 0.9, "flip")],
)  # fmt: skip
def test_the_real_model_does_these_tasks_and_not_the_corrupted_ones(smol, task, positive, negative):
    prompts = MAKERS[task](smol, 12)
    assert baseline(smol, prompts, verbose=False).share_positive >= positive
    other = baseline(smol, prompts, corruption=negative, verbose=False)
    assert other.share_positive < 0.5
