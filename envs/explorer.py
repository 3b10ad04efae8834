"""The scripted walker of ``path_retrace``: walks a path out, and back along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks import Subgoal
from tasks.path_retrace import Motion, PathRetrace


def walk(
    task: PathRetrace,
    positions: Mapping[str, np.ndarray],
    subgoal: Subgoal,
    home: Mapping[str, np.ndarray],
    plan: Sequence[Subgoal],
    step: int,
) -> np.ndarray:
    """``(F, A)`` float32 keys and camera of one chunk of a plan: a straight walk, or an even turn; see
    :func:`envs.expert.expert_actions`.

    ``step`` is its place in the plan: that of a step back tells which step out it undoes.
    """
    return move(task, task.motions(plan)[step])


def move(task: PathRetrace, motion: Motion) -> np.ndarray:
    """``(F, A)`` float32 keys and camera of one chunk that walks straight or turns evenly."""
    spec = task.action_spec
    action = np.zeros(len(spec), np.float32)
    if motion.walk:
        action[spec.names.index("forward" if motion.walk > 0 else "back")] = 1.0
    action[spec.names.index("camera_yaw")] = motion.turn / task.chunk_frames
    return np.repeat(action[None], task.chunk_frames, 0)
