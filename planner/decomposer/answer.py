"""Reads a language model's answer: finds the json in it, and allows only the task's own words.

Every refusal is a PlanError whose text can go back to the model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tasks import PlanError, Subgoal, Task, Vocabulary

MAX_ANSWER = 65_536  # characters
MAX_STEPS = 64
MAX_STARTS = 200  # opening braces tried in one answer
NO_PROBLEM = {"", "none", "null", "no", "no problem", "n/a"}


def clean(text: str) -> str:
    """NFKC (fullwidth to plain letters), without invisible characters, white space collapsed."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


class Step(BaseModel):
    """One subgoal as the model wrote it; its words are checked against the vocabulary in the context."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kind: str = Field(max_length=200)
    object: str = Field(max_length=200)
    target: str | None = Field(default=None, max_length=200)

    @field_validator("kind", "object", "target")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        words: Vocabulary = (info.context or {})["vocabulary"]
        have = {"kind": words.kinds, "object": words.objects, "target": words.targets}[str(info.field_name)]
        if value is None or (info.field_name == "target" and clean(value).casefold() in ("", "none", "null")):
            return None
        plain = clean(value).casefold()
        for word in have:
            if word.casefold() == plain:
                return word
        odd = next((c for c in plain if not c.isascii()), None)
        if odd and all(word.isascii() for word in have):
            name = unicodedata.name(odd, "an unnamed character")
            raise ValueError(
                f"{plain!r} holds U+{ord(odd):04X} {name}; use exactly one of: {', '.join(have)}"
            )
        raise ValueError(f"{plain!r} is none of: {', '.join(have)}")


class Answer(BaseModel):
    """What a model may answer: subgoals, or what keeps it from giving any."""

    model_config = ConfigDict(extra="forbid", strict=True)
    problem: str | None = None
    subgoals: list[Step] = Field(default_factory=list, max_length=MAX_STEPS)


def read_answer(text: str, task: Task) -> tuple[tuple[Subgoal, ...], str | None]:
    """The subgoals in an answer, in the task's words; not yet checked for sense.

    Returns:
        The subgoals, and the problem that the model reports instead, or None.

    Raises:
        PlanError: no json, several that differ, a wrong form, or a word outside the vocabulary.
    """
    if len(text) > MAX_ANSWER:
        raise PlanError(f"the answer has {len(text)} characters; expected at most {MAX_ANSWER}")
    try:
        answer = Answer.model_validate(find_json(text), context={"vocabulary": task.vocabulary})
    except ValidationError as error:
        raise PlanError(_explain(error)) from None
    problem = clean(answer.problem or "")
    if problem.casefold().rstrip(".") not in NO_PROBLEM:
        return (), problem
    if not answer.subgoals:
        raise PlanError("the answer has neither subgoals nor a problem")
    return tuple(task.subgoal(s.kind, s.object, s.target) for s in answer.subgoals), None


def find_json(text: str) -> dict[str, Any]:
    """The one json object of an answer in a text that may hold prose, code fences or ``<think>``."""
    text = re.sub(r"<think>.*?</think>", " ", text, flags=re.DOTALL)
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    found: list[dict[str, Any]] = []
    at, reason = text.find("{"), ""
    for _ in range(MAX_STARTS):
        if at < 0:
            break
        end = at + 1
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            reason = reason or f"its json can't be read ({error})"
        else:
            if value not in found and {"subgoals", "problem"} & set(value):
                found.append(value)
            reason = reason or 'its json has no "subgoals"'
        at = text.find("{", end)
    if len(found) > 1:
        raise PlanError(f"it holds {len(found)} different json objects; expected one")
    if not found:
        raise PlanError(reason or "it holds no json object")
    return found[0]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _explain(error: ValidationError) -> str:
    """Pydantic's first errors as one line: ``subgoals[1].object: 'green cube' is none of: …``."""
    lines = []
    for item in error.errors(include_url=False)[:3]:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).lstrip(".")
        lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
