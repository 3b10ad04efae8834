"""What this process has taken since it was started: wall-clock and memory."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

_IMPORTED = time.monotonic()
_PROC = Path("/proc/self")
_peak_before = 0.0  # what the high-water mark was when it was last begun anew


def seconds_alive() -> float:
    """Wall-clock seconds since this process was started, the interpreter's own start and all imports
    included; on systems that do not tell (all but Linux) since this module was imported."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.monotonic() - _IMPORTED
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # proc(5): starttime, since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_megabytes() -> float:
    """The most memory that this process has held so far: its resident set, MB (2^20 bytes)."""
    return max(_peak_before, recent_peak_megabytes())


def recent_peak_megabytes() -> float:
    """The most memory that this process has held since ``begin_peak``, MB; where the system can't begin anew (all but
    Linux), since it was started."""
    status = _PROC / "status"
    if status.is_file():  # unlike getrusage's figure it does not begin with that of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def begin_peak() -> None:
    """``recent_peak_megabytes`` starts from what is held now; ``peak_megabytes`` stays what it is."""
    global _peak_before
    _peak_before = peak_megabytes()
    with suppress(OSError):
        (_PROC / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size


class Stages:
    """Wall-clock of a command's stages, the first from the start of the process.

    Attributes:
        seconds: by stage, in order; their sum is the process's age at the last ``end``.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._ended = 0.0

    def end(self, name: str) -> None:
        """The stage that has just ended was ``name``."""
        now = seconds_alive()
        self.seconds[name], self._ended = round(now - self._ended, 2), now
