"""Who chooses the kernel: the environment, a trial that is kept, or nobody for little work."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests import tiny
from visit_tl import InputError, ModelView
from visit_tl.lens import kernel_choice, kernel_store, kernel_trial
from visit_tl.lens import readout as lens
from visit_tl.lens.kernel import Kernel
from visit_tl.lens.kernel_choice import SETTING, USUAL, kernel_for
from visit_tl.lens.kernel_trial import Trial, compared

QUICK = Kernel("torch", 300, 700)
MANY = 10**9


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """A cache of its own, a small model that counts as a real one; how many trials there were."""
    monkeypatch.setenv("VISIT_TL_CACHE", str(tmp_path))
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(kernel_choice, "_NUMBERS", 0)
    done = []

    def trial(view, usual, threads):
        done.append(threads)
        return Trial(QUICK, {QUICK: 1.0}, True)

    monkeypatch.setattr(kernel_choice, "trial", trial)
    kernel_choice.forget()
    yield done
    kernel_choice.forget()


@pytest.fixture
def view():
    return ModelView(tiny.native())


def kept(tmp_path):
    (path,) = (tmp_path / "kernels").glob("*.json")
    return path


def test_a_trial_is_done_once_and_kept_for_other_processes(trials, view, tmp_path):
    assert kernel_for(view, MANY).kernel == QUICK
    assert kernel_for(view, 1).kernel == QUICK, "what is known is taken for little work too"
    kernel_choice.forget()
    assert "earlier" in kernel_for(view, 1).reason
    assert len(trials) == 1
    record = json.loads(kept(tmp_path).read_text())
    assert record["kernel"] == "torch:300x700"
    assert set(record["machine"]) == {"processor", "threads", "torch"}


def test_little_work_and_small_models_do_not_wait_for_a_trial(trials, view, tmp_path, monkeypatch):
    assert kernel_for(view, 1).kernel == USUAL
    monkeypatch.setattr(kernel_choice, "_NUMBERS", 2**22)
    assert kernel_for(view, MANY).kernel == USUAL
    assert kernel_for(view).kernel == USUAL
    assert not trials and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[1]",
        '{"format": 1}',
        "\xff",
        '{"format": 99, "machine": MACHINE, "kernel": "torch:1x1"}',
        '{"format": 1, "machine": {}, "kernel": "torch:1x1"}',
        '{"format": 1, "machine": MACHINE, "kernel": "torch:0x1"}',
        '{"format": 1, "machine": MACHINE, "kernel": 7}',
        '{"format": 1, "machine": MACHINE, "kernel": "abacus:1x1"}',
    ],
)
def test_a_corrupt_file_is_made_anew(content, trials, view, tmp_path):
    kernel_for(view, MANY)
    path = kept(tmp_path)
    right = path.read_bytes()
    machine = json.dumps(kernel_choice.machine())
    path.write_text(content.replace("MACHINE", machine), encoding="latin-1")
    kernel_choice.forget()
    assert kernel_for(view, MANY).kernel == QUICK
    assert len(trials) == 2 and path.read_bytes() == right


@pytest.mark.parametrize("what", ["a file is in the way", "nothing can be replaced", "no home"])
def test_where_nothing_can_be_written_the_choice_stays_in_memory(
    what, trials, view, tmp_path, monkeypatch
):
    def denied(*_):
        raise PermissionError("read-only")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    if what == "a file is in the way":
        (tmp_path / "kernels").write_text("not a folder")
    elif what == "no home":
        monkeypatch.setattr(kernel_store, "cache_root", homeless)
    else:
        monkeypatch.setattr(os, "replace", denied)
    for _ in range(3):
        assert kernel_for(view, MANY).kernel == QUICK
    assert len(trials) == 1
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == (["kernels"] if what == "a file is in the way" else [])


def test_another_number_of_threads_is_another_choice(trials, view, monkeypatch):
    for threads in (1, 3, 1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        kernel_for(view, MANY)
    assert trials == [1, 3]


def test_a_trial_that_was_cut_short_is_not_kept(trials, view, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_choice, "trial", lambda *_: Trial(QUICK, {QUICK: 1.0}, False))
    chosen = kernel_for(view, MANY)
    assert chosen.kernel == USUAL and "busy" in chosen.reason
    assert kernel_for(view, 1) == chosen and not list(tmp_path.iterdir())


def test_a_kernel_of_another_build_of_torch_is_not_taken(trials, view, monkeypatch):
    monkeypatch.setattr(kernel_choice, "ways", lambda *_: ("torch",))
    kernel_store.save(kernel_choice.machine(), Kernel("onednn", 5, 5))
    assert kernel_for(view, MANY).kernel == QUICK


def test_two_processes_that_write_at_once_never_show_half_a_file(tmp_path):
    work = (
        "from visit_tl.lens import kernel_store as s; from visit_tl.lens.kernel import Kernel\n"
        "for i in range(1, 100):\n"
        "    s.save({'a': 1}, Kernel('torch', i, i)); found = s.load({'a': 1})\n"
        "    assert found is not None and found.rows == found.columns\n"
    )
    env = {**os.environ, "VISIT_TL_CACHE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", work], env=env) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list((tmp_path / "kernels").iterdir())) == 1


def test_the_environment_goes_before_all_else(trials, view, monkeypatch):
    kernel_for(view, MANY)
    monkeypatch.setenv(SETTING, "torch:3x4")
    chosen = kernel_for(view, MANY)
    assert chosen.kernel == Kernel("torch", 3, 4) and SETTING in chosen.reason
    assert str(chosen).startswith("torch:3x4 (")


@pytest.mark.parametrize(
    "text", ["torch", "torch:256", "torch:0x5", "torch:-1x5", "magic:2x2", " "]
)
def test_what_the_environment_cannot_say_is_refused(text, view, monkeypatch):
    monkeypatch.setenv(SETTING, text)
    with pytest.raises(InputError, match=rf"{SETTING}: .* such as torch:256x4096"):
        lens.read(view, torch.zeros(1, view.d_model))


# --- the trial -----------------------------------------------------------------------------------


def run(costs, seconds=None, monkeypatch=None):
    """A trial of kernels that take so long for a vector, in turns, and how often each was tried."""
    kernels = [Kernel("torch", 10, i + 1) for i in range(len(costs))]
    now, tried = [0.0], [0] * len(costs)

    def reader(kernel):
        def read(turn):
            i = kernel.columns - 1
            cost = costs[i][min(turn, len(costs[i]) - 1)]
            tried[i] += 1
            now[0] += cost * kernel.rows

        return read

    found = compared(kernels, reader, lambda: now[0])
    return kernels.index(found.kernel), tried, found


def test_the_quickest_is_found_though_its_first_time_was_slow():
    which, tried, found = run([[0.001], [0.003, 0.0005], [0.002]])
    assert which == 1 and found.complete
    assert tried[2] == 2, "what is far behind is left out from the third round on"


def test_the_usual_kernel_stays_unless_another_is_clearly_quicker():
    assert run([[0.001], [0.00099]])[0] == 0
    assert run([[0.001], [0.0009]])[0] == 1


def test_a_trial_ends_when_its_time_is_over():
    which, tried, found = run([[0.05], [0.04], [0.01], [0.001]])
    assert tried == [1, 1, 0, 0] and not found.complete and which == 1
    assert sum(found.seconds[k] * 10 for k in found.seconds) <= kernel_trial.SECONDS + 0.5


def test_a_trial_on_a_model_tries_every_way_and_changes_no_state(monkeypatch):
    view = ModelView(tiny.native(d_vocab=9001))
    monkeypatch.setattr(kernel_trial, "SECONDS", 1e9)
    monkeypatch.setattr(kernel_trial, "_ROUNDS", 2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = kernel_trial.trial(view, USUAL, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.complete and found.kernel in found.seconds
    assert {kernel.way for kernel in found.seconds} == {
        *kernel_trial.ways(torch.device("cpu"), torch.float32)
    }
    higher = kernel_trial.candidates(view, 8)
    assert max(k.rows for k in higher) == 2 * max(k.rows for k in found.seconds)
