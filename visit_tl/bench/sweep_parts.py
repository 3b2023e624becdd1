"""The measurements of sweeps: studies beside what they need at least, growth, memory, workers."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from visit_tl.bench.parts import Measurements, random_vectors
from visit_tl.bench.report import Figure, Timing
from visit_tl.lens.product import ways
from visit_tl.memory import peak_of
from visit_tl.model.view import ModelView
from visit_tl.sweeps.measure import SweptPrompt, measure
from visit_tl.sweeps.prompt_run import PromptRun, SweptModel
from visit_tl.sweeps.prompt_sources import given_prompts
from visit_tl.sweeps.registry import Study, chosen_studies
from visit_tl.sweeps.run_folder import RunFolder
from visit_tl.sweeps.shard_work import Job, Worker, shards_of
from visit_tl.sweeps.sweep_call import PER_SHARD, sweep

READING: Final = ("heads_ov", "top_heads", "memory_values_top3", "target_by_head")
"""Studies that read vectors as words, and are held against the product of these."""
_AT_ONCE: Final = 2048
"""Vectors of one product: those of all prompts together would take gigabytes of logits."""
_WORKERS: Final = 2


def studies_timed(measured: Measurements, n: int) -> Iterator[Timing]:
    """Time studies of n prompts of one length, which are run together.

    Those without a vocabulary are held against the forward pass alone, the others against it and
    the product of the vectors that they read. All take turns, since the speed of a machine varies.
    """
    view, model = measured.view, measured.model
    swept, prompts = SweptModel(view), of_one_length(measured, n)
    tokens = torch.tensor([p.token_ids for p in prompts], device=view.W_U.device)
    reads = vectors_read(view, tokens.shape[1])

    def forward() -> object:
        with torch.no_grad():
            return model(tokens)

    works: dict[str, Callable[[], object]] = {"forward": forward}
    for study in (_NORMS, *chosen_studies(READING)):
        works[study.name] = lambda study=study: measure(swept, prompts, [study])
    for name, vectors in reads.items():
        for way, work in _products(view, vectors * n).items():
            works[f"{name}, {way}"] = work
    found = measured.time_in_turns(works)
    what = f"forward pass, {n} prompts of {tokens.shape[1]} tokens together"
    yield Timing("sweeps", what, found["forward"])
    plain = found[_NORMS.name]
    yield Timing("sweeps", "norms of the stream, without the vocabulary", plain)
    measured.figures.append(
        Figure("study without the vocabulary / forward", plain / found["forward"])
    )
    for name, vectors in reads.items():
        product = min(seconds for what, seconds in found.items() if what.startswith(f"{name}, "))
        what = f"product of {vectors * n} vectors of {name}, quickest"
        yield Timing("sweeps", what, product, product)
        yield Timing("sweeps", name, found[name], product)
        ratio = found[name] / (found["forward"] + product)
        measured.figures.append(Figure(f"{name} / (forward + product)", ratio))


def growth(measured: Measurements, counts: Sequence[int]) -> Iterator[Timing]:
    """Time shards of `heads_ov` by number of prompts, tables included, and their peak memory."""
    if find_spec("pyarrow") is None:
        return
    worker = Worker(measured.model, Job(tuple(chosen_studies("heads_ov")), None, None))
    worker.run([(0, given_prompts(measured.many(1))[0])])
    each: list[float] = []
    for count in counts:
        given = list(enumerate(given_prompts(measured.many(count))))
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(place)

            def work(given: Any = given, folder: RunFolder = folder) -> None:
                for shard, part in enumerate(shards_of(len(given), PER_SHARD)):
                    made = worker.run([given[i] for i in part])
                    folder.write_shard(shard, made.files, len(made.errors))

            start = time.perf_counter()
            peak = peak_of(work, measured.view.W_U.device)[1]
            seconds = time.perf_counter() - start
        yield Timing("sweeps", f"heads_ov of {count} prompts, with its tables", seconds, None, peak)
        each.append(seconds / count)
        if count == counts[-1] and peak is not None:
            what = f"sweep of {count} prompts: peak memory"
            measured.figures.append(Figure(what, peak / 2**20, "MB"))
    if len(counts) > 1:
        what = f"sweep: a prompt of {counts[-1]} / one of {counts[0]}"
        measured.figures.append(Figure(what, each[-1] / each[0]))


def two_workers(measured: Measurements, model: Any, count: int) -> Iterator[Timing]:
    """Time two workers of Ray, and two plain processes with half of the prompts each.

    Each has one thread and opens the model itself, which is included.

    Args:
        measured: The measurements.
        model: What a worker opens: a name, a path, or a function that gives a model.
        count: How many prompts.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        return
    prompts = measured.many(count)
    halves = [prompts[: count // _WORKERS], prompts[count // _WORKERS :]]
    best: dict[str, float] = {}
    for _ in range(min(2, measured.repeats)):
        for what, work in (
            ("two workers of Ray", lambda place: _on_ray(model, prompts, place)),
            ("two plain processes", lambda place: _plainly(model, halves, place)),
        ):
            with tempfile.TemporaryDirectory() as place:
                start = time.perf_counter()
                work(place)
                seconds = time.perf_counter() - start
            best[what] = min(best.get(what, seconds), seconds)
    for what, seconds in best.items():
        yield Timing("sweeps", f"heads_ov of {count} prompts, {what}", seconds)
    ray, plain = best.values()
    measured.figures.append(Figure("throughput of two workers of Ray / two processes", plain / ray))


def vectors_read(view: ModelView, n_tokens: int) -> dict[str, int]:
    """How many vectors each study of `READING` reads as words for a prompt."""
    layers, heads = view.n_layers, view.n_layers * view.n_heads
    states = 2 * layers  # the attention's output and the block's
    return {
        "heads_ov": heads + states,
        "top_heads": layers * min(3, view.n_heads) + states,
        "memory_values_top3": heads * min(3, n_tokens) + heads,
        "target_by_head": heads,
    }


def of_one_length(measured: Measurements, n: int) -> list[SweptPrompt]:
    """Different prompts, cut to the length of the shortest."""
    many = measured.many(n)
    shortest = min(len(ids) for ids in many)
    return [SweptPrompt(i, "", tuple(ids[:shortest])) for i, ids in enumerate(many)]


def _norms(run: PromptRun) -> Mapping[str, Any]:
    return {"layer": run.layers, "norm": torch.linalg.vector_norm(run.resid_post, dim=-1)}


_NORMS: Final = Study("stream_norms", _norms, {"layer": "int64", "norm": "float64"}, ())


def _products(view: ModelView, n: int) -> dict[str, Callable[[], object]]:
    """The product of n vectors with the unembedding, by each method available here."""
    parts = random_vectors(view, n).split(_AT_ONCE)
    weights = view.W_U.to(parts[0].dtype)
    found: dict[str, Callable[[], object]] = {"torch": lambda: [len(x @ weights) for x in parts]}
    if "onednn" in ways(weights.device, weights.dtype):
        columns = weights.T.contiguous().to_mkldnn()
        rows = [x.to_mkldnn() for x in parts]
        found["onednn"] = lambda: [functional.linear(x, columns).shape for x in rows]
    return found


def _on_ray(model: Any, prompts: Sequence[Sequence[int]], place: str) -> None:
    sweep(
        model, prompts, "heads_ov", Path(place) / "run", per_shard=8, engine="ray",
        workers=_WORKERS, verbose=False,
    )  # fmt: skip


def _plainly(model: Any, halves: Sequence[Sequence[Sequence[int]]], place: str) -> None:
    context = multiprocessing.get_context("spawn")
    threads, os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS"), "1"
    try:
        running = [
            context.Process(target=_half, args=(model, half, str(Path(place) / str(i))))
            for i, half in enumerate(halves)
        ]
        for one in running:
            one.start()
        for one in running:
            one.join()
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    if codes := [one.exitcode for one in running if one.exitcode]:
        raise RuntimeError(f"a process that was timed ended with {codes[0]}")


def _half(model: Any, prompts: Sequence[Sequence[int]], out: str) -> None:
    torch.set_num_threads(1)
    sweep(model, prompts, "heads_ov", out, per_shard=8, verbose=False)
