"""What is done with a shard of prompts, here or on a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visit_tl.causal.patching.progress_file import fingerprint
from visit_tl.model.view import ModelView
from visit_tl.sweeps.measure import measure
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.prompt_sources import GivenPrompt, tokenised
from visit_tl.sweeps.registry import Study
from visit_tl.sweeps.tables import tables_of
from visit_tl.xray.law_trial import require_laws

Failure = tuple[int, str, str]
"""A prompt, the study that failed on it (empty if the prompt itself did), and why."""
ShardPrompts = Sequence[tuple[int, GivenPrompt]]
"""The prompts of a shard, each with its place in the file."""


@dataclass(frozen=True)
class Job:
    """What is done with each shard.

    Attributes:
        studies: The studies.
        prepend_bos: As for `flow_graph`.
        only: `correct` keeps the prompts whose target the model predicts; None keeps all.
    """

    studies: tuple[Study, ...]
    prepend_bos: bool | None
    only: str | None


@dataclass(frozen=True)
class ShardTables:
    """What was measured in a shard.

    Attributes:
        files: The tables as Parquet files, by name.
        errors: What failed, in the order of the prompts.
    """

    files: dict[str, bytes]
    errors: list[Failure]


class Worker:
    """A model, and the shards that are run on it.

    Args:
        model: A model, its name, or a function without arguments that gives one.
        job: What is done with each shard.
    """

    def __init__(self, model: Any, job: Job) -> None:
        self.swept = SweptModel(ModelView(model() if makes_model(model) else model))
        self.job, self._tried = job, False

    def about(self) -> dict[str, Any]:
        """What model it has."""
        view = self.swept.view
        return {
            "model": view.name,
            "weights": fingerprint(view),
            "dtype": str(view.W_U.dtype).removeprefix("torch."),
            "adapters": list(view.adapters.names),
        }

    def run(self, prompts: ShardPrompts) -> ShardTables:
        """Measure a shard.

        Raises:
            DecompositionError: the model does not come apart.
            ModelError: it cannot be taken apart.
        """
        if not self._tried:
            # A graph measures the laws of its own run; a sweep measures them once, before all.
            require_laws(self.swept.view)
            self._tried = True
        ready = tokenised(self.swept.view, prompts, self.job.prepend_bos)
        measured = measure(self.swept, ready, self.job.studies, only=self.job.only)
        files = tables_of(measured, ready, list(self.job.studies))
        return ShardTables(files, sorted(measured.errors))


class Here:
    """The engine that measures one shard after the other in this process."""

    def __init__(self, model: Any, job: Job) -> None:
        self._worker = Worker(model, job)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def about(self) -> dict[str, Any]:
        """What model it has."""
        return self._worker.about()

    def results(
        self, work: Iterable[tuple[int, ShardPrompts]]
    ) -> Iterator[tuple[int, ShardTables]]:
        """Measure shards; yields each as it is done."""
        for shard, prompts in work:
            yield shard, self._worker.run(prompts)


def makes_model(model: Any) -> bool:
    """Whether something is a function that gives a model, and not a model."""
    is_model = isinstance(model, torch.nn.Module) or hasattr(model, "cfg")
    return isinstance(model, Callable) and not is_model


def shards_of(n_prompts: int, per_shard: int) -> list[range]:
    """The prompts of each shard, neighbours in the file."""
    return [range(a, min(a + per_shard, n_prompts)) for a in range(0, n_prompts, per_shard)]
