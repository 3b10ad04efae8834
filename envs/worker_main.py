"""What a simulator's own interpreter runs: ``PYTHON worker_main.py MODULE READ WRITE PARENT``.

MODULE is a file with ``calls()``, the calls that it answers; READ and WRITE are the
descriptors of two pipes, PARENT the process to live with. This file is started by its path, because
the interpreter lacks what ``envs/__init__.py`` imports: only the standard library, numpy and the
simulator are there. Whatever the simulator prints goes to stderr, away from the messages.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
import types

OLDEST = (3, 9)  # Python in which the workers' files are written
MARK = "SLOWFAST_WORKER"  # in the environment of a worker and of everything that it starts


def end_all(mark: str) -> None:
    """Kill every other process that bears a worker's mark, also those that left its group, as Minecraft does."""
    wanted = f"{MARK}={mark}".encode()
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                ours = wanted in file.read().split(b"\0")
            if ours:
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:  # gone by now, or another user's
            continue


def live_with(parent: int) -> None:
    """End this process and all that it started once ``parent`` is gone, even while a call hangs."""
    while True:
        time.sleep(1.0)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            end_all(os.environ[MARK])
            os.killpg(os.getpgid(0), signal.SIGKILL)


def main(module: str, read: int, write: int, parent: int) -> None:
    if sys.version_info < OLDEST:
        sys.exit(f"Python {sys.version.split()[0]} is too old: expected {OLDEST[0]}.{OLDEST[1]} or newer")
    threading.Thread(target=live_with, args=(parent,), daemon=True).start()
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    package = types.ModuleType("envs")
    package.__path__ = [folder]
    sys.modules["envs"] = package
    with os.fdopen(read, "rb") as requests, os.fdopen(write, "wb") as replies:
        wire = importlib.import_module("envs.wire")
        try:
            spec = importlib.util.spec_from_file_location("worker", module)
            made = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            spec.loader.exec_module(made)  # type: ignore[union-attr]
            calls = made.calls()
        except (ImportError, OSError, RuntimeError) as error:
            replies.write(wire.encode({"error": type(error).__name__, "message": str(error)}))
            return
        replies.write(wire.encode({"reply": {"python": sys.version.split()[0]}}))
        replies.flush()
        wire.serve(calls, requests, replies)
    os._exit(0)  # simulators' own exit hooks may hang or crash


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
