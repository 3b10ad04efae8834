"""What a measured figure needs beside it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from tasks.commands import ROOT
from tasks.files import read_json, write_json

ORIGIN = "origin.json"


def processor() -> str:
    """The processor's name as Linux gives it, else Python's guess, and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The checkout's commit; None outside of git."""
    try:
        out = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return out.stdout.strip() or None


def command_line(module: str) -> str:
    """The command as it was typed."""
    return f"python -m {module} {' '.join(sys.argv[1:])}".strip()


def record_origin(run: Path, module: str, device: str, processes: int = 1) -> None:
    """Add to a run's ``origin.json`` what has just started on it: command, commit, hardware. Going on in the same
    way adds nothing.

    Args:
        device: what it trains on, such as ``cpu`` or a GPU's name.
        processes: how many train together.
    """
    launched = command_line(module)
    if processes > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        machines = f"--nnodes {processes // here} " if processes > here else ""
        launched = f"torchrun {machines}--nproc-per-node {here} {launched.removeprefix('python ')}"
    start = {"command": launched, "commit": commit(), "processor": processor(), "device": device}
    starts = read_json(run / ORIGIN) if (run / ORIGIN).is_file() else []
    if not starts or starts[-1] != start:
        write_json(run / ORIGIN, [*starts, start])
