"""From an instruction to subgoals."""

from planner.decomposer.base import Decomposer, Plan

__all__ = ["Decomposer", "Plan"]
