"""Whatever goes wrong, a folder is continued to the same tables, or refused by name."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.sweeps.swept import STUDIES, files_of, prompts, study, sweep
from visit_tl.sweeps.registry import chosen_studies
from visit_tl.sweeps.run_folder import RunFolder

pytest.importorskip("pyarrow")
GIVEN = prompts(9)


def of(model, out, given=GIVEN, studies=STUDIES, **options):
    return sweep(model, given, studies, out, **{"per_shard": 2, **options})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path):
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.killed", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["kills"], found["code"], found["same"]) == (20, 0, True)
    assert "another process runs a sweep in" in found["refused"] and found["free"]


def test_a_model_that_does_not_come_apart_is_not_measured(native, tmp_path):
    handle = native.blocks[1].mlp.register_forward_hook(lambda module, args, output: output * 2)
    try:
        with pytest.raises(vt.DecompositionError, match=r"block 1 of native does not come apart"):
            of(native, tmp_path / "run")
    finally:
        handle.remove()
    assert not vt.sweeps.open(tmp_path / "run").complete
    assert of(native, tmp_path / "run").complete


def test_a_run_that_stopped_measures_only_what_is_missing(native, tmp_path, monkeypatch):
    whole = of(native, tmp_path / "whole")
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_shard", stopping(RunFolder.write_shard, after=2))
        with pytest.raises(KeyboardInterrupt):
            of(native, out)
    run = vt.sweeps.open(out)
    assert not run.complete and len(run.table("prompts")) == 4
    seen = []
    hook = ("hook_embed", lambda embedded, hook: seen.extend(range(len(embedded))))
    with native.hooks([hook]):
        of(native, out)
    assert len(seen) == 6  # five prompts, and the trial of the laws
    assert files_of(run) == files_of(whole)
    with native.hooks([hook]):
        of(native, out)
    assert len(seen) == 6  # five prompts, and the trial of the laws


def stopping(write, after):
    def stop(self, shard, *rest):
        if shard == after:
            raise KeyboardInterrupt
        return write(self, shard, *rest)

    return stop


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (cut, "heads_ov/00001.parquet"), (flip, "heads_ov/00001.parquet"),
        (Path.unlink, "prompts/00001.parquet"), (Path.unlink, "done/00001.json"),
        (cut, "done/00001.json"), (lambda f: f.write_text("[]"), "done/00001.json"),
        (lambda f: f.write_text('{"tables": {}, "errors": 0}'), "done/00001.json"),
        (lambda f: f.write_text('{"tables": {"prompts": 3}, "errors": 0}'), "done/00001.json"),
        (lambda f: f.write_bytes(b"\0" * 50), "done/00001.json"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_measured_again(native, tmp_path, damage, name):
    run = of(native, tmp_path / "run")
    before = files_of(run)
    damage(run.path / name)
    assert files_of(run) != before
    of(native, run.path)
    assert files_of(run) == before


def test_half_written_files_are_removed(native, tmp_path):
    run = of(native, tmp_path / "run")
    for name in ("heads_ov/.00001.parquet.x8f2", "done/.00001.json.q3"):
        (run.path / name).write_bytes(b"half")
    of(native, run.path)
    assert not list(run.path.glob("*/.0*"))


def test_another_run_is_refused_by_name(native, tmp_path):
    out = tmp_path / "run"
    before = files_of(of(native, out))
    others = {
        "weights": lambda: of(tiny.native(seed=1), out),
        "prompts": lambda: of(native, out, [*GIVEN[:-1], "e e e e"]),
        "per_shard is 2, this one's is 3": lambda: of(native, out, per_shard=3),
        "prepend_bos is None, this one's is False": lambda: of(native, out, prepend_bos=False),
        "only is None, this one's is 'correct'": lambda: of(
            native, out, [(p, 3) for p in GIVEN], only="correct"
        ),
        r"studies.heads_ov.options.k is 50, this one's is 20": lambda: of(
            native, out, studies=[chosen_studies("heads_ov")[0].having(k=20), *STUDIES[:2]]
        ),
        r"studies.heads_ov is \{.*\}, this one's is None": lambda: of(
            native, out, studies=STUDIES[:2]
        ),
        "studies.head_effects is None": lambda: of(native, out, studies=[*STUDIES, "head_effects"]),
    }
    for name, call in others.items():
        with pytest.raises(
            vt.FileError, match="is of another run: its .*name a new folder"
        ) as error:
            call()
        assert error.match("prompts" if "only" in name else name)
    assert files_of(vt.sweeps.open(out)) == before


def test_a_study_whose_code_changed_is_refused(native, tmp_path):
    def measured(add):
        if add:

            def own(run):
                return {"x": [run.n_tokens + 1]}
        else:

            def own(run):
                """With a docstring."""
                return {"x": [run.n_tokens]}  # and a comment

        return study(columns={"x": "int64"})(own)  # fmt: skip

    of(native, tmp_path / "run", studies=[measured(False)])
    of(native, tmp_path / "run", studies=[measured(False)])
    with pytest.raises(vt.FileError, match=r"its studies\.own\.code is"):
        of(native, tmp_path / "run", studies=[measured(True)])


def test_a_folder_with_other_files_is_left_as_it_is(native, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(vt.FileError, match=r"holds other files \(thesis.tex\); name an empty or"):
        of(native, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(vt.FileError, match=r"thesis\.tex is no folder: Not a directory"):
        of(native, tmp_path / "thesis.tex")
    with pytest.raises(vt.FileError, match="is no folder of a run: it has no manifest.json"):
        vt.sweeps.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "visit_tl sweep run 1"}', "\0"])
def test_a_damaged_manifest_is_named(native, tmp_path, content):
    run = of(native, tmp_path / "run")
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(vt.FileError, match="manifest"):
        vt.sweeps.open(run.path)
    with pytest.raises(vt.FileError, match="manifest|another run"):
        of(native, run.path)


def test_a_damaged_table_is_named_when_it_is_read(native, tmp_path):
    run = of(native, tmp_path / "run")
    for file in (run.path / "heads_ov").iterdir():
        file.write_bytes(b"x" * file.stat().st_size)
    for read in (run.table, run.summary, run.dataset):
        with pytest.raises(vt.FileError, match="the table heads_ov of .* cannot be read"):
            read("heads_ov")
    assert len(run.table("stream_norms")) == 18


@pytest.mark.parametrize("call", ["replace", "fdopen"])
def test_a_full_disk_stops_with_its_reason_and_the_run_goes_on_later(
    native, tmp_path, monkeypatch, call
):
    whole, out = of(native, tmp_path / "whole"), tmp_path / "run"
    real, calls = getattr(os, call), []

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) > 9 and ".lock" not in str(args):
            if call == "fdopen":
                return Full(real(*args, **kwargs))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(vt.FileError, match="cannot be written: No space left on device"):
            of(native, out)
    assert 0 < len(vt.sweeps.open(out).table("prompts")) < 9
    assert files_of(of(native, out)) == files_of(whole)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs /proc")
def test_a_folder_that_cannot_be_written_to_is_named(native, tmp_path):
    for out in ("/proc/run", tmp_path / "closed" / "run"):
        (tmp_path / "closed").mkdir(exist_ok=True)
        (tmp_path / "closed").chmod(0o500)
        if os.geteuid() == 0 and str(out) != "/proc/run":
            continue  # may write anywhere
        with pytest.raises(vt.FileError, match=r"run (cannot be written to|is no folder): "):
            of(native, out)


def test_two_at_once_are_refused_by_name(native, tmp_path):
    run = of(native, tmp_path / "run")
    with run.folder.locked(), pytest.raises(vt.FileError, match="another process runs a sweep in"):
        of(native, run.path)
    of(native, run.path)


# --- prompts that cannot be measured ---------------------------------------------------------

BROKEN = {
    1: ("", "the prompt is empty"), 3: ("a " * 40, "but native has a context of 32"),
    4: ([1, 99], "token id 99 is outside 0..59"), 5: (("a b", [3]), "a target is a text or an id"),
    6: (("a b", 99), "token id 99 is outside"), 7: (3.5, "is a text or token ids, got 3.5"),
    8: ({"words": "a"}, "a row has no prompt or text; it has ['words']"),
    9: ("a \ud800", "is half a surrogate pair"), 10: (("a", " "), "the target ' ' is empty"),
}  # fmt: skip


def test_broken_prompts_are_rows_of_errors_and_their_mates_are_measured(native, tmp_path):
    given = [BROKEN[i][0] if i in BROKEN else "a b c" for i in range(13)]
    run = of(native, tmp_path / "run", given)
    errors = run.table("errors")
    assert list(errors["prompt"]) == list(BROKEN) and set(errors["study"]) == {""}
    for error, (_, reason) in zip(errors["error"], BROKEN.values(), strict=True):
        assert reason in error
    table = run.table("prompts")
    assert list(table["prompt"]) == list(range(13))
    assert set(table["prompt"][table["kept"]]) == set(range(13)) - set(BROKEN)
    assert set(run.table("heads_ov")["prompt"]) == set(range(13)) - set(BROKEN)
    for index, (prompt, reason) in BROKEN.items():
        with pytest.raises(vt.InputError) as error:
            of(native, tmp_path / f"strict {index}", ["a", prompt, "b"], strict=True)
        assert str(error.value).startswith("prompt 1 failed: ") and reason in str(error.value)


def test_strict_measures_shards_with_failures_again(native, tmp_path):
    @study(columns={"x": "int64"})
    def sometimes(run):
        if run.index == 5 and fails:
            raise ValueError("not now")
        return {"x": [1]}

    fails = True
    run = of(native, tmp_path / "run", studies=[sometimes])
    assert run.complete and list(run.table("errors")["prompt"]) == [5]
    with pytest.raises(vt.InputError, match="the study sometimes of prompt 5 failed: ValueError"):
        of(native, run.path, studies=[sometimes], strict=True)
    assert run.complete
    fails = False
    of(native, run.path, studies=[sometimes])
    assert list(run.table("errors")["prompt"]) == [5]
    of(native, run.path, studies=[sometimes], strict=True)
    assert len(run.table("errors")) == 0 and list(run.table("sometimes")["prompt"]) == list(
        range(9)
    )


def test_a_prompt_whose_run_is_not_a_number_leaves_its_mates_alone(native, tmp_path):
    given = ["a b c", "b b c", "c b c", "d b c"] * 2

    def spoil(value, hook):
        if len(value) == 1:  # the trial of the laws
            return value
        return torch.where(spoilt[:, None, None], torch.nan, value)

    spoilt = torch.tensor([False, True, False, False] * 2)
    clean = of(native, tmp_path / "clean", given, per_shard=8)
    with native.hooks([("blocks.0.hook_resid_post", spoil)]):
        run = of(native, tmp_path / "run", given, per_shard=8)
    assert list(run.table("errors")["prompt"]) == [1, 5]
    assert set(run.table("errors")["error"]) == {"the logits of the model are not finite"}
    for name in ("stream_norms", "heads_ov"):
        table = clean.table(name)
        kept = table[~table["prompt"].isin([1, 5])].reset_index(drop=True)
        assert kept.equals(run.table(name))


def test_a_prompt_that_breaks_the_run_of_all_is_run_alone(native, tmp_path):
    given = ["a b c", "b b c", "c b c"]

    own = native.W_E[native.to_tokens("b b c")[0, 1]]

    def refuse_b(embedded, hook):
        if (embedded[:, 1] == own).all(-1).any():
            raise RuntimeError("no b")

    with native.hooks([("hook_embed", refuse_b)]):
        run = of(native, tmp_path / "run", given, per_shard=3)
    assert run.table("errors").to_numpy().tolist() == [[1, "", "RuntimeError: no b"]]
    assert set(run.table("heads_ov")["prompt"]) == {0, 2}


@pytest.mark.parametrize(
    "error", [MemoryError("none left"), RuntimeError("CUDA error: unspecified launch failure")]
)
def test_what_is_no_fault_of_a_prompt_stops_the_run(native, tmp_path, error):
    @study(columns={"x": "int64"})
    def unlucky(run):
        if run.index == 4:
            raise error
        return {"x": [1]}

    with pytest.raises(type(error), match=str(error)):
        of(native, tmp_path / "run", studies=[unlucky])
    assert len(vt.sweeps.open(tmp_path / "run").table("prompts")) == 4


def test_without_pyarrow_it_says_what_to_install(native, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(vt.InputError, match=r"needs pyarrow: pip install 'visit-tl\[parquet\]'"):
        of(native, tmp_path / "run")
    assert not (tmp_path / "run").exists()
