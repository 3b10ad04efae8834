"""ViZDoom behind the gymnasium contract: exact steps, the same every time, walls that stop, clear errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs.doom as doom
from benchmarks import sim_speed
from envs.collect import record
from envs.doom import BODY, UNITS_PER_BLOCK, WADS, DoomEnv, DoomError, box_weights, wad_of
from envs.doom_map import read_floor_plan, write_floor_plan
from tasks import MalformedActionError, PlanError
from tasks.dataset import load_episodes
from tasks.floor_plan import MAPS, FloorPlan
from tasks.path_retrace import PathRetrace

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def env():
    env = DoomEnv()
    yield env
    env.close()


def act(env: DoomEnv, **keys: float) -> np.ndarray:
    return env.action_spec.to_vector({name: keys.get(name, 0.0) for name in env.action_spec.names})


def pose(info: dict) -> np.ndarray:
    return info["positions"][0]


def run(env: DoomEnv, seed: int, actions) -> tuple[np.ndarray, np.ndarray, list]:
    """Frames, poses and errors of a reset and some actions."""
    frame, info = env.reset(seed=seed)
    frames, poses, errors = [frame], [pose(info)], []
    for action in actions:
        frame, _, _, _, info = env.step(action)
        frames.append(frame)
        poses.append(pose(info))
        errors.append(info["error"])
    return np.stack(frames), np.stack(poses), errors


# --- gymnasium ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
def test_gymnasium_accepts_it():
    made = gymnasium.make("slowfast/Doom-v0").unwrapped
    assert isinstance(made, DoomEnv)
    check_env(made)
    made.close()


def test_reset_gives_the_layout_of_the_seed(env):
    frame, info = env.reset(seed=3)
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and frame in env.observation_space
    assert frame.std() > 10, "a picture, not one colour"
    assert info["names"] == env.names == ("agent",) and info["error"] is None
    assert info["positions"].shape == (1, 3) and info["positions"].dtype == np.float64
    np.testing.assert_allclose(info["positions"], env.task.layout(3).starts, atol=1e-3)
    np.testing.assert_allclose(info["map_units"], 32 * env.task.layout(3).starts[0, :2], atol=0.05)
    walked = env.step(act(env, forward=1))[-1]
    np.testing.assert_array_equal(walked["map_units"], 32 * pose(walked)[:2])
    _, info = env.reset(seed=3, options={"layout": env.task.layout(8)})
    assert info["layout"].seed == 8
    np.testing.assert_allclose(info["positions"], env.task.layout(8).starts, atol=1e-3)


def test_the_same_seed_gives_the_same_frames_and_poses(env):
    actions = [
        act(env, forward=1),
        act(env, camera_yaw=22.5),
        act(env, left=1, sprint=1),
        act(env, camera_pitch=9),
    ]
    fresh = DoomEnv()
    runs = [run(one, 5, actions) for one in (env, env, fresh)]
    fresh.close()
    for frames, poses, _ in runs[1:]:
        assert np.array_equal(frames, runs[0][0]) and np.array_equal(poses, runs[0][1])
    assert not np.array_equal(run(env, 6, actions)[0], runs[0][0])


def test_it_hosts_no_other_task_and_no_other_size():
    with pytest.raises(ValueError, match="can't host task=elsewhere"):
        DoomEnv(SimpleNamespace(name="elsewhere"))
    with pytest.raises(ValueError, match="image_size=4000: expected 1 to 480 px"):
        DoomEnv(image_size=4000)


def test_step_before_reset_close_twice_and_go_on():
    env = DoomEnv(image_size=16)
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(act(env))
    frame, _ = env.reset(seed=0)
    env.close()
    env.close()
    again, _ = env.reset(seed=0)
    assert frame.shape == (16, 16, 3) and np.array_equal(frame, again)
    env.close()


def test_frames_are_averaged_down():
    weights = box_weights(120, 64)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(weights.sum(0), 64 / 120, atol=1e-6)
    np.testing.assert_allclose(box_weights(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


# --- actions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "ahead", "aside"),
    [
        ({"forward": 1}, 0.875, 0),
        ({"back": 1}, -0.875, 0),
        ({"left": 1}, 0, -0.875),
        ({"right": 1}, 0, 0.875),
        ({"forward": 1, "right": 1}, 0.875 / np.sqrt(2), 0.875 / np.sqrt(2)),
        ({"forward": 1, "back": 1}, 0, 0),
        ({"forward": 1, "sneak": 1}, 0.3 * 0.875, 0),
        ({"forward": 1, "sprint": 1}, 1.3 * 0.875, 0),
        ({"jump": 1, "attack": 1, "sprint": 1, "sneak": 1}, 0, 0),
    ],
)
def test_keys_walk_a_stride_and_stop(env, keys, ahead, aside):
    """Layout 0 begins with a walk forward; half a body's width to the sides and back may be wall."""
    env.reset(seed=0)
    start = pose(env.step(act(env, forward=1))[-1])
    after = env.step(act(env, **keys))[-1]
    yaw = np.deg2rad(start[2])
    forward, right = np.array([np.sin(yaw), np.cos(yaw)]), np.array([np.cos(yaw), -np.sin(yaw)])
    if after["error"] is None:
        moved = pose(after)[:2] - start[:2]
        np.testing.assert_allclose([moved @ forward, moved @ right], [ahead, aside], atol=5e-3)
        rest = pose(env.step(act(env))[-1])
        np.testing.assert_allclose(rest, pose(after), atol=2e-3)
    else:
        assert aside != 0, f"nothing is in the way: {after['error']}"


def test_the_camera_turns_to_the_right_and_down_and_is_not_wrapped(env):
    _, info = env.reset(seed=2)
    start = pose(info)
    for turns in range(1, 19):
        info = env.step(act(env, camera_yaw=22.5))[-1]
        assert pose(info)[2] == pytest.approx(start[2] + 22.5 * turns, abs=0.02)
    np.testing.assert_allclose(pose(info)[:2], start[:2], atol=1e-6)
    east = env.reset(seed=2)[0].astype(int)
    right = env.step(act(env, camera_yaw=5))[0].astype(int)
    shift = {s: np.abs(np.roll(east, s, 1) - right)[:, 10:-10].mean() for s in range(-8, 9)}
    assert min(shift, key=shift.get) < 0, "what is seen must move to the left"
    level = env.reset(seed=2)[0].astype(int)
    down = env.step(act(env, camera_pitch=8))[0].astype(int)
    shift = {s: np.abs(np.roll(level, s, 0) - down)[12:-12].mean() for s in range(-10, 11)}
    assert min(shift, key=shift.get) < 0, "what is seen must move up"


@pytest.mark.parametrize(
    "action", [np.zeros(9), np.zeros((1, 10)), np.full(10, np.nan), ["forward"] * 10, None]
)
def test_a_malformed_action_raises_and_changes_nothing(env, action):
    frame, info = env.reset(seed=0)
    with pytest.raises(MalformedActionError):
        env.step(action)
    assert np.array_equal(env.render(), frame) and np.array_equal(env._info()["positions"], info["positions"])


def test_a_turn_too_far_is_named_and_changes_nothing(env):
    frame, info = env.reset(seed=0)
    seen, _, _, _, after = env.step(act(env, camera_yaw=90))
    assert after["error"].startswith("CameraError: a turn of [0.0, 90.0] degrees") and "45" in after["error"]
    assert np.array_equal(seen, frame) and np.array_equal(after["positions"], info["positions"])
    assert env.step(act(env, camera_yaw=20))[-1]["error"] is None, "an error must not outlive its action"


def test_a_wall_stops_the_walk_and_is_named(env):
    _, info = env.reset(seed=0)
    for _ in range(40):
        info = env.step(act(env, forward=1))[-1]
        if info["error"]:
            break
    assert (
        info["error"].startswith("BlockedError: a wall ended the step after ") and "\n" not in info["error"]
    )
    here, free = pose(info)[None, :2], env.task.floor_plan.free
    assert free(here, here, BODY / UNITS_PER_BLOCK - 0.02)[0] and not free(here, here, 0.7)[0], (
        "at the wall, neither in it nor thrown back"
    )
    stuck = [env.step(act(env, forward=1))[-1] for _ in range(3)]
    assert all(i["error"] for i in stuck) and np.abs(pose(stuck[-1]) - pose(info))[:2].max() < 0.1
    assert env.step(act(env, back=1))[-1]["error"] is None


# --- the explorer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("map_name", "way_back"), [("my_way_home", "backward"), ("my_way_home", "turn"), ("cig_arena", "turn")]
)
def test_the_explorer_walks_every_path_without_touching_a_wall(map_name, way_back):
    task = PathRetrace(map=map_name, way_back=way_back)
    env = DoomEnv(task)
    for seed in (0, 1, 1_000_000):
        layout = task.layout(seed)
        episode, error = record(env, layout)
        assert error is None and episode is not None
        ideal = task.poses(layout.start("agent"), layout.plan)
        np.testing.assert_allclose(episode.position("agent")[:, :2], ideal[:, :2], atol=0.01)
        np.testing.assert_allclose(episode.position("agent")[:, 2], ideal[:, 2], atol=0.1)
        score = task.score(episode.positions, task.released(episode), episode.names, layout.plan)
        assert score.success and score.distance < 0.02 and score.details["ordered_coverage"] == 1
        last = 4 * task.explored(layout.plan)
        if way_back == "backward":
            again = episode.frames[last:].astype(int) - episode.frames[: last + 1][::-1]
            assert np.abs(again).mean() < 3, "the same views come again"
    env.close()


def test_every_frame_of_a_walk_shows_its_action(env):
    """Consecutive frames differ far more than a place seen twice does."""
    layout = env.task.layout(4)
    episode, _ = record(env, layout)
    change = np.abs(np.diff(episode.frames.astype(int), axis=0)).mean((1, 2, 3))
    assert change.min() > 1 and np.median(change) > 4


# --- maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WADS))
def test_the_floor_plan_is_the_wad_s(name, tmp_path):
    stored, (wad, lump) = FloorPlan.load(name), wad_of(name, None)
    read = read_floor_plan(name, wad, lump)
    assert np.array_equal(read.walls, stored.walls) and np.array_equal(read.ledges, stored.ledges)
    assert write_floor_plan(name, wad, lump, tmp_path).read_bytes() == (MAPS / f"{name}.json").read_bytes()


@pytest.mark.parametrize(
    ("wad", "says"),
    [
        ("nowhere.wad", "the WAD nowhere.wad of map=my_way_home is missing"),
        ("cig.wad:MAP02", "is not the map that tasks/maps/my_way_home.json describes"),
        ("cig.wad:MAP09", "has no UDMF map MAP09; it has MAP01, MAP02"),
        ("README.md", "is no WAD"),
    ],
)
def test_a_wrong_wad_is_one_clear_error(wad, says):
    folder = wad_of("my_way_home", None)[0].parent
    given = wad if wad == "nowhere.wad" else str(folder / wad)
    with pytest.raises((DoomError, ValueError), match=says) as error:
        DoomEnv(wad=given)
    assert "\n" not in str(error.value)


def test_the_same_wad_under_another_name_will_do():
    env = DoomEnv(wad=str(wad_of("my_way_home", None)[0]))
    assert env.name.startswith("doom (ViZDoom ")


def test_a_layout_off_the_map_is_refused_before_anything_moves(env):
    frame, info = env.reset(seed=0)
    far = info["layout"].__class__(0, "", ("agent",), np.array([[400.0, 0, 0]]), info["layout"].plan)
    with pytest.raises(PlanError, match="outside the map my_way_home"):
        env.reset(seed=0, options={"layout": far})
    assert np.array_equal(env.render(), frame)


def test_without_vizdoom_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(DoomError, match=r"pip install 'vizdoom>=1\.3'"):
        doom.load_vizdoom()


@pytest.mark.skipif(shutil.which("setpriv") is None or not Path("/proc").is_dir(), reason="Linux's setpriv")
def test_the_engine_does_not_outlive_a_python_that_was_killed():
    code = (
        "from envs.doom import DoomEnv; env = DoomEnv(image_size=16); env.reset(seed=0)\n"
        "print(env._game.get_instance_id(), flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    instance = process.stdout.readline().strip()

    def engines() -> list[Path]:
        commands = [p for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        return [p for p in commands if instance.encode() in _read(p)]

    assert instance and engines()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 300
    while engines() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert engines() == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended in the meantime
        return b""


# --- speed -------------------------------------------------------------------------------------


def test_its_speed_is_measured(tmp_path, capsys):
    """Frames by the clock and by a core's time; how many are wanted is measured on idle cores, in docs/results.md."""
    out = tmp_path / "speed.json"
    sim_speed.main(["--env", "doom", "--episodes", "2", "--json", str(out)])
    figures = json.loads(out.read_text())["doom"]
    steps = sum(4 * len(PathRetrace().layout(seed).plan) for seed in (1_000_000, 1_000_001))
    assert figures["n"] == {"episodes": 2, "frames": steps} and figures["image_size"] == 64
    assert figures["frames_per_second"] > 0
    assert figures["frames_per_core_second"] is None or figures["frames_per_core_second"] > 0
    printed = capsys.readouterr().out
    assert all(f"doom       {key}" in printed for key in figures)


@pytest.mark.parametrize(("begun", "walked", "rate"), [(2.0, 2.5, 200.0), (2.5, 2.0, None), (2.0, 2.0, None)])
def test_a_walk_that_its_beginning_hides_has_no_rate(begun, walked, rate):
    assert sim_speed.per_core_second(100, begun, walked) == rate


# --- the command -------------------------------------------------------------------------------


def test_collect_makes_resumes_and_finishes(tmp_path):
    def collect(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "envs.collect", "task=path_retrace", "env.image_size=16", *options]
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    done = collect("episodes=3", "workers=1", "group=2", "path=one")
    assert done.returncode == 0, done.stderr
    assert "the expert succeeded in 3 (100.0%)" in done.stdout and "0.0 blocks; 0 left out" in done.stdout
    episodes, task = load_episodes(tmp_path / "one"), PathRetrace()
    for episode in episodes:
        layout = task.layout(episode.provenance["seed"])
        assert [s.caption for s in episode.segments] == [s.text for s in layout.plan]
        assert len(episode) == 1 + 4 * len(layout.plan) and episode.actions.shape[1] == 10
    again = collect("episodes=3", "path=one")
    assert again.returncode == 0 and "is finished already" in again.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one"], "the engine must leave no files about"
    wrong = collect("episodes=1", "path=two", "env.wad=gone.wad", "workers=1")
    assert wrong.returncode == 1 and wrong.stderr.splitlines()[-1].startswith(
        "error: the WAD gone.wad of map="
    )
