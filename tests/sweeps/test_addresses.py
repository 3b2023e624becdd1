"""Runs at addresses of fsspec: the files of a run here, whatever happens on the way."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

import visit_tl as vt
from tests.conftest import made
from tests.sweeps.swept import STUDIES, assert_same, files_of, prompts, sweep
from visit_tl.sweeps.run_files import LocalFiles, RemoteFiles, run_files

pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

GIVEN = [*prompts(8), ""]
OUT = "memory://visit_tl_tests/a run [1]/of 9"


class Failing(MemoryFileSystem):
    """Half of a file is kept when a write fails; listings are kept, as those of S3 are."""

    protocol = "failing"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    listings: ClassVar[dict] = {}
    left = killed = lost = None

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("failing://", "memory://"))

    def pipe_file(self, path, value, **kwargs):
        cls = type(self)
        if cls.left is not None:
            cls.left -= 1
        if cls.left is not None and cls.left < 0:
            super().pipe_file(path, value[: len(value) // 2])
            raise KeyboardInterrupt if cls.killed else ConnectionError("the line is cut")
        super().pipe_file(path, value)

    def ls(self, path, detail=True, **kwargs):
        if path not in self.listings:
            self.listings[path] = super().ls(path, detail=detail)
        return self.listings[path]

    def invalidate_cache(self, path=None):
        self.listings.clear()

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.lost and self.lost in path:
            raise PermissionError(f"403: {path}")
        return super().cat_file(path, start, end)


fsspec.register_implementation("failing", Failing, clobber=True)


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch):
    for kind in (MemoryFileSystem, Failing):
        monkeypatch.setattr(kind, "store", {})
        monkeypatch.setattr(kind, "pseudo_dirs", [""])
    monkeypatch.setattr(Failing, "left", None)
    monkeypatch.setattr(Failing, "killed", None)
    monkeypatch.setattr(Failing, "lost", None)
    Failing.listings.clear()


def of(model, out, **options):
    return sweep(model, GIVEN, STUDIES, out, **{"per_shard": 2, **options})


def held(run):
    """The bytes of all files of a run at an address, by name."""
    files, root = run.folder.filesystem, run.folder._files._root
    files.invalidate_cache()
    return {file[len(root) + 1 :]: files.cat_file(file) for file in files.find(root)}


def without_manifest(files):
    return {name: content for name, content in files.items() if name != "manifest.json"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return of(made("native"), tmp_path_factory.mktemp("sweep") / "here")


@pytest.mark.parametrize("out", [OUT, "failing://bucket/run/"])
def test_a_run_at_an_address_is_that_of_a_folder(native, here, out):
    run = of(native, out)
    assert run.path == out and run.complete and run == vt.sweeps.open(out)
    assert without_manifest(held(run)) == files_of(here)
    assert held(run)["manifest.json"] == (here.path / "manifest.json").read_bytes()
    assert_same(run, here)
    part = run.dataset("heads_ov").to_table(columns=["final"]).to_pandas()
    assert part["final"].equals(here.table("heads_ov")["final"])
    pd.testing.assert_frame_equal(run.summary("heads_ov"), here.summary("heads_ov"))
    assert run.figure("heads_ov").to_json() == here.figure("heads_ov").to_json()
    assert str(run) == str(here) and "prompt 8: the prompt is empty" in str(run)


def test_an_address_of_this_machine_is_its_folder(native, here, tmp_path):
    run = of(native, f"file://{tmp_path}/run")
    assert run.path == tmp_path / "run" and isinstance(run.path, Path)
    assert files_of(run) == files_of(here)
    assert isinstance(run.folder._files, LocalFiles) and (run.path / ".lock").exists()
    with run.folder.locked(), pytest.raises(vt.FileError, match="another process runs a sweep in"):
        of(native, f"file://{tmp_path}/run")


def test_a_filesystem_with_folders_gets_them(native, here, tmp_path):
    class Folders(LocalFileSystem):
        protocol = "folders"
        auto_mkdir = False

    fsspec.register_implementation("folders", Folders, clobber=True)
    files = RemoteFiles("folders://run", Folders(), f"{tmp_path}/run")
    for name in ("manifest.json", "heads_ov/00000.parquet"):
        files.write(name, b"12345")
        assert (tmp_path / "run" / name).read_bytes() == files.read(name) == b"12345"
    assert files.sizes("heads_ov") == {"00000.parquet": 5} and files.sizes("done") == {}
    assert files.names() == ["heads_ov", "manifest.json"]
    files = RemoteFiles("folders://run", Folders(), f"{tmp_path}/absent/run")
    with pytest.raises(vt.FileError, match=r"folders://run/x cannot be written: FileNotFoundError"):
        files.write("x", b"")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("writes", [0, 1, 2, 6, 7, 8])
def test_a_write_that_fails_in_the_middle_is_measured_again(
    native, here, monkeypatch, writes, killed
):
    """Five tables and a mark make a shard; before them come the note and the manifest."""
    out = "failing://bucket/run"
    with monkeypatch.context() as patched:
        patched.setattr(Failing, "left", writes)
        patched.setattr(Failing, "killed", killed)
        if killed:  # nothing is put in order any more
            patched.setattr(Failing, "rm_file", lambda self, path: None)
        expected = (KeyboardInterrupt, None) if killed else (vt.FileError, "the line is cut")
        with pytest.raises(expected[0], match=expected[1]):
            of(native, out)
    assert writes < 2 or len(vt.sweeps.open(out).folder.done()) == (writes - 2) // 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if killed else "error")  # the note is still there
        if killed and writes == 1:
            with pytest.raises(vt.FileError, match=r"manifest.json cannot be read: .*; remove it"):
                of(native, out)
        else:
            assert without_manifest(held(of(native, out))) == files_of(here)


def test_what_is_there_is_not_measured_again(native, here, monkeypatch):
    run = of(native, OUT)
    seen = []
    hook = ("hook_embed", lambda embedded, hook: seen.extend(range(len(embedded))))
    with native.hooks([hook]):
        of(native, OUT)
        assert seen == []
        run.folder.filesystem.rm_file(run.folder._files.path("done/00001.json"))
        assert not vt.sweeps.open(OUT).complete
        of(native, OUT)
        assert len(seen) == 3  # two prompts, and the trial of the laws
    path = run.folder._files.path("heads_ov/00002.parquet")
    content = bytearray(run.folder.filesystem.cat_file(path))
    content[len(content) // 2] ^= 255
    run.folder.filesystem.pipe_file(path, bytes(content))
    assert without_manifest(held(run)) != files_of(here)
    assert without_manifest(held(of(native, OUT))) == files_of(here)


def test_who_finds_the_note_of_another_sweep_is_warned(native):
    run = of(native, OUT)
    warned = rf"process {os.getpid()} of .* began a sweep in memory:.* stop one of the two"
    with run.folder.locked():
        note = json.loads(run.folder._files.read(".lock"))
        with pytest.warns(UserWarning, match=warned):
            of(native, OUT)
    assert set(note) == {"host", "process", "began"}
    run.folder._files.write(".lock", b"not JSON")
    with pytest.warns(UserWarning, match="another process began a sweep in"):
        of(native, OUT)
    assert not run.folder._files.exists(".lock")
    with run.folder.locked():
        run.folder._files.write(".lock", b"of another")
    assert run.folder._files.read(".lock") == b"of another"


def test_other_files_and_other_runs_are_refused(native):
    of(native, OUT)
    with pytest.raises(vt.FileError, match=r"memory://.* is of another run: its per_shard is 2"):
        of(native, OUT, per_shard=3)
    with pytest.raises(vt.FileError, match=r"holds other files \(of 9\); name an empty or new"):
        of(native, OUT.rpartition("/")[0])
    with pytest.raises(vt.FileError, match=r"manifest.json is no folder"):
        of(native, f"{OUT}/manifest.json")
    with pytest.raises(vt.FileError, match="memory://none is no folder of a run: it has no"):
        vt.sweeps.open("memory://none")


def test_what_cannot_be_reached_is_no_run_that_is_not_there(native, monkeypatch):
    run = of(native, "failing://bucket/run")
    for lost in ("manifest.json", "done/", "heads_ov/"):
        monkeypatch.setattr(Failing, "lost", lost)
        with pytest.raises(
            vt.FileError, match=r"failing://bucket/run cannot be reached: Perm.*403"
        ):
            of(native, run.path)


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("abc://x/y", "abc://x/y cannot be opened: ValueError: Protocol not known: abc"),
        ("needs://x/y", "needs://x/y needs a package that is not installed: Install needsfs"),
        (Path("memory://x/y"), "memory:/x/y was an address before it was a Path"),
    ],
)
def test_addresses_that_cannot_be_opened_are_named(native, monkeypatch, out, reason):
    known = {"class": "needsfs.Files", "err": "Install needsfs"}
    monkeypatch.setitem(known_implementations, "needs", known)
    for call in (lambda: of(native, out), lambda: vt.sweeps.open(out)):
        with pytest.raises(vt.FileError, match=re.escape(reason)):
            call()


def test_a_folder_of_this_machine_may_have_any_name(tmp_path):
    for name in ("a:b", "a: b", "c"):
        assert run_files(tmp_path / name).place == tmp_path / name
    assert run_files("a:/b").place == Path("a:/b")


def test_the_command_line_takes_addresses(native, here, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from visit_tl.cli import sweep as commands
    from visit_tl.cli.command import app

    monkeypatch.setattr(commands, "_opened", lambda *_: native)
    lines = [json.dumps({"prompt": prompt}) for prompt in GIVEN]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    options = ["--prompts", str(tmp_path / "prompts.jsonl"), "--study", ",".join(STUDIES)]
    done = CliRunner().invoke(app, ["sweep", *options, "--out", OUT, "--per-shard", "2"])
    assert done.exit_code == 0 and f"wrote {OUT}" in done.output, done.output
    assert_same(vt.sweeps.open(OUT), here)
    done = CliRunner().invoke(app, ["summary", OUT, "--study", "heads_ov", "--csv"])
    assert done.exit_code == 0
    assert done.output == here.summary("heads_ov").to_csv(index=False)
