"""What the scripted decomposer needs to read one kind of instruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from planner.decomposer.grammar import Grammar, Tree, Words
from tasks import Subgoal, Task, Vocabulary


class Named(Protocol):
    """What an instruction names that can't be read in full."""

    def check(self, plan: Sequence[Subgoal]) -> None:
        """PlanError if a plan leaves out something named, or does something that is not."""
        ...


@dataclass(frozen=True)
class Language:
    """One way of speaking, for every task whose vocabulary has its kinds.

    Attributes:
        kinds: of subgoals that it speaks of.
        grammar: of a task's vocabulary; its start symbol is ``instruction``.
        read: a tree's subgoals, and how open words were read; PlanError if it makes no sense.
        known: names the words there are, for someone who used another.
        advice: what an instruction has to say.
        named: finds in an instruction's words, with the grammar's lexicon, what a plan must do whoever makes it.
    """

    kinds: frozenset[str]
    grammar: Callable[[Vocabulary], Grammar]
    read: Callable[[Task, Tree], tuple[Sequence[Subgoal], Sequence[str]]]
    known: Callable[[Vocabulary], str]
    advice: str
    named: Callable[[Words, Mapping[str, Mapping[Words, str]]], Named]
