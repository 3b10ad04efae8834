"""Rows without a world model: what a figure has to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from envs.base import EpisodeLostError, TaskEnv
from inverse_dynamics.model import InverseDynamics
from planner.loop import Running, execute, execute_whole, explore, reset, score_executed
from tasks import Episode, Layout, Score, Task


def scored(task: Task, layout: Layout, track: np.ndarray) -> Score:
    """The score of a ``(T, N, 3)`` track on which everything stands free."""
    return task.score(track, np.ones(track.shape[:2], bool), layout.names, layout.plan)


def do_nothing(task: Task, layout: Layout) -> Score:
    """Nobody moves, once what the expert explores is done."""
    return scored(task, layout, task.idle_track(layout))


def constant_guess(task: Task, layout: Layout) -> Score:
    """Flawless hands without a memory. Raises ValueError for a task without such a guess."""
    track = task.constant_guess_track(layout)
    if track is None:
        raise ValueError(f"task={task.name} has no constant guess; leave that row out")
    return scored(task, layout, track)


def random_walk(env: TaskEnv, layout: Layout, seed: int) -> Score:
    """The expert explores, then every chunk is drawn blindly. Raises ValueError for a task without such, and
    SeedLostError where the expert does not come through."""
    task, rng = env.task, np.random.default_rng([seed, 20241101])
    frame, info = reset(env, layout)
    running = Running(env, layout, layout.plan, [frame], [info["positions"]])
    for k in range(len(layout.plan)):
        if k < task.explored(layout.plan):
            explore(running, k)
            continue
        actions = task.random_chunk(rng)
        if actions is None:
            raise ValueError(f"task={task.name} has no blind chunks; leave the row random_walk out")
        execute(running, actions)
    return score_executed(running)[1]


def has_row(task: Task, name: str) -> bool:
    """Whether a task has a baseline: some have no constant guess, or nothing to draw blindly."""
    if name == "constant_guess":
        return task.constant_guess_track(task.layout(task.heldout_seeds[0])) is not None
    return name != "random_walk" or task.random_chunk(np.random.default_rng(0)) is not None


def true_frames(env: TaskEnv, layout: Layout, episode: Episode, reader: InverseDynamics) -> Score:
    """The ceiling: actions read off the expert's true frames, executed from the start; what is explored
    first stays the expert's own. Raises SeedLostError where that is blocked."""
    actions = reader.actions(episode.frames[None])[0]
    explored = env.task.explored(layout.plan) * env.task.chunk_frames
    frame, info = reset(env, layout)
    running = Running(env, layout, layout.plan, [frame], [info["positions"]])
    execute_whole(running, episode.actions[:explored])
    execute(running, actions[explored:])
    return score_executed(running)[1]


def row_of(score: Score, seed: int) -> dict[str, Any]:
    """A baseline's episode as the other rows have it."""
    row: dict[str, Any] = {
        "seed": seed,
        "executed_distance": score.distance,
        "distances": dict(score.distances),
        "displaced": dict(score.displaced),
        "success": score.success,
    }
    return row | ({"details": dict(score.details)} if score.details else {})


def rows_of(
    way: Callable[[Layout], Score], layouts: Iterable[Layout]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """A baseline's episodes, and why those of some seeds must not be scored."""
    rows, lost = [], {}
    for layout in layouts:
        try:
            rows.append(row_of(way(layout), layout.seed))
        except EpisodeLostError as error:
            lost[layout.seed] = str(error)
    return rows, lost
