"""Shards on workers of Ray, each with a model of its own.

Ray decides where workers live, starts them again when they die and gives them their shards again.
What is here: how workers are asked for, and how many shards wait. Tables come back to the process
that called, and it alone writes: the workers need no common folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import PicklingError
from typing import Any, Final

from visit_tl.errors import InputError, ModelError, VisitError
from visit_tl.sweeps.shard_work import Job, ShardPrompts, ShardTables, Worker, makes_model

_RETRIES: Final = 3
"""How often a shard is measured again after its worker died: the fourth time, it is to blame."""
_WAITING: Final = 2
"""Shards that wait at each worker, so that it never idles and few are lost with it."""
_OBJECTS: Final = 256 * 2**20
"""Bytes for tables on their way; Ray would take a third of the memory."""


class OnRay:
    """The engine that measures shards on workers of Ray.

    Args:
        model: The name or path of a model, or a function that gives one.
        job: What is done with each shard.
        address: `ray` starts Ray on this machine, unless it is running in this process; else the
            address of a cluster.
        workers: How many workers.
        num_cpus: Processors of a worker, which are also its threads.
        num_gpus: GPUs of a worker.

    Raises:
        InputError: Ray is not installed, the model cannot be sent to workers, or there is no such
            cluster, or it is too small.
    """

    def __init__(
        self, model: Any, job: Job, *, address: str, workers: int, num_cpus: int, num_gpus: int
    ) -> None:
        if not isinstance(model, str | Path) and not makes_model(model):
            raise InputError(
                f"each worker opens a model of its own, and {type(model).__name__} cannot be sent "
                f"to it; pass the name or path that load_model takes, or a function without "
                f"arguments that gives the model"
            )
        self._ray = _ray()
        self._opened_here = not self._ray.is_initialized()
        if self._opened_here:
            _start(self._ray, address, workers * num_cpus)
        self._pool: list[Any] = []
        try:
            self._check_size(workers, num_cpus, num_gpus)
            actor = self._ray.remote(
                num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, max_task_retries=_RETRIES
            )(_RayWorker)
            try:
                self._pool = [actor.remote(model, job, num_cpus) for _ in range(workers)]
            except (TypeError, PicklingError) as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(
                    f"a study, or the function that gives the model, cannot be sent to workers: "
                    f"{reason}"
                ) from error
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._pool:
            self._ray.kill(worker)
        if self._opened_here:
            self._ray.shutdown()

    def about(self) -> dict[str, Any]:
        """What model the workers have.

        Raises:
            ModelError: they have different ones.
        """
        one, *others = [self._get(worker.about.remote(), "") for worker in self._pool]
        for other in others:
            if differ := [name for name in one if one[name] != other[name]]:
                raise ModelError(
                    f"two workers opened different models: their {differ[0]} differ; a function "
                    f"that gives a model must give the same each time"
                )
        return one

    def results(
        self, work: Iterable[tuple[int, ShardPrompts]]
    ) -> Iterator[tuple[int, ShardTables]]:
        """Measure shards; yields each as it is done, in whatever order."""
        waiting: dict[Any, tuple[int, str, Any]] = {}
        rest = iter(work)

        def give(worker: Any) -> None:
            if (one := next(rest, None)) is not None:
                shard, prompts = one
                where = f" in the prompts {prompts[0][0]} to {prompts[-1][0]}"
                waiting[worker.run.remote(prompts)] = shard, where, worker

        for _ in range(_WAITING):
            for worker in self._pool:
                give(worker)
        while waiting:
            (ready,), _ = self._ray.wait(list(waiting), num_returns=1)
            shard, where, worker = waiting.pop(ready)
            measured = self._get(ready, where)
            give(worker)
            yield shard, measured

    def _get(self, ready: Any, where: str) -> Any:
        """What a worker made; its errors are raised here."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ready)
        except errors.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, VisitError) else error from None
        except errors.RayError as error:
            raise VisitError(
                f"a worker died{where}, and again when they were given to it again: "
                f"{' '.join(str(error).split())[:500]}. Without engine, the same prompts show why"
            ) from error

    def _check_size(self, workers: int, num_cpus: int, num_gpus: int) -> None:
        there = self._ray.cluster_resources()
        for name, each in (("CPU", num_cpus), ("GPU", num_gpus)):
            if (total := there.get(name, 0)) < workers * each:
                raise InputError(
                    f"{workers} workers with {each} {name}s each need {workers * each}, and Ray "
                    f"has {total:g}; ask for fewer"
                )


class _RayWorker:
    """A worker in its own process; the model is opened at the first call, so that errors tell."""

    def __init__(self, model: Any, job: Job, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._given = model, job
        self._worker: Worker | None = None

    def about(self) -> dict[str, Any]:
        return self._open().about()

    def run(self, prompts: ShardPrompts) -> ShardTables:
        return self._open().run(prompts)

    def _open(self) -> Worker:
        self._worker = self._worker or Worker(*self._given)
        return self._worker


def _start(ray: Any, address: str, num_cpus: int) -> None:
    """Start Ray on this machine, or join a cluster.

    Raises:
        InputError: there is no cluster at the address.
    """
    if address == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=_OBJECTS,
        )
        return
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"there is no Ray cluster at {address!r}: {' '.join(str(error).split())[:300]}; "
            f"engine='ray' starts one on this machine"
        ) from error


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "engine='ray' needs Ray: pip install 'visit-tl[ray]'; without engine the sweep runs "
            "here"
        ) from error
    return ray
