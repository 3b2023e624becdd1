"""A sweep is a plain loop over prompts, whatever the batches and the shards."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import visit_tl as vt
from tests.conftest import made
from tests.sweeps.swept import (
    STUDIES,
    assert_close,
    assert_same,
    one_by_one,
    prompts,
    study,
    sweep,
)  # fmt: skip
from visit_tl.sweeps.registry import chosen_studies

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("per_shard", [1, 7, 64])
def test_a_run_is_a_plain_loop(native, tmp_path, per_shard):
    given = prompts()
    run = sweep(native, given, STUDIES, tmp_path / "run", per_shard=per_shard)
    assert run.complete and run.studies == tuple(STUDIES) and run.n_prompts == 30
    for name, rows in one_by_one(native, given, STUDIES).items():
        assert_close(run.table(name), rows)
        assert run.table(name)["prompt"].is_monotonic_increasing
    assert len(run.table("errors")) == 0
    assert list(run.table("prompts")["text"]) == given


def test_the_order_of_lengths_does_not_matter(llama, tmp_path):
    given = prompts(20)
    by_length = sorted(range(20), key=lambda i: -len(given[i]))
    run = sweep(llama, given, STUDIES, tmp_path / "a")
    other = sweep(llama, [given[i] for i in by_length], STUDIES, tmp_path / "b")
    place = {i: place for place, i in enumerate(by_length)}
    for name in STUDIES:
        moved = run.table(name).assign(prompt=run.table(name)["prompt"].map(place))
        moved = moved.sort_values("prompt", kind="stable", ignore_index=True)
        assert_close(other.table(name), moved)


def test_options_reach_the_passes_and_the_studies(native, tmp_path):
    given = prompts(6)
    wide = chosen_studies("heads_ov")[0].having(k=20)
    few = chosen_studies("top_of_blocks")[0].having(k=1)
    run = sweep(native, given, [wide, few], tmp_path / "run", prepend_bos=False, n=4)
    rows = one_by_one(native, given[:4], [wide, few], prepend_bos=False)
    for name in ("heads_ov", "top_of_blocks"):
        assert_close(run.table(name), rows[name])
    assert run.n_prompts == 4
    assert run.about["studies"]["heads_ov"]["options"] == {"k": 20}
    assert run.about["studies"]["top_of_blocks"]["options"] == {"k": 1}
    with pytest.raises(vt.InputError, match="has no option 'kk'; it has k"):
        wide.having(kk=3)
    for odd in ([1], float("nan"), print):
        with pytest.raises(vt.InputError, match="options are texts, finite numbers and bools"):
            wide.having(k=odd)


def test_every_type_of_column_comes_back(native, tmp_path):
    table = sweep(native, ["a b"], "stream_norms", tmp_path / "run").table("stream_norms")
    kinds = {name: table[name].dtype.kind for name in ("prompt", "layer", "norm", "large")}
    assert kinds == {"prompt": "i", "layer": "i", "norm": "f", "large": "b"}
    assert table["name"][0] == "block 0" and pd.isna(table["name"][1])


def test_what_is_taken_and_refused_in_columns(native, tmp_path):
    def values(run):
        given = {
            0: {"i": [1, 2], "f": [1, None], "s": ["a", None], "b": [True, False]},
            1: {"i": torch.tensor([1, 2]), "f": torch.tensor([1, 2], dtype=torch.bfloat16),
                "s": np.array(["a", "b"]), "b": torch.tensor([True, False])},
            2: {"i": [], "f": [], "s": [], "b": []},
            3: {"i": [1.5], "f": [1.0], "s": ["a"], "b": [True]},
            4: {"i": [1], "f": ["x"], "s": ["a"], "b": [True]},
            5: {"i": [1], "f": [1.0], "s": [3], "b": [True]},
            6: {"i": [1], "f": [1.0], "s": ["a"], "b": [0.5]},
            7: {"i": [1], "f": [1.0], "s": ["a"]},
            8: {"i": [1], "f": [1.0], "s": ["a"], "b": [True], "z": [1]},
            9: {"i": [1, 2], "f": [1.0], "s": ["a"], "b": [True]},
            10: {"i": [[1]], "f": [1.0], "s": ["a"], "b": [True]},
            11: {"i": 1, "f": [1.0], "s": ["a"], "b": [True]},
            12: None,
            13: {"i": [10**30], "f": [1.0], "s": ["a"], "b": [True]},
        }  # fmt: skip
        return given[run.index]

    columns = {"i": "int64", "f": "float64", "s": "string", "b": "bool"}
    made_here = study(columns=columns)(values)
    run = sweep(native, ["a b"] * 14, [made_here, "stream_norms"], tmp_path / "run")
    table = run.table("values")
    assert list(table["prompt"]) == [0, 0, 1, 1]
    assert table["f"].isna().tolist() == [False, True, False, False]
    errors = run.table("errors").set_index("prompt")["error"]
    assert list(errors.index) == list(range(3, 14))
    for index, reason in {
        3: "the column i of values holds float64, not int64", 4: "the column f of values holds <U1",
        5: "the column s of values holds int, not texts", 6: "the column b of values holds float64",
        7: "gave ['b', 'f', 'i'], not", 8: "'z'", 9: "different lengths, [1, 2]", 10: "2 axes",
        11: "0 axes", 12: "gave NoneType", 13: "holds object, not int64",
    }.items():  # fmt: skip
        if index != 7:
            assert reason in errors[index]
    assert "not the columns ['b', 'f', 'i', 's']" in errors[7]
    assert len(run.table("stream_norms")) == 14 * 2


def test_whatever_a_study_raises_or_yields_stays_with_its_prompt(native, tmp_path):
    @study(columns={"x": "float64"})
    def breaks(run):
        if run.index == 1:
            raise KeyError("gone")
        if run.index == 2:
            yield "words"
        if run.index == 3:
            yield run.top(torch.ones(2, 5))
        if run.index == 4:
            yield run.other([99])
        if run.index == 5:
            yield run.read(torch.ones(2, 16), targets=torch.tensor([1, 2, 3]))
        if run.index == 6:
            yield run.top(run.resid_post, k=0)
        top = yield run.top(run.resid_post)
        return {"x": [float(top[0, 0])]}

    given = ["a b c"] * 8
    run = sweep(native, given, ["breaks", "top_of_blocks"], tmp_path / "run")
    errors = run.table("errors")
    assert list(errors["prompt"]) == [1, 2, 3, 4, 5, 6] and set(errors["study"]) == {"breaks"}
    assert errors["error"][0] == "KeyError: 'gone'"
    assert "yields str; a study yields run.top(vectors)" in errors["error"][1]
    assert list(run.table("breaks")["prompt"]) == [0, 7]
    alone = sweep(native, given, ["top_of_blocks"], tmp_path / "alone")
    assert_same(run, alone, ["top_of_blocks"])


def test_a_stack_that_prompts_share_is_read_for_the_target_of_each(native, tmp_path):
    @study(columns={"rank": "int64"})
    def weights(run):
        read = yield run.read(run.swept.shared("W_O", lambda: run.swept.W_O[0, 0]))
        return {"rank": read.target_ranks[:, 0]}

    given = [("a b", 3), ("a c", 4), ("a d", 5)]
    run = sweep(native, given, "weights", tmp_path / "run")
    assert_close(run.table("weights"), one_by_one(native, given, "weights")["weights"])


def test_only_correct_keeps_the_prompts_that_the_model_gets_right(native, tmp_path):
    predicted = [vt.flow_graph(native, p, heads=1, layers=[1]).target_id for p in prompts(8)]
    given = [(p, t if i % 2 else (t + 1) % 60) for i, (p, t) in
             enumerate(zip(prompts(8), predicted, strict=True))]  # fmt: skip
    run = sweep(native, given, "stream_norms", tmp_path / "run", only="correct")
    table = run.table("prompts")
    assert list(table["kept"]) == [bool(i % 2) for i in range(8)]
    assert list(table["predicted"]) == predicted and table["target_given"].all()
    assert sorted(set(run.table("stream_norms")["prompt"])) == [1, 3, 5, 7]
    assert run.summary("stream_norms")["share"].tolist() == [1.0, 1.0]
    with pytest.raises(vt.InputError, match="needs a target for every prompt; prompt 1 has none"):
        sweep(native, [("a", 3), "b"], "stream_norms", tmp_path / "b", only="correct")
    with pytest.raises(vt.InputError, match="'wrong' is not known; it is 'correct', or None"):
        sweep(native, given, "stream_norms", tmp_path / "b", only="wrong")
    assert not (tmp_path / "b").exists()


def test_studies_are_chosen_by_name_or_given(native, tmp_path):
    with pytest.raises(vt.InputError, match="there is no study 'heads_of'; there are .*heads_ov"):
        sweep(native, ["a"], "heads_of", tmp_path / "run")
    with pytest.raises(vt.InputError, match="no study was chosen"):
        sweep(native, ["a"], [], tmp_path / "run")
    with pytest.raises(vt.InputError, match="heads_ov was chosen twice"):
        sweep(native, ["a"], ["heads_ov", "heads_ov"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("columns", "by", "message"),
    [
        ({}, (), "has no columns"),
        ({"x": "int32"}, (), "the column 'x' of f is 'int32'; a column is one of int64"),
        ({"prompt": "int64"}, (), "has a name that the sweep or its summaries give"),
        ({"n": "int64"}, (), "has a name that the sweep or its summaries give"),
        ({"x": "float64", "x_se": "float64"}, (), "'x_se' of f has a name"),
        ({"x": "int64"}, ["y"], "summarised by 'y', which is no column"),
    ],
)
def test_columns_that_cannot_be_are_refused(columns, by, message):
    with pytest.raises(vt.InputError, match=message):
        study(columns=columns, by=by)(named("f"))


def named(name, function=lambda run: {}):
    function = (lambda made: lambda run: made(run))(function)
    function.__name__ = function.__qualname__ = name
    return function


def test_names_that_are_taken_are_refused():
    for name in ("prompts", "errors", "done", "<lambda>"):
        with pytest.raises(vt.InputError, match="is no name of a study"):
            study(columns={"x": "int64"})(named(name))
    with pytest.raises(vt.InputError, match="there is a study heads_ov in the package"):
        study(columns={"x": "int64"})(named("heads_ov"))
    with pytest.raises(vt.InputError, match="the option k of needs_k has no default"):

        @study(columns={"x": "int64"})
        def needs_k(run, k):
            return {"x": [k]}

    with pytest.raises(vt.InputError, match="takes no argument"):

        @study(columns={"x": "int64"})
        def takes_nothing():
            return {"x": [1]}


def test_a_study_is_pickled_by_its_name_with_its_options():
    few = chosen_studies("heads_ov")[0].having(k=3)
    again = pickle.loads(pickle.dumps(few))
    assert again == few and again.function is few.function and len(pickle.dumps(few)) < 300


def test_a_function_that_gives_a_model_is_called(tmp_path):
    run = sweep(lambda: made("native"), ["a b"], "stream_norms", tmp_path / "run")
    assert_same(run, sweep(made("native"), ["a b"], "stream_norms", tmp_path / "b"),
                ["stream_norms"])  # fmt: skip


def test_the_text_of_a_run_says_what_there_is(native, tmp_path):
    text = str(sweep(native, ["a", ""], "stream_norms", tmp_path / "run"))
    assert text.startswith("native: 2 prompts, 1 of 1 shards done\n  stream_norms")
    assert text.endswith("prompt 1: the prompt is empty; give at least one character to read")


def test_every_study_of_the_package_runs(native, tmp_path):
    names = list(vt.sweeps.studies())
    names = [n for n in names if vt.sweeps.studies()[n].function.__module__.startswith("visit_tl")]
    run = sweep(native, prompts(3), names, tmp_path / "run")
    assert len(run.table("errors")) == 0, run.table("errors")["error"].tolist()
    assert all(len(run.table(name)) for name in names)
