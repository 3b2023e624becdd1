"""`sweep`: run studies over prompts, shard by shard."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken, Unchecked
from visit_tl.arguments.vocabulary import Count, File, Flag, Model, Whole
from visit_tl.causal.patching.progress_file import fingerprint
from visit_tl.errors import InputError
from visit_tl.model.view import ModelView
from visit_tl.sweeps.prompt_run import SweptModel
from visit_tl.sweeps.prompt_sources import GivenPrompt, given_prompts, hash_of
from visit_tl.sweeps.registry import chosen_studies
from visit_tl.sweeps.results import SweepRun, open_run
from visit_tl.sweeps.run_folder import RunFolder
from visit_tl.sweeps.shard_work import Failure, Job, run_shard, shards_of
from visit_tl.sweeps.tables import arrow

PER_SHARD: Final = 64
ONLY: Final = ("correct",)
_LIBRARIES: Final = ("visit-tl", "torch", "transformer-lens", "transformers", "numpy", "pyarrow")

Prompts = Annotated[Any, Unchecked("given_prompts says what prompts are")]
Studies = Annotated[Any, Unchecked("chosen_studies says which study there is not")]
Only = Annotated[str, Taken("'correct'", "'correct'", classes=(str,))]
Engine = Annotated[str, Taken("'ray', or the address of a Ray cluster", "'ray'", classes=(str,))]


@checked
def sweep(
    model: Model,
    prompts: Prompts,
    studies: Studies,
    out: File,
    *,
    prepend_bos: Flag | None = None,
    only: Only | None = None,
    n: Count | None = None,
    per_shard: Count = PER_SHARD,
    strict: Flag = False,
    engine: Engine | None = None,
    workers: Count = 1,
    num_cpus: Count = 1,
    num_gpus: Whole = 0,
    verbose: Flag = True,
) -> SweepRun:
    """Measure studies on every prompt, in a folder that can be continued at any moment.

    Prompts are run in batches of one length. Their rows are written as Parquet tables, a shard of
    prompts at a time. If the folder holds a part of the same run, only what is missing is measured;
    the tables are the same. A prompt that cannot be run is a row of the table `errors`.

    Args:
        model: As for `flow_graph`. With `engine`, each worker opens its own: pass a name or path,
            or a function without arguments that gives a model.
        prompts: The path of a file (`.jsonl`, `.csv` or `.parquet`) with a `prompt` and perhaps a
            `target` in each row; a list of texts, token ids, dicts or (prompt, target) pairs; a
            prompt set; facts; or a dataset of Hugging Face.
        studies: One or several, by name or as made by `study`; see `vt.sweeps.studies()`.
        out: The folder of the run.
        prepend_bos: As for `flow_graph`.
        only: `correct` measures only the prompts whose target the model predicts.
        n: How many prompts at most, from the first on; None is all.
        per_shard: How many prompts are written together, and lost together if the run is killed.
        strict: Stop at the first prompt that fails.
        engine: None runs here; `ray`, or the address of a cluster, runs on workers of Ray.
        workers: With `engine`, how many workers, each with a model.
        num_cpus: With `engine`, processors of a worker, which are also its threads.
        num_gpus: With `engine`, GPUs of a worker.
        verbose: Show a progress bar.

    Returns:
        The run, whose tables are read when they are asked for.

    Raises:
        InputError: there are no prompts or no such study, or pyarrow or Ray is not installed; with
            `strict`, a prompt failed.
        FileError: the folder is of another run, is in use, or cannot be written to.
    """
    from tqdm.auto import tqdm

    arrow()
    if only is not None and only not in ONLY:
        raise InputError(f"only={only!r} is not known; it is 'correct', or None for all prompts")
    chosen = chosen_studies(studies)
    given = given_prompts(prompts)[:n]
    if only is not None and any(p.target is None for p in given if p.error is None):
        raise InputError("only='correct' needs a target for every prompt; one has none")
    job = Job(tuple(chosen), prepend_bos, only, Path(out))
    folder, shards = RunFolder(out), shards_of(len(given), per_shard)
    with folder.locked():
        results: Iterator[tuple[int, list[Failure]]]
        if engine is None:
            view = ModelView(model)
            folder.begin(_about(view, given, job, per_shard))
            missing = [i for i in range(len(shards)) if i not in folder.done()]
            results = _here(SweptModel(view), job, shards, missing, given)
        else:
            from visit_tl.sweeps.ray_engine import ray_results

            view = ModelView(model() if callable(model) and not hasattr(model, "cfg") else model)
            folder.begin(_about(view, given, job, per_shard))
            missing = [i for i in range(len(shards)) if i not in folder.done()]
            results = ray_results(
                model, job, shards, missing, given, address=engine, workers=workers,
                num_cpus=num_cpus, num_gpus=num_gpus,
            )  # fmt: skip
        before = sum(len(shard) for i, shard in enumerate(shards) if i not in missing)
        bar = tqdm(
            total=len(given), initial=before, desc="prompts", unit="prompt", disable=not verbose
        )
        with bar:
            for shard, errors in results:
                bar.update(len(shards[shard]))
                if errors and strict:
                    index, study, reason = errors[0]
                    where = f"the study {study} of prompt {index}" if study else f"prompt {index}"
                    raise InputError(f"{where} failed: {reason}")
    return open_run(out)


def _here(
    swept: SweptModel,
    job: Job,
    shards: Sequence[range],
    missing: Sequence[int],
    given: Sequence[GivenPrompt],
) -> Iterator[tuple[int, list[Failure]]]:
    for shard in missing:
        yield shard, run_shard(swept, job, shard, [(i, given[i]) for i in shards[shard]])


def _about(
    view: ModelView, given: Sequence[GivenPrompt], job: Job, per_shard: int
) -> dict[str, Any]:
    """What the run is of; a run is continued only with the same."""
    return {
        "model": view.name,
        "weights": fingerprint(view),
        "adapters": list(view.adapters.names),
        "prompts": hash_of(given),
        "n_prompts": len(given),
        "per_shard": per_shard,
        "n_shards": len(shards_of(len(given), per_shard)),
        "prepend_bos": job.prepend_bos,
        "only": job.only,
        "studies": {
            study.name: {
                "options": dict(study.options),
                "columns": dict(study.columns),
                "by": list(study.by),
                "source": study.source,
            }
            for study in job.studies
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
