"""What a decomposer is: it turns an instruction into a plan that the task accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tasks import Subgoal, Task

AS_TOLD = "taken as told: the instruction is the caption of every chunk, and nobody was asked for a plan"


@dataclass(frozen=True)
class Plan:
    """The subgoals of one episode.

    Attributes:
        subgoals: in order; the task's ``check_plan`` accepts them.
        source: who made the plan, such as ``scripted`` or a language model's name.
        notes: how open words were read, such as ``'it' is the red cube``; for people.
    """

    subgoals: tuple[Subgoal, ...]
    source: str
    notes: tuple[str, ...] = ()


class Decomposer(Protocol):
    """Splits a task's instruction into subgoals (SlowFast-VGen, Section 3.4: ChatGPT there).

    Attributes:
        name: who plans, for people.
    """

    name: str

    def decompose(self, task: Task, instruction: str, frame: np.ndarray | None) -> Plan:
        """Plan one episode.

        Args:
            task: whose vocabulary and ``check_plan`` the plan obeys.
            instruction: free text.
            frame: ``(H, W, 3)`` uint8, the first observation, for decomposers that look.

        Raises:
            PlanError: the instruction can't be read in full, or makes no sense in this task.
        """
        ...


def told_plan(task: Task, instruction: str) -> Plan | None:
    """The plan of a task whose instructions are their own captions; None where a decomposer has to read them."""
    subgoals = task.as_told(instruction)
    return None if subgoals is None else Plan(subgoals, AS_TOLD, (AS_TOLD,))
