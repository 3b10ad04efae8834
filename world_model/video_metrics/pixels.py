"""PSNR, SSIM and LPIPS, frame by frame against the truth, by torchmetrics.

Values go in as 0 to 255 with ``data_range=255`` (LPIPS: divided by 255, its ``normalize=True``), at the
size given: nothing is resized, and frames of another size than the truth's are an error. The first frame
of an imagined video is the camera's own and would count as perfect (infinite PSNR): leave it out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from world_model.video_metrics.videos import Videos, as_pairs

SSIM_WINDOW = 11
BACKBONES = {  # torchvision's ImageNet weights, as torchmetrics asks for them
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


def psnr(videos: Videos, truth: Videos) -> list[np.ndarray]:
    """Peak signal-to-noise ratio of each frame in dB, ``(T,)`` a video; infinite where frames are equal.

    The squared error is averaged over a frame's pixels and channels; the peak is 255.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    def measure(a: Tensor, b: Tensor) -> Tensor:
        return peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3))

    return _by_frame(videos, truth, measure)


def ssim(videos: Videos, truth: Videos) -> list[np.ndarray]:
    """Structural similarity of each frame, ``(T,)`` a video, at most 1.

    torchmetrics' defaults: Gaussian window of 11 pixels with sigma 1.5, k1 0.01, k2 0.03, per colour
    channel, mean over the whole frame, its reflected border included.

    Raises:
        ValueError: frames smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    def measure(a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[-2:]) < SSIM_WINDOW:
            raise ValueError(
                f"frames of {a.shape[-2]} x {a.shape[-1]}: SSIM's window needs {SSIM_WINDOW} x {SSIM_WINDOW}"
            )
        value = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
        assert isinstance(value, Tensor)  # a pair only where the full image is asked for
        return value

    return _by_frame(videos, truth, measure)


class Lpips:
    """Learned perceptual image patch similarity (Zhang et al. 2018) by torchmetrics; 0 is equal.

    The linear heads (v0.1) come with torchmetrics; the backbone's ImageNet weights do not.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``; numbers of different nets are not comparable.
        backbone: torchvision's weights file for that net; by default the one in torch's hub cache.
            Nothing is downloaded.

    Raises:
        ValueError: no such net, or a file that does not hold its weights.
        ModuleNotFoundError: no torchvision, which has the networks.
        FileNotFoundError: no such file.
    """

    def __init__(self, net: str = "alex", backbone: str | Path | None = None):
        if net not in BACKBONES:
            raise ValueError(f"net={net}: expected {', '.join(BACKBONES)}")
        if importlib.util.find_spec("torchvision") is None:
            raise ModuleNotFoundError(
                "LPIPS needs torchvision's networks: pip install 'slowfast-vgen-planning[lpips]', "
                "built for the torch that is installed"
            )
        name = BACKBONES[net]
        file = Path(backbone) if backbone else Path(torch.hub.get_dir()) / "checkpoints" / name
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: LPIPS needs the {net} backbone; "
                f"fetch https://download.pytorch.org/models/{name} and give its path"
            )
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self.name = f"LPIPS, {net}"
        try:
            torch.load(file, map_location="cpu", weights_only=True)  # torchvision's own loading unpickles
            kind = cast(Literal["vgg", "alex", "squeeze"], net)
            with _hub_with(file, name):
                self._metric = LearnedPerceptualImagePatchSimilarity(kind, reduction="none", normalize=True)
        except (RuntimeError, ValueError, EOFError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{file}: expected torchvision's {net} weights ({name}); {reason}") from None

    def __call__(self, videos: Videos, truth: Videos) -> list[np.ndarray]:
        """Of each frame, ``(T,)`` a video."""

        def measure(a: Tensor, b: Tensor) -> Tensor:
            self._metric.reset()
            self._metric.update(a / 255, b / 255)
            return self._metric.compute()

        return _by_frame(videos, truth, measure)


@contextmanager
def _hub_with(file: Path, name: str) -> Iterator[None]:
    """While open, torch's hub cache is a folder that holds only ``file``, under ``name``."""
    before = torch.hub.get_dir()
    with TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoints" / name
        link.parent.mkdir()
        link.symlink_to(file.resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def _by_frame(
    videos: Videos, truth: Videos, measure: Callable[[Tensor, Tensor], Tensor], batch_size: int = 64
) -> list[np.ndarray]:
    """``measure`` on batches of frames ``(M, 3, H, W)`` float32, 0 to 255; ``(T,)`` float64 a video."""
    out = []
    for video, true in as_pairs(videos, truth):
        values = []
        for k in range(0, len(video), batch_size):
            a, b = (
                torch.tensor(np.ascontiguousarray(x[k : k + batch_size])).permute(0, 3, 1, 2).float()
                for x in (video, true)
            )
            with torch.inference_mode():
                values.append(measure(a, b).reshape(-1).double().numpy())
        out.append(np.concatenate(values))
    return out
