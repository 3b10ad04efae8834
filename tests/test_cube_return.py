"""cube_return: its words, its difficulty, its plans and its score. Plain data: no simulator runs here."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest

from tasks import Episode, MalformedActionError, PlanError, Segment, Subgoal
from tasks.cube_return import CUBE_HALF, MIN_GAP, PLACES, CubeReturn

ALL = ("red", "green", "blue")
TASKS = [CubeReturn(("red",)), CubeReturn(), CubeReturn(ALL)]
SEEDS = [*range(60), *range(1_000_000, 1_000_060)]
DOWN = (1.0, 0.0, 0.0, 0.0)
by_cubes = pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{len(task.cubes)} cubes")


@pytest.fixture(scope="module")
def layouts():
    task = CubeReturn()
    return [task.layout(seed) for seed in range(1200)]


def steps(task: CubeReturn, *words: str) -> list[Subgoal]:
    """``"put red right"`` and the like to subgoals."""
    parts = [w.split() for w in words]
    return [task.subgoal(kind, f"{cube} cube", *target) for kind, cube, *target in parts]


# --- difficulty --------------------------------------------------------------------------------


def test_starts_cover_a_zone_of_40_by_30_cm(layouts):
    starts = np.array([layout.starts[:, :2] for layout in layouts]).reshape(-1, 2)
    low, high = starts.min(0), starts.max(0)
    assert (high - low > (0.295, 0.395)).all() and (high - low <= (0.30, 0.40)).all()
    cells, _, _ = np.histogram2d(*starts.T, bins=(3, 4), range=np.column_stack([low, high]))
    assert cells.min() > 0.4 * cells.mean(), "a part of the zone is hardly ever used"


def test_starts_of_the_cubes_that_move_cover_it_too(layouts):
    moved = np.array(
        [layout.start(s.object)[:2] for layout in layouts for s in layout.plan if s.kind == "put"]
    )
    cells, _, _ = np.histogram2d(*moved.T, bins=(3, 4), range=[(0.39, 0.69), (-0.20, 0.20)])
    assert cells.min() > 0.4 * cells.mean()


@by_cubes
def test_outward_moves_are_at_least_12_cm_and_to_a_free_place(task):
    for seed in SEEDS:
        layout = task.layout(seed)
        assert (layout.starts[:, 2] == CUBE_HALF).all() and layout.names == task.vocabulary.objects
        for a, b in combinations(layout.starts, 2):
            assert np.linalg.norm(a - b) >= MIN_GAP
        for cube, target in task.moves(layout.plan).items():
            away = {n: np.linalg.norm(layout.start(n) - task.place(target)) for n in layout.names}
            assert away.pop(cube) >= 0.12
            assert all(distance >= MIN_GAP for distance in away.values())


@by_cubes
def test_a_whole_chunk_lies_between_the_last_sight_of_the_start_and_the_return(task):
    """A cube leaves its start in its first pick; whole chunks of other subgoals follow before its return."""
    lengths = set()
    for seed in SEEDS:
        plan = task.layout(seed).plan
        lengths.add(len(plan))
        for cube in task.moves(plan):
            of = [(i, s.kind) for i, s in enumerate(plan) if s.object == cube]
            assert [kind for _, kind in of] == ["pick", "put", "pick", "return"]
            assert of[-1][0] - of[0][0] - 1 >= 2
    assert lengths == ({4} if len(task.cubes) == 1 else {4, 8})


def test_training_and_heldout_seeds_are_disjoint():
    task = CubeReturn()
    assert max(task.train_seeds) < min(task.heldout_seeds)
    assert len(task.train_seeds) >= 100_000 and len(task.heldout_seeds) >= 1000
    train = {task.layout(s).starts.tobytes() for s in task.train_seeds[:200]}
    assert not train & {task.layout(s).starts.tobytes() for s in task.heldout_seeds[:200]}


@by_cubes
def test_captions_do_not_reveal_the_start(task):
    """A caption is a function of kind, object and target; the instruction one of the moves."""
    told: dict[tuple, str] = {}
    for seed in SEEDS:
        layout = task.layout(seed)
        for s in layout.plan:
            assert s.text == told.setdefault((s.kind, s.object, s.target), s.text)
            assert s == task.subgoal(s.kind, s.object, s.target)
        moves = tuple(task.moves(layout.plan).items())
        assert layout.instruction == told.setdefault(moves, layout.instruction)
    assert not any(re.search(r"\d", text) for text in told.values())
    assert {c for (kind, *_), c in told.items() if kind == "return"} == {
        f"return the {cube} to where it was" for cube in task.vocabulary.objects
    }


def test_the_instruction_is_the_same_for_every_start():
    task, moves = CubeReturn(), {"blue cube": "left"}
    asked = [task.layout(seed, moves) for seed in range(20)]
    assert len({(layout.instruction, layout.plan) for layout in asked}) == 1
    assert len({layout.starts.tobytes() for layout in asked}) == 20


# --- layouts -----------------------------------------------------------------------------------


@by_cubes
def test_a_seed_always_gives_the_same_layout(task):
    for seed in SEEDS[::10]:
        a, b = task.layout(seed), replace(task).layout(seed)
        assert (a.seed, a.names, a.plan, a.instruction) == (b.seed, b.names, b.plan, b.instruction)
        assert a.starts.tobytes() == b.starts.tobytes() and a.starts.dtype == np.float64
    assert task.layout(0).starts.tobytes() != task.layout(2).starts.tobytes()


@by_cubes
def test_every_layout_carries_a_plan_that_makes_sense(task):
    for seed in SEEDS:
        layout = task.layout(seed)
        task.check_plan(layout.plan)
        assert len(task.moves(layout.plan)) == (1 if seed % 2 == 0 else min(2, len(task.cubes)))


@pytest.mark.parametrize("cubes", [("red", "blue"), ALL])
def test_explicit_moves_are_the_ones_asked_for(cubes):
    task = CubeReturn(cubes)
    for count in (1, 2):
        for targets in permutations(PLACES, count):
            moves = dict(zip(task.vocabulary.objects, targets, strict=False))
            layout = task.layout(7, moves)
            task.check_plan(layout.plan)
            assert task.moves(layout.plan) == moves and list(task.moves(layout.plan)) == list(moves)
            for cube, target in moves.items():
                assert np.linalg.norm(layout.start(cube) - task.place(target)) >= 0.12
    three = {f"{cube} cube": place for cube, place in zip(ALL, PLACES, strict=False)}
    if len(cubes) == 3:
        assert task.moves(task.layout(0, three).plan) == three
    else:
        with pytest.raises(PlanError, match="green cube"):
            task.layout(0, three)


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ({"green cube": "left"}, "unknown object 'green cube'; cube_return has red cube, blue cube"),
        ({"red": "left"}, "unknown object 'red'"),
        ({"red cube": "top"}, "unknown place 'top'; cube_return has left, right, front, back"),
        ({"red cube": "left", "blue cube": "left"}, "the red cube already stands on the left"),
    ],
)
def test_moves_that_cannot_be_asked(moves, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        CubeReturn().layout(0, moves)


@pytest.mark.parametrize("cubes", [(), ("red", "red"), ("pink",), (*ALL, "red")])
def test_only_one_to_three_known_colours(cubes):
    with pytest.raises(ValueError, match="one to three of red, green, blue"):
        CubeReturn(cubes)


# --- plans -------------------------------------------------------------------------------------

OUT = ("pick red", "put red right")
BACK = ("pick red", "return red")


@pytest.mark.parametrize(
    "words",
    [
        (*OUT, *BACK),
        (*OUT, "pick red", "put red left", *BACK),
        (*OUT, "pick blue", "put blue left", "pick blue", "return blue", *BACK),
        (*OUT, "pick blue", "put blue left", *BACK),
        (*OUT, *BACK, *OUT, *BACK),
        (*OUT, *BACK, "pick blue", "put blue right", "pick blue", "return blue"),
    ],
)
def test_plans_that_make_sense(words):
    task = CubeReturn()
    task.check_plan(steps(task, *words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "returns no cube"),
        (OUT, "returns no cube"),
        (BACK, "step 2 .* the red cube was never moved, so it can't be returned"),
        ((*OUT, *BACK, *BACK), "step 6 .* never moved"),
        ((*OUT, "return red"), "step 3 .* is not in the gripper; pick it up first"),
        (("put red right", *BACK), "step 1 .* not in the gripper"),
        (("pick red", "put blue right", *BACK), "step 2 .* the blue cube is not in the gripper"),
        (("pick red", *OUT, *BACK), "step 2 .* the gripper still holds the red cube"),
        ((*OUT, *BACK, "pick blue"), "ends with the blue cube in the gripper"),
        ((*OUT, "pick blue", "put blue right", *BACK), "step 4 .* the red cube already stands on the right"),
        ((*OUT, *BACK, *OUT), "the red cube is returned and then moved again"),
    ],
)
def test_plans_that_make_no_sense(words, message):
    task = CubeReturn()
    with pytest.raises(PlanError, match=message):
        task.check_plan(steps(task, *words))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("push", "red cube", None), "unknown kind of subgoal 'push'; cube_return has pick, put, return"),
        (("pick", "cup", None), "unknown object 'cup'"),
        (("pick", "green cube", None), "unknown object 'green cube'"),
        (("put", "red cube", "moon"), "unknown place 'moon'"),
        (("put", "red cube", None), "unknown place None"),
        (("pick", "red cube", "left"), "'pick' takes no place, got 'left'"),
        (("return", "red cube", "left"), "'return' takes no place"),
    ],
)
def test_words_outside_the_vocabulary(asked, message):
    with pytest.raises(PlanError, match=message):
        CubeReturn().subgoal(*asked)
    with pytest.raises(PlanError, match=message):
        CubeReturn().check_plan([Subgoal("whatever", *asked)])


def test_a_caption_of_another_subgoal_is_refused():
    task = CubeReturn()
    plan = steps(task, *OUT, *BACK)
    plan[3] = replace(plan[3], text="return the red cube to the back left")
    with pytest.raises(PlanError, match=r"step 4 .*does not belong to return red cube$"):
        task.check_plan(plan)


# --- score -------------------------------------------------------------------------------------


def track(task, plan, end_offset=(0.0, 0.0, 0.0), out=None, free_end=True):
    """Positions (T, N, 3) and released (T, N) of cubes that stand, go to their places, and come back."""
    layout = task.layout(4, task.moves(plan))
    positions = np.repeat(np.concatenate([layout.starts, [[0.36, 0, 0.4]]])[None], 9, 0)
    released = np.ones(positions.shape[:2], bool)
    for cube, target in task.moves(plan).items():
        i = layout.names.index(cube)
        positions[3:6, i] = task.place(target) if out is None else layout.start(cube) + out
        positions[6:, i] = layout.start(cube) + end_offset
        released[[2, 6], i] = False
        released[-1, i] = free_end
    return layout, positions, released, (*layout.names, "gripper")


@pytest.fixture()
def there_and_back():
    task = CubeReturn()
    return task, steps(task, *OUT, *BACK)


def test_back_within_1_cm_and_released_is_a_success(there_and_back):
    task, plan = there_and_back
    _, positions, released, names = track(task, plan, (0.006, -0.008, 0.0))
    score = task.score(positions, released, names, plan)
    assert score.success and score.distance == pytest.approx(0.01)
    assert dict(score.displaced) == dict(score.reached) == {"red cube": True}


def test_3_cm_off_is_displaced_but_no_success(there_and_back):
    task, plan = there_and_back
    _, positions, released, names = track(task, plan, (0.0, 0.03, 0.0))
    score = task.score(positions, released, names, plan)
    assert not score.success and score.displaced["red cube"]
    assert score.distance == pytest.approx(0.03)


def test_a_robot_that_never_moves_scores_the_outward_displacement(there_and_back):
    task, plan = there_and_back
    layout, positions, released, names = track(task, plan)
    still = np.repeat(positions[:1], 9, 0)
    score = task.score(still, np.ones_like(released), names, plan)
    outward = np.linalg.norm(layout.start("red cube") - task.place("right"))
    assert not score.success and not score.displaced["red cube"]
    assert score.distance == pytest.approx(outward) and outward >= 0.12


@by_cubes
def test_standing_still_never_scores_under_12_cm(task):
    for seed in SEEDS[::6]:
        layout = task.layout(seed)
        still = np.repeat(layout.starts[None], 1 + 4 * len(layout.plan), 0)
        score = task.score(still, np.ones(still.shape[:2], bool), layout.names, layout.plan)
        assert min(score.distances.values()) >= 0.12 and not any(score.reached.values())


def test_a_cube_still_held_is_no_success(there_and_back):
    task, plan = there_and_back
    _, positions, released, names = track(task, plan, free_end=False)
    score = task.score(positions, released, names, plan)
    assert score.displaced["red cube"] and score.distance == 0 and not score.success


def test_carried_away_but_never_let_go_is_not_displaced(there_and_back):
    task, plan = there_and_back
    _, positions, released, names = track(task, plan)
    released[3:6] = False
    score = task.score(positions, released, names, plan)
    assert not score.displaced["red cube"] and not score.success and score.distance >= 0.12


def test_a_nudge_of_4_cm_is_not_displaced(there_and_back):
    task, plan = there_and_back
    for centimetres, expected in ((4, False), (6, True)):
        _, positions, released, names = track(task, plan, out=(0, centimetres / 100, 0))
        assert task.score(positions, released, names, plan).displaced["red cube"] is expected


def test_dropped_farther_than_told_scores_where_it_lies(there_and_back):
    task, plan = there_and_back
    _, positions, released, names = track(task, plan, end_offset=(0.0, 0.0, -0.9))
    released[3:] = False
    assert task.score(positions, released, names, plan).distance == pytest.approx(0.9)


def test_only_returned_cubes_count_and_all_of_them_must_be_back():
    task = CubeReturn()
    both = steps(task, *OUT, "pick blue", "put blue left", *BACK, "pick blue", "return blue")
    one = steps(task, *OUT, "pick blue", "put blue left", *BACK)
    layout, positions, released, names = track(task, both)
    blue = names.index("blue cube")
    positions[6:, blue] = task.place("left")
    score = task.score(positions, released, names, both)
    assert list(score.distances) == ["red cube", "blue cube"] and not score.success
    away = np.linalg.norm(layout.start("blue cube") - task.place("left"))
    assert score.distance == pytest.approx(away / 2) and score.reached["red cube"]
    alone = task.score(positions, released, names, one)
    assert list(alone.distances) == ["red cube"] and alone.success and alone.distance == 0


def test_cubes_that_change_places_are_told_from_lost_ones():
    task = CubeReturn()
    both = steps(task, *OUT, "pick blue", "put blue left", *BACK, "pick blue", "return blue")
    layout, positions, released, names = track(task, both)
    assert task.score(positions, released, names, both).details == {"at_another_start": 0.0}
    positions[6:, names.index("red cube")] = layout.start("blue cube") + np.array([0.03, 0, 0])
    assert task.score(positions, released, names, both).details == {"at_another_start": 0.5}
    assert task.score(positions, released, names, steps(task, *OUT, *BACK)).details == {}


def episode_of(cube, gripper, grip) -> Episode:
    """An episode of one cube from (T, 3) tracks and T-1 gripper bits."""
    actions = np.array([[*tip, *DOWN, bit] for tip, bit in zip(gripper[1:], grip, strict=True)], np.float32)
    positions = np.stack([cube, gripper], 1).astype(np.float32)
    frames = np.zeros((len(positions), 2, 2, 3), np.uint8)
    return Episode(frames, actions, (Segment(0, len(grip), ""),), positions, ("red cube", "gripper"))


def test_released_means_on_the_table_and_let_go():
    place, air = np.array([0.5, 0.1, CUBE_HALF]), np.array([0.5, 0.1, 0.14])
    #       before, above,  around, closed, lifted, lowered, opened, gone
    cube = [place, place, place, place, air, place, place, place]
    hand = [air + 0.1, air, place, place, air, place, place, air]
    grip = [1, 1, 0, 0, 0, 1, 1]
    free = CubeReturn(("red",)).released(episode_of(cube, hand, grip))
    assert free.shape == (8, 2)
    assert free[:, 0].tolist() == [True, True, True, False, False, False, True, True]


def test_a_closed_gripper_elsewhere_holds_nothing():
    place, away = np.array([0.5, 0.1, CUBE_HALF]), np.array([0.6, 0.1, CUBE_HALF])
    free = CubeReturn(("red",)).released(episode_of([place] * 3, [away] * 3, [0, 0]))
    assert free[:, 0].all()


def test_an_open_hand_that_pushes_a_cube_has_not_let_it_go():
    cube = [np.array([0.5, y, CUBE_HALF]) for y in (0.1, 0.1, 0.06, 0.02, 0.02)]
    free = CubeReturn(("red",)).released(episode_of(cube, cube, [1, 1, 1, 1]))
    assert free[:, 0].tolist() == [True, True, False, False, True]


def test_a_bit_of_an_action_that_was_refused_opens_nothing():
    """The env refuses a pose out of reach as a whole: arm and fingers stay as they are."""
    place, air = np.array([0.5, 0.1, CUBE_HALF]), np.array([0.5, 0.1, 0.14])
    grip = [1, 0, 1, 1]
    refused = episode_of([place] * 5, [air, place, place, place, place], grip)
    refused.actions[2:, :3] = [0.8, 0.35, 0.45]
    held = CubeReturn(("red",)).released(refused)[:, 0].tolist()
    assert held == [True, True, False, False, False]
    opened = episode_of([place] * 5, [air, place, place, place, air], grip)
    assert CubeReturn(("red",)).released(opened)[:, 0].tolist() == [True, True, False, True, True]


# --- actions and episodes ----------------------------------------------------------------------

GOOD = np.array([0.5, 0.1, 0.2, *DOWN, 1.0])


def test_the_action_is_an_absolute_pose_and_a_gripper_bit():
    spec = CubeReturn().action_spec
    assert spec.names == ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper") and len(spec) == 8
    assert spec.indices("position") == [0, 1, 2] and spec.indices("quaternion") == [3, 4, 5, 6]
    named = spec.to_named(GOOD)
    assert named["y"] == 0.1 and named["gripper"] == 1
    np.testing.assert_array_equal(spec.to_vector(dict(reversed(named.items()))), GOOD.astype(np.float32))
    with pytest.raises(MalformedActionError, match=r"unknown \['w'\], missing \['qw'\]"):
        spec.to_vector({("w" if k == "qw" else k): v for k, v in named.items()})


def test_the_workspace_holds_every_place_and_the_whole_zone():
    spec = CubeReturn().action_spec
    for x, y in [*PLACES.values(), (0.39, -0.2), (0.69, 0.2)]:
        assert (np.array([x, y, CUBE_HALF]) > spec.low[:3]).all()
        assert (np.array([x, y, CUBE_HALF]) < spec.high[:3]).all()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (GOOD[:7], r"expected 8 numbers .* got shape \(7,\)"),
        (GOOD[None], r"got shape \(1, 8\)"),
        (np.where(np.arange(8) == 2, np.nan, GOOD), "not finite"),
        (np.where(np.arange(8) == 7, np.inf, GOOD), "not finite"),
        (np.where((np.arange(8) > 2) & (np.arange(8) < 7), 0, GOOD), "length 0"),
        (np.where(np.arange(8) == 4, 1e300, GOOD), "length inf"),
        (["left"] * 8, "expected 8 numbers"),
        ([1, [2, 3], 4, 5, 6, 7, 8, 9], "expected 8 numbers"),
        ({"x": 1}, "expected 8 numbers"),
        (None, "expected 8 numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_malformed_actions(action, message):
    with pytest.raises(MalformedActionError, match=message):
        CubeReturn().action_spec.validate(action)


def test_validate_makes_the_quaternion_unit_and_leaves_its_argument_alone():
    action = GOOD * np.where((np.arange(8) > 2) & (np.arange(8) < 7), -3, 1)
    before = action.copy()
    np.testing.assert_allclose(CubeReturn().action_spec.validate(action)[3:7], [-1, 0, 0, 0])
    np.testing.assert_array_equal(action, before)


def test_clip_gives_actions_that_validate():
    spec = CubeReturn().action_spec
    wild = np.random.default_rng(0).normal(0, 3, (4, 5, 8))
    wild[0, 0, 3:7] = 0
    clipped = spec.clip(wild)
    assert clipped.shape == wild.shape and clipped.dtype == np.float32
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    assert (clipped >= low).all() and (clipped <= high).all() and set(np.unique(clipped[..., 7])) == {0, 1}
    for action in clipped.reshape(-1, 8):
        spec.validate(action)


def test_an_episode_that_does_not_fit_together_is_refused():
    whole = episode_of(np.zeros((5, 3)), np.zeros((5, 3)), [1] * 4)
    assert len(whole) == 5 and whole.position("gripper").shape == (5, 3)
    for change, message in [
        ({"frames": whole.frames.astype(float)}, "uint8"),
        ({"actions": whole.actions[1:]}, "5 frames need 4 actions"),
        ({"positions": whole.positions[:, :1]}, "positions must be"),
        ({"segments": (Segment(1, 4, ""),)}, "does not follow frame 0"),
        ({"segments": (Segment(0, 2, ""), Segment(3, 4, ""))}, "does not follow frame 2"),
        ({"segments": (Segment(0, 5, ""),)}, "within 5 frames"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(whole, **change)
