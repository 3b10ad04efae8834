"""A stand-in for PyRep; see README.md beside this folder."""

from __future__ import annotations

import threading
import time

from faults import FAULTS, log, misbehave

from pyrep.world import TABLE, WORLD

__version__ = "4.1.0.3"

if FAULTS.get("no_library"):
    raise ImportError("libcoppeliaSim.so.1: cannot open shared object file: No such file or directory")


class PyRep:
    def launch(self, scene_file="", headless=False, responsive_ui=False, blocking=False, verbosity="none"):
        misbehave("launch")
        if FAULTS.get("path_error"):  # the window's thread writes paths in ASCII; who waits for it waits on
            threading.Thread(target="Köln".encode, args=("ascii",)).start()
            time.sleep(600)
        log(event="launch", headless=headless)
        WORLD.add("shape", "workspace", place=TABLE.copy(), size=[0.55, 0.91, 0.0])
        for name in ("front", "overhead", "over_shoulder_left", "over_shoulder_right", "wrist"):
            WORLD.add("sensor", f"cam_{name}")

    def start(self):
        WORLD.running = True

    def shutdown(self):
        WORLD.running = False

    def step(self):
        WORLD.tick([])


if FAULTS.get("wrong_pyrep"):
    del PyRep
