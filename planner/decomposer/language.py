"""What the scripted decomposer needs to read one kind of instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.decomposer.grammar import Grammar, Tree
from tasks import Subgoal, Task, Vocabulary


@dataclass(frozen=True)
class Language:
    """One way of speaking, for every task whose vocabulary has its kinds.

    Attributes:
        kinds: of subgoals that it speaks of.
        grammar: of a task's vocabulary; its start symbol is ``instruction``.
        read: a tree's subgoals, and how open words were read; PlanError if it makes no sense.
        known: names the words there are, for someone who used another.
        advice: what an instruction has to say.
    """

    kinds: frozenset[str]
    grammar: Callable[[Vocabulary], Grammar]
    read: Callable[[Task, Tree], tuple[Sequence[Subgoal], Sequence[str]]]
    known: Callable[[Vocabulary], str]
    advice: str
