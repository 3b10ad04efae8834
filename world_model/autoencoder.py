"""Frames to latents and back: diffusers' ``AutoencoderKL`` behind uint8 frames."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.files import write_json
from tasks.hub import located
from world_model.opening import open_network

SETTINGS = "frames.json"
PIXELS_AT_ONCE = 1 << 20  # of frames in one pass of the network: 256 frames of 64 x 64, 16 of 256 x 256


class FrameAutoencoder(nn.Module):
    """Encodes ``(N, H, W, 3)`` uint8 frames as normalised latents ``(N, C, h, w)`` and decodes them.

    Args:
        vae: the network.
        unshuffle: pixels folded into channels before the network (1 for ModelScope's; 2 makes small
            frames cheap on a CPU).
        shift: ``(C,)`` mean of the raw latents over the training frames (0 for ModelScope's).
        scale: what a raw latent less its shift is multiplied by (``vae.config.scaling_factor`` there).
    """

    shift: Tensor

    def __init__(
        self,
        vae: AutoencoderKL,
        unshuffle: int = 1,
        shift: list[float] | None = None,
        scale: float | None = None,
    ):
        super().__init__()
        self.vae, self.unshuffle = vae, unshuffle
        channels = vae.config.latent_channels
        self.register_buffer(
            "shift", torch.tensor(shift or [0.0] * channels).view(-1, 1, 1), persistent=False
        )
        self.scale = float(vae.config.scaling_factor if scale is None else scale)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def factor(self) -> int:
        """Frame side over latent side."""
        return self.unshuffle * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def to_pixels(self, frames: np.ndarray | Tensor) -> Tensor:
        """``(N, H, W, 3)`` uint8 to ``(N, 3, H, W)`` floats in [-1, 1] on the model's device."""
        x = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[-1] != 3:
            raise ValueError(f"expected (N,H,W,3) uint8 frames, got {tuple(x.shape)} {x.dtype}")
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(f"frames of {tuple(x.shape[1:3])} px; sides must be multiples of {self.factor}")
        return x.to(self.vae.device).permute(0, 3, 1, 2).to(self.vae.dtype) / 127.5 - 1

    def fold(self, pixels: Tensor) -> Tensor:
        return F.pixel_unshuffle(pixels, self.unshuffle) if self.unshuffle > 1 else pixels

    def unfold(self, folded: Tensor) -> Tensor:
        return F.pixel_shuffle(folded, self.unshuffle) if self.unshuffle > 1 else folded

    @torch.no_grad()
    def encode(self, frames: np.ndarray | Tensor, batch_size: int | None = None) -> Tensor:
        """Latents ``(N, C, h, w)`` of uint8 frames: the posterior's mode, normalised; ``batch_size`` frames
        in one pass, or as many as have ``PIXELS_AT_ONCE``."""
        frames = torch.as_tensor(np.ascontiguousarray(frames))
        batch_size = batch_size or max(1, PIXELS_AT_ONCE // max(1, frames.shape[1:3].numel()))
        parts = [
            self.vae.encode(self.fold(self.to_pixels(part))).latent_dist.mode()
            for part in frames.split(batch_size)
        ]
        raw = torch.cat(parts)
        return ((raw - self.shift) * self.scale).to(raw.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor, batch_size: int | None = None) -> np.ndarray:
        """Frames ``(N, H, W, 3)`` uint8 of normalised latents ``(N, C, h, w)``; ``batch_size`` as in
        :meth:`encode`."""
        area = latents.shape[2:].numel() * self.factor**2
        batch_size = batch_size or max(1, PIXELS_AT_ONCE // max(1, area))
        frames = []
        for part in latents.to(self.vae.device, self.vae.dtype).split(batch_size):
            raw = (part / self.scale + self.shift).to(part.dtype)
            pixels = self.unfold(self.vae.decode(raw).sample)
            frames.append(
                ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
            )
        return torch.cat(frames).numpy()

    def fingerprint(self) -> str:
        """sha256 of the weights and of how frames go in and latents come out."""
        shift = [float(v) for v in self.shift.flatten()]
        digest = hashlib.sha256(repr((self.unshuffle, shift, self.scale)).encode())
        for name, tensor in sorted(self.vae.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a diffusers folder, and beside it how frames go in and latents come out."""
        self.vae.save_pretrained(folder)
        shift = [float(v) for v in self.shift.flatten()]
        write_json(
            Path(folder) / SETTINGS, {"unshuffle": self.unshuffle, "shift": shift, "scale": self.scale}
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> FrameAutoencoder:
        """Open what ``save_pretrained`` or diffusers wrote; ModelScope's conventions without ``frames.json``.

        Args:
            folder: the autoencoder's, or that of a world model or of a task's weights, which hold one; or the Hub id
                of any of them.

        Raises:
            ValueError: no such folder, or a file of it is missing, damaged or of another shape.
            HubError: the Hub does not give what the id stands for.
        """
        found = located(str(folder))
        found = next((found / p for p in ("vae", "world_model/vae") if (found / p).is_dir()), found)
        if not found.is_dir():  # diffusers would ask the Hub for a repository of this name
            raise ValueError(
                f"{folder}: no such folder; expected an autoencoder that train_autoencoder saved"
            )
        vae = open_network(AutoencoderKL, found, torch_dtype=dtype)
        path = found / SETTINGS
        settings = json.loads(path.read_text()) if path.is_file() else {}
        return cls(vae, **settings).eval().requires_grad_(False)


class Reconstruct:
    """Frames through the autoencoder and back: the blur that every generated frame has.

    The corruption hook of the inverse dynamics trainer.
    """

    def __init__(self, folder: str | Path):
        self.autoencoder = FrameAutoencoder.from_pretrained(folder)

    def fingerprint(self) -> str:
        """The autoencoder's."""
        return self.autoencoder.fingerprint()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """``(N, H, W, 3)`` uint8 to the same, reconstructed."""
        parts = np.array_split(frames, max(1, len(frames) // 512))
        return np.concatenate([self.autoencoder.decode(self.autoencoder.encode(p)) for p in parts if len(p)])


def reconstruction_loss(
    model: FrameAutoencoder, pixels: Tensor, colour_weight: float, kl_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Weighted squared and absolute error plus the posterior's KL.

    Args:
        pixels: ``(N, 3, H, W)`` in [-1, 1].
        colour_weight: how much more a fully saturated pixel counts than a grey one: small coloured
            things carry the task and are few among the pixels.

    Returns:
        The loss, and ``psnr`` (dB, unweighted) and ``kl`` for the log.
    """
    posterior = model.vae.encode(model.fold(pixels)).latent_dist
    out = model.unfold(model.vae.decode(posterior.sample()).sample)
    saturation = (pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)) / 2
    weight = 1 + colour_weight * saturation
    error = (out - pixels).pow(2)
    kl = posterior.kl().mean() / pixels[0].numel()
    loss = (weight * (error + 0.1 * (out - pixels).abs())).mean() / weight.mean() + kl_weight * kl
    return loss, {"psnr": float(10 * torch.log10(4 / error.detach().mean())), "kl": float(kl.detach())}
