"""IOI prompts: what each is made of, where its names are, and what its corruptions change."""

from __future__ import annotations

import random
import re
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.circuits import prompt_tokenizers
from visit_tl import InputError, ModelView
from visit_tl.circuits.prompts import ioi
from visit_tl.circuits.prompts.draws import Draws
from visit_tl.circuits.prompts.templates import material
from visit_tl.circuits.prompts.tokenizing import open_tokens

WORDS = prompt_tokenizers.words()
FIVE = ["Zed", "Yan", "Xi", "Wes", "Val"]


GOLDEN = {
    "ABBA-06": "Nobody but Michael and Betty stayed late at the shop. "
    "Before leaving, Betty entrusted the blanket to",
    "ABBA-08": "At the cabin, Hannah and Robert stood in the same queue, "
    "and soon Robert began talking to",
    "ABBA-15": "Years after Oscar and Brian moved away from the lobby, "
    "Brian suddenly offered a cup to",
}
GOLDEN_ABC = (
    "Nobody but Alice and Julia stayed late at the shop. "
    "Before leaving, Justin entrusted the blanket to"
)


def text_of(token: int) -> str:
    return WORDS.convert_ids_to_tokens(token).replace("\u0120", " ")


def names_at(pair, ids) -> tuple[str, ...]:
    return tuple(text_of(ids[pair.positions[slot]]) for slot in ("IO", "S1", "S2"))


# --- the material --------------------------------------------------------------------------------


def test_there_are_fifteen_templates_of_each_order():
    orders = Counter(template.order for template in material().templates)
    assert orders == {"ABBA": 15, "BABA": 15}
    assert len({template.text for template in material().templates}) == 30


@pytest.mark.parametrize("template", material().templates, ids=lambda template: template.id)
def test_a_template_names_both_then_the_subject_and_ends_in_to(template):
    names = re.findall(r"\{(IO|S1|S2)\}", template.text)
    assert names == (["IO", "S1", "S2"] if template.order == "ABBA" else ["S1", "IO", "S2"])
    # No name opens the sentence (its token would have no space); nothing but one space before any.
    assert len(re.findall(r"(?<=\w |, )\{(?:IO|S1|S2)\}", template.text)) == 3
    assert template.text.endswith(" to") and "  " not in template.text
    assert not re.search(r"\b(he|she|him|her|his|hers)\b", template.text, re.IGNORECASE)
    # "a" goes with every object, so none begins with a vowel.
    assert not [word for word in material().objects if word[0] in "aeiou"]


@pytest.mark.parametrize("kind", ["names", "places", "objects"])
def test_no_word_is_there_twice_or_in_a_sentence(kind):
    words = getattr(material(), kind)
    assert len(words) == len(set(words))
    used = {w for t in material().templates for w in re.findall(r"\w+", t.text)}
    assert not used & set(words)


# --- prompts -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=12)
@given(st.integers(), st.integers(1, 15), st.booleans())
def test_what_holds_of_every_prompt(seed, n, bos):
    prompts = ioi(WORDS, n, seed=seed, prepend_bos=bos)
    assert len(prompts) == n == len({pair.text for pair in prompts})
    for pair in prompts:
        at = pair.positions
        assert list(pair.ids) == [1] * bos + WORDS(pair.text)["input_ids"]
        io, s1, s2 = names_at(pair, pair.ids)
        assert s1 == s2 != io
        assert (text_of(*pair.answers), text_of(*pair.wrong)) == (io, s1)
        assert at["S1+1"] == at["S1"] + 1 and at["END"] == len(pair.ids) - 1
        assert at["S2"] > max(at["IO"], at["S1"])
        assert pair.template.startswith(pair.order)
        assert pair.order == ("ABBA" if at["IO"] < at["S1"] else "BABA")
        assert text_of(pair.ids[at["END"]]) == " to"


@settings(deadline=None, max_examples=12)
@given(st.integers(), st.integers(1, 15))
def test_what_holds_of_every_corruption(seed, n):
    for pair in ioi(WORDS, n, seed=seed):
        io, s, _ = names_at(pair, pair.ids)
        for corrupted in pair.corrupted.values():
            assert len(corrupted.ids) == len(pair.ids)
            assert list(corrupted.ids) == [1, *WORDS(corrupted.text)["input_ids"]]
            names = {pair.positions[slot] for slot in ("IO", "S1", "S2")}
            rest = [i for i in range(len(pair.ids)) if i not in names]
            assert [corrupted.ids[i] for i in rest] == [pair.ids[i] for i in rest]
        abc = names_at(pair, pair.corrupted["ABC"].ids)
        assert len({*abc, io, s}) == 5
        assert names_at(pair, pair.corrupted["flip"].ids) == (io, s, io)
        *same, other = names_at(pair, pair.corrupted["random-S2"].ids)
        assert same == [io, s] and other not in same


@settings(deadline=None, max_examples=8)
@given(st.integers(), st.integers(1, 10), st.integers(0, 10))
def test_fewer_prompts_are_the_first_of_more(seed, n, more):
    assert ioi(WORDS, n, seed=seed).pairs == ioi(WORDS, n + more, seed=seed).pairs[:n]


def test_the_same_seed_gives_the_same_prompts_on_every_machine():
    first = ioi(WORDS, 3, seed=7)
    assert {pair.template: pair.text for pair in first} == GOLDEN
    assert first[0].corrupted["ABC"].text == GOLDEN_ABC
    assert ioi(WORDS, 3, seed=8)[0].text != first[0].text


def test_every_template_is_used_equally_often():
    counts = Counter(pair.template for pair in ioi(WORDS, 75))
    assert len(counts) == 30 and set(counts.values()) == {2, 3}


def test_no_global_random_state_is_read_or_touched():
    random.seed(1)
    once = ioi(WORDS, 5)
    random.seed(2)
    # Not that of `random`: beartype, which watches these tests, draws from it.
    states = [torch.get_rng_state(), np.random.get_state()[1].tolist()]
    assert ioi(WORDS, 5) == once
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


def test_same_length_keeps_the_largest_group_and_says_what_it_left_out():
    prompts = ioi(WORDS, 40, same_length=True)
    every = Counter(ioi(WORDS, 30).lengths)
    assert prompts.tokens.shape == (40, max(every, key=lambda n: (every[n], -n)))
    row = prompts.report.rows[-1]
    assert len(row.usable) == max(every.values()) == 20 and len(row.rejected) == 10
    assert row.reason == f"not of {prompts.tokens.shape[1]} tokens"


def test_templates_are_chosen_by_order_or_by_id():
    assert {pair.order for pair in ioi(WORDS, 20, templates="BABA")} == {"BABA"}
    some = ioi(WORDS, 6, templates=["ABBA-07", "BABA-07"])
    assert Counter(pair.template for pair in some) == {"ABBA-07": 3, "BABA-07": 3}


def test_orders_of_one_sentence_differ_in_the_first_two_names_alone():
    by_id = {template.id: template.text for template in material().templates}
    for number in range(1, 16):
        abba, baba = by_id[f"ABBA-{number:02}"], by_id[f"BABA-{number:02}"]
        assert abba.replace("{IO}", "#").replace("{S1}", "{IO}").replace("#", "{S1}") == baba


# --- tokenizers ----------------------------------------------------------------------------------


def test_a_model_and_its_view_give_what_its_own_to_tokens_gives():
    model = prompt_tokenizers.model()
    prompts = ioi(model, 4)
    assert prompts.tokenizer == "native"
    for pair in prompts:
        assert list(pair.ids) == model.to_tokens(pair.text)[0].tolist()
    assert ioi(ModelView(model), 4).pairs == prompts.pairs
    assert ioi(open_tokens(model), 4).pairs == prompts.pairs


def test_a_tokenizer_that_marks_words_as_sentencepiece_does_it_works_too():
    tokenizer = prompt_tokenizers.words(metaspace=True)
    for pair in ioi(tokenizer, 30):
        io = tokenizer.convert_ids_to_tokens(pair.answers[0])
        assert io[0] == "\u2581" and re.search(rf" {io[1:]}\b", pair.text)


def test_names_that_are_no_token_are_left_out_and_counted():
    tokenizer = prompt_tokenizers.words(without=("Mary", "John", "hotel"))
    prompts = ioi(tokenizer, 200)
    names, places, objects, templates = prompts.report.rows
    assert names.rejected == ("Mary", "John") and len(names.usable) == len(material().names) - 2
    assert places.rejected == ("hotel",) and objects.rejected == templates.rejected == ()
    assert not any(word in pair.text for pair in prompts for word in ("Mary", "John", "hotel"))
    assert str(names) == (
        f"names: {len(names.usable)} of {len(material().names)} usable "
        f"(not a single token with its space: Mary, John)"
    )
    assert prompts.report.to_dataframe().set_index("kind").loc["places", "rejected"] == "hotel"


def test_without_a_bos_none_is_put():
    assert ioi(prompt_tokenizers.words(bos=False), 2)[0].ids[0] != 1
    assert ioi(WORDS, 2, prepend_bos=False)[0].ids[0] != 1
    with pytest.raises(InputError, match="this tokenizer has no BOS token to prepend"):
        ioi(prompt_tokenizers.words(bos=False), 2, prepend_bos=True)


# --- words of the caller's -----------------------------------------------------------------------


def test_the_callers_words_are_used():
    prompts = ioi(WORDS, 30, names=FIVE, places=["store"], objects=["drink"])
    for pair in prompts:
        assert {name.strip() for name in names_at(pair, pair.ids)} <= set(FIVE)
        abc = names_at(pair, pair.corrupted["ABC"].ids)
        assert {n.strip() for n in (*abc, *names_at(pair, pair.ids))} == set(FIVE)
        assert "store" in pair.text or "drink" in pair.text


def test_all_different_prompts_can_be_made_and_no_more():
    few = {"names": FIVE, "places": ["store"], "objects": ["drink"], "templates": ["ABBA-01"]}
    assert len({pair.text for pair in ioi(WORDS, 20, **few)}) == 20
    with pytest.raises(
        InputError,
        match=r"21 prompts were asked for, but 1 templates, 5 names .*"
        r" make only 20 different ones",
    ):
        ioi(WORDS, 21, **few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": [*FIVE, "Mary-Val"]},
            r"these names are not .*'Mary-Val' = ' Mary'",
        ),
        ({"names": [*FIVE, "Qqq"]}, r"'Qqq' = '<unk>'; leave them out"),
        ({"names": FIVE[:4]}, r"4 of 4 names are single tokens.* 5 are needed"),
        ({"names": [*FIVE, "Val"]}, r"the names 'Val' were given more than once"),
        ({"places": ["Nowhere"]}, r"these places are not single tokens"),
        ({"objects": []}, r"0 of 0 objects are single tokens.* and 1 are needed; give objects="),
        ({"templates": "ABAB"}, r"no templates 'ABAB'; choose 'both', 'ABBA', 'BABA', or ids"),
        ({"templates": []}, r"none were given"),
        ({"seed": True}, r"seed must be an integer, got True"),
        ({"n": 0}, r"n must be an integer of at least 1, got 0"),
        ({"n": True}, r"n must be an integer of at least 1, got True"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        ioi(WORDS, **({"n": 2} | options))


def test_a_tokenizer_that_knows_too_few_names_is_refused():
    tokenizer = prompt_tokenizers.words(without=material().names[4:])
    with pytest.raises(InputError, match=r"4 of 106 names are single tokens.*names= of your own"):
        ioi(tokenizer, 2)


def test_a_name_that_a_sentence_has_already_is_refused():
    with pytest.raises(InputError, match=r"not one token each in .*leave out the template"):
        ioi(WORDS, 30, names=[*FIVE, "teacher"], templates=["ABBA-13"], places=["store"])


def test_something_without_a_tokenizer_is_refused(native):
    with pytest.raises(InputError, match=r"int has no tokenizer that could be used; pass a Trans"):
        ioi(3, 2)
    model = prompt_tokenizers.model()
    model.tokenizer = None
    with pytest.raises(InputError, match=r"native has no tokenizer, and prompts of words need one"):
        ioi(model, 2)


# --- random choices ------------------------------------------------------------------------------


@given(st.integers(), st.lists(st.integers(), unique=True, max_size=8), st.data())
def test_choices_are_different_ones_of_the_pool(seed, pool, data):
    k = data.draw(st.integers(0, len(pool)))
    some = Draws(seed).some(pool, k)
    assert len(set(some)) == k and set(some) <= set(pool)
    assert some == Draws(seed).some(pool, k)


def test_choices_are_spread_evenly():
    counts = Counter(Draws("even", i).below(4) for i in range(4000))
    assert set(counts) == {0, 1, 2, 3} and all(abs(n - 1000) < 120 for n in counts.values())
