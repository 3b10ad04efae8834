"""Carries out subgoals from privileged positions: the teacher that makes the training data.

A task lists only kinds, objects and targets; how a gripper does them is known here alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from envs.explorer import walk
from tasks import Subgoal, Task
from tasks.cube_return import CUBE_HALF, CubeReturn
from tasks.path_retrace import PathRetrace

DOWN = (1.0, 0.0, 0.0, 0.0)
TRAVEL_HEIGHT = 0.14
OPEN, CLOSED = 1.0, 0.0


def expert_actions(
    task: Task,
    positions: Mapping[str, np.ndarray],
    subgoal: Subgoal,
    home: Mapping[str, np.ndarray],
    plan: Sequence[Subgoal] = (),
    step: int = 0,
) -> np.ndarray:
    """The actions of one subgoal.

    Args:
        positions: where everything is now, m.
        home: where everything was when the episode began, m.
        plan: the whole plan; a path that is retraced needs it, for all steps back read the same.
        step: the subgoal's place in it.

    Returns:
        ``(F, A)`` float32. Pick: above, down, close, up. Put and return: above, down, open, up. Of a path
        see :func:`envs.explorer.walk`.
    """
    if isinstance(task, PathRetrace):
        return walk(task, plan, step)
    if not isinstance(task, CubeReturn):
        raise ValueError(f"no expert is written for task={task.name}")
    if subgoal.kind == "pick":
        place, before, after = positions[subgoal.object], OPEN, CLOSED
    else:
        place = task.place(subgoal.target) if subgoal.target else home[subgoal.object]
        before, after = CLOSED, OPEN
    x, y = place[:2]
    steps = [(TRAVEL_HEIGHT, before), (CUBE_HALF, before), (CUBE_HALF, after), (TRAVEL_HEIGHT, after)]
    return np.array([(x, y, z, *DOWN, grip) for z, grip in steps], np.float32)
