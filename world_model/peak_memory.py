"""How much memory a piece of work takes at most."""

from __future__ import annotations

from pathlib import Path

import torch


class PeakMemory:
    """Peak memory in MB of a block: ``with PeakMemory(device) as peak: …; peak.megabytes``.

    On a GPU what torch's allocator gave out; else the process's resident set, on Linux only.
    """

    def __init__(self, device: torch.device):
        self.device, self.megabytes = device, 0.0

    def _resident(self, key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            self.megabytes = self._resident("VmHWM")
