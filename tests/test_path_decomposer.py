"""The scripted decomposer's words for paths: what it reads, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner.decomposer.named import NamedSides, NamedThings
from planner.decomposer.scripted import ScriptedDecomposer, language_of
from tasks import PlanError
from tasks.cube_return import CubeReturn
from tasks.path_retrace import RETURN_CAPTION, PathRetrace

TASK = PathRetrace()
FFLF = "forward forward left forward"


@pytest.mark.parametrize("task", [TASK, PathRetrace(way_back="turn"), PathRetrace(map="cig_arena")])
def test_every_layout_s_instruction_is_read_as_its_plan(task):
    for seed in [*range(12), *range(1_000_000, 1_000_012)]:
        layout = task.layout(seed)
        made = ScriptedDecomposer().decompose(task, layout.instruction)
        assert made.subgoals == layout.plan and made.source == "scripted"


@pytest.mark.parametrize(
    ("text", "out"),
    [
        (TASK.instruction, FFLF),
        ("walk forward two times, turn to the left, walk forward and then go back", FFLF),
        (
            "Please go straight ahead for 2 steps. Turn left. Go forward. Then return to where you started.",
            FFLF,
        ),
        ("go forward, go forward, turn left, go forward, then retrace your steps", FFLF),
        (
            "Move ahead twice, then make a left turn, then move ahead once, and finally walk back the same way.",
            FFLF,
        ),
        ("go forward twice then turn left then go forward then retrace the path to the start", FFLF),
        (
            "turn right twice, go forward 3 times, go back by the same path",
            "right right forward forward forward",
        ),
        ("go straight on, then follow the path back to where you started", "forward"),
        ("Go forward ten times; afterwards come back along the path you took!", " ".join(["forward"] * 10)),
    ],
)
def test_paraphrases(text, out):
    plan = ScriptedDecomposer().decompose(TASK, text).subgoals
    assert [str(s.target) for s in plan if s.kind != "return"] == out.split()
    assert [s.text for s in plan[len(out.split()) :]] == [RETURN_CAPTION] * len(out.split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("go forward, jump, then go back", "unknown word 'jump'; directions are forward, left, right"),
        ("don't go forward, go back", "says what not to do"),
        ("go forward or turn left, then go back", "leaves a choice"),
        ("go forward twice, turn left", "it stops in the middle; say only where to go and turn"),
        ("go back along the path", "no sense in"),
        ("go forward, go back along the path, turn left", "no sense in"),
        ("go forward, then follow the path", "it stops in the middle"),
        ("turn forward, go back", "no sense in"),
        ("turn left, go back along the path", "the plan never goes forward"),
        ("go forward 11 times, then go back", "unknown word '11'"),
        ("", "expected 1 to 120 words, got 0"),
    ],
)
def test_what_can_t_be_read_is_refused_with_the_reason(text, says):
    with pytest.raises(PlanError, match=says):
        ScriptedDecomposer().decompose(TASK, text)


def test_each_language_says_what_its_instructions_name():
    """Another one needs no branch where plans are checked."""
    assert language_of(TASK.vocabulary).named is NamedSides
    assert language_of(CubeReturn().vocabulary).named is NamedThings
    coverage = Path(__file__).parents[1] / "planner/decomposer/coverage.py"
    assert not {"PATHS", "THINGS", "NamedSides", "NamedThings"} & set(
        re.findall(r"\w+", coverage.read_text())
    )
