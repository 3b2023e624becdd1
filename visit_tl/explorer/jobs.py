"""One heavy job at a time, and one that waits.

A job is an iterator of events. It runs in the one worker thread and ends between two events when it
was cancelled. Whoever starts a new one cancels the own old one, running or waiting; someone else's
is never cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from visit_tl.errors import VisitError

Event = dict[str, Any]
Work = Callable[[], Iterator[Event]]

BUSY: Final = "others compute, and one more waits; it is tried again"


class BusyError(VisitError):
    """The one place of the queue is taken by somebody else."""


class Job:
    """Work of somebody, and where its events go.

    Args:
        owner: Whose it is; a new job of the same owner takes its place.
        work: Makes the events, when its turn comes.
        tell: Called in the worker thread with each event; at last with None.
    """

    def __init__(self, owner: str, work: Work, tell: Callable[[Event | None], None]) -> None:
        self.owner, self._work, self._tell = owner, work, tell
        self._ended = threading.Event()

    def cancel(self) -> None:
        """End it before its next event."""
        self._ended.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it."""
        return self._ended.is_set()

    def run(self) -> None:
        """Do the work; what it refuses, and what fails, is its last event."""
        try:
            for event in self._work() if not self.cancelled else ():
                if self.cancelled:
                    break
                self._tell(event)
        except VisitError as error:
            self._tell({"stage": "refused", "why": " ".join(str(error).split())})
        except Exception as error:
            self._tell({"stage": "failed", "why": f"{type(error).__name__}: {error}"[:500]})
        if self.cancelled:
            self._tell({"stage": "cancelled"})
        self._tell(None)


class Jobs:
    """The worker thread; it ends with the process, or with `close`."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._running: Job | None = None
        self._waiting: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="visit-tl explorer", daemon=True)
        self._thread.start()

    def start(self, job: Job) -> None:
        """Put a job in the place of its owner's old one, or in the free place of the queue.

        Raises:
            BusyError: somebody else's job waits already.
        """
        with self._change:
            if self._running is not None and self._running.owner == job.owner:
                self._running.cancel()
            old = self._waiting
            if self._closed or (old is not None and old.owner != job.owner):
                raise BusyError(BUSY)
            self._waiting = job
            self._change.notify_all()
        if old is not None:
            old.cancel()
            old.run()

    def cancel(self, owner: str) -> None:
        """Cancel what this owner has running or waiting."""
        with self._change:
            for job in (self._running, self._waiting):
                if job is not None and job.owner == owner:
                    job.cancel()

    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        with self._change:
            return self._running is None and self._waiting is None

    def close(self, seconds: float = 30.0) -> None:
        """Cancel everything and let the running stage come to its end."""
        with self._change:
            self._closed = True
            for job in (self._running, self._waiting):
                if job is not None:
                    job.cancel()
            self._change.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._change:
                while self._waiting is None and not self._closed:
                    self._change.wait()
                if self._waiting is None:
                    return
                job = self._running = self._waiting
                self._waiting = None
            try:
                job.run()
            finally:
                with self._change:
                    self._running = None
