"""Whether a video follows its actions: those read back off its frames against those that were commanded.

A video that stands still is as consistent as can be; this is what it fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.actions import ActionSpec

NEAR = {"mm": 20.0, "degrees": 5.0}  # an action read no farther from the commanded one is that action


@dataclass(frozen=True)
class ReadActions:
    """N actions read off frames, beside those that were commanded. Orientations are not compared.

    Attributes:
        off: ``(N,)`` how far the positions, or the turns of a camera, lie apart, in ``unit``.
        unit: ``mm`` of positions, ``degrees`` of a camera.
        right: ``(N,)`` bool, whether all keys, or the gripper, are as commanded.
    """

    off: np.ndarray
    unit: str
    right: np.ndarray

    @classmethod
    def of(cls, spec: ActionSpec, read: np.ndarray, commanded: np.ndarray) -> ReadActions:
        """``(N, A)`` actions read and commanded. Raises ValueError where their shapes differ."""
        if read.shape != commanded.shape:
            raise ValueError(
                f"{read.shape} actions were read, {commanded.shape} commanded; expected the same"
            )
        positions, binary = spec.indices("position"), spec.indices("binary")
        at, unit, scale = (
            (positions, "mm", 1000.0) if positions else (spec.indices("degrees"), "degrees", 1.0)
        )
        right = ((read[:, binary] > 0.5) == (commanded[:, binary] > 0.5)).all(1)
        return cls(scale * np.linalg.norm(read[:, at] - commanded[:, at], axis=1), unit, right)

    @property
    def followed(self) -> np.ndarray:
        """``(N,)`` bool: within ``NEAR``, and all keys or the gripper as commanded."""
        return self.right & (self.off <= NEAR[self.unit])

    def figures(self) -> dict[str, float]:
        """The share of actions that were followed; of a gripper also the median distance of its positions and how
        often it is open or closed as commanded."""
        found = {"followed": float(self.followed.mean())}
        if self.unit == "mm":
            found |= {"position_mm": float(np.median(self.off)), "gripper": float(self.right.mean())}
        return found


def said(spec: ActionSpec) -> str:
    """When an action counts as followed, for a page."""
    if spec.indices("position"):
        return f"read within {NEAR['mm']:g} mm of the commanded position, the gripper as commanded"
    return f"all keys read as commanded, the camera within {NEAR['degrees']:g}°"
