"""Rows without a world model: what a figure has to be compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.base import TaskEnv
from envs.collect import record
from inverse_dynamics.model import InverseDynamics
from tasks import Episode, Layout, Score, Task
from tasks.cube_return import CUBE_HALF, ZONE_HIGH, ZONE_LOW, CubeReturn


def do_nothing(task: Task, layout: Layout) -> Score:
    """A robot that never moves: no cube is displaced, each counts with the way it was told to go."""
    track = np.stack([layout.starts, layout.starts])
    return task.score(track, np.ones(track.shape[:2], bool), layout.names, layout.plan)


def constant_guess(task: Task, layout: Layout) -> Score:
    """Flawless hands without a memory: every cube goes out, and back to the middle of the zone."""
    if not isinstance(task, CubeReturn):
        raise ValueError(f"the constant guess knows cube_return's zone, not task={task.name}")
    out, back = layout.starts.copy(), layout.starts.copy()
    for cube, target in task.moves(layout.plan).items():
        out[layout.names.index(cube)] = task.place(target)
        back[layout.names.index(cube)] = [*(ZONE_LOW + ZONE_HIGH) / 2, CUBE_HALF]
    track = np.stack([layout.starts, out, back])
    return task.score(track, np.ones(track.shape[:2], bool), layout.names, layout.plan)


def expert_episode(env: TaskEnv, layout: Layout) -> Episode:
    """The expert's episode of a layout."""
    episode, error = record(env, layout)
    if episode is None:
        raise RuntimeError(f"the expert failed at seed {layout.seed}: {error}")
    return episode


def true_frames(env: TaskEnv, layout: Layout, episode: Episode, reader: InverseDynamics) -> Score:
    """The ceiling: actions read off the expert's true frames, executed from the start."""
    actions = reader.actions(episode.frames[None])[0]
    frame, info = env.reset(seed=layout.seed, options={"layout": layout})
    frames, positions = [frame], [info["positions"]]
    for action in actions:
        frame, _, _, _, info = env.step(action)
        frames.append(frame)
        positions.append(info["positions"])
    track = np.stack(positions).astype(np.float32)
    done = Episode(np.stack(frames), actions, (), track, tuple(env.names))
    return env.task.score(done.positions, env.task.released(done), done.names, layout.plan)


def row_of(score: Score, seed: int) -> dict:
    """A baseline's episode as the other rows have it."""
    return {
        "seed": seed,
        "executed_distance": score.distance,
        "distances": dict(score.distances),
        "displaced": dict(score.displaced),
        "success": score.success,
    }


def rows_of(scores: Sequence[Score], seeds: Sequence[int]) -> list[dict]:
    return [row_of(score, seed) for score, seed in zip(scores, seeds, strict=True)]
