"""What the instrument for imagined distance is: it reads off frames where a task's things are.

Which one a task has is said in ``configs/locator/<task>.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tasks import Episode, Segment, Subgoal


@dataclass(frozen=True)
class Located:
    """What the frames of one episode showed.

    Attributes:
        positions: ``(T, N, 3)`` as read, in the task's unit; NaN where not found.
        track: ``(T, N, 3)`` the same without gaps, to be scored.
        released: ``(T, N)`` bool, whether each thing stands free.
    """

    positions: np.ndarray
    track: np.ndarray
    released: np.ndarray


class Locator(Protocol):
    """Reads the places of N things off frames.

    Attributes:
        names: of the N things.
        unit: in which its own errors are said, such as ``mm``.
        scale: how many of them are one of the task's unit.
    """

    names: tuple[str, ...]
    unit: str
    scale: float

    def follow(self, frames: np.ndarray, starts: np.ndarray, plan: Sequence[Subgoal]) -> Located:
        """What ``(T, H, W, 3)`` uint8 frames show of an episode that began at ``(N, 3)`` starts."""
        ...

    def errors(self, episode: Episode, frames: np.ndarray) -> np.ndarray:
        """Distances, in the task's unit, between what is read off ``frames`` (those of the episode, perhaps
        through an autoencoder) and the truth where a chunk ends; NaN where not found."""
        ...

    def chunk_error(
        self, episode: Episode, segment: Segment, subgoal: Subgoal, frames: np.ndarray
    ) -> float | None:
        """How far, in the task's unit, the thing of a subgoal is from its true place in the last of
        ``(F, H, W, 3)`` frames that carry it out; NaN where not found, None where that tells nothing."""
        ...

    def pixel(self, episode: Episode) -> float | None:
        """Size of a pixel where the things are, in ``unit``; None if it has no one size."""
        ...
