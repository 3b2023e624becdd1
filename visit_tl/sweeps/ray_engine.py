"""Shards on workers of Ray, each with a model of its own.

Ray decides where workers live, starts them again when they die and gives their shards to others.
What is here: how a worker opens its model, how many shards wait, and in which order results come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from visit_tl.errors import InputError, VisitError

_RESTARTS: Final = 20
_WAITING: Final = 2
"""Shards that wait at each worker, so that it never idles and few are lost with it."""


def ray_results(
    model: Any,
    job: Any,
    shards: Sequence[range],
    missing: Sequence[int],
    given: Sequence[Any],
    *,
    address: str,
    workers: int,
    num_cpus: int,
    num_gpus: int,
) -> Iterator[tuple[int, list[tuple[int, str, str]]]]:
    """Run the missing shards on workers; yields each shard with what failed, as they end.

    Raises:
        InputError: Ray is not installed, or the model cannot be sent to workers.
    """
    ray = _ray()
    opened_here = not ray.is_initialized()
    if opened_here:
        local = address == "ray"
        ray.init(
            address=None if local else address,
            num_cpus=max(workers * num_cpus, 1) if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
        )
    try:
        actor = ray.remote(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=_RESTARTS, max_task_retries=_RESTARTS
        )(_Worker)
        opener = _opener(model)
        pool = [actor.remote(opener, job, num_cpus) for _ in range(min(workers, len(missing)))]
        waiting: dict[Any, tuple[int, Any]] = {}
        rest = iter(missing)

        def give(worker: Any) -> None:
            shard = next(rest, None)
            if shard is not None:
                prompts = [(i, given[i]) for i in shards[shard]]
                waiting[worker.run.remote(shard, prompts)] = shard, worker

        for _ in range(_WAITING):
            for worker in pool:
                give(worker)
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            shard, worker = waiting.pop(ready)
            try:
                errors = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                raise cause if isinstance(cause, VisitError) else error from None
            give(worker)
            yield shard, errors
    finally:
        if opened_here:
            ray.shutdown()


class _Worker:
    """A model, and the shards that are run on it."""

    def __init__(self, opener: Callable[[], Any], job: Any, threads: int) -> None:
        import torch

        from visit_tl.model.view import ModelView
        from visit_tl.sweeps.prompt_run import SweptModel

        torch.set_num_threads(threads)
        self.swept, self.job = SweptModel(ModelView(opener())), job

    def run(self, shard: int, prompts: Sequence[Any]) -> list[tuple[int, str, str]]:
        """Measure a shard and write its tables."""
        from visit_tl.sweeps.shard_work import run_shard

        return run_shard(self.swept, self.job, shard, prompts)


def _opener(model: Any) -> Callable[[], Any]:
    """What a worker opens its model by."""
    if isinstance(model, str):
        return _Named(model)
    if callable(model) and not hasattr(model, "cfg"):
        return model
    raise InputError(
        f"each worker opens a model of its own, and {type(model).__name__} cannot be sent to it; "
        f"pass the name or path that load_model takes, or a function without arguments that gives "
        f"the model"
    )


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> Any:
        from visit_tl.model.load import load_model

        return load_model(self.name, verbose=False)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "engine='ray' needs Ray: pip install 'visit-tl[ray]'; without engine the sweep runs "
            "here"
        ) from error
    return ray
