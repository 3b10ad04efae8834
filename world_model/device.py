"""Which device and precision a command runs on."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; anything else as torch names it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this torch sees no CUDA device; use device=cpu")
    return device
