"""Whether a plan does what an instruction asks, and nothing else, as far as a grammar can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from planner.decomposer.base import Plan
from planner.decomposer.grammar import tokenize
from planner.decomposer.language import Named
from planner.decomposer.scripted import MAX_WORDS, ScriptedDecomposer, language_of
from tasks import PlanError, Subgoal, Task


class Requirements:
    """What is certain about an instruction before any model is asked.

    Attributes:
        plan: the scripted decomposer's, if its grammar reads every word in one way; the only right one.

    Raises:
        PlanError: the grammar reads every word, and what they say makes no sense or is ambiguous.
    """

    def __init__(self, task: Task, instruction: str):
        self.plan: Plan | None = None
        self._named: Named | None = None
        try:
            language = language_of(task.vocabulary)
        except PlanError:  # a task of which no grammar speaks
            return
        grammar, words = language.grammar(task.vocabulary), tokenize(instruction)
        if len(words) <= MAX_WORDS and grammar.readings(words, "instruction")[0]:
            self.plan = ScriptedDecomposer().decompose(task, instruction)
        else:
            self._named = language.named(words, grammar.lexicon)

    def check(self, plan: Sequence[Subgoal]) -> None:
        """PlanError if the plan leaves out something asked for, or does something that is not."""
        if self.plan is not None:
            _same(plan, self.plan.subgoals)
        elif self._named is not None:
            self._named.check(plan)


def _same(plan: Sequence[Subgoal], wanted: Sequence[Subgoal]) -> None:
    missing, extra = Counter(wanted) - Counter(plan), Counter(plan) - Counter(wanted)
    texts = [f"missing: {s.text}" for s in missing] + [f"not asked for: {s.text}" for s in extra]
    if texts:
        raise PlanError("; ".join(texts[:4]))
    for i, (given, right) in enumerate(zip(plan, wanted, strict=True), 1):
        if given != right:
            raise PlanError(f"wrong order: step {i} is {given.text!r}, expected {right.text!r} there")
