"""Retrieval: the earlier frames that look most like the newest one, as further clean past frames."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from world_model.memory.context import padded
from world_model.memory.frames import FrameMemory


class Retrieval(FrameMemory):
    """Keeps the whole episode and shows its most similar frames, by cosine similarity of latents.

    Args:
        frames: extra past frames; where fewer are old enough, the earliest of them is repeated.
        stride: every stride-th frame of the episode may be shown, its first always.
    """

    name = "retrieval"

    def __init__(self, frames: int = 4, stride: int = 2) -> None:
        if frames < 1 or stride < 1:
            raise ValueError(f"frames={frames}, stride={stride}: expected at least 1 each")
        self.extra_past, self.stride = frames, stride

    def shown(self, frames: Tensor) -> Tensor:
        """The frames before the ordinary past that are most similar to the last one, in time order."""
        older = frames[: -self.sizes.past_frames][:: self.stride]
        if not len(older):
            older = frames[:1]
        likeness = F.cosine_similarity(older.float().flatten(1), frames[-1:].float().flatten(1))
        best = likeness.topk(min(self.extra_past, len(older))).indices.sort().values
        return padded(older[best], self.extra_past)
