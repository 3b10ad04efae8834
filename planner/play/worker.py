"""One thread that computes, and the line of those who wait for it."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class CancelledError(Exception):
    """The job was given up on by whoever asked for it."""


@dataclass(eq=False)
class Job:
    """Something to compute.

    Attributes:
        owner: whose it is.
        work: called in the worker's thread with the job.
        told: called with the place in line, 0 once it runs; from any thread, and must return at once.
        dropped: called if the job leaves the line without having run.
    """

    owner: Any
    work: Callable[[Job], None]
    told: Callable[[int], None]
    dropped: Callable[[], None] = lambda: None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise CancelledError if nobody wants the result any more."""
        if self.cancelled.is_set():
            raise CancelledError


class Worker:
    """Carries out jobs one after the other, in the order they came but for those that go first."""

    def __init__(self) -> None:
        self._line: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="play-worker", daemon=True)
        self._thread.start()

    def submit(
        self,
        owner: Any,
        work: Callable[[Job], None],
        told: Callable[[int], None],
        dropped: Callable[[], None] = lambda: None,
        first: bool = False,
    ) -> Job:
        """Put a job at the end of the line, or at its front."""
        job = Job(owner, work, told, dropped)
        with self._changed:
            (self._line.appendleft if first else self._line.append)(job)
            self._changed.notify_all()
            self._tell()
        return job

    def cancel(self, owner: Any) -> None:
        """Give up on the owner's jobs: waiting ones leave the line, a running one ends at its next step."""
        with self._changed:
            gone = [job for job in self._line if job.owner is owner]
            self._line = deque(job for job in self._line if job.owner is not owner)
            if self._running is not None and self._running.owner is owner:
                self._running.cancelled.set()
            for job in gone:
                job.cancelled.set()
                job.dropped()
            self._tell()

    def close(self) -> None:
        """Give up on what somebody asked for, do the rest, such as freeing what pages had; end the thread."""
        with self._changed:
            self._open = False
            self._line = deque(job for job in self._line if job.owner is None)
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
        self._thread.join(timeout=60)

    def _tell(self) -> None:
        """Tell everybody their place; with the lock held, so that nobody hears an older one later."""
        ahead = int(self._running is not None)
        for i, job in enumerate(self._line):
            job.told(ahead + i)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._line:
                    self._changed.wait()
                if not self._line:
                    return
                self._running = self._line.popleft()
                job = self._running
                job.told(0)
                self._tell()
            try:
                job.work(job)
            except CancelledError:
                pass
            except Exception:  # a bug; the line goes on
                traceback.print_exc()
            with self._changed:
                self._running = None
            del job
