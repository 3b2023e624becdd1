"""Tiles divided among threads: the same readout, and torch's number of threads as it was."""

import threading

import pytest
import torch

from tests import tiny
from visit_tl import InputError, ModelView
from visit_tl.lens import readout as lens
from visit_tl.lens import threads
from visit_tl.lens.kernel import Kernel
from visit_tl.lens.kernel_choice import SETTING
from visit_tl.lens.kernel_trial import candidates
from visit_tl.lens.product import LEAST, ways

WAYS = ways(torch.device("cpu"), torch.float32)
TARGETS = [0, 2999, 17]


@pytest.fixture(params=[2, 3])
def several(request):
    """Torch with several threads, as it is in use; tests run with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def view():
    return ModelView(tiny.native(d_vocab=3001))


def vectors(view, n):
    return torch.randn(n, view.d_model, generator=torch.Generator().manual_seed(n)) * 2


@pytest.mark.parametrize("n", [1, 63, 128, 129, 500, 1000])
@pytest.mark.parametrize("tile", ["256x2048", "64x700", "7x3001"])
@pytest.mark.parametrize("way", WAYS)
def test_the_readout_is_that_of_one_thread(view, several, way, tile, n, monkeypatch):
    x = vectors(view, n)
    monkeypatch.setenv(SETTING, f"{way}:{tile}")
    whole = lens.read(view, x, TARGETS)
    monkeypatch.setenv(SETTING, f"{way}:{tile}:threads")
    divided = lens.read(view, x, TARGETS)
    assert torch.equal(divided.target_ranks, whole.target_ranks)
    assert torch.equal(divided.target_logits, whole.target_logits)
    for name in ("top_probs", "bottom_probs", "entropy", "log_normaliser", "target_probs"):
        ours, theirs = getattr(divided, name), getattr(whole, name)
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_reads_in_every_mode(view, several, mode, monkeypatch):
    monkeypatch.setenv(SETTING, "torch:256x2048:threads")
    with mode():
        assert lens.read(view, vectors(view, 500), TARGETS).target_ranks.shape == (500, 3)


def test_each_part_of_the_work_has_a_thread_of_its_own_and_torch_one_for_each(several):
    seen, together = [], threading.Barrier(several, timeout=20)

    def work(items):
        together.wait()
        seen.append((list(items), torch.get_num_threads(), torch.is_grad_enabled()))

    threads.side_by_side(work, list(range(7)))
    parts = sorted(items for items, _, _ in seen)
    assert parts == [list(range(7))[i::several] for i in range(several)]
    assert {(count, grad) for _, count, grad in seen} == {(1, False)}


def test_an_error_in_a_thread_is_raised_and_the_number_of_threads_is_set_back(several):
    def work(items):
        raise InputError(f"no {items[0]}")

    with pytest.raises(InputError, match="no 0"):
        threads.side_by_side(work, [0, 1, 2, 3])
    assert torch.get_num_threads() == several


def test_calls_from_two_threads_at_once_leave_the_number_of_threads_as_it_was(view, several):
    go = threading.Barrier(2, timeout=20)
    done = []

    def work(items):
        done.extend(items)

    def call():
        go.wait()
        for _ in range(50):
            threads.side_by_side(work, [0, 1])

    calls = [threading.Thread(target=call) for _ in range(2)]
    for one in calls:
        one.start()
    for one in calls:
        one.join()
    assert len(done) == 200
    assert torch.get_num_threads() == several


def test_with_one_thread_or_one_item_the_work_is_done_here():
    here = []

    def work(items):
        here.append((threading.current_thread() is threading.main_thread(), list(items)))

    before = torch.get_num_threads()
    try:
        for count, items in ((1, [1, 2]), (2, [1])):
            torch.set_num_threads(count)
            threads.side_by_side(work, items)
    finally:
        torch.set_num_threads(before)
    assert here == [(True, [1, 2]), (True, [1])]


def test_few_vectors_are_not_divided(several):
    assert threads.workers_for(several * LEAST - 1, LEAST) == 1
    assert threads.workers_for(several * LEAST, LEAST) == several


def test_kernels_with_threads_are_tried_where_there_are_several(view):
    assert not any(kernel.threads for kernel in candidates(view, 1))
    assert any(kernel.threads for kernel in candidates(view, 2))
    assert not any(kernel.threads for kernel in candidates(view, threads.MOST + 1))


@pytest.mark.parametrize("text", ["torch:256x2048:threads", "onednn:7x9:threads", "torch:1x1"])
def test_a_kernel_is_read_as_it_is_printed(text):
    assert str(Kernel.parse(text)) == text


@pytest.mark.parametrize("text", ["torch:256x2048:", "torch:256x2048:thread", "torch:2x2:threads2"])
def test_another_ending_is_refused(text):
    with pytest.raises(InputError, match="is not a kernel"):
        Kernel.parse(text)
