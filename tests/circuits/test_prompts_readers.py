"""Prompts in the shapes of TransformerLens, EAP-IG and AutoCircuit, and files that are broken."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest

from tests.circuits import prompt_tokenizers
from visit_tl import InputError
from visit_tl.circuits.prompts import read_auto_circuit, read_eap_ig, read_ioi_dataset

WORDS = prompt_tokenizers.words()
ID = WORDS.convert_tokens_to_ids


def name(word: str) -> int:
    return ID("\u0120" + word)


def text(a: str, b: str, c: str) -> str:
    return f"When {a} and {b} went to the store, {c} gave a drink to"


# With the BOS: 0 <bos>, 1 When, 2 a, 3 and, 4 b, ... 9 the comma, 10 c, ... 14 to.
POSITIONS = {"IO": 2, "S1": 4, "S1+1": 5, "S2": 10, "END": 14}


# --- EAP-IG --------------------------------------------------------------------------------------

HEAD = ",clean,corrupted,corrupted_hard,correct_idx,incorrect_idx"


def eap_row(number: int, a: str, b: str, c: str) -> str:
    cells = [text(a, b, b), text(a, b, c), text(a, b, a)]
    quoted = ",".join(f'"{cell}"' for cell in cells)
    return f"{number},{quoted},{name(a)},{name(b)}"


def csv(tmp_path, *lines: str):
    path = tmp_path / "prompts.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_csv_of_eap_ig(tmp_path):
    rows = [eap_row(470, "Mary", "John", "Zed"), eap_row(3, "Val", "Xi", "Wes")]
    prompts = read_eap_ig(csv(tmp_path, HEAD, *rows), WORDS)
    assert (prompts.task, prompts.corruptions) == ("ioi", ("corrupted", "corrupted_hard"))
    first, second = prompts
    assert first.text == text("Mary", "John", "John")
    assert first.ids == (ID("<bos>"), *WORDS(first.text)["input_ids"])
    assert (first.answers, first.wrong) == ((name("Mary"),), (name("John"),))
    assert first.positions == POSITIONS
    assert first.corrupted["corrupted"].text == text("Mary", "John", "Zed")
    assert second.corrupted["corrupted_hard"].ids[10] == name("Val")
    assert prompts.tokens.shape == (2, 15) and prompts.report.notes == ()


def test_other_columns_can_be_named_and_hold_several_ids(tmp_path):
    path = csv(tmp_path, "clean,corrupted,good", '"a cat","a dog","[4, 5]"', "the,a,6")
    prompts = read_eap_ig(path, WORDS, answer="good", wrong=None, prepend_bos=False)
    assert [(p.answers, p.wrong, p.positions) for p in prompts] == [
        ((4, 5), (), {"END": 1}),
        ((6,), (), {"END": 0}),
    ]
    assert prompts.task == "prompts"


def test_what_is_odd_about_a_file_is_said(tmp_path):
    row = eap_row(0, "Mary", "John", "John")
    prompts = read_eap_ig(csv(tmp_path, HEAD, row, row), WORDS, ioi=False)
    assert prompts.report.notes == (
        "only 1 of the 2 clean prompts are different",
        "the corruption 'corrupted' changes nothing in 2 pairs",
    )
    assert prompts[0].positions == {"END": 14}


GOOD = eap_row(0, "Mary", "John", "Zed")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is not CSV, or is cut off"),
        ([HEAD], "needs at least one prompt"),
        ([HEAD, GOOD, GOOD[:40]], "is not CSV, or is cut off"),
        ([HEAD, GOOD, GOOD[: GOOD.index('",') + 2]], r"pair 1 of .*the cell 'corrupted' is empty"),
        ([HEAD, GOOD[: GOOD.rindex(",")]], "pair 0 of .*the cell 'incorrect_idx' is empty"),
        ([HEAD, GOOD + ",1,2"], "is not CSV, or is cut off"),
        (["clean,corrupted,x", "a,b,3"], r"no column 'correct_idx', 'incorrect_idx'; it has"),
        ([HEAD, GOOD[:-1] + "x"], r"pair 0 of .*is no token id and no list of them"),
        ([HEAD, GOOD + "9999"], r"'incorrect_idx': token id \d+9999 is outside.*another tokenizer"),
        ([HEAD, GOOD + ".5"], r"token ids are integers of at least 0, but it has \d+\.5"),
        (
            [HEAD, GOOD, GOOD.replace("Zed gave a", "Zed and Val gave a")],
            r"pair 1 of .* \(.*\): the clean prompt has 15 tokens and the corrupted one "
            r"'corrupted' \(.*\) has 17",
        ),
    ],
)
def test_a_broken_csv_is_refused(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        read_eap_ig(csv(tmp_path, *lines), WORDS)


def test_an_id_that_is_not_the_word_of_its_row_is_refused_unless_ids_are_insisted_on(tmp_path):
    path = csv(tmp_path, HEAD, GOOD.replace(f",{name('Mary')},", f",{name('Val')},"))
    message = r"pair 0 .*'correct_idx' is \d+, which is ' Val', but the words say 'Mary'; .* ioi="
    for ioi in (None, True):
        with pytest.raises(InputError, match=message):
            read_eap_ig(path, WORDS, ioi=ioi)
    (pair,) = read_eap_ig(path, WORDS, ioi=False)
    assert (pair.answers, pair.positions) == ((name("Val"),), {"END": 14})


def test_prompts_that_are_no_ioi_are_refused_where_it_is_insisted_on(tmp_path):
    path = csv(tmp_path, "clean,corrupted,correct_idx,incorrect_idx", "a cat,a dog,4,5")
    assert read_eap_ig(path, WORDS)[0].positions == {"END": 2}
    with pytest.raises(InputError, match=r"pair 0 .*answer once and its wrong answer twice.*ioi="):
        read_eap_ig(path, WORDS, ioi=True)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_eap_ig(tmp_path / "none.csv", WORDS)
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_eap_ig(tmp_path / "a.csv", WORDS)


# --- AutoCircuit ---------------------------------------------------------------------------------


def auto(tmp_path, *prompts, **more):
    path = tmp_path / "auto.json"
    path.write_text(json.dumps({"prompts": list(prompts), **more}))
    return path


def auto_row(a="Mary", b="John", corrupt=("Zed", "Val", "Xi"), **changes):
    row = {
        "clean": text(a, b, b),
        "corrupt": text(*corrupt),
        "answers": [f" {a}"],
        "wrong_answers": [f" {b}"],
    }
    return row | changes


WORD_IDXS = {"IO": 2, "IO-1": 1, "S1": 4, "S1+1": 5, "S2": 10, "end": 14, "starts": 0}


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("bos", [True, False])
def test_the_json_of_autocircuit_whether_it_counts_a_bos_or_not(tmp_path, counted, bos):
    named = WORD_IDXS
    if not counted:
        named = {key: at - 1 for key, at in WORD_IDXS.items() if key != "starts"}
    prompts = read_auto_circuit(auto(tmp_path, auto_row(), word_idxs=named), WORDS, prepend_bos=bos)
    (pair,) = prompts
    assert (pair.answers, pair.wrong) == ((name("Mary"),), (name("John"),))
    assert prompts.corruptions == ("corrupt",) and prompts.task == "ioi"
    for slot in ("IO", "S1", "S1+1", "S2", "END"):
        assert pair.positions[slot] == POSITIONS[slot] - (not bos)
    # What the file has at its BOS is nowhere without one.
    assert pair.positions.get("starts") == (0 if counted and bos else None)
    assert pair.ids[pair.positions["S2"]] == name("John")


def test_without_word_idxs_the_positions_of_ioi_are_found(tmp_path):
    prompts = read_auto_circuit(auto(tmp_path, auto_row()), WORDS)
    assert prompts[0].positions == POSITIONS


def test_clashes_of_the_released_abc_prompts_are_said(tmp_path):
    rows = [
        auto_row(),
        auto_row(corrupt=("Zed", "Zed", "Xi")),
        auto_row(corrupt=("Zed", "Mary", "Xi")),
    ]
    assert read_auto_circuit(auto(tmp_path, *rows), WORDS).report.notes == (
        "only 1 of the 3 clean prompts are different",
        "the corruption 'corrupt' puts three other names in, but repeats one in 2 pairs, "
        "such as pair 1",
    )


def test_several_wrong_answers_and_seq_labels(tmp_path):
    row = {"clean": "a cat", "corrupt": "a dog", "answers": [" met"]}
    row["wrong_answers"] = [" went", " gave"]
    named = {"seq_labels": ["a", "noun"], "word_idxs": {"noun": 1}}
    (pair,) = read_auto_circuit(auto(tmp_path, row, **named), WORDS)
    assert pair.wrong == (name("went"), name("gave"))
    assert pair.positions == {"noun": 2, "END": 2}


def test_prompts_of_token_ids_need_no_tokenizer(tmp_path):
    row = {"clean": [3, 1, 2], "corrupt": [3, 0, 0], "answers": [2], "wrong_answers": [0]}
    prompts = read_auto_circuit(auto(tmp_path, row))
    assert prompts.tokens.tolist() == [[3, 1, 2]] and prompts.answers.tolist() == [2]
    assert prompts.corrupted_tokens("corrupt").tolist() == [[3, 0, 0]]
    assert (prompts.tokenizer, prompts[0].text) == ("token ids", "3 1 2")


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([], {}, "has no list of 'prompts'"),
        ([{"clean": "a"}], {}, r"pair 0 of .* has \['clean'\]; expected clean, corrupt, answers"),
        (["a"], {}, "pair 0 of .* has str"),
        ([auto_row(corrupt=("Zed", "Val-Xi", "Xi"))], {}, r"pair 0 .* 15 tokens .* has 17"),
        ([auto_row(answers=[" Mary Val"])], {}, r"'answers': the target ' Mary Val' is 2 tokens"),
        ([auto_row(answers=" Mary")], {}, r"'answers': expected a list of answers"),
        ([auto_row(answers=[])], {}, r"pair 0 .*has no answer"),
        ([auto_row(answers=[[1, 2]])], {}, "an answer for each of several positions"),
        ([auto_row(answers=[10**6])], {}, "token id 1000000 is outside.*another tokenizer"),
        ([auto_row(clean=[])], {}, "a prompt is text or a list of token ids; got \\[\\]"),
        ([auto_row(clean=["a"])], {}, "token ids are integers of at least 0, but it has 'a'"),
        ([auto_row()], {"word_idxs": {"S2": -1}}, "word_idxs names token positions"),
        ([auto_row()], {"word_idxs": {"S2": 9}}, "does not tell whether its word_idxs count a BOS"),
        ([auto_row()], {"word_idxs": {"end": 9}}, "puts the end at 9, but its prompts have 15"),
        ([auto_row()], {"word_idxs": {"end": 14, "S2": 20}}, "which do not fit prompts of 15"),
        (
            [auto_row(), auto_row() | {"clean": "When a", "corrupt": "When the"}],
            {"word_idxs": {"end": 14}},
            r"word_idxs holds for prompts of one length, but its prompts have \[3, 15\]",
        ),
    ],
)
def test_a_broken_json_is_refused(tmp_path, rows, more, message):
    with pytest.raises(InputError, match=message):
        read_auto_circuit(auto(tmp_path, *rows, **more), WORDS)


def test_whether_a_bos_is_counted_can_be_said(tmp_path):
    path = auto(tmp_path, auto_row(), word_idxs={"S2": 9})
    (pair,) = read_auto_circuit(path, WORDS, bos_counted=False)
    assert pair.positions["S2"] == 10
    path = auto(tmp_path, auto_row(), word_idxs={"end": 14})
    with pytest.raises(InputError, match="which do not fit .* check bos_counted"):
        read_auto_circuit(path, WORDS, bos_counted=False)


def test_a_json_that_is_cut_off_or_of_text_without_a_model_is_refused(tmp_path):
    path = auto(tmp_path, auto_row())
    with pytest.raises(InputError, match="needs the tokenizer; pass a model"):
        read_auto_circuit(path)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(InputError, match="is not JSON, or is cut off"):
        read_auto_circuit(path, WORDS)


# --- TransformerLens -----------------------------------------------------------------------------

TEMPLATES = [
    "When [A] and [B] went to the store, [B] gave a drink to [A]",
    "When [B] met [A], [B] gave a drink to [A]",
]


def ioi_dataset(names, **options):
    from transformer_lens.evals import IOIDataset

    state = random.getstate()
    random.seed(0)
    made = IOIDataset(WORDS, templates=TEMPLATES, names=list(names), nouns={}, **options)
    random.setstate(state)
    return made


def test_the_dataset_of_transformer_lens_without_its_answer():
    dataset = ioi_dataset(("Mary", "John"), num_samples=8, symmetric=True)
    prompts = read_ioi_dataset(dataset)
    assert len(prompts) == 8 and prompts.corruptions == ("flip",)
    for pair, sample in zip(prompts, dataset.samples, strict=True):
        io, s = name(sample["IO"].strip()), name(sample["S"].strip())
        assert pair.text + sample["IO"] == sample["text"]
        assert (pair.answers, pair.wrong) == ((io,), (s,)) and pair.ids[0] == ID("<bos>")
        flipped = list(pair.ids)
        flipped[pair.positions["S2"]] = io
        assert list(pair.corrupted["flip"].ids) == flipped


def test_the_dataset_gets_every_corruption_where_it_has_the_names():
    dataset = ioi_dataset(("Zed", "Yan", "Xi", "Wes", "Val", "Qqq-Val"), num_samples=1)
    dataset.samples = [{"text": text("Zed", "Yan", "Yan") + " Zed", "IO": " Zed", "S": " Yan"}]
    prompts = read_ioi_dataset(dataset, prepend_bos=False)
    assert prompts.corruptions == ("ABC", "flip", "random-S2")
    (pair,) = prompts
    at = [pair.positions[slot] for slot in ("IO", "S1", "S2")]
    assert at == [1, 3, 9]
    abc = {pair.corrupted["ABC"].ids[i] for i in at}
    assert abc == {name("Xi"), name("Wes"), name("Val")}
    assert prompts.report.rows[0].rejected == ("Qqq-Val",)
    assert read_ioi_dataset(dataset, prepend_bos=False).pairs == prompts.pairs


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"text": "When a", "IO": " Mary", "S": " John"}, r"does not end with its answer, ' Mary'"),
        ({"text": "a Mary", "IO": " Mary", "S": " John"}, r"'Mary' once and 'John' twice"),
        (
            {"text": "a Qqq", "IO": " Qqq", "S": " John"},
            r"sample 0 .*: the name 'Qqq' is not a",
        ),
        ({"text": "a"}, r"expected a dict with the texts 'text', 'IO' and 'S'"),
        ("a", r"sample 0 of the dataset: it is 'a'"),
    ],
)
def test_a_sample_that_is_no_ioi_is_refused(sample, message):
    with pytest.raises(InputError, match=message):
        read_ioi_dataset(SimpleNamespace(samples=[sample], tokenizer=WORDS))


def test_something_else_is_no_dataset():
    with pytest.raises(InputError, match="list has no list of samples; pass an evals.IOIDataset"):
        read_ioi_dataset([1, 2])
