"""Two consecutive frames to the action that leads from the first to the second (paper, Section 4.2).

One class for every :class:`tasks.ActionSpec`: a small conv net looks at both frames, their difference
and where each pixel is; keypoints by spatial softmax (Levine et al., arXiv:1504.00702) say *where*, a
narrow map of what is there says *what*; an MLP turns both into one number an entry, read by its kind.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tasks import ActionSpec
from tasks.files import atomic_path, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
STRIDE = 8  # frame side over the side of the coarsest map
HUBER = 0.02  # of half the range, where the regression loss turns from squared to absolute


class CheckpointError(ValueError):
    """A folder that holds no usable inverse dynamics model. Its text is one line."""


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """What rebuilds the network.

    Attributes:
        spec: the action it predicts.
        image_size: height and width of a frame, px; multiples of 8.
        channels: of the maps at 1/2, 1/4 and 1/8 of the frame's side.
        keypoints: how many points the spatial softmax finds.
        hidden: width of the MLP.
    """

    spec: ActionSpec
    image_size: tuple[int, int] = (64, 64)
    channels: tuple[int, int, int] = (32, 64, 96)
    keypoints: int = 32
    hidden: int = 256

    def __post_init__(self) -> None:
        height, width = self.image_size
        if height < 2 * STRIDE or width < 2 * STRIDE or height % STRIDE or width % STRIDE:
            raise ValueError(
                f"image_size {height}x{width}: sides must be multiples of {STRIDE}, at least {2 * STRIDE}"
            )
        if len(self.channels) != 3 or min(*self.channels, self.keypoints, self.hidden) < 1:
            raise ValueError(f"channels must be three widths, got {self.channels}; all sizes must be ≥ 1")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InverseDynamicsConfig:
        spec = ActionSpec(**{k: tuple(v) for k, v in value["spec"].items()})
        rest: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k != "spec"
        }
        return cls(spec=spec, **rest)


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut; keeps shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class InverseDynamics(nn.Module):
    """Reads actions off consecutive frames.

    Call :meth:`actions` to use it; ``forward`` and ``loss`` are for the trainer.
    """

    grid: Tensor
    middle: Tensor
    reach: Tensor

    def __init__(self, config: InverseDynamicsConfig):
        super().__init__()
        self.config = config
        c1, c2, c3 = config.channels
        height, width = config.image_size
        self.half_size = nn.Sequential(nn.Conv2d(9 + 2, c1, 4, 2, 1), nn.ReLU(), Residual(c1))
        self.quarter = nn.Sequential(nn.Conv2d(c1, c2, 3, 2, 1), nn.ReLU(), Residual(c2))
        self.eighth = nn.Sequential(nn.Conv2d(c2, c3, 3, 2, 1), nn.ReLU(), Residual(c3))
        self.context = nn.Conv2d(c3, c2, 1)
        self.points = nn.Conv2d(c2, config.keypoints, 1)
        self.what = nn.Conv2d(c3, 16, 1)
        features = 3 * config.keypoints + 16 * (height // STRIDE) * (width // STRIDE)
        self.head = nn.Sequential(
            nn.Linear(features, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, len(config.spec)),
        )  # fmt: skip
        self._begin_at_neutral_actions()
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        low, high = torch.tensor(config.spec.low), torch.tensor(config.spec.high)
        self.register_buffer("grid", torch.stack([x, y])[None], persistent=False)
        self.register_buffer("middle", (high + low) / 2, persistent=False)
        self.register_buffer("reach", ((high - low) / 2).clamp_min(1e-6), persistent=False)

    def _begin_at_neutral_actions(self) -> None:
        """Start the last layer near the middle of the bounds and at a quaternion that no loss repels."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        last.bias.data[self.spec.indices("quaternion")] = 0.5

    @property
    def spec(self) -> ActionSpec:
        return self.config.spec

    @property
    def device(self) -> torch.device:
        return self.grid.device

    # --- network -----------------------------------------------------------------------------

    def forward(self, pairs: Tensor) -> Tensor:
        """Raw outputs of frame pairs.

        Args:
            pairs: ``(N, 2, 3, H, W)`` floats in [0, 1].

        Returns:
            ``(N, A)``: positions and degrees in halves of their range from its middle, quaternions not
            yet normalised, logits of binaries.
        """
        first, second = pairs.sub(0.5).mul(4.0).unbind(1)  # frames' contrast is about a quarter of the range
        grid = self.grid.expand(len(pairs), -1, -1, -1)
        x = self.quarter(self.half_size(torch.cat([first, second, second - first, grid], 1)))
        deep = self.eighth(x)
        x = F.relu(x + F.interpolate(self.context(deep), scale_factor=2, mode="nearest"))
        where = self._keypoints(self.points(x))
        return self.head(torch.cat([where, F.relu(self.what(deep)).flatten(1)], 1))

    def _keypoints(self, logits: Tensor) -> Tensor:
        """Expected place and peak height of each heat map: ``(N, K, h, w)`` to ``(N, 3K)``."""
        flat = logits.flatten(2).float()
        weight = flat.softmax(-1)
        grid = F.adaptive_avg_pool2d(self.grid, (logits.shape[-2], logits.shape[-1])).flatten(2)
        grid = grid.expand(len(logits), -1, -1)
        return torch.cat([(weight @ grid.transpose(1, 2)).flatten(1), weight.amax(-1)], 1)

    def loss(self, raw: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Training loss of raw outputs.

        Args:
            raw: ``(N, A)`` from ``forward``.
            actions: ``(N, A)`` in the spec's units.

        Returns:
            The loss, a sum over kinds: smooth-L1 of positions and of degrees (scaled to their bounds),
            ``1 - |cos|`` of quaternions (the same for q and -q), cross-entropy of binaries; and each
            kind's part for the log.
        """
        raw, parts = raw.float(), {}
        scaled = (actions - self.middle) / self.reach
        for kind in ("position", "degrees"):
            if at := self.spec.indices(kind):
                parts[kind] = 4 * F.smooth_l1_loss(raw[:, at], scaled[:, at], beta=HUBER)
        if at := self.spec.indices("quaternion"):
            parts["quaternion"] = 1 - F.cosine_similarity(raw[:, at], actions[:, at]).abs().mean()
        if at := self.spec.indices("binary"):
            parts["binary"] = 0.2 * F.binary_cross_entropy_with_logits(raw[:, at], actions[:, at])
        return torch.stack(list(parts.values())).sum(), {k: float(v.detach()) for k, v in parts.items()}

    def decode(self, raw: Tensor) -> np.ndarray:
        """Raw outputs ``(N, A)`` to actions ``(N, A)`` float32 within the spec's bounds."""
        raw = raw.float()
        actions = raw * self.reach + self.middle
        quaternion, binary = self.spec.indices("quaternion"), self.spec.indices("binary")
        if quaternion:
            actions[:, quaternion] = F.normalize(raw[:, quaternion], dim=-1)
        if binary:
            actions[:, binary] = raw[:, binary].sigmoid()
        return self.spec.clip(actions.cpu().numpy())

    @torch.no_grad()
    def actions(self, frames: np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """The actions between consecutive frames.

        Args:
            frames: ``(B, F+1, H, W, 3)`` uint8, F ≥ 1, of the size the model was trained on.

        Returns:
            ``(B, F, A)`` float32; ``[:, k]`` leads from frame k to frame k+1; within the spec's bounds,
            binaries 0 or 1, quaternions of length 1.

        Raises:
            ValueError: another shape or dtype.
        """
        frames = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
        want = (*self.config.image_size, 3)
        if (
            frames.ndim != 5
            or tuple(frames.shape[2:]) != want
            or frames.dtype != torch.uint8
            or frames.shape[1] < 2
        ):
            raise ValueError(
                f"expected frames (B, F+1 ≥ 2, {', '.join(map(str, want))}) uint8, "
                f"got {tuple(frames.shape)} {str(frames.dtype).removeprefix('torch.')}"
            )
        batch, count = frames.shape[0], frames.shape[1] - 1
        pairs = torch.stack([frames[:, :-1], frames[:, 1:]], 2).flatten(0, 1)  # (B·F, 2, H, W, 3)
        parts = [self.decode(self(to_unit(part.to(self.device)))) for part in pairs.split(batch_size)]
        return np.concatenate(parts).reshape(batch, count, len(self.spec))

    # --- files -------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (fp16), each at once or not at all."""
        folder = Path(folder)
        tensors = {k: v.detach().half().contiguous().cpu() for k, v in self.state_dict().items()}
        write_json(folder / CONFIG, self.config.to_json())
        with atomic_path(folder / WEIGHTS) as temp:
            save_file(tensors, temp)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> InverseDynamics:
        """Open what ``save_pretrained`` wrote, in float32 and evaluation mode.

        Raises:
            CheckpointError: a file is missing, can't be read, or holds another network's weights.
        """
        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder}: no {name}, so no inverse dynamics model; give a folder that "
                    "inverse_dynamics.train wrote"
                )
        try:
            config = InverseDynamicsConfig.from_json(json.loads((folder / CONFIG).read_text()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{folder / CONFIG} describes no inverse dynamics model ({reason})"
            ) from None
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise CheckpointError(
                f"{folder / WEIGHTS} is truncated or damaged ({error}); fetch or train it again"
            ) from None
        model = cls(config)
        _check_same_network(folder / WEIGHTS, model.state_dict(), tensors)
        model.load_state_dict({k: v.float() for k, v in tensors.items()})
        return model.to(device).eval().requires_grad_(False)


def to_unit(frames: Tensor) -> Tensor:
    """``(…, H, W, 3)`` uint8 to ``(…, 3, H, W)`` floats in [0, 1]."""
    return frames.movedim(-1, -3).float() / 255


def _check_same_network(path: Path, have: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in sorted(set(have) ^ set(given)):
        raise CheckpointError(
            f"{path}: tensor {name!r} is {'missing' if name in have else 'unknown'}; is config.json another model's?"
        )
    for name, tensor in have.items():
        if tensor.shape != given[name].shape:
            shapes = f"{tuple(given[name].shape)}, config.json asks for {tuple(tensor.shape)}"
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {shapes}; is config.json another model's?"
            )
        if not torch.isfinite(given[name]).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite; train it again")
