"""Prompts from whatever holds them; what cannot be read keeps its place and says why."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import visit_tl as vt
import visit_tl.studies
from tests.circuits import prompt_tokenizers
from visit_tl.sweeps.prompt_sources import GivenPrompt, given_prompts, hash_of, tokenised

ROWS = [("a b", " c"), ("b a c", None), ("c", 3)]
NAMES = ["Mary", "John", "Tom", "Anna", "Paul"]
GIVEN = [GivenPrompt(*row) for row in ROWS]
DICTS = [{"prompt": "a b", "target": " c"}, {"text": "b a c"}, {"prompt": "c", "answer": 3}]


@pytest.mark.parametrize(
    "source",
    [DICTS, tuple(DICTS), iter(DICTS), [("a b", " c"), "b a c", ["c", 3]], pd.Series(DICTS)],
    ids=["dicts", "tuple", "iterator", "pairs", "series"],
)
def test_lists_of_rows(source):
    assert given_prompts(source) == GIVEN


@pytest.mark.parametrize(
    "source",
    [[[1, 2], [3, 4]], [(1, 2), (3, 4)], torch.tensor([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]),
     [torch.tensor([1, 2]), np.array([3, 4])], [[np.int64(1), 2], [torch.tensor(3), 4]]],
)  # fmt: skip
def test_token_ids(source):
    assert [one.prompt for one in given_prompts(source)] == [(1, 2), (3, 4)]


def test_files(tmp_path):
    pytest.importorskip("pyarrow")
    lines, csv, parquet = (tmp_path / f"p.{kind}" for kind in ("jsonl", "csv", "parquet"))
    lines.write_text("\n".join([json.dumps(DICTS[0]), "", json.dumps("b a c"), '["c", 3]', ""]))
    assert given_prompts(lines) == given_prompts(str(lines)) == GIVEN
    texts = pd.DataFrame({"prompt": ["a b", "b a c"], "target": [" c", None]})
    texts.to_csv(csv, index=False)
    texts.to_parquet(parquet)
    for source in (csv, parquet, texts):
        assert given_prompts(source) == GIVEN[:2]
    assert given_prompts(lines, 2) == GIVEN[:2]


def test_no_more_is_read_than_is_asked_for():
    def endless():
        while True:
            yield "a"

    assert len(given_prompts(endless(), 3)) == 3


def test_prompt_sets_and_facts_and_datasets():
    words = prompt_tokenizers.model()
    few = {"names": NAMES, "places": ["store"], "objects": ["drink"]}
    pairs = vt.circuits.prompts.ioi(words, 2, **few)
    given = given_prompts(pairs)
    assert [one.prompt for one in given] == [pair.ids for pair in pairs]
    assert [one.target for one in given] == [pair.answers[0] for pair in pairs]
    fact = vt.studies.Fact("Mary went", "Mary", " store", "P1")
    assert given_prompts([fact]) == [GivenPrompt("Mary went", " store")]
    datasets = pytest.importorskip("datasets")
    held = datasets.Dataset.from_list([{"prompt": "a b", "target": " c"}, {"prompt": "b a c"}])
    assert given_prompts(held) == GIVEN[:2]


def test_targets_are_the_first_token_after_a_space(native):
    view = vt.ModelView(native)
    given = [("a", " b"), ("a", "b"), ("a", "\u2003"), ("a", 3), ("a", "bcd"), ("a", -1), ("a", 60)]
    ready = tokenised(view, enumerate(given_prompts(given)), None)
    b = view.tokens.single(" b")
    assert [one.target for one in ready] == [b, b, None, 3, b, None, None]
    assert [one.error is None for one in ready] == [True, True, False, True, True, False, False]


def test_a_bos_is_put_before_a_prompt_or_not(native):
    view = vt.ModelView(native)
    for bos in (None, True, False):
        ready = tokenised(view, [(0, GIVEN[0])], bos)
        assert ready[0].token_ids == view.tokens.encode("a b", bos).ids


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b', [None, "line 2 is not JSON"]),
        (b'{"prompt": "a"}\n\0\0\0\n', [None, "line 2 is not JSON"]),
        (b'{"prompt": "a"}\n\xff\xfe\n', [None, "line 2 is not JSON"]),
        (b'{"prompt": "a"}\n' + b"[" * 100_000 + b"\n", [None, "line 2 is not JSON"]),
        (b'"a"\n' + b'{"prompt": ' * 5 + b'"b"' + b"}" * 5, [None, "a prompt is a text"]),
        (b'"a"\n{"prompt": "a", "target": ' + b"9" * 5000 + b"}", [None, "line 2 is not JSON"]),
        (b'"a"\n{"prompt": "a", "target": {"b": 1}}', [None, "a target is a text or an id"]),
        (b'"a"\n{"prompt": "a", "target": NaN}', [None, None]),
        (b'"a"\n{"prompt": "a", "target": true}', [None, "a target is a text or an id"]),
        (b'"a"\nnull\n3\n[]\n{}', [None, "got None", "got 3", "got []", "has no prompt"]),
        (b'"a"\n"\\ud800"', [None, "half a surrogate pair"]),
        (b'"a"\r\n"b"\r\n', [None, None]),
        (b'"' + b"a" * 5_000_000 + b'"\n', [None]),
    ],
    ids=str,
)  # fmt: skip
def test_hostile_lines(tmp_path, content, reasons):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    given = given_prompts(path)
    assert len(given) == len(reasons)
    for one, reason in zip(given, reasons, strict=True):
        assert one.error is None if reason is None else reason in one.error
        assert len(one.error or "") < 500
    assert len(hash_of(given)) == 64


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (
            "p.jsonl",
            b"\0",
            vt.InputError,
            "none of 1 prompts can be read; the first: line 1 is not",
        ),
        ("p.jsonl", b"", vt.InputError, "there are no prompts to measure"),
        ("p.csv", b"prompt\n", vt.InputError, "there are no prompts"),
        ("p.csv", b"", vt.InputError, "is not CSV"),
        ("p.csv", b'prompt\n"a', vt.InputError, "is not CSV, or is cut off"),
        ("p.csv", b"prompt\na\0b\n", vt.InputError, "line 2 holds a NUL"),
        ("p.csv", b"words\na\n", vt.InputError, r"a row has no prompt or text; it has \['words'\]"),
        ("p.parquet", b"PAR1", vt.FileError, "cannot be read as Parquet"),
        ("p.txt", b"a", vt.InputError, "is no file of prompts; they are .jsonl"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, content, error, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        given_prompts(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "prompts are a file .* or a list, got None"), (5, "got 5"), ({"a": 1}, "got {'a'"),
        (b"a", "got b'a'"), ([], "there are no prompts"),
        ("The capital of Japan is", "Prompts themselves are given as a list"),
        ([1, 2], "none of 2 prompts can be read; the first: .* or token ids, got 1"),
    ],
)  # fmt: skip
def test_what_are_no_prompts_is_refused(source, message):
    with pytest.raises(vt.InputError, match=message):
        given_prompts(source)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(vt.FileError, match=r"there is no file .*absent\.jsonl"):
        given_prompts(tmp_path / "absent.jsonl")


def test_the_hash_is_of_prompts_and_targets():
    other = [*GIVEN[:2], GivenPrompt("c", 4)]
    assert hash_of(GIVEN) == hash_of(list(GIVEN)) != hash_of(other)
    assert hash_of([GivenPrompt("a b")]) != hash_of([GivenPrompt("a", "b")])
