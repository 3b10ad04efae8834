"""The episode's first frame as one more clean past frame: the simplest memory that knows where things were."""

from __future__ import annotations

from torch import Tensor

from world_model.memory.frames import FrameMemory


class FirstFrame(FrameMemory):
    """Keeps the frame that the episode began with."""

    name = "first_frame"
    extra_past = 1

    def kept(self, frames: Tensor) -> Tensor:
        """``(1, C, h, w)``."""
        return frames[:1]

    def shown(self, frames: Tensor) -> Tensor:
        """``(1, C, h, w)``."""
        return frames
