"""One recorded episode: what was seen, done and true."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Segment:
    """Frames ``start … stop`` (the last included) carry out one subgoal; ``start`` is the frame before it."""

    start: int
    stop: int
    caption: str


@dataclass(frozen=True)
class Episode:
    """Frames, actions and ground truth of one episode of T frames.

    Attributes:
        frames: ``(T, H, W, 3)`` uint8.
        actions: ``(T-1, A)`` float32; ``actions[k]`` leads from frame k to frame k+1.
        segments: consecutive subgoals; the first starts at frame 0 and each starts where the one
            before it stops.
        positions: ``(T, N, 3)`` float32 of the things in ``names``, in metres or blocks.
        names: the N names.
        provenance: task, env, seed, version, as json-able values.
    """

    frames: np.ndarray
    actions: np.ndarray
    segments: tuple[Segment, ...]
    positions: np.ndarray
    names: tuple[str, ...]
    provenance: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        T = len(self.frames)
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"frames must be (T,H,W,3) uint8, got {self.frames.shape} {self.frames.dtype}")
        if self.actions.ndim != 2 or len(self.actions) != T - 1:
            raise ValueError(f"{T} frames need {T - 1} actions, got shape {self.actions.shape}")
        if self.positions.shape != (T, len(self.names), 3):
            raise ValueError(f"positions must be {(T, len(self.names), 3)}, got {self.positions.shape}")
        at = 0
        for segment in self.segments:
            if segment.start != at or segment.stop <= segment.start or segment.stop >= T:
                raise ValueError(f"segment {segment} does not follow frame {at} within {T} frames")
            at = segment.stop

    def __len__(self) -> int:
        return len(self.frames)

    def position(self, name: str) -> np.ndarray:
        """``(T, 3)`` track of one named thing."""
        return self.positions[:, self.names.index(name)]
