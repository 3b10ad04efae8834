"""Which device and precision a command runs on."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # and what accelerate calls them
PRODUCTS = ("highest", "high", "medium")  # as torch.set_float32_matmul_precision calls them
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_precision(name: str, device: torch.device) -> str:
    """accelerate's ``mixed_precision`` for ``fp32``, ``bf16`` or ``fp16``."""
    if name not in PRECISIONS:
        raise ValueError(f"precision={name}: expected {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise ValueError("precision=fp16 needs a CUDA device; use bf16 or fp32 with device=cpu")
    return PRECISIONS[name]


def pick_products(name: str, device: torch.device) -> None:
    """How this process multiplies float32 matrices: ``highest``, or with rounded factors and float32 sums, ``high``
    (TF32, on GPUs that have it) or ``medium`` (bfloat16, on CPUs that have it).

    Raises:
        ValueError: another name.
    """
    if name not in PRODUCTS:
        raise ValueError(f"products={name}: expected {', '.join(PRODUCTS)}")
    torch.set_float32_matmul_precision(name)
    if device.type == "cpu":
        # torch's fused attention for the CPU takes such products for blocks as small as ours, and gets slower by it.
        torch.backends.cuda.enable_flash_sdp(name != "medium")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a world model's weights are held in where they are only used, not trained."""
    pick_precision(precision, device)
    return DTYPES[precision]


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


def device_name(device: torch.device) -> str:
    """``cpu``, or the GPU's name, for records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
