"""Do imagined videos follow their actions? An inverse dynamics model, given by configuration, reads them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tasks import ActionSpec
from tasks.following import ReadActions
from world_model.video_tables.clips import Clip


class Reader(Protocol):
    """Reads actions off consecutive frames; ``inverse_dynamics.model.InverseDynamics`` is one."""

    @property
    def spec(self) -> ActionSpec:
        """Of the actions."""
        ...

    def actions(self, frames: np.ndarray) -> np.ndarray:
        """``(B, F+1, H, W, 3)`` uint8 to ``(B, F, A)``. Raises ValueError for frames of another size."""
        ...


@dataclass(frozen=True)
class ReadBack:
    """Compares the actions that a reader sees in a video with those of the true one.

    Attributes:
        name: of the reader, with the version of its weights.
        version: of its weights.
    """

    reader: Reader
    name: str
    version: str

    def misfit(self, clips: Sequence[Clip], names: Sequence[str] = ()) -> str:
        """Why these clips' actions, of these names where they have some, can't be read back; empty where they can."""
        widths = {0 if c.actions is None else c.actions.shape[1] for c in clips}
        if widths != {len(self.reader.spec)}:
            has = "no actions" if widths == {0} else f"actions of {sorted(widths)} numbers"
            return f"the videos have {has}, {self.name} reads {len(self.reader.spec)}"
        if names and tuple(names) != self.reader.spec.names:
            return f"the videos' actions are {', '.join(names)}, {self.name} reads {', '.join(self.reader.spec.names)}"
        try:
            self.reader.actions(clips[0].frames[None, :2])
        except ValueError as error:
            return f"{self.name}: {error}"
        return ""

    def figures(self, clip: Clip, video: np.ndarray, chunk_frames: int | None = None) -> dict[str, float]:
        """What :meth:`tasks.following.ReadActions.figures` says of one video.

        Args:
            clip: its truth, whose actions were commanded.
            video: ``(T - 1, H, W, 3)`` uint8, without the frame that was given.
            chunk_frames: each chunk of so many frames goes on from the true frame before it; None: only the first
                frame is the true one's.
        """
        assert clip.actions is not None
        length = chunk_frames or len(video)
        parts = [
            np.concatenate([clip.frames[k : k + 1], video[k : k + length]])
            for k in range(0, len(video), length)
        ]
        read = self.reader.actions(np.stack(parts))
        return ReadActions.of(self.reader.spec, read.reshape(clip.actions.shape), clip.actions).figures()
