"""Accepted answers of a language model, one json file each, named by all that decided them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.decomposer.answer import MAX_ANSWER, read_answer
from planner.decomposer.base import Plan
from planner.decomposer.coverage import Requirements
from planner.decomposer.prompt import answer_text
from tasks import Task
from tasks.files import sha256_of, write_json


class AnswerCache:
    """A folder of answers.

    Args:
        folder: made when the first answer is kept; None keeps none.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def file(self, *asked: Any) -> Path | None:
        """Where the answer to ``asked`` (json values: server, model, messages, schema, …) lies or would lie."""
        if self.folder is None:
            return None
        name = sha256_of(asked)
        return self.folder / f"{name}.json"

    def read(self, file: Path, task: Task, required: Requirements) -> Plan | None:
        """A stored plan, checked as if it had just come; None if there is none or it does not pass."""
        try:
            if file.stat().st_size > MAX_ANSWER:
                return None
            stored = json.loads(file.read_text("utf-8"))
            subgoals, _ = read_answer(json.dumps(stored["answer"]), task)
            task.check_plan(subgoals)
            required.check(subgoals)
            return Plan(subgoals, str(stored["source"]), tuple(map(str, stored["notes"])))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, file: Path, plan: Plan, instruction: str) -> None:
        """Keep a plan that was accepted; the file is there in full or not at all."""
        answer = json.loads(answer_text(plan.subgoals))
        notes = list(plan.notes)
        write_json(
            file, {"instruction": instruction, "source": plan.source, "notes": notes, "answer": answer}
        )
