"""path_retrace: its maps, its words, its difficulty, its plans and its score. Plain data: no engine runs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from envs.expert import expert_actions
from tasks import Episode, MalformedActionError, PlanError, Subgoal
from tasks.actions import keys_and_camera
from tasks.floor_plan import FloorPlan
from tasks.path_retrace import MIN_APART, PathRetrace, passed_in_order

CONTEXT = 8  # frames that the world model sees
BODY = 0.5  # blocks, half the width of a walker
LONG = PathRetrace(walks=(5, 6), corners=(2, 3))
TASKS = [PathRetrace(), PathRetrace(way_back="turn"), PathRetrace(map="cig_arena"), LONG]
SEEDS = [*range(8), *range(1_000_000, 1_000_008)]
by_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.map}-{t.way_back}-{t.walks[1]}")


@pytest.fixture(scope="module")
def layouts():
    return {task: [task.layout(seed) for seed in SEEDS] for task in TASKS}


def steps(task: PathRetrace, words: str, back: int | None = None) -> list[Subgoal]:
    """``"forward left forward"`` and the steps back that it needs."""
    out = [task.subgoal("go" if w == "forward" else "turn", "agent", w) for w in words.split()]
    count = len(out) + 2 * (task.way_back == "turn") if back is None else back
    return [*out, *[task.subgoal("return", "agent")] * count]


# --- floor plans -------------------------------------------------------------------------------


def square(ledges=()) -> FloorPlan:
    walls = np.array([[0, 0, 10, 0], [10, 0, 10, 10], [10, 10, 0, 10], [0, 10, 0, 0]], float)
    return FloorPlan("square", walls, np.array(ledges, float).reshape(-1, 4))


def test_inside_and_free_ways_of_a_square():
    plan = square([[4, 5, 6, 5]])
    points = np.array([[5, 1], [0.1, 0.1], [-1, 5], [11, 5], [5, 10.1]])
    assert plan.inside(points).tolist() == [True, True, False, False, False]
    a = np.array([[1, 1], [5, 1], [5, 4], [3, 5], [2, 2]])
    b = np.array([[9, 1], [5, 9], [5, 4], [3, 8], [2, 2]])
    for reach, expected in ((0, 10111), (0.99, 10111), (1.01, 1), (1.99, 1), (2.01, 0)):
        assert plan.free(a, b, reach).astype(int).tolist() == [int(c) for c in f"{expected:05d}"]


@by_task
def test_the_maps_enclose_something(task):
    low, high = task.floor_plan.bounds
    points = np.random.default_rng(0).uniform(low - 5, high + 5, (2000, 2))
    inside = task.floor_plan.inside(points)
    assert 0.1 < inside.mean() < 0.9
    outside_box = ((points < low) | (points > high)).any(1)
    assert not inside[outside_box].any()


def test_an_unknown_map_names_those_there_are():
    with pytest.raises(ValueError, match=r"map=moon: no floor plan moon.json; have cig_arena, my_way_home"):
        PathRetrace(map="moon")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"way_back": "sideways"}, "expected backward or turn"),
        ({"stride": 2.0}, "expected 0.5 to 1 blocks"),
        ({"walks": (6, 5)}, r"walks=\[6, 5\]: expected the fewest and the most"),
        ({"corners": (-1, 2)}, "expected the fewest and the most"),
        ({"walks": (2.5, 3)}, "expected the fewest and the most"),
        ({"walks": (1, 2, 3)}, "expected the fewest and the most"),
        ({"walks": (2, 6), "corners": (2, 2)}, "2 walks have room for 1 between them"),
        ({"forks": 5}, "forks=5: expected 0 to 4"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(ValueError, match=says):
        PathRetrace(**options)


# --- difficulty --------------------------------------------------------------------------------


@by_task
def test_paths_are_as_long_and_as_winding_as_the_evaluation_asks(task, layouts):
    for layout in layouts[task]:
        out = layout.plan[: task.explored(layout.plan)]
        path = task.path(layout.start("agent"), out)[:, :2]
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() >= 12
        assert sum(s.kind == "turn" for s in out) >= 2
        assert len(out) * task.chunk_frames >= 3 * CONTEXT
        waypoints = task.waypoints(layout.start("agent"), layout.plan)
        gaps = np.linalg.norm(waypoints[:, None] - waypoints, axis=-1)
        assert len(waypoints) >= 5 and gaps[~np.eye(len(waypoints), dtype=bool)].min() >= MIN_APART >= 2


@pytest.mark.parametrize(("walks", "corners"), [((5, 5), (2, 2)), ((5, 6), (2, 3)), ((2, 2), (0, 1))])
def test_a_path_has_as_many_walks_and_corners_as_asked(walks, corners):
    task = PathRetrace(walks=walks, corners=corners, forks=0)
    found = set()
    for seed in range(16):
        plan = task.layout(seed).plan
        out = [s.kind for s in plan[: task.explored(plan)]]
        assert out[0] == out[-1] == "go" and len(plan) == 2 * len(out)
        found.add((out.count("go"), out.count("turn")))
    counts = [range(low, high + 1) for low, high in (walks, corners)]
    assert all(went in counts[0] and turned in counts[1] for went, turned in found)
    assert (len(found) > 1) == (walks == (5, 6)) or corners == (0, 1)


@by_task
def test_only_a_memory_tells_the_way_back(task, layouts):
    for layout in layouts[task]:
        assert task.open_ways(layout.starts[0], layout.plan) >= task.forks == 1


def test_open_ways_are_counted_where_walls_leave_a_choice():
    task = PathRetrace(walks=(2, 2), corners=(0, 1), forks=0)
    far = 200.0
    walls = np.array(
        [[-far, -far, far, -far], [far, -far, far, far], [far, far, -far, far], [-far, far, -far, -far]]
    )
    tube = np.array([[-1.0, -far, -1.0, far], [1.0, -far, 1.0, far]])
    start, plan = np.zeros(3), steps(task, "forward forward left forward")
    stub = np.array([[-1.0, -far, -1.0, 9.0], [1.0, -far, 1.0, 9.0], [-1.0, 9.0, 1.0, 9.0]])
    for ledges, expected in (([], 2), (tube, 1), (stub, 0)):  # in a tube one may have come from either end
        object.__setattr__(task, "floor_plan", FloorPlan("made", walls, np.array(ledges).reshape(-1, 4)))
        assert task.open_ways(start, plan) == expected
    assert task.open_ways(start, steps(task, "forward")) == 0


@by_task
def test_no_path_touches_a_wall(task, layouts):
    for layout in layouts[task]:
        poses = task.poses(layout.start("agent"), layout.plan)[:, :2]
        assert task.floor_plan.inside(poses).all()
        assert task.floor_plan.free(poses[:-1], poses[1:], BODY + 0.1).all()
        task.check_path(layout, BODY)


@by_task
def test_a_perfect_walk_ends_where_it_began(task, layouts):
    for layout in layouts[task]:
        poses = task.poses(layout.start("agent"), layout.plan)
        assert len(poses) == 1 + task.chunk_frames * len(layout.plan)
        np.testing.assert_allclose(poses[-1, :2], poses[0, :2], atol=1e-9)
        turned = (poses[-1, 2] - poses[0, 2]) % 360
        assert turned == pytest.approx(180 if task.way_back == "turn" else 0)
        speed = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1)
        spin = np.abs(np.diff(poses[:, 2]))
        assert np.all((np.isclose(speed, 0.875) & (spin < 1e-9)) | ((speed < 1e-9) & np.isclose(spin, 22.5)))


def test_walking_backward_shows_the_same_views_again_and_turning_round_none():
    for way_back, same in (("backward", True), ("turn", False)):
        task = PathRetrace(way_back=way_back)
        layout = task.layout(3)
        poses, last = task.poses(layout.start("agent"), layout.plan), 4 * task.explored(layout.plan)
        views = {tuple(np.round([x, y, yaw % 360], 6)) for x, y, yaw in poses[: last + 1]}
        again = [tuple(np.round([x, y, yaw % 360], 6)) in views for x, y, yaw in poses[last + 5 :]]
        assert all(again) if same else not any(again)


def test_training_and_heldout_seeds_are_disjoint(layouts):
    task = TASKS[0]
    assert max(task.train_seeds) < min(task.heldout_seeds)
    drawn = {(x.starts.tobytes(), x.plan) for x in layouts[task]}
    assert len(drawn) == len(SEEDS)


@by_task
def test_a_seed_always_gives_the_same_layout(task, layouts):
    for layout in layouts[task][::6]:
        again = replace(task).layout(layout.seed)
        assert (again.plan, again.instruction, again.names) == (layout.plan, layout.instruction, ("agent",))
        assert again.starts.tobytes() == layout.starts.tobytes() and again.starts.shape == (1, 3)


@by_task
def test_captions_do_not_tell_the_way_back(task, layouts):
    told = {s.text for layout in layouts[task] for s in layout.plan[: task.explored(layout.plan)]}
    back = {s for layout in layouts[task] for s in layout.plan[task.explored(layout.plan) :]}
    assert told == {"go forward", "turn left", "turn right"}
    assert back == {Subgoal("go back along the path", "return", "agent")}
    assert not any(re.search(r"\d\d|block|degree", layout.instruction) for layout in layouts[task])


# --- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["forward", "forward left forward forward", "right forward left", "forward left left"]
)
def test_explicit_moves_are_the_ones_asked_for(words):
    for task in TASKS:
        plan = steps(task, words)
        task.check_plan(plan)
        moves = task.moves(plan)
        assert list(moves.values()) == words.split()
        layout = task.layout(7, moves)
        assert list(layout.plan) == plan and task.layout(7, moves).starts.tobytes() == layout.starts.tobytes()
        task.check_path(layout, BODY)


def test_the_instruction_says_the_plan():
    task = PathRetrace()
    layout = task.layout(0, task.moves(steps(task, "forward forward left forward forward forward")))
    assert layout.instruction == (
        "Go forward twice, turn left, go forward 3 times, then go back along the path to where you started."
    )


def test_a_path_that_leaves_the_map_is_one_clear_error():
    task = PathRetrace()
    long = steps(task, " ".join(["forward"] * 40))
    with pytest.raises(PlanError, match="map=my_way_home has no place for one like that"):
        task.layout(0, task.moves(long))
    layout = task.layout(0)
    far = replace(layout, starts=layout.starts + np.array([500.0, 0, 0]))
    with pytest.raises(PlanError, match=r"the start \[5.* blocks is outside the map my_way_home"):
        task.check_path(far, BODY)
    with pytest.raises(PlanError, match=r"step \d+ \('go forward'\) of the path leaves the free floor"):
        task.check_path(replace(layout, plan=tuple(long)), BODY)


@pytest.mark.parametrize(
    ("words", "back", "message"),
    [
        ("", 0, "never goes forward"),
        ("left", 1, "never goes forward"),
        ("forward left", 1, "1 steps back, but 2 steps out need 2"),
        ("forward left", 4, "4 steps back, but 2 steps out need 2"),
        ("forward", 0, "0 steps back, but 1 steps out need 1"),
    ],
)
def test_plans_that_make_no_sense(words, back, message):
    task = PathRetrace()
    with pytest.raises(PlanError, match=message):
        task.check_plan(steps(task, words, back))


def test_the_way_back_comes_last_and_turning_round_takes_two_more_steps():
    task = PathRetrace(way_back="turn")
    task.check_plan(steps(task, "forward left", 4))
    with pytest.raises(PlanError, match=r"2 steps back, but 2 steps out need 4 \(way_back=turn\)"):
        task.check_plan(steps(task, "forward left", 2))
    with pytest.raises(PlanError, match=r"step 7 \('go forward'\): the way back has begun"):
        task.check_plan([*steps(task, "forward left"), task.subgoal("go", "agent", "forward")])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("jump", "agent", None), "unknown kind of subgoal 'jump'; path_retrace has go, turn, return"),
        (("go", "cube", "forward"), "unknown object 'cube'; path_retrace has agent"),
        (("go", "agent", "left"), "'go' can't take 'left'; it takes forward"),
        (("turn", "agent", None), "'turn' can't take None; it takes left or right"),
        (("return", "agent", "left"), "'return' takes no direction"),
    ],
)
def test_words_outside_the_vocabulary(asked, message):
    with pytest.raises(PlanError, match=message):
        PathRetrace().subgoal(*asked)
    with pytest.raises(PlanError, match=message):
        PathRetrace().check_plan([Subgoal("whatever", *asked)])


def test_a_caption_of_another_subgoal_is_refused():
    task = PathRetrace()
    plan = steps(task, "forward left")
    plan[3] = replace(plan[3], text="go back along the path, turning right")
    with pytest.raises(PlanError, match=r"step 4 .*does not belong to return agent$"):
        task.check_plan(plan)


# --- score -------------------------------------------------------------------------------------

LINE = "forward forward left forward forward right forward"  # five waypoints, 3.5 blocks apart


def walked(task: PathRetrace, back: np.ndarray | None = None):
    """Plan and ``(T, 1, 3)`` poses: the way out, then ``back`` (or the perfect way back)."""
    plan = steps(task, LINE)
    poses = task.poses(np.array([0.0, 0.0, 0.0]), plan)
    out = poses[: 1 + task.chunk_frames * task.explored(plan)]
    track = poses if back is None else np.concatenate([out, back])
    return plan, track[:, None]


def score(task: PathRetrace, plan, track):
    return task.score(track, np.ones(track.shape[:2], bool), ("agent",), plan)


@by_task
def test_the_perfect_way_back_scores_zero(task):
    result = score(task, *walked(task))
    assert result.success and result.distance < 1e-9 and all(result.displaced.values())
    assert list(result.distances) == [f"waypoint {i}" for i in range(1, 6)]
    assert result.details["ordered_coverage"] == 1 and result.details["end_distance"] < 1e-9
    assert result.details["path_length"] == pytest.approx(5 * 3.5)


def test_who_stands_still_is_as_far_as_the_path_s_end():
    task = PathRetrace()
    plan, track = walked(task, np.zeros((0, 3)))
    still = np.concatenate([track, np.repeat(track[-1:], 28, 0)])
    result = score(task, plan, still)
    ends = task.path(np.zeros(3), plan[:7])[[0, 1, 3, 4, 6], :2]
    expected = np.linalg.norm(ends - track[-1, 0, :2], axis=1)
    np.testing.assert_allclose(list(result.distances.values()), expected)
    assert result.distance > 5 and not result.success and not any(result.reached.values())
    assert result.details["ordered_coverage"] == 0 and result.details["path_length"] == 0


def test_only_what_follows_the_way_out_counts():
    """The waypoints were all passed on the way out; that counts for nothing."""
    task = PathRetrace()
    _, out = walked(task, np.zeros((0, 3)))
    away = out[-1, 0] + np.arange(1, 20)[:, None] * np.array([0, 0.875, 0])
    assert score(task, *walked(task, away)).distance > 5


def test_distances_are_measured_to_the_line_between_frames():
    task = PathRetrace()
    plan, track = walked(task)
    sparse = np.concatenate([track[:29], track[29:][1::2]])
    assert score(task, plan, sparse).distance < 0.05


def test_waypoints_passed_in_the_wrong_order_are_near_but_not_covered():
    """First straight to the start, then along the path to its end."""
    task = PathRetrace()
    _, out = walked(task, np.zeros((0, 3)))
    straight = np.linspace(out[-1, 0], out[0, 0], 30)[1:]
    aside = np.array([[-40.0, 30.0, 0.0], [-40.0, -30.0, 0.0], [0.0, -30.0, 0.0]])
    result = score(task, *walked(task, np.concatenate([aside, out[:, 0]])))
    assert result.distance < 1e-9 and result.details["ordered_coverage"] == pytest.approx(1 / 5)
    assert not result.success and result.details["path_length"] > 100
    short_cut = score(task, *walked(task, straight))
    assert short_cut.distances["waypoint 1"] < 1e-9 and short_cut.reached["waypoint 1"]


def test_a_missed_waypoint_does_not_void_the_others():
    task = PathRetrace()
    plan, track = walked(task)
    ends = task.path(np.zeros(3), plan[:7])
    detour = track.copy()
    near = np.linalg.norm(track[29:, 0, :2] - ends[3, :2], axis=1) < 2.0  # waypoint 3
    detour[29:][near] += np.array([4.0, 4.0, 0.0])
    result = score(task, plan, detour)
    assert [w for w, ok in result.reached.items() if not ok] == ["waypoint 3"]
    assert result.details["ordered_coverage"] == pytest.approx(0.8) and not result.success


def test_the_tolerance_is_one_and_a_half_blocks():
    task = PathRetrace()
    for off, expected in ((1.4, True), (1.6, False)):
        plan, track = walked(task)
        shifted = track.copy()
        shifted[30:, 0, :2] += off / np.sqrt(2)
        assert score(task, plan, shifted).reached["waypoint 1"] is expected


def test_a_track_without_a_way_back_is_refused():
    task = PathRetrace()
    plan, track = walked(task)
    with pytest.raises(ValueError, match="a track of 20 frames; the way out alone takes 29"):
        score(task, plan, track[:20])


def test_of_the_opposite_order_one_is_met():
    assert sum(passed_in_order(np.eye(4, dtype=bool)[::-1])) == 1


def test_nothing_is_held():
    frames, names = np.zeros((3, 8, 8, 3), np.uint8), ("agent",)
    actions, places = np.zeros((2, 10), np.float32), np.zeros((3, 1, 3), np.float32)
    assert PathRetrace().released(Episode(frames, actions, (), places, names)).all()


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        (["1000", "0100", "0010"], [1, 1, 1]),
        (["1001", "0100", "0100", "1000"], [1, 1, 1, 0]),
        (["0001", "0100", "0010"], [0, 1, 1]),
        (["1000", "1000", "1000"], [1, 1, 1]),
        (["0000", "0100", "0000"], [0, 1, 0]),
        (["0000", "0000"], [0, 0]),
    ],
)
def test_the_longest_ordered_run(near, expected):
    table = np.array([[c == "1" for c in row] for row in near])
    assert passed_in_order(table) == [bool(v) for v in expected]


# --- actions -----------------------------------------------------------------------------------


def test_keys_and_camera_are_minecraft_s():
    spec = PathRetrace().action_spec
    assert spec.names[:8] == ("forward", "back", "left", "right", "jump", "sprint", "sneak", "attack")
    assert spec.indices("degrees") == [8, 9] and spec.names[8:] == ("camera_pitch", "camera_yaw")
    assert spec.indices("binary") == list(range(8)) and spec == keys_and_camera(45.0)
    named = {n: 0.0 for n in spec.names} | {"forward": 1.0, "camera_yaw": -22.5}
    np.testing.assert_array_equal(spec.to_vector(named), [1, 0, 0, 0, 0, 0, 0, 0, 0, -22.5])
    assert spec.to_named(spec.to_vector(named)) == named
    clipped = spec.clip(np.array([0.7, 0.2, -3, 9, 0, 0, 0, 0, 99, -99]))
    np.testing.assert_array_equal(clipped, [1, 0, 0, 1, 0, 0, 0, 0, 45, -45])


@pytest.mark.parametrize("change", [{"fly": 1.0}, {"camera_yaw": np.nan}])
def test_an_unknown_key_or_a_nan_is_malformed(change):
    spec = PathRetrace().action_spec
    with pytest.raises(MalformedActionError, match=r"unknown|not finite"):
        spec.validate(spec.to_vector({n: 0.0 for n in spec.names} | change))


@by_task
def test_the_explorer_s_actions_integrate_to_the_path(task):
    layout = task.layout(1)
    home = {"agent": layout.start("agent")}
    spec, pose, poses = task.action_spec, layout.start("agent").copy(), [layout.start("agent")]
    for step, subgoal in enumerate(layout.plan):
        actions = expert_actions(task, home, subgoal, home, layout.plan, step)
        assert actions.shape == (4, 10) and actions.dtype == np.float32
        np.testing.assert_array_equal(spec.clip(actions), actions)
        for named in map(spec.to_named, actions):
            pose[2] += named["camera_yaw"]
            ahead = (named["forward"] - named["back"]) * task.stride
            pose[:2] += ahead * np.array([np.sin(np.deg2rad(pose[2])), np.cos(np.deg2rad(pose[2]))])
            poses.append(pose.copy())
    np.testing.assert_allclose(poses, task.poses(layout.start("agent"), layout.plan), atol=1e-6)


@by_task
def test_a_guess_knows_the_walls_but_not_the_way(task, layouts):
    distances = []
    for layout in layouts[task]:
        track, out = task.constant_guess_track(layout), 4 * task.explored(layout.plan)
        assert track.shape == (1 + 4 * len(layout.plan), 1, 3)
        np.testing.assert_array_equal(track, task.constant_guess_track(layout))
        np.testing.assert_allclose(track[: out + 1, 0], task.poses(layout.starts[0], layout.plan)[: out + 1])
        score = task.score(track, np.ones(track.shape[:2], bool), ("agent",), layout.plan)
        distances.append(score.distance)
        ends = track[out::4, 0]
        walked = np.linalg.norm(np.diff(ends[:, :2], axis=0), axis=1) > 0.1
        assert walked[2 if task.way_back == "turn" else 0]
        turned = np.flatnonzero(~walked)[2 if task.way_back == "turn" else 0 :]
        assert all(walked[k + 1] for k in turned if k + 1 < len(walked))
    still = [
        task.score(task.idle_track(x), np.ones((99, 1)), ("agent",), x.plan).distance for x in layouts[task]
    ]
    assert 0 < np.mean(distances) < np.mean(still) and len(set(distances)) > 2
