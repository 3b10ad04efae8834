"""Any of RLBench's own tasks (``task=rlbench task.name=close_jar``), which RLBench itself scores.

Positions hold the gripper and one more thing that bears the task's name: its first coordinate is 1 until
RLBench calls the task solved, then 0, so that a distance is the share of unsolved tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tasks.actions import ActionSpec, end_effector_pose
from tasks.task import Layout, PlanError, Score, Subgoal, Task, Vocabulary


@dataclass(frozen=True)
class RLBenchTask(Task):
    """One of RLBench's tasks, asked for in RLBench's own words.

    Attributes:
        name: RLBench's name of the task, such as ``close_jar``.
        variation: RLBench's number of the variation; None draws one from the seed.
        chunks: how many chunks of ``chunk_frames`` actions an episode takes, all with the same caption.
    """

    name: str = "reach_target"
    variation: int | None = None
    chunks: int = 4
    instruction: str = "What RLBench says, such as: close the red jar"
    unit: str = "unsolved"
    tolerance: float = 0.5
    chunk_frames: int = 4
    train_seeds: range = range(0, 1_000_000)
    heldout_seeds: range = range(1_000_000, 2_000_000)
    figure: ClassVar[str] = "share"
    headline: ClassVar[str] = "a share of {figure}"
    success_means: ClassVar[str] = "RLBench calls it solved"
    measured: ClassVar[str] = (
        "Share: of the episodes, those at whose end RLBench does not call the task solved."
    )

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            near = re.sub(r"\W+|(?<=[a-z0-9])(?=[A-Z])", "_", self.name).lower()
            raise ValueError(
                f"task.name={self.name}: expected a name as RLBench's files have, such as {near or 'close_jar'}"
            )
        if self.chunks < 1:
            raise ValueError(f"task.chunks={self.chunks}: expected at least 1")

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(("do",), (self.words,), ())

    @property
    def action_spec(self) -> ActionSpec:
        """Roughly RLBench's workspace, m from the table under the robot's base; the env knows it exactly."""
        return end_effector_pose(low=(0.05, -0.68, 0.0), high=(1.08, 0.68, 1.0))

    def layout(self, seed: int, moves: Mapping[str, str] | None = None) -> Layout:
        """A seed's layout; what is asked in it is known once RLBench has been reset: see :meth:`told`."""
        if moves:
            raise PlanError(f"{self.name} has no objects to move by name, got {dict(moves)}")
        return self.told(Layout(seed, "", (self.words,), np.array([[1.0, 0.0, 0.0]]), ()), self.words)

    def told(self, layout: Layout, description: str) -> Layout:
        """The layout with one of RLBench's descriptions as its instruction and caption."""
        plan = self.as_told(description)
        return replace(layout, instruction=plan[0].text, plan=plan)

    def as_told(self, instruction: str) -> tuple[Subgoal, ...]:
        """Every chunk with the instruction as its caption: the words name what the variation asks for."""
        text = " ".join(instruction.split())
        if not text:
            raise PlanError(f"the instruction is empty; say what to do, such as {self.words!r}")
        return (Subgoal(text, "do", self.words),) * self.chunks

    def subgoal(self, kind: str, object: str, target: str | None = None) -> Subgoal:
        if (kind, object, target) != ("do", self.words, None):
            raise PlanError(f"unknown step {kind!r} {object!r}; {self.name} has only 'do' {self.words!r}")
        return Subgoal(self.words, kind, object)

    def check_plan(self, plan: Sequence[Subgoal]) -> None:
        if len(plan) != self.chunks:
            raise PlanError(f"the plan has {len(plan)} steps; {self.name} takes task.chunks={self.chunks}")
        for step in plan:
            self.subgoal(step.kind, step.object, step.target)

    def moves(self, plan: Sequence[Subgoal]) -> dict[str, str]:
        return {}

    def score(self, positions, released, names, plan) -> Score:
        unsolved = float(positions[-1, list(names).index(self.words), 0])
        return Score({self.words: unsolved}, {self.words: unsolved < self.tolerance}, {})
