"""Time the package on this machine with one model, in one run, as ratios.

Times are compared with the product of as many vectors with the unembedding, by the quickest method
there is. Every readout needs at least this product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from visit_tl.bench.feature_parts import sae_features
from visit_tl.bench.gradient_parts import gradients
from visit_tl.bench.lens_parts import through_lens
from visit_tl.bench.parts import Measurements, in_memory
from visit_tl.bench.report import Bench, Timing
from visit_tl.bench.sweep_parts import growth, studies_timed, two_workers
from visit_tl.errors import InputError
from visit_tl.lens.kernel_choice import kernel_for
from visit_tl.lens.machine import processor
from visit_tl.model.view import ModelView

VOCABULARIES: Final = (262_144,)
STUDIED: Final = 4
"""Prompts of which each study is timed."""
SWEPT: Final = (4, 16)
"""Numbers of prompts of which the cost of each is compared."""


def bench(
    model: Any,
    *,
    vectors: int = 3600,
    repeats: int = 3,
    prompts: Sequence[int] = (1, 16),
    vocabularies: Sequence[int] = VOCABULARIES,
    sweeps: Sequence[int] = SWEPT,
    workers: Any = None,
    verbose: bool = True,
) -> Bench:
    """Time all that reads or patches a model, and what it is compared with.

    Args:
        model: As for `flow_graph`.
        vectors: How many vectors the readouts read.
        repeats: How often each measurement is repeated; the quickest counts.
        prompts: The numbers of prompts for which graphs are timed.
        vocabularies: Sizes of further vocabularies, with random weights of the model's width.
        sweeps: The numbers of prompts for which sweeps are timed.
        workers: What two workers of Ray open: the name or path of a model, or a function that gives
            one. None leaves them out.
        verbose: Show a progress bar.

    Returns:
        One row per measurement; ratios compare only times measured in this run.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: a number below 1.
    """
    from tqdm.auto import tqdm

    for name, number in (("vectors", vectors), ("repeats", repeats)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    view = ModelView(model)
    # Choosing a kernel may time a few of them; that is done before the measurements.
    kernel = kernel_for(view)
    measured = Measurements(view, vectors, repeats)
    jobs = [
        measured.own_readout(),
        *(measured.vocabulary(n) for n in vocabularies),
        measured.graph(),
        measured.layers(),
        measured.positions(),
        measured.prompts(prompts),
        measured.sweep(),
        gradients(measured),
        through_lens(measured),
        sae_features(measured),
        studies_timed(measured, STUDIED),
        growth(measured, sweeps),
        *([] if workers is None else [two_workers(measured, workers, max(sweeps))]),
    ]
    rows: list[Timing] = []
    # Readouts that other processes left on disk would change the measurements.
    with in_memory():
        for job in tqdm(jobs, desc="bench", disable=not verbose):
            rows += job
    return Bench(_machine(view), str(kernel), tuple(measured.figures), tuple(rows))


def _machine(view: ModelView) -> str:
    from importlib.metadata import version

    device = view.W_U.device
    dtype = str(view.W_U.dtype).removeprefix("torch.")
    name = f"{processor()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda}) beside {name}"
    return (
        f"{view.name}, {dtype}, on {name}; torch {torch.__version__}, "
        f"TransformerLens {version('transformer-lens')}"
    )
