"""A set of prompt pairs: as tensors, in groups, as a table, on disk; and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.circuits import prompt_tokenizers
from visit_tl import FileError, InputError
from visit_tl.circuits.prompts import Corrupted, PromptPair, PromptSet, Report, ioi

WORDS = prompt_tokenizers.words()


def pair(*ids: int, corrupted: tuple[int, ...] | None = None, **changes) -> PromptPair:
    made = PromptPair(
        text=" ".join(map(str, ids)),
        ids=ids,
        answers=(1,),
        wrong=(2,),
        positions={"END": len(ids) - 1},
        corrupted={"other": Corrupted("x", corrupted or tuple(i + 10 for i in ids))},
    )
    return replace(made, **changes)


def made(*pairs: PromptPair) -> PromptSet:
    return PromptSet(pairs, "by hand", "counting", pad_id=99)


MIXED = made(pair(1, 2, 3), pair(4, 5), pair(6, 7, 8))


# --- tensors -------------------------------------------------------------------------------------


def test_prompts_of_one_length_are_one_batch():
    prompts = made(pair(1, 2, 3), pair(6, 7, 8, answers=(4,)))
    assert prompts.tokens.tolist() == [[1, 2, 3], [6, 7, 8]]
    assert prompts.corrupted_tokens("other").tolist() == [[11, 12, 13], [16, 17, 18]]
    assert prompts.answers.tolist() == [1, 4] and prompts.wrong.tolist() == [2, 2]
    assert prompts.positions["END"].tolist() == [2, 2]


def test_prompts_of_several_lengths_are_grouped_or_padded_after_their_end():
    with pytest.raises(InputError, match=r"3 prompts have \[2, 3\] tokens.*by_length\(\).*padded"):
        _ = MIXED.tokens
    with pytest.raises(InputError, match=r"\[2, 3\] tokens"):
        MIXED.corrupted_tokens("other")
    groups = MIXED.by_length()
    assert {length: group.tokens.tolist() for length, group in groups.items()} == {
        2: [[4, 5]],
        3: [[1, 2, 3], [6, 7, 8]],
    }
    tokens, mask = MIXED.padded()
    assert tokens.tolist() == [[1, 2, 3], [4, 5, 99], [6, 7, 8]]
    assert mask.tolist() == [[True] * 3, [True, True, False], [True] * 3]
    assert MIXED.padded("other", pad_id=0)[0].tolist() == [[11, 12, 13], [14, 15, 0], [16, 17, 18]]
    assert MIXED.positions["END"].tolist() == [2, 1, 2]


def test_the_logit_difference_is_read_at_each_end():
    logits = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = [
        logits[0, 2, 1] - logits[0, 2, 2],
        logits[1, 1, 1] - logits[1, 1, 2],
        logits[2, 2, 1] - logits[2, 2, 2],
    ]
    assert MIXED.logit_difference(logits).tolist() == [float(value) for value in expected]
    with pytest.raises(InputError, match=r"logits of 2 prompts and 3 positions .* has 3 prompts"):
        MIXED.logit_difference(logits[:2])
    with pytest.raises(InputError, match=r"up to 3 tokens"):
        MIXED.logit_difference(logits[:, :2])


def test_several_answers_are_not_taken_for_one():
    prompts = made(pair(1, 2), pair(3, 4, wrong=(5, 6)), pair(5, 6, wrong=()))
    assert prompts.answers.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=r"prompt 1 has 2 ids in wrong.*read prompts\[1\]\.wrong"):
        _ = prompts.wrong
    assert prompts.to_dataframe()["wrong"].tolist() == [2, (5, 6), ()]


def test_an_unknown_corruption_is_named():
    with pytest.raises(InputError, match="no corruption 'ABC'; these prompts have 'other'"):
        MIXED.padded("ABC")
    bare = made(replace(pair(1, 2), corrupted={}))
    with pytest.raises(InputError, match="these prompts have none"):
        bare.corrupted_tokens("ABC")


# --- parts ---------------------------------------------------------------------------------------


def test_a_set_is_a_sequence_whose_slices_are_sets():
    assert len(MIXED) == 3 and list(MIXED) == list(MIXED.pairs) and MIXED[1].ids == (4, 5)
    assert MIXED[1:] == replace(MIXED, pairs=MIXED.pairs[1:])
    with pytest.raises(InputError, match="counting prompts needs at least one prompt"):
        _ = MIXED[3:]


def test_pairs_are_found_by_order_template_and_length():
    prompts = ioi(WORDS, 60)
    found = prompts.where(order="ABBA", template="ABBA-03")
    assert [p.template for p in found] == ["ABBA-03"] * 2
    assert set(prompts.where(order="BABA", length=20).lengths) == {20}
    with pytest.raises(InputError, match=r"none of the 60 prompts has order='AB'.*ABBA.*lengths"):
        prompts.where(order="AB")


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            pair(3, 4, corrupted=(5, 6, 7)),
            r"pair 1 \('3 4'\): the clean prompt has 2 tokens and the corrupted one 'other' "
            r"\('x'\) has 3; patching needs equal lengths",
        ),
        (pair(3, 4, positions={"END": 0}), r"pair 1.*END is 0, but the last of its 2 tokens is 1"),
        (pair(3, 4, positions={"END": 1, "S2": 2}), r"the position S2 is 2, outside 0\.\.1"),
        (pair(3, 4, positions={"END": 1, "S2": 0}), r"positions \['END', 'S2'\], but pair 0 has"),
        (replace(pair(3, 4), corrupted={}), r"has corrupted \[\], but pair 0 has \['other'\]"),
        (pair(3, 4, answers=()), r"has no answer"),
    ],
)
def test_a_pair_that_does_not_fit_is_named(second, message):
    with pytest.raises(InputError, match=message):
        made(pair(1, 2), second)


# --- to look at ----------------------------------------------------------------------------------


def test_the_table_has_the_positions_and_every_corruption():
    prompts = ioi(WORDS, 5)
    table = prompts.to_dataframe()
    assert list(table.columns) == [
        "template", "order", "length", "text", "answer", "wrong",
        "IO", "S1", "S1+1", "S2", "END", "ABC", "flip", "random-S2",
    ]  # fmt: skip
    for row, one in zip(table.to_dict("records"), prompts, strict=True):
        assert one.ids[row["IO"]] == row["answer"] and one.ids[row["S2"]] == row["wrong"]
        assert row["flip"] == one.corrupted["flip"].text


def test_what_is_shown_says_what_it_is_and_runs_nothing():
    prompts = made(replace(pair(1, 2), text="<script>alert(1)</script>"))
    shown = prompts._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert (
        repr(prompts) == "PromptSet(1 counting prompts of 2 tokens of by hand; corruptions: other)"
    )
    assert "2 to 3 tokens" in repr(MIXED)


# --- on disk -------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back_equal(tmp_path):
    prompts = ioi(prompt_tokenizers.words(without=("Mary",)), 12)
    path = prompts.save(tmp_path / "prompts.json")
    assert PromptSet.load(path) == prompts
    # Over our own file without being asked; over others' never.
    assert MIXED.save(path) == path and PromptSet.load(path) == MIXED
    path.write_text("{}")
    with pytest.raises(FileError, match="exists and is no file of prompts"):
        prompts.save(path)
    assert PromptSet.load(prompts.save(path, overwrite=True)) == prompts


def test_paths_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"saved as \.json, but 'a.csv'"):
        MIXED.save(tmp_path / "a.csv")
    with pytest.raises(FileError, match="does not exist"):
        MIXED.save(tmp_path / "none" / "a.json")
    with pytest.raises(InputError, match="there is no file"):
        PromptSet.load(tmp_path / "a.json")


def _broken(*keys, value):
    def change(data):
        at = data
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_broken("schema", value="visit_tl.graph/1"), "has the schema 'visit_tl.graph/1'"),
        (_broken("pairs", value=None), "'pairs' is None; expected list"),
        (_broken("pairs", 0, "ids", value=[1, "2"]), "'ids': token ids are integers.*'2'"),
        (_broken("pairs", 0, "ids", value=[1, True]), "token ids are integers.* True"),
        (_broken("pairs", 0, "ids", value=[1]), "pair 0.*clean prompt has 1 tokens"),
        (_broken("pairs", 1, "positions", "END", value=1.0), "pair 1 of .*'END' is 1.0"),
        (_broken("pairs", 1, "corrupted", "other", value="x"), "'text' is None; expected str"),
        (_broken("pairs", 1, value=[]), "'positions' is None"),
        (_broken("report", "notes", value=[3]), "'notes' holds 3; expected texts"),
        (_broken("pad_id", value="0"), "'pad_id' is '0'; expected int"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, change, message):
    path = MIXED.save(tmp_path / "prompts.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=message):
        PromptSet.load(path)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = MIXED.save(tmp_path / "prompts.json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match="is not JSON, or is cut off"):
        PromptSet.load(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read as text"):
        PromptSet.load(path)


def test_an_empty_report_is_an_empty_table():
    assert Report().to_dataframe().empty and str(Report(notes=("odd",))) == "odd"
