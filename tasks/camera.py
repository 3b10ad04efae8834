"""A pinhole camera: where a point of the table lands in the picture, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with square pixels and no distortion, as OpenGL and MuJoCo place it.

    Attributes:
        position: ``(3,)`` the pinhole, m, world frame.
        rotation: ``(3, 3)`` camera to world; its columns are the picture's right, its up, and back
            (away from what the camera looks at).
        fovy: full vertical field of view, degrees.
        height: rows of the picture, px.
        width: columns of the picture, px.
    """

    position: np.ndarray
    rotation: np.ndarray
    fovy: float
    height: int
    width: int

    def __post_init__(self) -> None:
        position, rotation = np.array(self.position, np.float64), np.array(self.rotation, np.float64)
        if position.shape != (3,) or rotation.shape != (3, 3):
            raise ValueError(
                f"expected position (3,) and rotation (3, 3), got {position.shape} and {rotation.shape}"
            )
        if not np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-5) or np.linalg.det(rotation) < 0:
            raise ValueError(
                "rotation must be a rotation matrix: orthonormal columns right, up, back = right × up"
            )
        if not 0 < self.fovy < 180 or self.height < 1 or self.width < 1:
            raise ValueError(
                f"expected 0 < fovy < 180 degrees and a picture of at least 1 × 1 px, "
                f"got fovy={self.fovy}, height={self.height}, width={self.width}"
            )
        position.flags.writeable = rotation.flags.writeable = False
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "rotation", rotation)

    @property
    def focal(self) -> float:
        """Focal length, px."""
        return self.height / 2 / float(np.tan(np.deg2rad(self.fovy) / 2))

    def depth(self, points: np.ndarray) -> np.ndarray:
        """``(…, 3)`` m to ``(…,)`` m along the line of sight; negative behind the camera."""
        return -(np.asarray(points, np.float64) - self.position) @ self.rotation[:, 2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """``(…, 3)`` m to ``(…, 2)`` px: u to the right, v down, the first pixel's centre at (0.5, 0.5).

        Points behind the camera become NaN.
        """
        local = (np.asarray(points, np.float64) - self.position) @ self.rotation
        depth = np.where(local[..., 2:] < 0, -local[..., 2:], np.nan)
        right_down = local[..., :2] * (self.focal, -self.focal) / depth
        return right_down + np.array([self.width / 2, self.height / 2])

    def unproject_to_height(self, pixels: np.ndarray, z: float | np.ndarray) -> np.ndarray:
        """``(…, 2)`` px to the ``(…, 3)`` points, m, of their lines of sight at world height ``z`` (m).

        ``z`` is a number or ``(…,)``. Lines of sight that never reach that height become NaN.
        """
        centred = np.asarray(pixels, np.float64) - np.array([self.width / 2, self.height / 2])
        local = np.concatenate([centred * (1, -1), np.full((*centred.shape[:-1], 1), -self.focal)], axis=-1)
        ray = local @ self.rotation.T
        with np.errstate(divide="ignore", invalid="ignore"):
            along = (np.asarray(z, np.float64) - self.position[2]) / ray[..., 2]
        along = np.where(np.isfinite(along) & (along > 0), along, np.nan)
        return self.position + along[..., None] * ray

    def metres_per_pixel(self, point: np.ndarray) -> np.ndarray:
        """``(…,)`` m that one pixel spans, across the line of sight, at ``(…, 3)`` points."""
        return self.depth(point) / self.focal
