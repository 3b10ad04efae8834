"""How much memory a piece of work takes at most."""

from __future__ import annotations

import torch

from tasks.process import begin_peak, peak_megabytes, recent_peak_megabytes

_before: dict[torch.device, float] = {}  # a GPU's peak before it was last begun anew, MB


def peak_so_far(device: torch.device) -> float:
    """The most memory so far, MB: on a GPU what torch's allocator gave out, else the process's resident set."""
    if device.type == "cuda":
        return max(_before.get(device, 0.0), torch.cuda.max_memory_allocated(device) / 2**20)
    return peak_megabytes()


class PeakMemory:
    """Peak memory in MB of a block: ``with PeakMemory(device) as peak: …; peak.megabytes``.

    On a GPU what torch's allocator gave out; else the process's resident set, which only Linux tells of a block: else
    it is that since the process was started.
    """

    def __init__(self, device: torch.device):
        self.device, self.megabytes = device, 0.0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            _before[self.device] = peak_so_far(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            begin_peak()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            self.megabytes = recent_peak_megabytes()
