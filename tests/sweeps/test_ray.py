"""Workers of Ray measure what this process measures, even if they die."""

from __future__ import annotations

import os
import sys
import threading
import warnings

import pytest

import visit_tl as vt
from tests import tiny
from tests.sweeps.swept import STUDIES, assert_same, files_of, prompts, study, sweep

pytest.importorskip("pyarrow")
GIVEN = prompts(12)


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, once for all tests; Python's warnings are not about us."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                 object_store_memory=100 * 2**20)  # fmt: skip
        yield ray
        ray.shutdown()


def on_ray(out, given=GIVEN, studies=STUDIES, model=tiny.native, **options):
    return sweep(model, given, studies, out,
                 **{"engine": "ray", "workers": 2, "per_shard": 2, **options})  # fmt: skip


pytestmark = [
    pytest.mark.timeout(280),
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in (
            "ResourceWarning",
            "DeprecationWarning",
            "FutureWarning",
            "pytest.PytestUnraisableExceptionWarning",
        )
    ),
]


def test_two_workers_of_which_one_dies_measure_what_this_process_does(ray, native, tmp_path):
    flag = str(tmp_path / "died")

    @study(columns={"index": "int64"})
    def deadly(run):
        if run.index == 5 and not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), 9)
        return {"index": [run.index]}

    given, names = [*GIVEN, "", [1, 99], "e e"], ["deadly", *STUDIES]
    run = on_ray(tmp_path / "ray", given, names)
    assert os.path.exists(flag)
    here = sweep(native, given, names, tmp_path / "here", per_shard=2)
    assert_same(run, here, [*names, "prompts", "errors"])
    assert files_of(run) == files_of(here)
    assert run.about == here.about and list(run.table("errors")["prompt"]) == [12, 13]
    # Either goes on with what the other began.
    for mark in sorted((run.path / "done").iterdir())[::2]:
        mark.unlink()
    assert files_of(sweep(native, given, names, run.path, per_shard=2)) == files_of(here)


def test_strict_stops_at_a_broken_prompt(ray, tmp_path):
    with pytest.raises(vt.InputError, match="^prompt 2 failed: the prompt is empty"):
        on_ray(tmp_path / "run", ["a", "b", "", "c"], ["stream_norms"], strict=True, workers=1)
    assert len(vt.sweeps.open(tmp_path / "run").table("prompts")) == 2


def test_a_prompt_that_always_kills_its_worker_is_named(ray, tmp_path, monkeypatch):
    monkeypatch.setattr("visit_tl.sweeps.ray_engine._RETRIES", 1)

    @study(columns={"index": "int64"})
    def always(run):
        if run.index == 5:
            os._exit(1)
        return {"index": [run.index]}

    # The shard that waited behind it at the worker may be the one that is told of.
    with pytest.raises(vt.VisitError, match=r"a worker died in the prompts \d+ to \d+, and again"):
        on_ray(tmp_path / "ray", studies=["always"], workers=1)


def test_what_workers_refuse_is_refused_here(ray, tmp_path):
    def broken():
        raise vt.ModelError("no such weights")

    with pytest.raises(vt.ModelError, match="no such weights"):
        on_ray(tmp_path / "a", model=broken, workers=1)
    with pytest.raises(vt.ModelError, match="two workers opened different models: their weights"):
        on_ray(tmp_path / "b", model=another_each_time)
    with pytest.raises(vt.InputError, match="9 workers with 1 CPUs each need 9, and Ray has 2"):
        on_ray(tmp_path / "c", workers=9, per_shard=1)
    with pytest.raises(vt.InputError, match="2 workers with 1 GPUs each need 2, and Ray has "):
        on_ray(tmp_path / "d", num_gpus=1)


def test_what_cannot_be_sent_is_refused(ray, tmp_path):
    lock = threading.Lock()
    with pytest.raises(vt.InputError, match="cannot be sent to workers"):
        on_ray(tmp_path / "ray", model=lambda: lock)


def another_each_time():
    return tiny.native(seed=os.getpid())


def test_a_model_that_is_open_cannot_be_sent(native, tmp_path):
    with pytest.raises(vt.InputError, match="each worker opens a model of its own, and .*pass the"):
        on_ray(tmp_path / "ray", model=native)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(vt.InputError, match=r"needs Ray: pip install 'visit-tl\[ray\]'"):
        on_ray(tmp_path / "ray")
