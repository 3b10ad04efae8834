"""What the numbers of an action mean: names, kinds, bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["position", "quaternion", "binary", "degrees"]


KEYS = ("forward", "back", "left", "right", "jump", "sprint", "sneak", "attack")
CAMERA = ("camera_pitch", "camera_yaw")


class MalformedActionError(ValueError):
    """An action of the wrong shape, with a NaN or an unknown name, or whose quaternion has no direction."""


@dataclass(frozen=True)
class ActionSpec:
    """The layout of one action vector.

    Each entry has a name, a kind and bounds: ``position`` in metres, ``quaternion`` (four entries in
    a row, xyzw), ``binary`` (0 or 1) and ``degrees``.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.kinds), len(self.low), len(self.high)}
        if sizes != {len(self.names)}:
            raise ValueError(f"names, kinds, low and high differ in length: {sorted(sizes)}")
        if self.kinds.count("quaternion") not in (0, 4):
            raise ValueError("a quaternion takes exactly four entries")

    def __len__(self) -> int:
        return len(self.names)

    def indices(self, kind: Kind) -> list[int]:
        """Positions of the entries of one kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]

    def to_named(self, action: np.ndarray) -> dict[str, float]:
        """``(A,)`` vector to ``{name: value}``."""
        return dict(zip(self.names, np.asarray(action, np.float64).tolist(), strict=True))

    def to_vector(self, named: Mapping[str, float]) -> np.ndarray:
        """``{name: value}`` to an ``(A,)`` float32 vector; every name once, no unknown one."""
        if set(named) != set(self.names):
            unknown, missing = set(named) - set(self.names), set(self.names) - set(named)
            raise MalformedActionError(f"action names: unknown {sorted(unknown)}, missing {sorted(missing)}")
        return np.array([named[n] for n in self.names], np.float32)

    def validate(self, action: np.ndarray) -> np.ndarray:
        """Return the action as float64 with a unit quaternion.

        Raises:
            MalformedActionError: wrong shape, a value that is not finite, or a zero quaternion.
        """
        try:
            a = np.array(action, np.float64)
        except (TypeError, ValueError):
            raise MalformedActionError(f"expected {len(self)} numbers {self.names}, got {action!r}") from None
        if a.shape != (len(self),):
            raise MalformedActionError(f"expected {len(self)} numbers {self.names}, got shape {a.shape}")
        if not np.isfinite(a).all():
            raise MalformedActionError(f"action has a value that is not finite: {a.tolist()}")
        quat = self.indices("quaternion")
        if quat:
            norm = np.linalg.norm(a[quat])
            if not 1e-3 <= norm < np.inf:
                raise MalformedActionError(
                    f"the quaternion has length {norm:g}; expected x y z w of length 1"
                )
            a[quat] /= norm
        return a

    def clip(self, actions: np.ndarray) -> np.ndarray:
        """Clip ``(…, A)`` into the bounds, make binaries 0 or 1 and quaternions unit; float32."""
        a = np.clip(np.asarray(actions, np.float64), self.low, self.high)
        binary, quat = self.indices("binary"), self.indices("quaternion")
        if binary:
            a[..., binary] = a[..., binary] > 0.5
        if quat:
            norm = np.linalg.norm(a[..., quat], axis=-1, keepdims=True)
            a[..., quat] = np.where(norm > 1e-3, a[..., quat] / np.maximum(norm, 1e-3), [0.0, 0.0, 0.0, 1.0])
        return a.astype(np.float32)


def end_effector_pose(low: tuple[float, float, float], high: tuple[float, float, float]) -> ActionSpec:
    """Absolute gripper pose in the robot's base frame and a gripper bit, as RLBench's
    ``MoveArmThenGripper(EndEffectorPoseViaPlanning(), Discrete())`` takes it: x y z (m) within the
    given box, quaternion xyzw, gripper 1 open / 0 closed."""
    return ActionSpec(
        names=("x", "y", "z", "qx", "qy", "qz", "qw", "gripper"),
        kinds=("position",) * 3 + ("quaternion",) * 4 + ("binary",),
        low=(*low, -1.0, -1.0, -1.0, -1.0, 0.0),
        high=(*high, 1.0, 1.0, 1.0, 1.0, 1.0),
    )


def keys_and_camera(max_degrees: float) -> ActionSpec:
    """Minecraft's keys (1 pressed / 0 not) and camera, as MineRL takes them: how far the view turns in one
    frame, degrees within ± ``max_degrees``, positive down (pitch) and to the right (yaw)."""
    key: Kind = "binary"
    angle: Kind = "degrees"
    return ActionSpec(
        names=(*KEYS, *CAMERA),
        kinds=(key,) * len(KEYS) + (angle,) * len(CAMERA),
        low=(0.0,) * len(KEYS) + (-max_degrees,) * len(CAMERA),
        high=(1.0,) * len(KEYS) + (max_degrees,) * len(CAMERA),
    )
