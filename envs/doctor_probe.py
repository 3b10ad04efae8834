"""Run by :mod:`envs.doctor` under a simulator's interpreter: prints what is there, as json.

Standard library only; started by its path: ``PYTHON doctor_probe.py MODULE …`` names what to import.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib import metadata


def version(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def probe(modules: list[str]) -> dict:
    """Import the modules, in order, and look at what clashes with them."""
    found: dict = {"python": list(sys.version_info[:2]), "errors": {}, "files": {}, "attributes": {}}
    names = (
        "numpy",
        "gym",
        "gymnasium",
        "opencv-python",
        "opencv-contrib-python",
        "opencv-python-headless",
        "rlbench",
        "minerl",
        "minestudio",
        "pyrep",
    )
    found["versions"] = {name: version(name) for name in names}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # an import may fail in any way
            found["errors"][name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            found["files"][name] = os.path.dirname(getattr(module, "__file__", None) or "")
            found["attributes"][name] = sorted(dir(module))
    return found


if __name__ == "__main__":
    out = os.dup(1)
    os.dup2(2, 1)  # a simulator that talks while it is imported must not spoil the json
    text = json.dumps(probe(sys.argv[1:]))
    os.write(out, text.encode())
    os._exit(0)
