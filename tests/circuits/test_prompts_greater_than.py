"""Greater-than: which years are right and wrong, and the metric of the paper, whole or by digit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import visit_tl as vt
from tests.circuits import prompt_tokenizers
from visit_tl import InputError
from visit_tl.circuits.prompts import (
    PromptSet,
    read_auto_circuit,
    read_eap_ig,
    read_greater_than,
)
from visit_tl.circuits.prompts.year_tokens import split_years

DATA = Path(__file__).parents[1] / "data" / "prompts" / "greater_than_label.csv"
WHOLE, SPLIT = prompt_tokenizers.numbers(2), prompt_tokenizers.numbers(1)


def text(year: int, noun: str = "war") -> str:
    return f"The {noun} lasted from the year {year} to the year {year // 100}"


def row(year: int, label: object = None) -> str:
    label = year % 100 if label is None else label
    return f"{text(year)},{text(year // 100 * 100 + 1)},{label}"


def csv(folder: Path, *rows: str) -> Path:
    path = folder / "years.csv"
    path.write_text("\n".join(["clean,corrupted,label", *rows]) + "\n")
    return path


def ids(tokenizer, *pieces: object) -> tuple[int, ...]:
    return tuple(tokenizer.convert_tokens_to_ids(str(piece)) for piece in pieces)


def test_years_of_one_token_are_the_answers(tmp_path):
    (pair,) = prompts = read_greater_than(csv(tmp_path, row(1352)), WHOLE)
    assert pair.answers == ids(WHOLE, *range(53, 100))
    assert pair.wrong == ids(WHOLE, *(f"{year:02d}" for year in range(53)))
    assert pair.first is None and pair.text == text(1352) and prompts.task == "greater-than"
    assert prompts.report.notes == () and prompts.report.unusable == ()


def test_years_in_digits_are_asked_after_their_first_digit(tmp_path):
    (pair,) = prompts = read_greater_than(csv(tmp_path, row(1352)), SPLIT)
    assert pair.text == text(1352) + "5" and pair.ids[-1:] == ids(SPLIT, 5)
    assert pair.corrupted["corrupted"].text == text(1301) + "5"
    assert pair.answers == ids(SPLIT, *range(3, 10)) and pair.wrong == ids(SPLIT, 0, 1, 2)
    assert pair.first == (*ids(SPLIT, 5), ids(SPLIT, 6, 7, 8, 9), ids(SPLIT, 0, 1, 2, 3, 4))
    assert "writes years digit by digit" in prompts.report.notes[0]


def test_a_label_of_one_digit_is_a_year_of_the_first_decade(tmp_path):
    path = csv(tmp_path, row(1604))
    (pair,) = read_greater_than(path, SPLIT)
    assert pair.answers == ids(SPLIT, *range(5, 10)) and pair.first.wrong == ()
    (pair,) = read_greater_than(path, WHOLE)
    assert pair.wrong == ids(WHOLE, "00", "01", "02", "03", "04")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 98), st.integers(0, 2**32 - 1))
def test_the_probability_difference_is_a_sum_over_all_years(tmp_path_factory, label, seed):
    path = csv(tmp_path_factory.mktemp("years"), row(1300 + label))
    generator = torch.Generator().manual_seed(seed)
    for tokenizer in (WHOLE, SPLIT):
        prompts = read_greater_than(path, tokenizer)
        (pair,) = prompts
        logits = torch.randn(1, len(pair.ids), len(tokenizer), generator=generator) * 3
        last, before = logits[0, -1].softmax(-1), logits[0, -2].softmax(-1)
        brute = 0.0
        for year in range(100):
            sign = 1 if year > label else -1
            first, second = divmod(year, 10)
            if tokenizer is WHOLE:
                brute += sign * float(last[ids(WHOLE, f"{year:02d}")[0]])
            elif first == label // 10:
                brute += sign * float(before[ids(SPLIT, first)[0]] * last[ids(SPLIT, second)[0]])
            elif second == 0:  # the whole decade, once
                brute += sign * float(before[ids(SPLIT, first)[0]])
        metric = vt.causal.probability_difference(pair.answers, pair.wrong, first=pair.first)
        assert float(prompts.probability_difference(logits)) == pytest.approx(brute, abs=1e-5)
        assert float(metric(logits)) == pytest.approx(brute, abs=1e-5)


def test_padding_changes_no_probability_difference(tmp_path):
    prompts = read_greater_than(csv(tmp_path, row(1352), row(1604)), SPLIT)
    logits = torch.randn(2, len(prompts[0].ids), len(SPLIT))
    padded = torch.cat([logits, torch.randn(2, 3, len(SPLIT))], dim=1)
    torch.testing.assert_close(
        prompts.probability_difference(logits), prompts.probability_difference(padded)
    )
    with pytest.raises(InputError, match="logits of 1 prompts and"):
        prompts.probability_difference(logits[:1])
    with pytest.raises(InputError, match=r"hold the token id \d+, but the logits are of .* 5;"):
        prompts.probability_difference(logits[..., :5])


def test_a_set_with_first_digits_is_saved_and_loaded(tmp_path):
    path = csv(tmp_path, row(1352), row(1352, "x"))
    prompts = read_greater_than(path, SPLIT, unusable="skip")
    kept = PromptSet.load(prompts.save(tmp_path / "kept.json"))
    assert kept == prompts and kept[0].first == prompts[0].first
    assert kept.report.left_out == "1 of 2 pairs left out: a malformed row (1)"


def test_a_set_is_of_answers_of_one_token_or_of_two(tmp_path):
    path = csv(tmp_path, row(1352), row(1377))
    whole, split = read_greater_than(path, WHOLE), read_greater_than(path, SPLIT)
    with pytest.raises(InputError, match="pair 1 .* answers of 1 tokens, but pair 0 of 2"):
        PromptSet((split[0], whole[1]), "x", "x")
    wrong = split[0].first._replace(token=0)
    with pytest.raises(InputError, match="is 0, so its prompt must end with it"):
        PromptSet((replace(split[0], first=wrong),), "x", "x")


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        (
            row(1352, 41),
            "ids and words disagree",
            "label is 41, but the prompt names the year 1352",
        ),
        (row(1399), "no prompt of greater-than", "the label is 99, and no year"),
        (row(1352, "5.0"), "a malformed row", "the label '5.0' is not a year of two digits"),
        (row(1352, -1), "a malformed row", "the label '-1' is not a year"),
        (row(1352, "\N{ARABIC-INDIC DIGIT FIVE}"), "a malformed row", "is not a year"),
        (row(1352, " "), "a malformed row", "the cell 'label' is empty"),
        ("The war,The war,52", "no prompt of greater-than", "does not end with the two digits"),
        (f"{text(1352)},The war to the year 13,52", "clean and corrupted of unequal lengths", ""),
    ],
)
@pytest.mark.parametrize("tokenizer", [WHOLE, SPLIT], ids=["whole", "split"])
def test_what_is_no_greater_than_is_refused_or_left_out(tmp_path, tokenizer, line, kind, reason):
    path = csv(tmp_path, row(1604), line, row(1210))
    with pytest.raises(InputError, match=f"pair 1 of .*{reason}"):
        read_greater_than(path, tokenizer)
    prompts = read_greater_than(path, tokenizer, unusable="skip")
    assert [pair.text[:32] for pair in prompts] == [text(1604)[:32], text(1210)[:32]]
    (left_out,) = prompts.report.unusable
    assert (left_out.index, left_out.kind) == (1, kind) and reason in left_out.reason


def test_a_tokenizer_that_knows_no_such_years_is_refused_by_name(tmp_path):
    with pytest.raises(
        InputError, match="writes years of two digits neither as one token each nor"
    ):
        read_greater_than(csv(tmp_path, row(1352)), prompt_tokenizers.numbers(3))
    with pytest.raises(InputError, match=r"0 of 100 are one token, .*greater-than cannot be tes"):
        read_greater_than(csv(tmp_path, row(1352)), prompt_tokenizers.words(), unusable="skip")


def auto(folder: Path, *years: int, **more: object) -> Path:
    rows = [
        {
            "clean": text(year),
            "corrupt": text(year // 100 * 100 + 1),
            "answers": [f"{y:02d}" for y in range(year % 100 + 1, 100)],
            "wrong_answers": [f"{y:02d}" for y in range(year % 100 + 1)],
        }
        for year in years
    ]
    path = folder / "years.json"
    path.write_text(json.dumps({"prompts": rows, **more}))
    return path


@pytest.mark.parametrize("tokenizer", [WHOLE, SPLIT], ids=["whole", "split"])
def test_the_years_of_autocircuit_are_those_of_the_label(tmp_path, tokenizer):
    years = (1352, 1604, 1259)
    ours = read_greater_than(csv(tmp_path, *map(row, years)), tokenizer)
    theirs = read_auto_circuit(auto(tmp_path, *years), tokenizer)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.ids, a.answers, a.wrong, a.first) == (b.ids, b.answers, b.wrong, b.first)
    assert theirs.report.notes == ours.report.notes


def test_the_positions_of_a_file_stay_where_they_were_before_the_digit(tmp_path):
    length = len(read_greater_than(csv(tmp_path, row(1352)), SPLIT)[0].ids) - 1
    path = auto(tmp_path, 1352, word_idxs={"noun": 2, "end": length - 1})
    (pair,) = read_auto_circuit(path, SPLIT)
    assert pair.positions == {"noun": 2, "END": length}


def test_years_that_are_right_in_part_of_two_decades_are_refused():
    digits = tuple(range(10))
    with pytest.raises(InputError, match="decades 10, 20 are neither all right nor all"):
        split_years(digits, {11, 12, 21}, set(range(11)))
    assert split_years(digits, range(60, 100), range(60)) == (
        (),
        digits,
        (5, (6, 7, 8, 9), (0, 1, 2, 3, 4)),
    )


@pytest.mark.model
def test_the_real_model_knows_which_years_are_later(smol):
    prompts = read_eap_ig(DATA, smol)
    assert prompts == read_greater_than(DATA, smol) and len(prompts) == 2
    with torch.no_grad():
        clean = prompts.probability_difference(smol(prompts.tokens))
        other = prompts.probability_difference(smol(prompts.corrupted_tokens("corrupted")))
    # Measured: 0.909 and 0.921; after 01 the model writes years of the first decade: -0.88, -0.71.
    assert (clean > 0.8).all() and (other < 0).all()
    pair = prompts[0]
    question = vt.causal.probability_difference(pair.answers, pair.wrong, first=pair.first)
    found = vt.causal.effects(
        smol,
        list(pair.ids),
        question,
        nodes=["L0.mlp_out"],
        corrupted=list(pair.corrupted["corrupted"].ids),
        verbose=False,
    )
    assert found.clean == pytest.approx(float(clean[0]), abs=1e-4)
