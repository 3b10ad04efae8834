"""The SRC benchmark (paper, Section 4.1): scripted paths that come to the same places many times.

A script is a path of ``path_retrace``'s maps, walked several times over: ``out_and_back`` goes out and undoes
each of its steps, ``loop`` goes round a rectangle. Which frames show one place is not assumed but read off the
poses that a simulator reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.dataset import DatasetError, EpisodeDataset, load_episodes
from tasks.path_retrace import QUARTER, Motion, PathRetrace
from tasks.task import Layout

KINDS = ("out_and_back", "loop")
NEAR = 0.05  # blocks between two poses of one place; a stride is 0.5 or more
ALIGNED = 1.0  # degrees between them; a frame turns 22.5
REVISITS = "revisits"  # in an episode's provenance: [[first, later], …] frames that show one place


@dataclass(frozen=True)
class Script:
    """A path and what each chunk of it does.

    Attributes:
        kind: one of ``KINDS``.
        layout: where it starts; its plan is the way out, or one lap.
        motions: one a chunk; each has its true caption.
    """

    kind: str
    layout: Layout
    motions: tuple[Motion, ...]


def draw_script(task: PathRetrace, kind: str, seed: int, rounds: int) -> Script:
    """The script of a seed: ``rounds`` times out and back, or ``rounds`` laps.

    With ``way_back=turn`` an agent turns round at both ends, so that the views of the way back are its own.

    Raises:
        PlanError: the map has no place for such a path.
    """
    layout = task.loop(seed) if kind == "loop" else task.layout(seed)
    once = task.motions(layout.plan)
    once += (Motion(0, QUARTER),) * round(-sum(motion.turn for motion in once) % 360 / QUARTER)
    return Script(kind, layout, once * rounds)


def revisits(poses: np.ndarray) -> np.ndarray:
    """Which frames show a place that was seen before.

    Two frames show one place if they are ``NEAR`` and look the same way (yaw modulo 360, ``ALIGNED``). A
    later visit is the frame that comes to the place; the frames that stay there are none.

    Args:
        poses: ``(T, 3)`` x, y (blocks) and yaw (degrees) of each frame.

    Returns:
        ``(P, 2)`` int64 (first, later) frame numbers, by later frame; ``first`` is a place's first frame.
    """
    x, y, yaw = np.asarray(poses, np.float64).T
    turned = np.abs((yaw[:, None] - yaw + 180) % 360 - 180)
    alike = (np.hypot(x[:, None] - x, y[:, None] - y) <= NEAR) & (turned <= ALIGNED)
    place = np.arange(len(poses))  # of each frame: the first frame there
    for frame in range(len(poses)):
        firsts = place[: frame + 1] == np.arange(frame + 1)
        place[frame] = np.argmax(alike[frame, : frame + 1] & firsts)
    came = np.flatnonzero((place[1:] != np.arange(1, len(place))) & (place[1:] != place[:-1])) + 1
    return np.stack([place[came], came], 1)


def load_revisits(data: EpisodeDataset | str | Path, gap: int = 1) -> list[np.ndarray]:
    """The ground truth of a dataset that ``python -m envs.revisit`` made.

    Args:
        data: the dataset, or its path.
        gap: frames that must lie between the two, at least; more than a model's context asks its memory.

    Returns:
        Of each episode the ``(P, 2)`` int64 (first, later) frame numbers that show one place, as
        :func:`revisits` finds them.

    Raises:
        DatasetError: there is no such dataset, or it has no revisits.
        ValueError: ``gap`` below 1.
    """
    if gap < 1:
        raise ValueError(f"gap={gap}: expected at least 1 frame")
    data = data if isinstance(data, EpisodeDataset) else load_episodes(data)
    stored = [data.provenance(i).get(REVISITS) for i in range(len(data))]
    if None in stored:
        raise DatasetError(
            f"{data.path}: episode {stored.index(None)} has no revisits; was it made by envs.revisit?"
        )
    pairs = [np.array(rows, np.int64).reshape(-1, 2) for rows in stored]
    return [p[p[:, 1] - p[:, 0] >= gap] for p in pairs]
