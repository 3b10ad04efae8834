"""The metrics of the video tables, as they are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a figure is shown: its name, whether more is better (+1) or less (-1), its format."""

    name: str
    better: int
    form: str


METRICS = {
    "fvd": Metric("FVD, StyleGAN-V I3D", -1, ".0f"),
    "frechet": Metric("Fréchet distance, frames", -1, ".2f"),
    "frechet_steps": Metric("Fréchet distance, steps", -1, ".2f"),
    "psnr": Metric("PSNR, dB", 1, ".2f"),
    "ssim": Metric("SSIM", 1, ".3f"),
    "lpips": Metric("LPIPS", -1, ".3f"),
    "scuts": Metric("SCuts per 1,000 frames", -1, ".2f"),
    "src": Metric("SRC", 1, ".2f"),
    "src_normalised": Metric("SRC over its range", 1, ".3f"),
    "src_contrast": Metric("SRC contrast", 1, ".3f"),
    "revisit_psnr": Metric("PSNR of revisits, dB", 1, ".2f"),
    "revisit_lpips": Metric("LPIPS of revisits", -1, ".3f"),
    "followed": Metric("Actions followed", 1, ".0%"),
    "position_mm": Metric("Position read back, mm off", -1, ".1f"),
    "gripper": Metric("Gripper read back", 1, ".0%"),
}
FRECHET = ("fvd", "frechet", "frechet_steps")
FOLLOWING = ("followed", "position_mm", "gripper")
FIDELITY = (*FRECHET, "psnr", "ssim", "lpips", *FOLLOWING)  # what next chunks are measured by
