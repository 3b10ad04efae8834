"""What the expert does in a layout: the truth that imagined episodes are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from tqdm import tqdm

from envs.base import EpisodeLostError, TaskEnv
from envs.collect import record
from tasks import Episode, Layout, Subgoal


def expert_episode(env: TaskEnv, layout: Layout) -> Episode:
    """The expert's episode of a layout. Raises EpisodeLostError where the expert fails."""
    episode, error = record(env, layout)
    if episode is None:
        raise EpisodeLostError(f"the expert failed at seed {layout.seed}: {error}")
    return episode


def expert_episodes(env: TaskEnv, layouts: Sequence[Layout], title: str) -> list[tuple[Layout, Episode]]:
    """The expert's episodes of those layouts in which it does not fail; it is said in which it does.

    Raises:
        EpisodeLostError: it fails in all.
    """
    found: list[tuple[Layout, Episode]] = []
    reason = "there are no layouts"
    for layout in tqdm(layouts, desc=title, unit="episode"):
        try:
            found.append((layout, expert_episode(env, layout)))
        except EpisodeLostError as error:
            reason = str(error)
            tqdm.write(f"seed {layout.seed} left out: {reason}")
    if not found:
        raise EpisodeLostError(f"none of {len(layouts)} episodes of the expert is left: {reason}")
    return found


class Experts:
    """The expert's episodes of the layouts of a table, acted once, when they are first needed.

    Args:
        env: the expert acts in it; the task is its own.
        seeds: of the layouts.
    """

    def __init__(self, env: TaskEnv, seeds: Sequence[int]):
        self.env, self.seeds = env, seeds

    @cached_property
    def episodes(self) -> list[tuple[Layout, Episode]]:
        """Of each layout in which the expert does not fail. Raises EpisodeLostError: it fails in all."""
        return expert_episodes(
            self.env, [self.env.task.layout(s) for s in self.seeds], "the expert's episodes"
        )

    def begin(self, plan: Sequence[Subgoal]) -> int:
        """The number of the first frame that is imagined: what is explored before it is the camera's."""
        return 1 + self.env.task.explored(plan) * self.env.task.chunk_frames


def chunk_ends(env: TaskEnv, layout: Layout) -> np.ndarray:
    """``(n, H, W, 3)`` uint8: the last frame of each chunk of the expert's episode; ends the environment's
    own episode."""
    episode = expert_episode(env, layout)
    return episode.frames[[s.stop for s in episode.segments]]
