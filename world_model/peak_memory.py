"""How much memory a piece of work takes at most."""

from __future__ import annotations

from pathlib import Path

import torch

from tasks.process import peak_megabytes


class PeakMemory:
    """Peak memory in MB of a block: ``with PeakMemory(device) as peak: …; peak.megabytes``.

    On a GPU what torch's allocator gave out; else the process's resident set, on Linux only.
    """

    def __init__(self, device: torch.device):
        self.device, self.megabytes = device, 0.0

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
            self.megabytes = peak_megabytes()
