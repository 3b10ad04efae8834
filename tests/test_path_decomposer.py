# ruff: noqa: E501 - one instruction a line
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
READ = [
    (TASK.instruction, "fflf"),
    ("walk forward two times, turn to the left, walk forward and then go back", "fflf"),
    ("Please go straight ahead for 2 steps. Turn left. Go forward. Then return to where you started.", "fflf"),
    ("go forward, go forward, turn left, go forward, then retrace your steps", "fflf"),
    ("Move ahead twice, then make a left turn, then move ahead once, and finally walk back the same way.", "fflf"),
    ("go forward twice then turn left then go forward then retrace the path to the start", "fflf"),
    ("turn right twice, go forward 3 times, go back by the same path", "rrfff"),
    ("go straight on, then follow the path back to where you started", "f"),
    ("Go forward ten times; afterwards come back along the path you took!", "ffffffffff"),
    ("Go forward, then go back.", "f"),
    ("Walk forward and return to where you started.", "f"),
    ("Move forward once, then retrace your steps.", "f"),
    ("Please walk ahead, then walk back the way you came.", "f"),
    ("Take a left turn, walk straight ahead twice, and come back.", "lff"),
    ("Take a right turn. Walk three steps. Then backtrack to the start.", "rfff"),
    ("Go forward two steps, turn right, go forward two more steps, then return.", "ffrff"),
    ("First go straight, then turn left, then go straight, and finally go back the same way.", "flf"),
    ("Head forward, turn left, head forward, turn left, then find your way back.", "flfl"),
    ("Could you walk forward twice and then make your way back to the beginning?", "ff"),
    ("I want you to go ahead 4 times and afterwards follow the same path back.", "ffff"),
    ("Continue straight for 2 steps, turn to your right, continue straight, then head back along the route.", "ffrf"),
    ("Advance twice; rotate left; advance once; then return along the same route to the starting point.", "fflf"),
    ("March forward, march forward, march forward, then retrace the route to the start", "fff"),
    ("Run ahead, then make a right turn, then run ahead, then run back to where you began.", "frf"),
    ("Step forward once. Turn left. Step forward once. Go all the way back.", "flf"),
    ("To begin with, turn left. Next, walk forward twice. Finally, return home.", "lff"),
    ("Turn left and walk forward, and then turn right and walk forward, and then backtrack.", "lfrf"),
    ("Go on, go on, turn right, go on, and then go back to your starting point!", "ffrf"),
    ("Proceed forward three times and then come all the way back", "fff"),
    ("walk straight on twice, rotate to the right, walk straight on, then return by the same way", "ffrf"),
    ("spin 90 degrees to the left, move forwards, then retrace your path", "lf"),
    ("Turn right by 90 degrees, go forward, then go back down the same path to where you were", "rf"),
    ("Make a left turn, go forward, make a right turn, go forward, then retrace the same path to the start.", "lfrf"),
    ("go forward five times then go home", "fffff"),
    ("Go forward 2 times, turn right 2 times, go forward, then return to the place where you started", "ffrrf"),
    ("You should go forward, turn left, go forward twice, and at the end walk back along the path you walked.", "flff"),
    ("Your task is to walk forward, turn right, walk forward and return to the start.", "frf"),
    ("Now move straight ahead and after that turn left, and after that move straight ahead, then travel back.", "flf"),
    ("Keep going forward twice, then get back to your start", "ff"),
    ("Walk forward. Look right. Walk forward. Then follow the route back to the beginning.", "frf"),
    ("Keep walking straight, turn left once, keep walking straight, then return", "flf"),
    ("go straight ahead once; turn right once; go straight ahead once; then backtrack to where you came from", "frf"),
    ("Would you kindly go forward thrice, then retrace your route to the starting point", "fff"),
    ("would you go forward thrice, then retrace your route to the starting point", "fff"),
    ("Do a left turn, then walk ahead for three steps, then return via the same route", "lfff"),
    ("take a quarter turn to the left and go forward, then return", "lf"),
    ("Travel forward one step, turn left, travel forward one step, turn left, travel forward one step, and find the way back.", "flflf"),
    ("GO FORWARD, TURN RIGHT, GO FORWARD, RETURN TO WHERE YOU STARTED FROM", "frf"),
    ("go ahead & turn left & go ahead & go back", "flf"),
    ("Walk forward for one step, then walk back on the same path.", "f"),
    ("Turn left twice, walk forward twice, and go back along the path.", "llff"),
    ("Go forward. Go forward. Go forward. Turn right. Go forward. Return.", "fffrf"),
    ("Head straight on, turn to the left, head straight on, then come back to the first place", "flf"),
    ("first of all, go forward; lastly, go back", "f"),
    ("walk forward 10 times and then walk all the way back to the starting place", "ffffffffff"),
    ("Can you please go forward, make a right turn, go forward, and in the end go back home?", "frf"),
    ("make a left quarter turn, advance for two steps, then backtrack along the path", "lff"),
    ("Move on twice, turn left, move on once, then move back along the same way you came.", "fflf"),
]  # fmt: skip

REFUSED = [
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
    ("Turn around to the left, go forward, go back", "unknown word 'around'"),
    ("Go forward and forward again, then go back", "unknown word 'again'"),
    ("Head straight on, turn to the left, head straight on, then come back to the same place", "no sense in 'to the same place'"),
    ("go forward, turn left for two steps, go back", "no sense in 'for two steps , go back'"),
    ("Go left, go forward, and go back", "no sense in 'left , go forward , and'"),
    ("Walk backwards, then go back", "no sense in 'backwards , then go back'"),
    ("Go forward until you reach the wall, then go back", "'until' leaves a choice"),
    ("Go forward a few times and return", "unknown word 'few'"),
    ("Go forward zero times, then return", "unknown word 'zero'"),
    ("Go halfway forward, then return", "unknown word 'halfway'"),
    ("Turn left and right, go forward, return", "no sense in 'right , go forward , return'"),
    ("Strafe left, then return", "unknown word 'strafe'"),
    ("Go forward twice but not left, then return", "unknown word 'but'"),
    ("Retrace your steps, then go forward", "no sense in 'retrace your steps , then go'"),
    ("Go back, then go forward, then go back", "no sense in 'back , then go forward ,'"),
    ("Go forward and never come back", "'never' says what not to do"),
    ("Turn 45 degrees to the left, go forward, return", "unknown word '45'"),
    ("Go forward, return, go forward, return", "no sense in ', go forward , return'"),
    ("Jump over the wall, go forward and return", "unknown word 'jump'"),
    ("Go forward or backward, then return", "'or' leaves a choice"),
    ("Follow the path", "no sense in 'follow the path'"),
]  # fmt: skip


@pytest.mark.parametrize("task", [TASK, PathRetrace(way_back="turn"), PathRetrace(map="cig_arena")])
def test_every_layout_s_instruction_is_read_as_its_plan(task):
    for seed in [*range(12), *range(1_000_000, 1_000_012)]:
        layout = task.layout(seed)
        made = ScriptedDecomposer().decompose(task, layout.instruction)
        assert made.subgoals == layout.plan and made.source == "scripted"


@pytest.mark.parametrize(("text", "out"), READ)
def test_paraphrases(text, out):
    """``fflf``: forward, forward, left, forward; the way back is as long."""
    plan = ScriptedDecomposer().decompose(TASK, text).subgoals
    assert "".join(str(s.target)[0] for s in plan if s.kind != "return") == out
    assert [s.text for s in plan[len(out) :]] == [RETURN_CAPTION] * len(out)


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_what_can_t_be_read_is_refused_with_the_reason(text, says):
    with pytest.raises(PlanError, match=re.escape(says)):
        ScriptedDecomposer().decompose(TASK, text)


def test_each_language_says_what_its_instructions_name():
    """Another one needs no branch where plans are checked."""
    assert language_of(TASK.vocabulary).named is NamedSides
    assert language_of(CubeReturn().vocabulary).named is NamedThings
    coverage = Path(__file__).parents[1] / "planner/decomposer/coverage.py"
    assert not {"PATHS", "THINGS", "NamedSides", "NamedThings"} & set(
        re.findall(r"\w+", coverage.read_text())
    )
