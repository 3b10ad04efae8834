"""A worker without a simulator that answers, refuses, dies, hangs and talks nonsense: for test_worker.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np

STARTED = time.time()


def answer(data, arrays):
    print("chatter on stdout, as simulators do", flush=True)
    return {"got": data, "pid": os.getpid(), "python": sys.executable, "modules": sorted(sys.modules)}, {
        name: array * 2 for name, array in arrays.items()
    }


def refuse(data, arrays):
    raise ValueError("this\ncan't be done")


def die(data, arrays):
    print("qt.qpa.xcb: could not connect to display", flush=True)
    os.abort()


def leave(data, arrays):
    os._exit(7)


def hang(data, arrays):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    with open(data["pids"], "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def babble(data, arrays):
    """Write past the protocol, into the very pipe that carries it."""
    os.write(int(sys.argv[3]), b"\x80\x04 no message at all")
    time.sleep(600)


def objects(data, arrays):
    return {}, {"pickles": np.array([{"a": 1}], object)}


def calls():
    if os.environ.get("FAULTY_IMPORT"):
        raise ImportError(os.environ["FAULTY_IMPORT"])
    return {f.__name__: f for f in (answer, refuse, die, leave, hang, babble, objects)}
