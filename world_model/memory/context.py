"""A longer raw window: the frames right before the ordinary past, as further clean past frames."""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.memory.frames import FrameMemory


def padded(frames: Tensor, count: int) -> Tensor:
    """``(count, C, h, w)``: as many frames, the earliest repeated where there are fewer."""
    return torch.cat([frames[:1].expand(count - len(frames), -1, -1, -1), frames])


class Context(FrameMemory):
    """Keeps the last frames.

    Args:
        frames: extra past frames; where the episode is shorter, its first frame is repeated.
    """

    name = "context"

    def __init__(self, frames: int = 8) -> None:
        if frames < 1:
            raise ValueError(f"frames={frames}: expected at least 1")
        self.extra_past = frames

    def kept(self, frames: Tensor) -> Tensor:
        """The last ``frames`` + f_p of them."""
        return frames[-(self.extra_past + self.sizes.past_frames) :]

    def shown(self, frames: Tensor) -> Tensor:
        """The last ``frames`` of those that the ordinary past lacks."""
        older = frames[: -self.sizes.past_frames][-self.extra_past :]
        return padded(older if len(older) else frames[:1], self.extra_past)
