"""What the expert does in a layout: the truth that imagined episodes are compared with."""

from __future__ import annotations

import numpy as np

from envs.base import EpisodeLostError, TaskEnv
from envs.collect import record
from tasks import Episode, Layout


def expert_episode(env: TaskEnv, layout: Layout) -> Episode:
    """The expert's episode of a layout. Raises EpisodeLostError where the expert fails."""
    episode, error = record(env, layout)
    if episode is None:
        raise EpisodeLostError(f"the expert failed at seed {layout.seed}: {error}")
    return episode


def chunk_ends(env: TaskEnv, layout: Layout) -> np.ndarray:
    """``(n, H, W, 3)`` uint8: the last frame of each chunk of the expert's episode; ends the environment's
    own episode."""
    episode = expert_episode(env, layout)
    return episode.frames[[s.stop for s in episode.segments]]
