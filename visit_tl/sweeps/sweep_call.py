"""`sweep`: run studies over prompts, shard by shard."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken, Unchecked
from visit_tl.arguments.vocabulary import Count, File, Flag, Model, Whole
from visit_tl.errors import InputError
from visit_tl.sweeps.prompt_sources import GivenPrompt, given_prompts, hash_of
from visit_tl.sweeps.registry import chosen_studies
from visit_tl.sweeps.results import SweepRun, open_run
from visit_tl.sweeps.run_folder import RunFolder
from visit_tl.sweeps.shard_work import Here, Job, ShardPrompts, ShardTables, shards_of
from visit_tl.sweeps.tables import ERRORS, PROMPTS, arrow

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
        model: As for `flow_graph`, or a function without arguments that gives a model. With
            `engine`, each worker opens its own: pass a name or path, or such a function.
        prompts: The path of a file (`.jsonl`, `.csv` or `.parquet`) with a `prompt` and perhaps a
            `target` in each row; a list of texts, token ids, dicts or (prompt, target) pairs; a
            prompt set; facts; a table of pandas; or a dataset of Hugging Face. A target given as
            text is the first token of it, after a space.
        studies: One or several, by name or as made by `study`; see `vt.sweeps.studies()`.
        out: The folder of the run, or an address that fsspec opens, such as `s3://bucket/run`.
        prepend_bos: As for `flow_graph`.
        only: `correct` measures only the prompts whose target the model predicts.
        n: How many prompts at most, from the first on; None is all.
        per_shard: How many prompts are written together, and lost together if the run is killed.
        strict: Stop when a prompt fails, and name it. Its shard is not written; in a run that is
            continued, shards with failures are measured again.
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
        DecompositionError: the model does not come apart on a short prompt; see `flow_graph`.
        FileError: the folder is of another run, is in use, or cannot be written to; or the package
            for an address is not installed.
    """
    arrow()
    if only is not None and only not in ONLY:
        raise InputError(f"only={only!r} is not known; it is 'correct', or None for all prompts")
    job = Job(tuple(chosen_studies(studies)), prepend_bos, only)
    given = given_prompts(prompts, n)
    _check_prompts(given, only, strict)
    shards = shards_of(len(given), per_shard)
    folder = RunFolder(out)
    folder.check_free()
    with folder.locked():
        folder.check_free()
        if engine is None:
            opened = Here(model, job)
        else:
            from visit_tl.sweeps.ray_engine import OnRay

            opened = OnRay(
                model, job, address=engine, workers=min(workers, len(shards)), num_cpus=num_cpus,
                num_gpus=num_gpus,
            )  # fmt: skip
        with opened:
            folder.begin(_about(opened.about(), given, job, per_shard))
            done = folder.sound({PROMPTS, ERRORS, *(study.name for study in job.studies)})
            _measure_missing(folder, opened.results, given, shards, done, strict, verbose)
    return open_run(folder.path)


def _measure_missing(
    folder: RunFolder,
    measure: Callable[[Iterable[tuple[int, ShardPrompts]]], Iterator[tuple[int, ShardTables]]],
    given: Sequence[GivenPrompt],
    shards: Sequence[Sequence[int]],
    done: Mapping[int, int],
    strict: bool,
    verbose: bool,
) -> None:
    """Measure and write the shards that the folder does not hold.

    Args:
        folder: Where they are written.
        measure: Measures shards, in any order.
        given: All prompts.
        shards: The prompts of each shard.
        done: By shard that is written, how many of its prompts failed.
        strict: Stop when a prompt fails; what failed before is tried again.
        verbose: Show a progress bar.

    Raises:
        InputError: with `strict`, a prompt failed.
    """
    from tqdm.auto import tqdm

    missing = [i for i in range(len(shards)) if done.get(i, 1) and (strict or i not in done)]
    work = ((shard, [(i, given[i]) for i in shards[shard]]) for shard in missing)
    failed = sum(errors for i, errors in done.items() if i not in missing)
    before = len(given) - sum(len(shards[i]) for i in missing)
    with tqdm(
        total=len(given), initial=before, desc="prompts", unit="prompt", disable=not verbose
    ) as bar:
        for shard, measured in measure(work):
            if measured.errors and strict:
                raise InputError(_failed(*measured.errors[0]))
            folder.write_shard(shard, measured.files, len(measured.errors))
            failed += len(measured.errors)
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
            bar.update(len(shards[shard]))


def _check_prompts(given: Sequence[GivenPrompt], only: str | None, strict: bool) -> None:
    """Check what can be known of the prompts before a model is opened.

    Raises:
        InputError: a target is missing, or, with `strict`, a prompt cannot be read.
    """
    for i, one in enumerate(given):
        if one.error is not None and strict:
            raise InputError(_failed(i, "", one.error))
        if one.error is None and only is not None and one.target is None:
            raise InputError(f"only='correct' needs a target for every prompt; prompt {i} has none")


def _failed(index: int, study: str, reason: str) -> str:
    where = f"the study {study} of prompt {index}" if study else f"prompt {index}"
    return f"{where} failed: {reason}"


def _about(
    model: Mapping[str, Any], given: Sequence[GivenPrompt], job: Job, per_shard: int
) -> dict[str, Any]:
    """What the run is of; a run is continued only with the same."""
    return {
        **model,
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
                "code": study.code,
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
