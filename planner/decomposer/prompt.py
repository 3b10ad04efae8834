"""What a language model is told and in which form it may answer; the words are in ``prompt.md``.

Knows the task's vocabulary and nothing of how a model is reached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from tasks import Subgoal, Task

EXAMPLE_SEEDS = 4  # training layouts tried for the examples; one is shown for each length of plan


@cache
def sections() -> dict[str, str]:
    """``prompt.md`` as {heading: text}."""
    text = files("planner.decomposer").joinpath("prompt.md").read_text("utf-8")
    parts = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)[1:]
    return {name.strip(): body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def fill(section: str, **values: str) -> str:
    """One section with its ``$names`` filled in; KeyError if one is left."""
    return Template(sections()[section]).substitute(values)


def system_prompt(task: Task) -> str:
    """The task's words, the rules of its kinds and worked examples from its training layouts."""
    words = task.vocabulary
    rules = [
        body
        for name, body in sections().items()
        if name.startswith("rules ") and set(name.split()[1:]) <= set(words.kinds)
    ]
    return fill(
        "system",
        kinds=_listed(words.kinds),
        objects=_listed(words.objects),
        targets=_listed((*words.targets, None)),
        rules="".join(f"\n{body}\n" for body in rules),
        examples="\n\n".join(_examples(task)),
    )


def _examples(task: Task) -> list[str]:
    shown: dict[int, str] = {}
    for seed in task.train_seeds[:EXAMPLE_SEEDS]:
        layout = task.layout(seed)
        if len(layout.plan) not in shown:
            text = fill(
                "example", instruction=layout.instruction, answer=answer_text(told(task, layout.plan))
            )
            shown[len(layout.plan)] = text
    return list(shown.values())


def told(task: Task, plan: Sequence[Subgoal]) -> tuple[Subgoal, ...]:
    """The shortest beginning of a plan that the task completes to all of it: what need be said."""
    shorter = (tuple(plan[:stop]) for stop in range(1, len(plan)))
    return next((p for p in shorter if task.completed(p) == tuple(plan)), tuple(plan))


def answer_text(plan: Sequence[Subgoal]) -> str:
    """A plan as the json that a model is asked for."""
    steps = [{"kind": s.kind, "object": s.object, "target": s.target} for s in plan]
    return json.dumps({"problem": None, "subgoals": steps})


def answer_schema(task: Task) -> dict[str, Any]:
    """The JSON schema of an answer, within what strict structured output allows: every key required."""
    words = task.vocabulary
    null: dict[str, Any] = {"type": "null"}
    target = {"anyOf": [{"type": "string", "enum": list(words.targets)}, null]} if words.targets else null
    step = {
        "kind": {"type": "string", "enum": list(words.kinds)},
        "object": {"type": "string", "enum": list(words.objects)},
        "target": target,  # not a list of types, beside which some servers overlook an enum
    }
    items = {"type": "object", "properties": step, "required": list(step), "additionalProperties": False}
    properties = {"problem": {"type": ["string", "null"]}, "subgoals": {"type": "array", "items": items}}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _listed(words: Sequence[str | None]) -> str:
    return ", ".join(json.dumps(word) for word in words)
