"""Files that only partly fit a tokenizer: what fits is read, in order, and the rest is reported."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuits import prompt_tokenizers
from visit_tl import InputError, VisitError
from visit_tl.circuits.prompts import (
    PromptSet,
    read_auto_circuit,
    read_eap_ig,
    read_greater_than,
    read_ioi_dataset,
)
from visit_tl.circuits.prompts.ioi_words import ioi_names

DATA = Path(__file__).parents[1] / "data" / "prompts"
WORDS = prompt_tokenizers.words()
HEAD = "clean,corrupted,correct_idx,incorrect_idx"


def name(word: str) -> int:
    return WORDS.convert_tokens_to_ids("\u0120" + word)


def text(a: str, b: str, c: str) -> str:
    return f"When {a} and {b} went to the store, {c} gave a drink to"


def csv(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "prompts.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def eap_row(a: str, b: str, right: object, wrong: object, c: str = "Zed") -> str:
    return f'"{text(a, b, b)}","{text(a, b, c)}",{right},{wrong}'


def auto(folder: Path, *rows: object, **more: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps({"prompts": rows, **more}))
    return path


def auto_row(a: str = "Mary", b: str = "John", **changes: object) -> dict:
    return {
        "clean": text(a, b, b),
        "corrupt": text("Zed", "Val", "Xi"),
        "answers": [f" {a}"],
        "wrong_answers": [f" {b}"],
        **changes,
    }


# --- what is left out ----------------------------------------------------------------------------

UNUSABLE = {
    "an answer of several tokens": auto_row(answers=[" Mary Val"]),
    "clean and corrupted of unequal lengths": auto_row(corrupt="When a"),
    "ids of another tokenizer": auto_row(answers=[10**6]),
    "a malformed row": auto_row(clean=None),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["usable", *UNUSABLE]), min_size=1, max_size=9))
def test_a_mixed_file_is_its_usable_part_and_a_report(tmp_path_factory, kinds):
    folder = tmp_path_factory.mktemp("mixed")
    names = [("Mary", "John"), ("Val", "Xi"), ("Wes", "Yan"), ("Zed", "Mary")]
    rows = [
        auto_row(*names[index % 4]) if kind == "usable" else UNUSABLE[kind]
        for index, kind in enumerate(kinds)
    ]
    path = auto(folder, *rows)
    good = [row for row, kind in zip(rows, kinds, strict=True) if kind == "usable"]
    if not good:
        with pytest.raises(InputError, match=rf"none of the {len(rows)} pairs .* can be used: "):
            read_auto_circuit(path, WORDS, unusable="skip")
        return
    prompts = read_auto_circuit(path, WORDS, unusable="skip")
    assert prompts.pairs == read_auto_circuit(auto(folder, *good), WORDS).pairs
    left_out = [(index, kind) for index, kind in enumerate(kinds) if kind != "usable"]
    assert [(each.index, each.kind) for each in prompts.report.unusable] == left_out
    assert prompts.report.offered == len(rows)
    assert len(prompts) + len(left_out) == len(rows)


def test_what_was_left_out_is_counted_in_one_line_and_listed(tmp_path):
    rows = [auto_row(), *UNUSABLE.values(), UNUSABLE["a malformed row"]]
    prompts = read_auto_circuit(auto(tmp_path, *rows), WORDS, unusable="skip")
    line = (
        "5 of 6 pairs left out: a malformed row (2), an answer of several tokens (1), "
        "clean and corrupted of unequal lengths (1), ids of another tokenizer (1)"
    )
    assert prompts.report.left_out == line
    assert repr(prompts).endswith(f"; {line})") and line in str(prompts.report).splitlines()
    table = prompts.report.unusable_to_dataframe()
    assert table["index"].tolist() == [1, 2, 3, 4, 5]
    assert table["text"][0] == text("Mary", "John", "John") and table["text"][3] == ""
    assert "' Mary Val' is 2 tokens" in table["reason"][0]
    assert PromptSet.load(prompts.save(tmp_path / "kept.json")) == prompts


def test_a_file_that_fits_reads_the_same_whatever_is_said(tmp_path):
    path = auto(tmp_path, auto_row(), auto_row("Val", "Wes"), word_idxs={"IO": 2, "end": 14})
    prompts = read_auto_circuit(path, WORDS, unusable="skip")
    assert prompts == read_auto_circuit(path, WORDS) and prompts.report.left_out == ""
    assert prompts.report.unusable_to_dataframe().empty


def test_if_nothing_fits_the_reasons_are_counted(tmp_path):
    path = auto(tmp_path, *UNUSABLE.values(), UNUSABLE["a malformed row"])
    message = (
        r"none of the 5 pairs of .* can be used: a malformed row \(2\), .*\. The first: pair 0 "
        r"\('When Mary.*\): 'answers': the target ' Mary Val' is 2 tokens"
    )
    with pytest.raises(InputError, match=message):
        read_auto_circuit(path, WORDS, unusable="skip")


@pytest.mark.parametrize("unusable", ["drop", "", "Skip"])
def test_another_word_for_skip_is_refused(tmp_path, unusable):
    path = auto(tmp_path, auto_row())
    calls = [
        lambda: read_auto_circuit(path, WORDS, unusable=unusable),
        lambda: read_eap_ig(path, WORDS, unusable=unusable),
        lambda: read_greater_than(path, WORDS, unusable=unusable),
    ]
    for call in calls:
        with pytest.raises(
            InputError, match=f"unusable is 'raise' .* or 'skip' .*got '{unusable}'"
        ):
            call()


def test_samples_of_a_dataset_can_be_left_out_too():
    good = {"text": text("Mary", "John", "John") + " Mary", "IO": " Mary", "S": " John"}
    samples = [{"text": "a Qqq", "IO": " Qqq", "S": " John"}, good, "a", good | {"S": " Val"}]
    dataset = SimpleNamespace(samples=samples, tokenizer=WORDS)
    prompts = read_ioi_dataset(dataset, unusable="skip")
    assert [pair.text for pair in prompts] == [text("Mary", "John", "John")]
    assert [(each.index, each.kind) for each in prompts.report.unusable] == [
        (0, "an answer of several tokens"),
        (2, "a malformed row"),
        (3, "no prompt of IOI"),
    ]
    with pytest.raises(InputError, match="none of the 1 samples of the dataset can be used"):
        read_ioi_dataset(SimpleNamespace(samples=["a"], tokenizer=WORDS), unusable="skip")


# --- positions -----------------------------------------------------------------------------------


def test_positions_that_hold_for_one_length_are_dropped_for_several(tmp_path):
    short = auto_row() | {"clean": "When Mary and John met, John gave to"}
    short["corrupt"] = "When Zed and Val met, Xi gave to"
    path = auto(tmp_path, auto_row(), short, word_idxs={"IO": 2, "noun": 9, "end": 14})
    with pytest.raises(InputError, match=r"one length.*\[10, 15\] tokens.*unusable='skip' reads"):
        read_auto_circuit(path, WORDS)
    prompts = read_auto_circuit(path, WORDS, unusable="skip")
    assert len(prompts) == 2 and "positions of the file were left out" in prompts.report.notes[0]
    # Those of IOI are found again in the tokens; what only the file knows is gone.
    assert [pair.positions["S2"] for pair in prompts] == [10, 7]
    assert "noun" not in prompts[0].positions


def test_a_pair_that_is_left_out_takes_no_positions_with_it(tmp_path):
    bad = auto_row(clean="When Mary", corrupt="When a drink")
    path = auto(tmp_path, bad, auto_row(), word_idxs={"noun": 9, "end": 14})
    prompts = read_auto_circuit(path, WORDS, unusable="skip")
    assert prompts[0].positions == {"noun": 9, "END": 14} and prompts.report.notes == ()


def test_positions_outside_the_prompts_are_dropped_with_a_note(tmp_path):
    path = auto(tmp_path, auto_row(), word_idxs={"end": 9})
    (note,) = read_auto_circuit(path, WORDS, unusable="skip").report.notes
    assert "puts the end at 9, but its prompts have 15 tokens" in note


# --- ids of another tokenizer --------------------------------------------------------------------


def test_ids_outside_the_vocabulary_are_found_again_from_the_words(tmp_path):
    prompts = read_eap_ig(csv(tmp_path, eap_row("Mary", "John", 999999, 7)), WORDS)
    assert (prompts[0].answers, prompts[0].wrong) == ((name("Mary"),), (name("John"),))
    assert prompts[0].positions["S2"] == 10
    assert "answers of 1 pairs were found again from their words" in prompts.report.notes[0]


def test_ids_inside_the_vocabulary_too_if_each_word_has_an_id_of_its_own(tmp_path):
    rows = [eap_row("Mary", "John", 7, 8), eap_row("John", "Val", 8, 9)]
    prompts = read_eap_ig(csv(tmp_path, *rows), WORDS)
    assert prompts.answers.tolist() == [name("Mary"), name("John")]
    assert prompts.wrong.tolist() == [name("John"), name("Val")]


@pytest.mark.parametrize(
    "rows",
    [
        [eap_row("Mary", "John", 7, 8)],  # nothing repeats
        [eap_row("Mary", "John", 7, 8), eap_row("John", "Val", 9, 10)],  # John is 8 and 9
        [eap_row("Mary", "John", 7, 8), eap_row("Val", "John", 7, 8)],  # 7 is Mary and Val
    ],
)
def test_what_could_be_answers_of_another_kind_is_refused(tmp_path, rows):
    path = csv(tmp_path, *rows)
    with pytest.raises(InputError, match=r"pair 0 .*but the words say 'Mary'.*it is unclear"):
        read_eap_ig(path, WORDS)
    assert read_eap_ig(path, WORDS, ioi=False)[0].answers == (7,)
    assert read_eap_ig(path, WORDS, ioi=True)[0].answers == (name("Mary"),)


def test_a_row_that_disagrees_among_rows_that_agree_is_refused_by_name(tmp_path):
    good = [eap_row(a, "John", name(a), name("John")) for a in ("Mary", "Val", "Xi")]
    odd = [eap_row("Wes", "John", 999999, 7), eap_row("Wes", "John", name("Zed"), name("John"))]
    path = csv(tmp_path, good[0], odd[0], good[1], odd[1], good[2])
    with pytest.raises(InputError, match="pair 1 .*token id 999999 is outside"):
        read_eap_ig(path, WORDS)
    prompts = read_eap_ig(path, WORDS, unusable="skip")
    assert prompts.answers.tolist() == [name(a) for a in ("Mary", "Val", "Xi")]
    assert [(each.index, each.kind) for each in prompts.report.unusable] == [
        (1, "ids of another tokenizer"),
        (3, "ids and words disagree"),
    ]
    assert "pair" not in "".join(prompts.report.notes)


def test_ids_without_words_are_not_trusted_in_a_file_of_another_tokenizer(tmp_path):
    path = csv(tmp_path, "a cat,a dog,4,5", eap_row("Mary", "John", 999999, 7))
    prompts = read_eap_ig(path, WORDS, unusable="skip")
    assert [pair.answers for pair in prompts] == [(name("Mary"),)]
    (left_out,) = prompts.report.unusable
    assert (left_out.index, left_out.text) == (0, "a cat")
    assert "those of pair 1 show that the file is for another tokenizer" in left_out.reason


def test_words_in_a_column_of_their_own_are_the_answers(tmp_path):
    head = "clean,corrupted,country_idx,country"
    path = csv(tmp_path, "a cat,a dog,999999,Mary", "a cat,a dog,7,Mary Val", head=head)
    options = {"answer": "country_idx", "wrong": None}
    prompts = read_eap_ig(path, WORDS, unusable="skip", **options)
    assert [pair.answers for pair in prompts] == [(name("Mary"),)]
    assert prompts.report.unusable[0].kind == "an answer of several tokens"
    same = csv(tmp_path, f"a cat,a dog,{name('Mary')},Mary", head=head)
    assert read_eap_ig(same, WORDS, **options).report.notes == ()


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        (text("Mary", "John", "John"), ("Mary", "John")),
        (text("Mary", "John", "Mary"), ("John", "Mary")),
        ("Then, Ann and Annie sat. Annie spoke to", ("Ann", "Annie")),
        ("Jos\u00e9 and \u00c9va met, \u00c9va spoke to", ("Jos\u00e9", "\u00c9va")),
        (text("Mary", "John", "Val"), None),
        (text("Mary", "Mary", "Mary"), None),
        ("When bread and butter met, butter gave a drink to", None),
        ("When Mary and John met Val and Xi, John and Xi spoke to", None),
        ("", None),
    ],
)
def test_the_names_of_a_prompt_of_ioi(prompt, names):
    assert ioi_names(prompt) == names


# --- the files of the field, with the tokenizer of the embedded model ----------------------------


@pytest.mark.model
def test_the_mixed_json_of_autocircuit_gives_its_two_usable_pairs(smol):
    prompts = read_auto_circuit(DATA / "auto_circuit_mixed.json", smol, unusable="skip")
    assert [pair.text[:19] for pair in prompts] == ["When Mary and John ", "When Sarah and Tom "]
    assert [(each.index, each.kind) for each in prompts.report.unusable] == [
        (1, "an answer of several tokens"),
        (3, "clean and corrupted of unequal lengths"),
    ]
    assert "' Zbigniew' is 4 tokens" in prompts.report.unusable[0].reason
    assert {slot: at.tolist() for slot, at in prompts.positions.items()} == {
        "IO": [2, 2],
        "S1": [4, 4],
        "S2": [10, 10],
        "END": [14, 14],
    }
    with pytest.raises(InputError, match=r"pair 1 of .*' Zbigniew' is 4 tokens"):
        read_auto_circuit(DATA / "auto_circuit_mixed.json", smol)


@pytest.mark.model
@pytest.mark.parametrize("unusable", ["raise", "skip"])
def test_the_answers_of_eap_ig_are_found_again_from_the_words(smol, unusable):
    prompts = read_eap_ig(DATA / "eap_ig_words.csv", smol, unusable=unusable)
    found = [smol.tokenizer.decode([i]) for i in (*prompts.answers, *prompts.wrong)]
    assert found == [" Mary", " John"] and prompts.task == "ioi"
    assert "found again from their words" in prompts.report.notes[0]


# --- files that nobody would write ---------------------------------------------------------------

HOSTILE_JSON = {
    "deep": b'{"prompts":' + b"[" * 10**6 + b"]" * 10**6 + b"}",
    "deep objects": b'{"a":' * 10**5,
    "nan": b'{"prompts": [{"clean": NaN, "corrupt": "a", "answers": [1], "wrong_answers": [1]}]}',
    "huge integer": b'{"prompts": [' + b"9" * 10**5 + b"]}",
    "huge id": b'{"prompts": [{"clean": [1' + b"0" * 40 + b'], "corrupt": [1], "answers": [1], '
    b'"wrong_answers": [1]}]}',
    "key twice": b'{"prompts": [], "prompts": [1]}',
    "nul": b'{"prompts": "\x00"}',
    "surrogate": json.dumps({"prompts": [auto_row(clean="When \ud800")]}).encode(),
    "surrogate answer": json.dumps({"prompts": [auto_row(answers=["\udfff"])]}).encode(),
    "surrogate name": json.dumps(
        {"prompts": [auto_row()], "word_idxs": {"\udfff": 0, "end": 14}}
    ).encode(),
    "positions of a huge integer": json.dumps(
        {"prompts": [auto_row()], "word_idxs": {"a": 10**30, "end": 14}}
    ).encode(),
    "not utf-8": b"\xff\xfe{\x00}\x00",
    "empty": b"",
    "prompts of one key": b'{"prompts": {"0": 1}}',
    "keys of another type": b'{"prompts": [null, 1, true, "a", [], {}, {"clean": {}}]}',
    "empty prompt": json.dumps({"prompts": [auto_row(clean="", corrupt="")]}).encode(),
}


@pytest.mark.parametrize("content", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
@pytest.mark.parametrize("unusable", ["raise", "skip"])
def test_a_hostile_json_is_refused_with_an_error_of_the_package(tmp_path, content, unusable):
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    for read in (
        lambda: read_auto_circuit(path, WORDS, unusable=unusable),
        lambda: read_auto_circuit(path, unusable=unusable),
        lambda: PromptSet.load(path),
    ):
        try:
            read()
        except VisitError as error:
            assert len(str(error)) < 3000
        else:
            positions_alone = ("surrogate name", "positions of a huge integer")
            assert content in [HOSTILE_JSON[name] for name in positions_alone]


HOSTILE_CSV = {
    "nul": b"clean,corrupted,correct_idx,incorrect_idx\n\x00,\x00,1,2\n",
    "nul in the header": b"clean\x00,corrupted,correct_idx,incorrect_idx\na,a,1,2\n",
    "deep": f"{HEAD}\na,a,{'[' * 10**6},2\n".encode(),
    "nan": f"{HEAD}\na,a,NaN,2\n".encode(),
    "infinity": f"{HEAD}\na,a,1e999,2\n".encode(),
    "huge integer": f"{HEAD}\na,a,{'9' * 10**5},2\n".encode(),
    "huge id": f"{HEAD}\na,a,{10**30},2\n".encode(),
    "object": f'{HEAD}\na,a,"{{}}",2\n'.encode(),
    "quote that does not end": f'{HEAD}\n"a,a,1,2\n'.encode(),
    "not utf-8": b"\xff\xfe",
    "empty": b"",
    "header only": f"{HEAD}\n".encode(),
    "label that is no year": b"clean,corrupted,label\nyear 13,year 13,99999999999999999999\n",
}


@pytest.mark.parametrize("content", HOSTILE_CSV.values(), ids=HOSTILE_CSV.keys())
@pytest.mark.parametrize("unusable", ["raise", "skip"])
def test_a_hostile_csv_is_refused_with_an_error_of_the_package(tmp_path, content, unusable):
    path = tmp_path / "hostile.csv"
    path.write_bytes(content)
    for read in (read_eap_ig, read_greater_than):
        with pytest.raises(VisitError):
            read(path, WORDS, unusable=unusable)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = csv(tmp_path, eap_row("Mary", "John", name("Mary"), name("John")))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_eap_ig(path, WORDS)) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.binary(max_size=6))
def test_a_file_that_is_cut_or_changed_gives_prompts_or_an_error(tmp_path_factory, at, bytes_):
    folder = tmp_path_factory.mktemp("changed")
    for path, read in (
        (auto(folder, auto_row(), auto_row("Val", "Xi"), word_idxs={"end": 14}), read_auto_circuit),
        (csv(folder, eap_row("Mary", "John", name("Mary"), name("John"))), read_eap_ig),
    ):
        whole = path.read_bytes()
        cut = at % len(whole)
        for content in (whole[:cut], whole[:cut] + bytes_ + whole[cut + len(bytes_) :]):
            path.write_bytes(content)
            for unusable in ("raise", "skip"):
                with contextlib.suppress(VisitError):
                    assert len(read(path, WORDS, unusable=unusable)) >= 1
