# ruff: noqa: E501 - one instruction a line
"""The scripted decomposer: what it reads, what it refuses, and that it never reads half a sentence."""

from __future__ import annotations

import hydra
import pytest
from omegaconf import OmegaConf

from planner.decomposer.grammar import tokenize
from planner.decomposer.scripted import ScriptedDecomposer
from tasks import PlanError, Subgoal
from tasks.cube_return import CubeReturn

TASK = CubeReturn()
ONE, TWO = "red>right red<", "red>left blue>back red< blue<"


def plan(text: str, task: CubeReturn = TASK) -> tuple[Subgoal, ...]:
    """``red>right red<``: the red cube is put on the right, then returned."""
    steps: list[Subgoal] = []
    for word in text.split():
        cube, sign, place = word.partition(">")
        cube = f"{cube.rstrip('<')} cube"
        steps += [
            task.subgoal("pick", cube),
            task.subgoal("put", cube, place) if sign else task.subgoal("return", cube),
        ]
    return tuple(steps)


READ = [
    # one cube, there and back
    ("Move the red cube to the right, then return it to where it was.", ONE),
    ("move the red cube to the right and return it", ONE),
    ("MOVE THE RED CUBE TO THE RIGHT; THEN RETURN IT TO WHERE IT STOOD!", ONE),
    ("put the red block on the right and afterwards bring it back", ONE),
    ("Please put the red cube on the right side. After that, put it back where it was.", ONE),
    ("Place the red box at the right, then put it back in its original place.", ONE),
    ("Could you please shift the red cube to the right and then move it back to its initial position?", ONE),
    ("carry red cube right, then carry it back", ONE),
    ("Move the red cube to the right and then back.", ONE),
    ("Move the red cube to the right and then back again.", ONE),
    ("Move the red cube to the right and back to where it was", ONE),
    ("Set the red brick down on the right of the table, and later bring it back to where it came from.", ONE),
    ("Transfer the red one to the right-hand side, then restore it to its starting position.", ONE),
    ("First move the red cube to the right. Next, return it to the place where it stood before.", ONE),
    ("To begin with, put the red cube on the right. Finally, return the cube to its former location.", ONE),
    ("I want you to move the red cube to the right and return it at the end.", ONE),
    ("Relocate the red cube to the right, return the red cube to where the red cube was", ONE),
    ("move the red cube towards the right side of the table and then put the red cube back again", ONE),
    ("pick up the red cube, put it on the right, pick it up and return it", ONE),
    ("Pick up the red cube and put it on the right and then pick it up and return it.", ONE),
    ("Grab the red cube and place it at the right; then take it back to its own place.", ONE),
    ("Pick the red cube up, put it down on the right, then lift it up and put it right back where it was.", ONE),
    ("Take the red cube and set it on the right. Once that is done, take it and return it to the original spot.", ONE),
    ("Now lift the red cube, lay it on the right, then put back the red cube", ONE),
    ("move that red cube to the right, then put back that one please", ONE),
    ("put the red cube on the right & return everything", ONE),
    ("bring the red cube to the right, then send back the red block", ONE),
    ("Move the red cube to the right, then return it to where it originally was", ONE),
    ("Move the red cube to the right, then return it to where it had been", ONE),
    ("take blue cube to the left side; put it back in its original place", "blue>left blue<"),
    ("Move the blue cube to the rear, then return it to where it started from", "blue>back blue<"),
    ("move the blue cube to the back and then back", "blue>back blue<"),
    ("put the blue cube in front, then move it back to its previous position",
     "blue>front blue<"),
    # two cubes
    ("Move the red cube to the left and the blue cube to the back, then return both to where they were.", TWO),
    ("Move the red cube to the left and the blue cube to the back, then return them.", TWO),
    ("Move the red cube to the left, the blue cube to the back, and put both cubes back.", TWO),
    ("Put the red cube on the left, then put the blue cube at the back, then return both of them", TWO),
    ("Put the red one on the left. Put the blue one at the back. Put the red and the blue cube back.", TWO),
    ("Put red on the left and blue at the back, then bring back all the cubes to their original places", TWO),
    ("Move both cubes: the red one to the left and the blue one to the back. Then return each to where it was.", TWO),
    ("move both cubes, red to the left, blue to the back, then restore both to their starting positions", TWO),
    ("Move the red and blue cubes to the left and to the back respectively, then return them", TWO),
    ("Move the red cube to the left and the other one to the back, and return the two cubes in the same order", TWO),
    ("Move the red cube to the left and the blue cube to the back, then return the red cube and the blue cube", TWO),
    ("Move the red cube to the left, then the blue cube to the back, then return red to where it was and blue "
     "to where it was", TWO),
    ("Move the red cube to the left and the blue cube to the back; return the red and blue cubes to where they were",
     TWO),
    ("Move the red cube to the left and the blue cube to the back, then return the cubes one by one", TWO),
    ("Pick up the red cube and put it on the left, pick up the blue cube and put it at the back, then pick up the "
     "red cube and return it, pick up the blue cube and return it", TWO),
    ("Move the red cube to the left and the blue cube to the back, then return both in reverse order.",
     "red>left blue>back blue< red<"),
    ("Move the red cube to the left and the blue cube to the back, then return the blue cube and then the red cube",
     "red>left blue>back blue< red<"),
    ("Move the blue cube to the back and the red cube to the left, then return both", "blue>back red>left blue< red<"),
    ("Move the blue cube to the back and the red cube to the left, then return the red one and then the other one",
     "blue>back red>left red< blue<"),
    ("Move the red cube to the right and bring it back. Then move the blue cube to the left and bring it back.",
     "red>right red< blue>left blue<"),
    ("Put the red cube on the left and the blue cube at the back, then return the blue cube to its place",
     "red>left blue>back blue<"),
    # more than one move
    ("Move the red cube to the right, then to the left, then return it to its original place.",
     "red>right red>left red<"),
    ("Move the red cube to the right, then move it to the front, and finally put it back where it started",
     "red>right red>front red<"),
    ("Move the red cube to the right, return it, then move it to the left and return it again",
     "red>right red< red>left red<"),
]  # fmt: skip

REFUSED = [
    ("", "expected 1 to"),
    ("...", "no sense"),
    ("hello there", "unknown word 'hello'"),
    ("move the red cube", "no place given"),
    ("move the red cube to the right", "returns no cube"),
    ("move the red cube to the right, then", "stops in the middle"),
    # unknown colours, things, places, manners
    ("move the green cube to the right, then return it", "unknown word 'green'"),
    ("move the red ball to the right, then return it", "unknown word 'ball'"),
    ("move the red cube to the middle, then return it", "unknown word 'middle'"),
    ("move the red cube 10 cm to the right, then return it", "unknown word '10'"),
    ("carefully move the red cube to the right, then return it", "unknown word 'carefully'"),
    ("move the red cube slightly to the right, then return it", "unknown word 'slightly'"),
    ("push the red cube to the right, then return it", "unknown word 'push'"),
    ("move the red cube to the right twice, then return it", "unknown word 'twice'"),
    ("move the red cube to the right of the blue cube, then return it", "no sense in 'of the blue cube"),
    ("move the red cube onto the blue cube, then return it", "no sense"),
    ("move the red cube to the front left, then return it", "no sense in 'left"),
    ("bewege den roten Würfel nach rechts", "unknown word"),
    # negation, choice, condition
    ("don't move the red cube to the right, then return it", "\"don't\" says what not to do"),
    ("move the red cube to the right, do not return it", "'do' says what not to do"),
    ("move the red cube to the right, then return it without the blue cube", "'without'"),
    ("move the red cube to the right, leave the blue cube, return the red cube", "'leave'"),
    ("move the red cube to the right or to the left, then return it", "'or' leaves a choice"),
    ("if the red cube is on the left, move it to the right, then return it", "'if' leaves a choice"),
    # who is meant
    ("move it to the right, then return it", "nothing before it"),
    ("move the cube to the right, then return it", "nothing before it"),
    ("move the red cube to the left and the blue cube to the back, then return it", "'it' could be"),
    ("move the red cube to the left, move the blue cube to the back, then return it", "'it' could be"),
    ("move the red cube to the left and the blue cube to the back, then return the cube", "'the cube' could be"),
    ("move the red cube to the right, then return them", "'them' does not fit"),
    ("move the red cube to the right, then return both", "'both' does not fit"),
    ("return both cubes", "'both' does not fit"),
    ("move the red cube to the right, then return it to where they were", "don't fit"),
    ("move the red cube to the left and the blue cube to the back, then return both to where it was", "don't fit"),
    ("move the red cube to the right, then return the red cubes", "in the plural"),
    # makes no sense
    ("move the red cube to the right, then return the blue cube", "never moved"),
    ("return the red cube", "never moved"),
    ("move the red cube back", "never moved"),
    ("pick up the red cube and return it", "never moved"),
    ("move the red cube to the right, then return it, then return the red cube", "never moved"),
    ("move the red cube to the right, then return it to where the blue cube was", "can't go where"),
    ("move the red cube to the right, then return it to the left", "no sense"),
    ("put the red cube back on the right, then return it", "no sense"),
    ("move the red cube to the left and the blue cube to the left, then return both", "already stands on the left"),
    ("move both cubes to the left, then return both", "already stands on the left"),
    ("move the red cube to the left and the red cube to the right, then return it", "two places at once"),
    ("move the red cube to the left, then move it to the left, then return it", "already stands"),
    ("move the red cube to the left and to the front, then return it", "no sense"),
    ("move the red cube right, then to the left, then return it to where it was", "moved more than once"),
    ("move the red cube right, then to the left, then back", "moved more than once"),
    ("pick up the red cube, then return the blue cube", "still holds the red cube"),
    ("pick up the red cube, put it on the right, return it, pick up the blue cube", "in the gripper"),
    ("pick up both cubes and put them on the right", "no sense"),
    ("pick up the red cube next to the right, then return it", "unclear what goes"),
    ("move the red and blue cubes to the left and back, then return them", "no sense"),
    ("move both cubes: the red one to the left, then return it", "more or others were to move"),
    ("move the red cube to the left, at the end return it, then move the blue cube to the back", "come last"),
    ("move the red cube to the left. first move the blue cube to the back. return both.", "no sense in 'first"),
    ("move the red cube to the left, then return it in reverse order", "an order is given"),
    ("move the red cube " + "to the right and then " * 40, "expected 1 to 120 words"),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "expected"), READ)
def test_reads_paraphrases(instruction: str, expected: str) -> None:
    result = ScriptedDecomposer().decompose(TASK, instruction, None)
    assert result.subgoals == plan(expected)
    assert result.source == "scripted"
    TASK.check_plan(result.subgoals)


@pytest.mark.parametrize(("instruction", "reason"), REFUSED)
def test_refuses_with_a_reason_of_one_line(instruction: str, reason: str) -> None:
    with pytest.raises(PlanError) as refusal:
        ScriptedDecomposer().decompose(TASK, instruction, None)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_lists_are_long_enough() -> None:
    assert len({i for i, _ in READ}) >= 50
    assert len({i for i, _ in REFUSED}) >= 30


@pytest.mark.parametrize("cubes", [("red",), ("red", "blue"), ("green", "red", "blue")])
def test_reads_every_layouts_own_instruction(cubes: tuple[str, ...]) -> None:
    task = CubeReturn(cubes=cubes)
    for seed in [*range(100), *range(1_000_000, 1_000_100)]:
        layout = task.layout(seed)
        assert ScriptedDecomposer().decompose(task, layout.instruction, None).subgoals == layout.plan, seed


@pytest.mark.parametrize("extra", ["slowly", "green", "not", "behind", "7", "%", "unless"])
def test_one_word_too_many_anywhere_is_never_skipped(extra: str) -> None:
    words = READ[0][0].split()
    for i in range(len(words) + 1):
        with pytest.raises(PlanError):
            ScriptedDecomposer().decompose(TASK, " ".join([*words[:i], extra, *words[i:]]), None)


def test_every_content_word_counts() -> None:
    """Leaving out or doubling a word that carries content never gives another plan silently."""
    base = list(tokenize("move the red cube to the left and the blue cube to the back then return both"))
    for i, word in enumerate(base):
        for changed in (base[:i] + base[i + 1 :], [*base[: i + 1], word, *base[i + 1 :]]):
            try:
                result = ScriptedDecomposer().decompose(TASK, " ".join(changed), None)
            except PlanError:
                continue
            assert result.subgoals == plan(TWO), changed


def test_three_cubes_and_one_cube() -> None:
    three, one = CubeReturn(cubes=("red", "green", "blue")), CubeReturn(cubes=("green",))
    text = "Move red to the left, green to the right and blue to the front, then return all three cubes in reverse order"
    expected = plan("red>left green>right blue>front blue< green< red<", three)
    assert ScriptedDecomposer().decompose(three, text, None).subgoals == expected
    with pytest.raises(PlanError, match="'both' does not fit"):
        ScriptedDecomposer().decompose(
            three, "move both cubes: red to the left, blue to the right. return both", None
        )
    text = "move the cube to the left, then return it"
    assert ScriptedDecomposer().decompose(one, text, None).subgoals == plan("green>left green<", one)


def test_notes_say_how_open_words_were_read() -> None:
    result = ScriptedDecomposer().decompose(TASK, READ[0][0], None)
    assert result.notes == ("'it' is the red cube",)


def test_config_makes_it(pytestconfig: pytest.Config) -> None:
    config = OmegaConf.load(pytestconfig.rootpath / "configs/decomposer/scripted.yaml")
    assert isinstance(hydra.utils.instantiate(config), ScriptedDecomposer)
