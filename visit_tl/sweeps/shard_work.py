"""What is done with a shard of prompts, here or on a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visit_tl.sweeps.measure import measure
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.prompt_sources import GivenPrompt, tokenised
from visit_tl.sweeps.registry import Study
from visit_tl.sweeps.run_folder import RunFolder
from visit_tl.sweeps.tables import tables_of

Failure = tuple[int, str, str]
"""A prompt, the study that failed on it (empty if the prompt itself did), and why."""


@dataclass(frozen=True)
class Job:
    """What is done with each shard.

    Attributes:
        studies: The studies.
        prepend_bos: As for `flow_graph`.
        only: `correct` keeps the prompts whose target the model predicts; None keeps all.
        out: The folder of the run.
    """

    studies: tuple[Study, ...]
    prepend_bos: bool | None
    only: str | None
    out: Path


def shards_of(n_prompts: int, per_shard: int) -> list[range]:
    """The prompts of each shard, neighbours in the file."""
    return [range(a, min(a + per_shard, n_prompts)) for a in range(0, n_prompts, per_shard)]


def run_shard(
    swept: SweptModel, job: Job, shard: int, prompts: Sequence[tuple[int, GivenPrompt]]
) -> list[Failure]:
    """Measure the prompts of a shard and write its tables; return what failed."""
    ready = tokenised(swept.view, prompts, job.prepend_bos)
    measured = measure(swept, ready, job.studies, only=job.only)
    tables = tables_of(measured, ready, list(job.studies))
    facts = {"prompts": [prompts[0][0], prompts[-1][0] + 1], "errors": len(measured.errors)}
    RunFolder(job.out).write_shard(shard, tables, facts)
    return measured.errors
