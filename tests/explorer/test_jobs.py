"""One job at a time, one that waits, and who takes whose place."""

import threading

import pytest

from visit_tl import InputError
from visit_tl.explorer.jobs import BusyError, Job, Jobs


class Told:
    """What a job told, and a way to hold it between two events."""

    def __init__(self, steps=3):
        self.events, self.done, self.go = [], threading.Event(), threading.Event()
        self.begun, self.steps = threading.Event(), steps

    def work(self):
        for i in range(self.steps):
            self.begun.set()
            assert self.go.wait(10)
            yield {"stage": i}

    def tell(self, event):
        self.events.append(event)
        if event is None:
            self.done.set()

    def job(self, owner):
        return Job(owner, self.work, self.tell)


@pytest.fixture
def jobs():
    made = Jobs()
    yield made
    made.close()


def test_a_new_job_of_the_same_owner_cancels_the_old_between_stages(jobs):
    old, new = Told(), Told(1)
    jobs.start(old.job("one"))
    assert old.begun.wait(10)
    jobs.start(new.job("one"))
    old.go.set(), new.go.set()
    assert old.done.wait(10) and new.done.wait(10)
    assert old.events == [{"stage": "cancelled"}, None]
    assert new.events == [{"stage": 0}, None]


def test_one_job_waits_and_a_third_is_refused(jobs):
    first, second, third, newer = Told(), Told(1), Told(), Told(1)
    jobs.start(first.job("one"))
    assert first.begun.wait(10)
    jobs.start(second.job("two"))
    with pytest.raises(BusyError):
        jobs.start(third.job("three"))
    jobs.start(newer.job("two"))
    assert second.done.wait(10) and second.events == [{"stage": "cancelled"}, None]
    first.go.set(), newer.go.set()
    assert first.done.wait(10) and newer.done.wait(10)
    assert [event["stage"] for event in first.events[:-1]] == [0, 1, 2]
    assert third.events == [] and newer.events == [{"stage": 0}, None]


def test_refusals_and_failures_are_events_and_the_next_job_runs(jobs):
    def refuse():
        raise InputError("no\nsuch thing")
        yield

    def fail():
        raise ZeroDivisionError("by zero")
        yield

    for work, event in (
        (refuse, {"stage": "refused", "why": "no such thing"}),
        (fail, {"stage": "failed", "why": "ZeroDivisionError: by zero"}),
    ):
        told = Told()
        jobs.start(Job("one", work, told.tell))
        assert told.done.wait(10) and told.events == [event, None]


def test_closing_ends_what_runs_and_takes_nothing_more(jobs):
    told = Told()
    jobs.start(told.job("one"))
    assert told.begun.wait(10)
    jobs.cancel("one")
    told.go.set()
    jobs.close()
    assert told.done.wait(10) and told.events == [{"stage": "cancelled"}, None] and jobs.idle()
    with pytest.raises(BusyError):
        jobs.start(told.job("one"))
