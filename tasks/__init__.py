"""Tasks: plain data and metrics; knows no simulator, no model and no torch."""

from tasks.actions import ActionSpec, MalformedActionError
from tasks.episode import Episode, Segment
from tasks.task import Layout, PlanError, Score, Subgoal, Task, Vocabulary

__all__ = [
    "ActionSpec",
    "Episode",
    "Layout",
    "MalformedActionError",
    "PlanError",
    "Score",
    "Segment",
    "Subgoal",
    "Task",
    "Vocabulary",
]
