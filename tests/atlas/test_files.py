"""Sheets on disk: whole or absent, checked when they are read, and no more of them than asked."""

import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save

import visit_tl as vt
from visit_tl import ModelView
from visit_tl.atlas import files
from visit_tl.atlas.row_cache import open_atlas
from visit_tl.cache_dir import CacheWarning


@pytest.fixture
def made(native, kept):
    """A graph, and the file that it left."""
    graph = vt.flow_graph(native, "a b c a", target="b")
    (path,) = kept.glob("*/*.safetensors")
    return graph, path


def folder(native):
    return open_atlas(ModelView(native), 5).kept


def again(native):
    return vt.flow_graph(native, "a b c a", target="b")


def tampered(path, change):
    """The file with other numbers, and a sum that fits them."""
    arrays = load(path.read_bytes())
    with safe_open(path, "np") as file:
        about = file.metadata()
    change(arrays, about)
    about["sha256"] = files._sum(arrays)
    path.write_bytes(save(arrays, about))


def without(name):
    return lambda arrays, about: arrays.pop(name)


def put(name, at, value):
    def change(arrays, about):
        arrays[name] = arrays[name].copy()
        arrays[name][at] = value

    return change


def cast(name, dtype):
    return lambda arrays, about: arrays.update({name: arrays[name].astype(dtype)})


def cut(name):
    return lambda arrays, about: arrays.update({name: arrays[name][:-1].copy()})


@pytest.mark.parametrize(
    "change",
    [
        without("entropy"),
        without("places"),
        put("top_ids", 0, 60),
        put("bottom_ids", 0, -1),
        put("target_ranks", 0, 60),
        put("top_probs", 0, np.nan),
        put("log_normaliser", 0, np.inf),
        put("places", 0, -1),
        put("places", -1, 10**9),
        put("places", 1, 0),
        cast("target_ranks", np.int64),
        cut("entropy"),
        lambda arrays, about: about.update(target="9"),
        lambda arrays, about: about.update(format="visit_tl atlas 0"),
    ],
)
def test_a_file_that_is_not_ours_is_read_anew_with_a_word(native, made, forget, change):
    graph, path = made
    tampered(path, change)
    forget()
    with pytest.warns(CacheWarning, match="not a sheet of the atlas, or is damaged"):
        assert again(native) == graph
    forget()
    assert again(native) == graph  # and without a word


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 1000])
def test_a_file_that_was_cut_off_is_read_anew_with_a_word(native, made, forget, size):
    graph, path = made
    path.write_bytes(path.read_bytes()[:size])
    forget()
    with pytest.warns(CacheWarning, match=path.name):
        assert again(native) == graph


def test_a_flipped_bit_is_seen(native, made, forget):
    graph, path = made
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    forget()
    with pytest.warns(CacheWarning, match="do not match its checksum"):
        assert again(native) == graph


@pytest.mark.parametrize("data", [b"\x80\x04", b'{"a": 1}' * 9, b"\xff" * 64, b"\x10" + b"\0" * 40])
def test_what_is_no_safetensors_file_is_read_anew_with_a_word(native, made, forget, data):
    graph, path = made
    path.write_bytes(data)
    forget()
    with pytest.warns(CacheWarning):
        assert again(native) == graph


def test_two_that_learn_at_once_both_keep_what_they_learnt(native, made):
    target = int(made[1].stem)
    place = folder(native)
    whole = place.load(target)
    parts = [
        files.Sheet(
            whole.places[i::2],
            whole.digests[i::2],
            {name: column[i::2] for name, column in whole.columns.items()},
        )
        for i in (0, 1)
    ]
    made[1].unlink()
    threads = [threading.Thread(target=place.save, args=(target, part)) for part in parts * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = place.load(target)
    np.testing.assert_array_equal(found.places, whole.places)
    np.testing.assert_array_equal(found.columns["target_ranks"], whole.columns["target_ranks"])
    assert [p.suffix for p in place.path.iterdir()] == [".safetensors"]


def test_processes_share_what_they_learn(native, made, forget, reads, tmp_path):
    graph, path = made
    before = path.read_bytes()
    code = (
        "import visit_tl as vt; from tests import tiny; from visit_tl.atlas import row_cache\n"
        "row_cache._WORTH = 0\n"
        "vt.flow_graph(tiny.native(), 'c c b', target='b')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
    assert len(load(path.read_bytes())["places"]) > len(load(before)["places"])
    forget()
    other = vt.flow_graph(native, "c c b", target="b")
    assert reads[-1] == len(other) - sum(node.id.neuron is not None for node in other)


def test_a_cache_that_cannot_be_written_to_is_said_once_and_harms_no_graph(
    native, kept, monkeypatch, recwarn
):
    kept.parent.joinpath("atlas").write_text("a file where a folder should be")
    graph = vt.flow_graph(native, "a b c a", target="b")
    vt.flow_graph(native, "a b c a", target="c")
    monkeypatch.setenv("VISIT_TL_ATLAS", "off")
    assert again(native) == graph
    said = [str(w.message) for w in recwarn if w.category is CacheWarning]
    assert len(said) == 1 and "VISIT_TL_ATLAS=memory" in said[0]


def test_what_was_not_used_for_longest_goes_when_there_is_too_much(native, kept):
    for i, target in enumerate(("a", "b", "c")):
        vt.flow_graph(native, "a b c a", target=target)
        for path in kept.glob("*/*.safetensors"):
            if path.stat().st_mtime > 1000:
                os.utime(path, (i, i))
    sizes = {p.stat().st_mtime: p.stat().st_size for p in kept.glob("*/*.safetensors")}
    assert sorted(sizes) == [0, 1, 2]
    files.trim(sizes[1] + sizes[2])
    assert sorted(p.stat().st_mtime for p in kept.glob("*/*.safetensors")) == [1, 2]
    files.trim(0)
    assert not list(kept.glob("*/*.safetensors"))


def test_reading_a_file_makes_it_used(native, made, forget):
    os.utime(made[1], (1, 1))
    forget()
    again(native)
    assert made[1].stat().st_mtime > 1


def test_info_names_models_and_clear_removes_them(native, made, kept):
    (about,) = vt.atlas.info()
    assert about.model == "native" and about.targets == 1
    assert about.nbytes == made[1].stat().st_size
    assert vt.atlas.clear() == about.nbytes
    assert not kept.exists() and vt.atlas.info() == []
    assert vt.atlas.clear() == 0


def test_info_and_clear_leave_what_they_do_not_know(native, made, kept):
    (kept / "notes.txt").write_text("mine")
    (made[1].parent / "0.safetensors").write_bytes(b"nothing")
    assert [about.model for about in vt.atlas.info()] == ["native, unknown"]


def test_only_memory_is_used_when_that_is_asked(native, kept, monkeypatch):
    monkeypatch.setenv("VISIT_TL_ATLAS", "memory")
    again(native)
    assert not kept.exists()


def test_a_sheet_is_private_to_its_owner_as_the_cache_is(made):
    assert not made[1].stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
