"""What goes wrong in a pretended simulator, and the record of what it was told."""

from __future__ import annotations

import json
import os
import time

FAULTS: dict = json.loads(os.environ.get("FAKE_SIMULATOR", "{}"))


def log(**event) -> None:
    if os.environ.get("FAKE_LOG"):
        with open(os.environ["FAKE_LOG"], "a") as file:
            file.write(json.dumps(event) + "\n")


def fault(name: str) -> bool:
    """Whether a fault is due; a number counts down to it, and it comes once."""
    left = FAULTS.get(name)
    if left is None:
        return False
    FAULTS[name] = left - 1
    if left > 1:
        return False
    del FAULTS[name]
    return True


def misbehave(where: str) -> None:
    """Die, hang or talk, as a real simulator may."""
    once = FAULTS.get("once")
    if once and os.path.exists(once):
        return
    for name in (f"abort_at_{where}", f"hang_at_{where}"):
        if fault(name):
            if once:
                open(once, "w").close()
            print("qt.qpa.plugin: Could not load the Qt platform plugin xcb", flush=True)
            if name.startswith("abort"):
                os.abort()
            time.sleep(600)
