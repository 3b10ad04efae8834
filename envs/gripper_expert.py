"""The scripted hands of ``cube_return``: how a gripper picks a cube up and puts it down is known here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks import Subgoal
from tasks.cube_return import CUBE_HALF, CubeReturn

DOWN = (1.0, 0.0, 0.0, 0.0)
TRAVEL_HEIGHT = 0.14
OPEN, CLOSED = 1.0, 0.0


def carry(
    task: CubeReturn,
    positions: Mapping[str, np.ndarray],
    subgoal: Subgoal,
    home: Mapping[str, np.ndarray],
    plan: Sequence[Subgoal],
    step: int,
) -> np.ndarray:
    """``(4, 8)`` float32 poses of one subgoal; see :func:`envs.expert.expert_actions`.

    Pick: above, down, close, up. Put and return: above, down, open, up.
    """
    if subgoal.kind == "pick":
        place, before, after = positions[subgoal.object], OPEN, CLOSED
    else:
        place = task.place(subgoal.target) if subgoal.target else home[subgoal.object]
        before, after = CLOSED, OPEN
    x, y = place[:2]
    steps = [(TRAVEL_HEIGHT, before), (CUBE_HALF, before), (CUBE_HALF, after), (TRAVEL_HEIGHT, after)]
    return np.array([(x, y, z, *DOWN, grip) for z, grip in steps], np.float32)
