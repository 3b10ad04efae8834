"""A ceiling, not a memory: how the chunk should end, as one more clean past frame.

What is left to do with it is what the world model, the inverse dynamics and the control add to the error.
"""

from __future__ import annotations

from torch import Tensor

from world_model.memory.base import Denoiser
from world_model.memory.frames import FrameMemory, FrameState


class Oracle(FrameMemory):
    """Is told how each chunk to come should end, and shows the next one's end.

    The state of an episode holds the ends of the chunks that are not imagined yet; see
    :meth:`world_model.model.WorldModel.foresee`.
    """

    name = "oracle"
    extra_past = 1

    def told(self, ends: Tensor) -> FrameState:
        """The state of B episodes at their start, from the clean last frames ``(B, n, C, h, w)`` of their
        n chunks."""
        return FrameState(tuple(e.detach().clone() for e in ends))

    def past(self, state: FrameState) -> Tensor:
        """The next chunk's end, ``(B, 1, C, h, w)``.

        Raises:
            ValueError: it was told nothing about that chunk.
        """
        if not all(map(len, state.frames)):
            raise ValueError(
                "memory=oracle was not told how this chunk should end; only planner.run, planner.evaluate and "
                "world_model.slowfast_loop know that beforehand. Take another memory"
            )
        return super().past(state)  # type: ignore[return-value]

    def shown(self, frames: Tensor) -> Tensor:
        """``(1, C, h, w)``."""
        return frames[:1]

    def update(
        self, state: FrameState, denoiser: Denoiser, past: Tensor, new: Tensor, *_: object
    ) -> FrameState:
        """One chunk less is to come; what was seen is not kept."""
        return FrameState(tuple(f[1:] for f in state.frames))
