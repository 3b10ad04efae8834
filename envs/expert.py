"""Carries out subgoals from privileged positions: the teacher that makes the training data.

A task lists only kinds, objects and targets. Who does them is said in ``configs/expert/NAME.yaml``, where NAME is the
file of the task's class in ``tasks/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import hydra
import numpy as np
from omegaconf import OmegaConf

from tasks import Subgoal, Task
from tasks.commands import CONFIGS


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
        positions: where everything is now, in the task's unit.
        home: where everything was when the episode began.
        plan: the whole plan; a path that is retraced needs it, for all steps back read the same.
        step: the subgoal's place in it.

    Returns:
        ``(F, A)`` float32, as the task's expert gives them.

    Raises:
        ValueError: the task has no expert.
    """
    expert = expert_of(type(task))
    if expert is None:
        raise ValueError(f"no expert is written for task={task.name}; name one in configs/expert/")
    return expert(task, positions, subgoal, home, plan, step)


@cache
def expert_of(kind: type) -> Callable[..., np.ndarray] | None:
    """The expert of a task's class, or of the nearest one that it is a kind of; None if there is none."""
    for ancestor in kind.__mro__:
        path = CONFIGS / "expert" / f"{ancestor.__module__.rpartition('.')[2]}.yaml"
        if path.is_file():
            return hydra.utils.instantiate(OmegaConf.load(path))
    return None
