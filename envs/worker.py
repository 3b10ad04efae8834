"""Runs a simulator under an interpreter of its own and talks to it with a watchdog.

RLBench and Minecraft can take their process down (a missing display aborts it) or hang, need variables that
stand in the environment before Python starts, and install beside little else (a JDK 8, gym 0.23, a PyRep built
against CoppeliaSim). So each runs in a worker process (:mod:`envs.worker_main`), which is killed with everything
it started when it dies, hangs or talks nonsense; the next call starts it again.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from envs.wire import Arrays, GarbageError, Reply, decode, encode
from envs.worker_main import MARK, end_all

MAIN = Path(__file__).with_name("worker_main.py")
DEATHS = "|".join(
    re.escape(signal.strsignal(s) or "") for s in (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL)
)
A_SHELL_S = re.compile(rf"(.*: line \d+:\s+\d+ )?({DEATHS})(\s+\(core dumped\).*|\s{{2,}}.*)?")
GRACE = 3.0  # seconds in which a process that is told to end does so by itself, and a shell in front of it cleans up
XVFB = "xvfb xauth"  # Debian's packages; the first does not ask for the second
WORDS = 600  # characters of a simulator's error that are told: MineRL's may hold the whole of Minecraft's log


class WorkerError(RuntimeError):
    """The simulator's process is gone; one line: what happened, the last it said, what to do."""


class MissingSimulatorError(WorkerError):
    """The simulator is not installed under the interpreter that was given."""


class CallError(RuntimeError):
    """The simulator refused a call; its process lives on.

    Attributes:
        kind: name of the exception's type in the worker.
        message: its text, in one line; of a long one, the end.
    """

    def __init__(self, kind: str, message: str):
        told = " ".join(message.split())
        self.kind, self.message = kind, told if len(told) <= WORDS else f"… {told[-WORDS:]}"
        super().__init__(f"{kind}: {self.message}")


class Worker:
    """One simulator's process; started by the first call.

    Args:
        name: as in ``env=NAME``, for errors.
        module: the worker's file.
        python: the interpreter that has the simulator; None takes this one.
        start_timeout: seconds until the process has imported the simulator.
        environ: further environment variables.
        prefix: command in front of the interpreter, such as ``("xvfb-run", "-a")``.
        advice: what to do when it can't start or dies; ends every error.
    """

    def __init__(
        self,
        name: str,
        module: str | Path,
        python: str | None = None,
        start_timeout: float = 120.0,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        advice: str = "",
    ):
        self.name, self.module, self.python = name, module, os.path.expanduser(python or sys.executable)
        self.start_timeout, self.environ, self.prefix = start_timeout, dict(environ or {}), tuple(prefix)
        self.advice = advice
        self.starts = 0
        self._process: subprocess.Popen | None = None
        self._stop: weakref.finalize | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def call(
        self,
        name: str,
        data: dict[str, Any] | None = None,
        arrays: Arrays | None = None,
        timeout: float = 60.0,
    ) -> Reply:
        """Send one request and wait for its reply.

        Args:
            name: one of the calls of the worker's module.
            data: json-able arguments.
            arrays: array arguments.
            timeout: seconds, after which the process is taken for hung and killed.

        Raises:
            MissingSimulatorError: the interpreter or the simulator is missing.
            WorkerError: the process died, hung or sent what is no message; the next call starts it anew.
            CallError: the simulator raised an error and lives on.
        """
        self.start()
        return self._exchange(name, timeout, encode({"call": name, "data": data or {}}, arrays))

    def close(self) -> None:
        """End the process and all that it started. Where it listens it ends by itself, and ``xvfb-run`` takes its
        display away; else it is killed."""
        if self._stop is not None and (stop := self._stop.detach()):
            _, end, arguments, _ = stop
            end(*arguments, grace=GRACE)
        self._process = self._stop = None

    def _kill(self) -> None:
        if self._stop is not None:
            self._stop()
        self._process = self._stop = None

    # --- starting ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process unless it runs, and wait until it has imported the simulator."""
        if self._process is not None:
            return
        if shutil.which(self.python) is None:
            raise MissingSimulatorError(
                f"env={self.name}: env.python={self.python} is no interpreter; {self.advice}"
            )
        mark = uuid.uuid4().hex
        theirs, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        command = [*self.prefix, self.python, "-u", str(MAIN), str(self.module), str(theirs), str(replies)]
        try:
            self._process = subprocess.Popen(
                [*command, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=(theirs, replies),
                env={**os.environ, **self.environ, MARK: mark},
                start_new_session=True,  # Ctrl-C is ours to hear; and the whole group can be killed
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._replies)
            raise MissingSimulatorError(
                f"env={self.name}: {command[0]} can't be started ({error.strerror}); {self.advice}"
            ) from None
        finally:
            os.close(theirs)
            os.close(replies)
        self._stop = weakref.finalize(self, _end, self._process, mark, self._requests, self._replies)
        os.set_blocking(self._requests, False)
        self.starts += 1
        try:
            self._exchange("start", self.start_timeout)
        except CallError as error:
            self.close()
            raise MissingSimulatorError(
                f"env={self.name}: {error} under {self.python}; {self.advice}"
            ) from None

    # --- talking -----------------------------------------------------------------------------

    def _exchange(self, name: str, timeout: float, request: bytes = b"") -> Reply:
        deadline = time.monotonic() + timeout
        try:
            self._write(request, deadline)
            answer, arrays = decode(lambda count: self._read(count, deadline))
        except TimeoutError:
            raise self._lost(f"gave no answer to {name!r} in {timeout:g} s and was killed") from None
        except GarbageError as error:
            raise self._lost(f"answered {name!r} with garbage and was killed ({error})") from None
        except (EOFError, BrokenPipeError):
            raise self._lost(f"died during {name!r}{self._how()}") from None
        except BaseException:  # such as Ctrl-C: the reply that is still to come would answer the next call
            self._kill()
            raise
        if "error" in answer:
            raise CallError(str(answer["error"]), str(answer.get("message", "")))
        if not isinstance(answer.get("reply"), dict):
            raise self._lost(f"answered {name!r} without a reply and was killed")
        return answer["reply"], arrays

    def _write(self, request: bytes, deadline: float) -> None:
        rest = memoryview(request)
        while rest:
            _wait(deadline, write=self._requests)
            rest = rest[os.write(self._requests, rest) :]

    def _read(self, count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            _wait(deadline, read=self._replies)
            part = os.read(self._replies, min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    # --- ending ------------------------------------------------------------------------------

    def _how(self) -> str:
        """`` (signal SIGABRT)`` or `` (exit code 1)`` of the process that closed its pipe."""
        assert self._process is not None
        try:
            code = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            return ""
        # A shell, such as xvfb-run's, tells a signal by its number + 128.
        number = -code if code < 0 else code - 128
        if number in set(signal.Signals):
            return f" (signal {signal.Signals(number).name})"
        return f" (exit code {code})"

    def _lost(self, what: str) -> WorkerError:
        """Kill what is left of the process; the error that says so."""
        said = self.last_words()
        self._kill()
        words = f"; it last said: {said}" if said else ""
        return WorkerError(f"env={self.name}: the simulator's process {what}{words}; {self.advice}")

    def last_words(self, limit: int = 200) -> str:
        """The last line that the process printed, without what a shell in front of it says of its death."""
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - 4096))
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines()]
        return next((line[:limit] for line in reversed(lines) if line and not A_SHELL_S.fullmatch(line)), "")


def display_prefix(display: str, name: str) -> tuple[str, ...]:
    """What stands in front of an interpreter whose simulator needs an X display.

    Args:
        display: ``auto`` takes the display there is, else a virtual one of ``xvfb-run``; ``inherit``
            leaves everything as it is.

    Raises:
        MissingSimulatorError: ``auto`` finds neither.
    """
    if display not in ("auto", "inherit"):
        raise ValueError(f"env.display={display}: expected auto or inherit")
    if display == "inherit" or os.environ.get("DISPLAY") or sys.platform != "linux":
        return ()
    if missing := missing_for_display():
        raise MissingSimulatorError(
            f"env={name}: no display (DISPLAY is not set) and no {missing}; on Debian/Ubuntu: apt-get install {XVFB}"
        )
    return ("xvfb-run", "-a", "-s", "-screen 0 1280x1024x24")


def missing_for_display() -> str | None:
    """The first of the programs that is not there: ``xvfb-run`` is a script that calls the other."""
    return next((program for program in ("xvfb-run", "xauth") if shutil.which(program) is None), None)


def _wait(deadline: float, read: int | None = None, write: int | None = None) -> None:
    """Until a descriptor is ready; TimeoutError after the deadline."""
    left = max(0.0, deadline - time.monotonic())
    reads, writes = [read] if read is not None else [], [write] if write is not None else []
    if not any(select.select(reads, writes, [], left)):
        raise TimeoutError


def _end(process: subprocess.Popen, mark: str, *descriptors: int, grace: float = 0.0) -> None:
    """Close the pipes, which a worker that listens takes for its end, and after ``grace`` seconds kill the process with
    all that it started."""
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with suppress(ProcessLookupError):  # all of it ended already
        os.killpg(process.pid, signal.SIGKILL)
    end_all(mark)
    process.wait()
