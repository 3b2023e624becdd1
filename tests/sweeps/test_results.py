"""Tables and summaries, against twins that pandas makes of all rows at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import visit_tl as vt
from tests.sweeps.swept import prompts, study, sweep
from visit_tl.sweeps.summaries import Moments

pytest.importorskip("pyarrow")
NUMBERS = ["x", "y"]


@study(
    columns={"layer": "int64", "word": "string", "x": "float64", "y": "float64", "big": "bool"},
    by=["layer"],
)
def drawn(run):
    """Random rows, of which some are not a number, some prompts have none, and sizes differ."""
    draw = np.random.RandomState(run.index)
    n = draw.randint(0, 9)
    x = draw.standard_normal(n)
    x[draw.rand(n) < 0.3] = np.nan
    words = [None if w == "c" else w for w in draw.choice(list("abc"), n)]
    y = 1e6 + 1e-3 * draw.standard_normal(n)  # cancels in a sum of squares
    return {"layer": draw.randint(0, 3, n), "word": words, "x": x, "y": y, "big": y > 1e6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tests.conftest import made

    return sweep(made("native"), prompts(41), ["drawn", "heads_ov"],
                 tmp_path_factory.mktemp("sweep") / "run", per_shard=4)  # fmt: skip


def twin(table, by, numbers, measured):
    """First the mean over the rows of a prompt, then mean and standard error over prompts."""
    rows = []
    table = table.assign(**{b: table[b].astype(object).where(table[b].notna(), None) for b in by})
    keys = list(dict.fromkeys(zip(*(table[b] for b in by), strict=True))) if by else [()]
    for key in keys:
        own = table
        for name, value in zip(by, key, strict=True):
            own = own[own[name].isna() if value is None else own[name] == value]
        row = dict(zip(by, key, strict=True))
        row |= {"n": own["prompt"].nunique(), "share": own["prompt"].nunique() / measured}
        for name in numbers:
            means = [part[name].astype(float).mean() for _, part in own.groupby("prompt")]
            means = [mean for mean in means if not np.isnan(mean)]
            row[name] = np.mean(means) if means else np.nan
            row[f"{name}_se"] = np.std(means, ddof=1) / len(means) ** 0.5 if means[1:] else np.nan
        rows.append(row)
    return pd.DataFrame(rows).sort_values(by, ignore_index=True) if by else pd.DataFrame(rows)


@pytest.mark.parametrize("by", [None, ["layer"], ["layer", "word"], ["word"], [], ["big", "layer"]])
def test_a_summary_is_its_twin(run, by):
    groups = ["layer"] if by is None else by
    numbers = [name for name in ("x", "y", "big") if name not in groups]
    found = run.summary("drawn", by)
    wanted = twin(run.table("drawn"), groups, numbers, 41)
    assert list(found.columns) == list(wanted.columns)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-7, atol=1e-12)


def test_a_summary_of_a_study_of_the_package(run):
    found = run.summary("heads_ov")
    wanted = twin(run.table("heads_ov"), ["layer"], ["attn", "block", "final"], 41)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    assert found["layer"].dtype == "int64"


def test_one_prompt_has_no_standard_error(native, tmp_path):
    found = sweep(native, ["a b"], "stream_norms", tmp_path / "run").summary("stream_norms")
    assert found["n"].tolist() == [1, 1] and found["norm"].notna().all()
    assert found["norm_se"].isna().all()


def test_a_study_without_rows_has_a_summary_without_rows(native, tmp_path):
    @study(columns={"layer": "int64", "x": "float64"}, by=["layer"])
    def nothing(run):
        return {"layer": [], "x": []}

    run = sweep(native, ["a", "b"], "nothing", tmp_path / "run", per_shard=1)
    found = run.summary("nothing")
    assert list(found.columns) == ["layer", "n", "share", "x", "x_se"] and len(found) == 0
    assert len(run.summary("nothing", [])) == 0


def test_a_study_without_numbers_is_counted(native, tmp_path):
    @study(columns={"word": "string"}, by=["word"])
    def words(run):
        return {"word": [run.text, "all", "all"]}

    found = sweep(native, ["a", "b", "a"], "words", tmp_path / "run").summary("words")
    assert found.to_numpy().tolist() == [["a", 2, 2 / 3], ["all", 3, 1.0], ["b", 1, 1 / 3]]


def test_one_shard_is_in_memory_at_a_time(run, monkeypatch):
    seen, add = [], Moments.add
    monkeypatch.setattr(
        Moments, "add", lambda self, frame: (seen.append(len(frame)), add(self, frame))
    )
    run.summary("heads_ov")
    assert len(seen) == 11 and max(seen) == 4 * 8


def test_the_tables_of_every_run_have_summaries_too(run):
    assert run.summary("prompts", [])["kept"].tolist() == [1.0]
    assert len(run.summary("errors")) == 0


def test_what_is_not_there_is_named(run):
    with pytest.raises(vt.InputError, match="this run has no table 'x'; it has prompts, errors, "):
        run.table("x")
    with pytest.raises(vt.InputError, match="drawn has no column 'z'; it has layer, word"):
        run.summary("drawn", ["z"])


def test_a_run_is_opened_again_and_read_in_parts(run):
    again = vt.sweeps.open(run.path)
    assert again == run and again.complete and again.studies == ("drawn", "heads_ov")
    part = again.dataset("heads_ov").to_table(columns=["final"]).to_pandas()
    assert part["final"].equals(run.table("heads_ov")["final"])
    assert again.about["versions"]["visit-tl"] == vt.__version__
