"""The instrument for imagined distance: reads where coloured cubes stand off frames.

Uses the camera's geometry, the cube's size and the fact that a cube stands on the table; knows nothing of
any model. A cube that is lifted is placed where its line of sight meets the table's cube height, behind
its true place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from envs.base import TaskEnv
from inverse_dynamics.model import InverseDynamics
from planner.locator import Located
from tasks import Episode, Segment, Subgoal, Task
from tasks.camera import Camera

CHANNELS = {"red": 0, "green": 1, "blue": 2}
LEAST_CHROMA = 40.0  # levels of 255 by which a cube's channel must exceed the other two
RAMP = (0.20, 0.70)  # chroma over the cube's own at which a pixel starts to count, and counts in full
LEAST_VISIBLE = 0.35  # share of the silhouette below which a cube counts as not found
IN_FULL_VIEW = 0.8  # … and below which something hides enough of it to move its place by up to 2 cm


@dataclass(frozen=True)
class Sighting:
    """What was read off T frames about N cubes.

    Attributes:
        positions: ``(T, N, 3)`` m, the cubes' centres; NaN where not found.
        visible: ``(T, N)`` the seen area over the area of a cube that stands there in full view: below
            ``IN_FULL_VIEW`` something hides a part, and the position leans away from it.
        confidence: ``(T, N)`` in 0 … 1: ``visible`` (at most 1), times the share of the colour in the
            picture that belongs to this one blob. 0 where not found.
    """

    positions: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray


class CubeLocator:
    """Finds each cube by its colour and turns the centre of its outline into metres.

    The outline's centre is not the cube's: the camera sees the top and the side that faces it. The map
    from the one to the other is fitted once, by projecting the corners of a cube at a grid of places.

    Args:
        camera: the one that took the frames.
        names: of the cubes; the first word of each is its colour.
        colours: the colour of each (``red``, ``green`` or ``blue``), when the names don't tell.
        cube_half: half the cube's edge, m; also the height of its centre.
    """

    unit = "mm"
    scale = 1000.0

    def __init__(
        self,
        camera: Camera,
        names: Sequence[str],
        colours: Sequence[str] | None = None,
        cube_half: float = 0.025,
    ):
        colours = tuple(n.split()[0] for n in names) if colours is None else tuple(colours)
        if len(colours) != len(names) or set(colours) - set(CHANNELS) or len(set(colours)) < len(colours):
            known = ", ".join(CHANNELS)
            raise ValueError(f"expected one of {known} for each of {list(names)}, got {list(colours)}")
        self.camera, self.names, self.cube_half = camera, tuple(names), float(cube_half)
        self._channels = [CHANNELS[c] for c in colours]
        self._fit()

    @classmethod
    def of_parts(cls, task: Task, env: TaskEnv, reader: InverseDynamics) -> CubeLocator:
        """As a configuration makes it: the task's objects, seen by the env's camera."""
        if env.camera is None:
            raise ValueError(f"cubes are located by a camera that stands still; env={env.name} has none")
        return cls(env.camera, task.vocabulary.objects)

    # --- an episode ----------------------------------------------------------------------------

    def follow(self, frames: np.ndarray, starts: np.ndarray, plan: Sequence[Subgoal]) -> Located:
        """A cube stands free at the end of a chunk that lets go of it; where it is not found then, or is
        partly hidden, it counts as never displaced: with the distance that it was told to go."""
        located = self.locate_in_full_view(frames)
        chunk = (len(frames) - 1) // len(plan)
        released = np.zeros(located.shape[:2], bool)
        ends = [chunk * (i + 1) for i in range(len(plan))]
        for end, subgoal in zip(ends, plan, strict=True):
            if subgoal.kind != "pick":
                released[end, self.names.index(subgoal.object)] = True
        released &= np.isfinite(located).all(-1)
        track = located.copy()
        track[0] = starts
        for t in range(1, len(track)):
            lost = ~np.isfinite(track[t]).all(-1)
            track[t, lost] = track[t - 1, lost]
        last = {s.object: end for end, s in zip(ends, plan, strict=True) if s.kind == "return"}
        for cube, end in last.items():
            n = self.names.index(cube)
            if not released[end, n]:  # lost at the end of its return
                released[:, n] = False
            track[end:, n], released[end:, n] = track[end, n], released[end, n]
        return Located(located, track, released)

    def errors(self, episode: Episode, frames: np.ndarray) -> np.ndarray:
        """At the frames that end a chunk; cubes in the gripper are left out. As :meth:`follow` reads: a cube
        that is partly hidden counts as not found."""
        ends = [0, *(s.stop for s in episode.segments)]
        found = self.locate_in_full_view(frames[ends])
        true = np.stack([episode.position(n) for n in self.names], 1)[ends]
        standing = np.abs(true[..., 2] - self.cube_half) < 0.005
        return np.linalg.norm(found - true, axis=-1)[standing]

    def chunk_error(
        self, episode: Episode, segment: Segment, subgoal: Subgoal, frames: np.ndarray
    ) -> float | None:
        """Of a cube that was just put down; NaN where it is not found or partly hidden."""
        if subgoal.kind == "pick":
            return None
        found = self.locate_in_full_view(frames[-1:])[0, self.names.index(subgoal.object)]
        return float(np.linalg.norm(found - episode.position(subgoal.object)[segment.stop]))

    def pixel(self, episode: Episode) -> float | None:
        centre = np.mean(episode.position(self.names[0]), 0)
        return float(self.scale * self.camera.metres_per_pixel(np.array([*centre])))

    # --- frames --------------------------------------------------------------------------------

    def locate(self, frames: np.ndarray) -> np.ndarray:
        """``(T, H, W, 3)`` uint8 frames to ``(T, N, 3)`` m; NaN where a cube is not found."""
        return self.sight(frames).positions

    def locate_in_full_view(self, frames: np.ndarray) -> np.ndarray:
        """As :meth:`locate`; NaN also where a cube is partly hidden, so that its place would be off."""
        sight = self.sight(frames)
        return np.where((sight.visible >= IN_FULL_VIEW)[..., None], sight.positions, np.nan)

    def sight(self, frames: np.ndarray) -> Sighting:
        """As :meth:`locate`, with how much of each cube was seen.

        Raises:
            ValueError: frames of another shape or type than the camera takes.
        """
        frames = np.asarray(frames)
        expected = (self.camera.height, self.camera.width, 3)
        if frames.ndim != 4 or frames.shape[1:] != expected or frames.dtype != np.uint8:
            raise ValueError(
                f"expected (T, {expected[0]}, {expected[1]}, 3) uint8 frames, "
                f"got {frames.shape} {frames.dtype}"
            )
        blobs = [[self._blob(frame, c) for c in self._channels] for frame in frames.astype(np.float64)]
        seen = np.array(blobs).reshape(len(frames), len(self.names), 4)
        terms, mass, total = _quadratic((seen[..., :2] - self._mid) / self._span), seen[..., 2], seen[..., 3]
        visible = np.nan_to_num(mass / (terms @ self._to_area)[..., 0])
        found = visible >= LEAST_VISIBLE
        heights = np.full((*mass.shape, 1), self.cube_half)
        positions = np.concatenate([terms @ self._to_place, heights], axis=-1)
        share = mass / np.maximum(total, 1e-9)
        return Sighting(
            np.where(found[..., None], positions, np.nan),
            visible,
            np.where(found, np.clip(visible, 0, 1) * share, 0.0),
        )

    def _fit(self) -> None:
        """Least squares from the outline's centre to the cube's place, and to the outline's area."""
        camera = self.camera
        edge = np.array([[0.5, 0.5], [camera.width - 0.5, camera.height - 0.5]])
        table = camera.unproject_to_height(edge, self.cube_half)[:, :2]
        low, high = table.min(0), table.max(0)
        if not np.isfinite([low, high]).all():
            raise ValueError("the camera must look down on the table: its corners see no table")
        places = np.array(list(product(*np.linspace(low, high, 9).T)))
        corners = np.array(list(product((-1, 1), repeat=3))) * self.cube_half
        centres = np.column_stack([places, np.full(len(places), self.cube_half)])
        outlines = [outline(camera.project(c + corners)) for c in centres]
        middle, area = np.array([o[0] for o in outlines]), np.array([[o[1]] for o in outlines])
        self._mid, self._span = middle.mean(0), np.ptp(middle, axis=0)
        terms = _quadratic((middle - self._mid) / self._span)
        self._to_place, self._to_area = (np.linalg.lstsq(terms, y, rcond=None)[0] for y in (places, area))
        boxes = np.array([np.ptp(camera.project(c + corners), axis=0) for c in centres])
        self._window = np.ceil(boxes.max(0) / 2 + 1.5)  # px to each side of a blob's centre

    def _blob(self, frame: np.ndarray, channel: int) -> tuple[float, float, float, float]:
        """Centre u, v (px), area and area of all that colour (px²) of the heaviest blob; NaN without one."""
        others = np.delete(frame, channel, axis=-1).max(-1)
        chroma = frame[..., channel] - others
        ground = float(np.median(chroma))
        box = np.maximum(self._window.astype(int) // 2, 1)
        peak = float(_box_mean(chroma, box // 2 + 1).max())
        if peak < LEAST_CHROMA:
            return np.nan, np.nan, 0.0, 0.0
        own = (chroma - ground) / (peak - ground)
        weight = np.clip((own - RAMP[0]) / (RAMP[1] - RAMP[0]), 0, 1) * (chroma > LEAST_CHROMA / 4)
        v, u = np.unravel_index(np.argmax(_box_mean(weight, self._window.astype(int))), weight.shape)
        rows, columns = np.arange(weight.shape[0])[:, None] + 0.5, np.arange(weight.shape[1])[None] + 0.5
        centre = np.array([u + 0.5, v + 0.5])
        for _ in range(4):
            near = (abs(columns - centre[0]) <= self._window[0]) & (abs(rows - centre[1]) <= self._window[1])
            inside = weight * near
            mass = inside.sum()
            if mass <= 0:
                return np.nan, np.nan, 0.0, 0.0
            centre = np.array([(inside * columns).sum(), (inside * rows).sum()]) / mass
        return centre[0], centre[1], float(mass), float(weight.sum())


def outline(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre ``(2,)`` and area of the convex hull of ``(P, 2)`` points."""
    hull: list[np.ndarray] = []
    ordered = points[np.lexsort(points.T)]
    for chain in (ordered, ordered[::-1]):
        start = len(hull)
        for p in chain:
            while len(hull) - start > 1 and _turn(hull[-2], hull[-1], p) <= 0:
                hull.pop()
            hull.append(p)
        hull.pop()
    a = np.array(hull)
    b = np.roll(a, -1, axis=0)
    cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    area = cross.sum() / 2
    return ((a + b) * cross[:, None]).sum(0) / (6 * area), abs(float(area))


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _quadratic(uv: np.ndarray) -> np.ndarray:
    """``(…, 2)`` to the ``(…, 6)`` terms of a quadratic."""
    u, v = uv[..., 0], uv[..., 1]
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


def _box_mean(image: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Mean over ``2·half + 1`` pixels, ``half`` = (columns, rows), with zeros beyond the border."""
    for axis, h in ((1, int(half[0])), (0, int(half[1]))):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (h + 1, h)
        total = np.pad(image, pad).cumsum(axis)
        n = image.shape[axis]
        image = (total.take(range(2 * h + 1, 2 * h + 1 + n), axis) - total.take(range(n), axis)) / (2 * h + 1)
    return image
