"""The tabletop: a gymnasium env, the same every time, whose grasps are physical and whose camera is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hydra.utils import get_class
from omegaconf import OmegaConf

import envs.expert as expert
import envs.tabletop as tabletop
from benchmarks import sim_speed
from envs.collect import record
from envs.expert import expert_actions
from envs.explorer import walk
from envs.gripper_expert import CLOSED, DOWN, OPEN, TRAVEL_HEIGHT, carry
from envs.tabletop import GraphicsError, TabletopEnv, choose_gl
from tasks import MalformedActionError
from tasks.cube_return import CUBE_HALF, PLACES, ZONE_HIGH, ZONE_LOW, CubeReturn

REPO = Path(__file__).resolve().parents[1]
RED, GRIPPER = 0, -1
NEAR = 0.01  # m: a cube this near its start still stands there


def pose(x, y, z, grip=OPEN, quaternion=DOWN) -> np.ndarray:
    return np.array([x, y, z, *quaternion, grip], np.float32)


def state(env: TabletopEnv) -> bytes:
    """Everything that the next step depends on, bit by bit."""
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    out = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, out, kind)
    return out.tobytes()


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(CubeReturn())
    yield env
    env.close()


@pytest.fixture(scope="module")
def recorded(env):
    """A short and a long held-out episode of the expert, with their layouts."""
    layouts = [env.task.layout(seed) for seed in env.task.heldout_seeds[:2]]
    out = [(layout, *record(env, layout)) for layout in layouts]
    assert [error for _, _, error in out] == [None, None]
    return [(layout, episode) for layout, episode, _ in out]


# --- gymnasium ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
def test_gymnasium_accepts_it():
    made = gymnasium.make("slowfast/Tabletop-v0").unwrapped
    assert isinstance(made, TabletopEnv)
    check_env(made)
    made.close()


def test_gymnasium_finds_it_in_a_fresh_interpreter():
    code = (
        "import gymnasium; print(gymnasium.make('envs:slowfast/Tabletop-v0').unwrapped.action_spec.names[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0 and done.stdout.strip() == TabletopEnv().action_spec.names[0], done.stderr


def test_reset_gives_the_layout_of_the_seed(env):
    frame, info = env.reset(seed=3)
    layout = env.task.layout(3)
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and frame in env.observation_space
    assert info["layout"].starts.tobytes() == layout.starts.tobytes() and info["error"] is None
    assert info["names"] == env.names == (*layout.names, "gripper")
    assert info["positions"].shape == (3, 3) and info["positions"].dtype == np.float64
    np.testing.assert_allclose(info["positions"][:-1], layout.starts, atol=1e-3)
    _, info = env.reset(seed=3, options={"layout": env.task.layout(8)})
    assert info["layout"].seed == 8


def test_without_a_seed_it_draws_training_layouts(env):
    env.np_random = np.random.default_rng(0)
    seeds = {env.chosen_layout(None, None).seed for _ in range(20)}
    assert len(seeds) == 20 and all(seed in env.task.train_seeds for seed in seeds)


def test_it_hosts_no_other_task():
    with pytest.raises(ValueError, match="can't host task=elsewhere"):
        TabletopEnv(SimpleNamespace(name="elsewhere"))


def test_the_same_seed_gives_the_same_frames_and_physics(env):
    actions = [pose(0.5, 0.1, TRAVEL_HEIGHT), pose(0.6, -0.05, CUBE_HALF, CLOSED)]
    fresh = TabletopEnv(CubeReturn())
    runs = []
    for one in (env, env, fresh):
        frames = [one.reset(seed=5)[0], *[one.step(action)[0] for action in actions]]
        runs.append((np.stack(frames).tobytes(), state(one)))
        one.step(pose(0.45, 0.0, 0.3))
    fresh.close()
    assert runs[0] == runs[1] == runs[2]
    env.reset(seed=6)
    assert state(env) != runs[0][1]


def test_close_twice_and_render_again():
    env = TabletopEnv(CubeReturn(("red",)), image_size=16)
    frame, _ = env.reset(seed=0)
    env.close()
    env.close()
    assert frame.shape == (16, 16, 3) and np.array_equal(env.render(), frame)
    env.close()


# --- actions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(7),
        np.zeros((1, 8)),
        pose(np.nan, 0, 0.2),
        pose(0.5, 0, 0.2, grip=np.inf),
        pose(0.5, 0, 0.2, quaternion=(0, 0, 0, 0)),
        ["left"] * 8,
        None,
    ],
)
def test_a_malformed_action_raises_and_changes_nothing(env, action):
    frame, _ = env.reset(seed=0)
    before = state(env)
    with pytest.raises(MalformedActionError):
        env.step(action)
    assert state(env) == before and np.array_equal(env.render(), frame)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (pose(0.95, 0.0, 0.2), "OutOfWorkspaceError: [0.95"),
        (pose(0.5, 0.0, -0.05), "OutOfWorkspaceError"),
        (pose(0.5, -0.5, 0.2, CLOSED), "OutOfWorkspaceError"),
        (pose(0.80, 0.35, 0.45), "OutOfReachError: the arm can't take the pose [0.8"),
        (pose(0.5, 0.0, 0.3, CLOSED, (0.7071, 0, -0.7071, 0)), "OutOfReachError"),
    ],
)
def test_what_cannot_be_carried_out_is_named_and_changes_nothing(env, action, error):
    frame, _ = env.reset(seed=0)
    before, qpos, qvel = state(env), env.data.qpos.copy(), env.data.qvel.copy()
    seen, reward, terminated, truncated, info = env.step(action)
    assert info["error"].startswith(error) and "\n" not in info["error"]
    assert np.array_equal(env.data.qpos, qpos) and np.array_equal(env.data.qvel, qvel)
    assert state(env) == before and np.array_equal(seen, frame)
    assert (reward, terminated, truncated) == (0.0, False, False)
    info = env.step(pose(0.5, 0.1, 0.2))[-1]
    assert info["error"] is None, "an error must not outlive its action"
    after = state(env)
    env.reset(seed=0)
    env.step(pose(0.5, 0.1, 0.2))
    assert state(env) == after, "the refused action left a trace"


def test_a_blocked_move_is_named_and_ends_where_it_was_stopped(env):
    """A closed fist onto a cube, and a held cube into the table."""
    _, info = env.reset(seed=0)
    x, y, _ = info["positions"][RED]
    grasp = [pose(x, y, TRAVEL_HEIGHT), pose(x, y, CUBE_HALF), pose(x, y, CUBE_HALF, CLOSED)]
    lift = pose(x, y, TRAVEL_HEIGHT, CLOSED)
    for before, blocked in (([lift], pose(x, y, 0.015, CLOSED)), ([*grasp, lift], pose(0.5, 0.0, 0.015, 0))):
        env.reset(seed=0)
        assert [env.step(action)[-1]["error"] for action in before] == [None] * len(before)
        frame, _, _, _, info = env.step(blocked)
        off = 1000 * np.linalg.norm(info["positions"][GRIPPER] - blocked[:3])
        assert off > 20 and "\n" not in info["error"]
        assert info["error"].startswith(f"BlockedError: the tip stopped {off:.0f} mm from [")
        assert np.isfinite(info["positions"]).all() and frame in env.observation_space
        assert np.array_equal(frame, env.render())
        assert env.step(pose(0.5, 0.1, 0.2))[-1]["error"] is None, "an error must not outlive its action"


def test_the_gripper_goes_where_it_is_sent(env):
    env.reset(seed=2)
    half = np.sqrt(0.5)
    for action in (
        pose(0.45, -0.2, 0.2),
        pose(0.68, 0.2, 0.1),
        pose(0.5, 0.0, 0.3, quaternion=(half, half, 0, 0)),
    ):
        info = env.step(action)[-1]
        assert info["error"] is None
        np.testing.assert_allclose(info["positions"][GRIPPER], action[:3], atol=2e-3)
    fingers = env.data.site_xmat[env.model.site("tip").id].reshape(3, 3)[:, 1]
    assert abs(fingers[0]) > 0.99, "a quarter turn makes the fingers open along x"


def test_a_quaternion_and_its_negative_are_one_pose(env):
    states = []
    for sign in (1, -1, 2.5):
        env.reset(seed=0)
        action = pose(0.5, 0.1, 0.2, quaternion=sign * np.array([0.92388, 0.38268, 0, 0]))
        assert env.step(action)[-1]["error"] is None
        states.append(env.data.qpos.copy())
    np.testing.assert_allclose(states[1], states[0], atol=1e-5)
    np.testing.assert_allclose(states[2], states[0], atol=1e-5)


# --- camera ------------------------------------------------------------------------------------


def test_a_pixel_is_at_most_7_mm(env):
    centre = np.array([*(ZONE_LOW + ZONE_HIGH) / 2, CUBE_HALF])
    corners = np.array([(x, y, CUBE_HALF) for x in (0.39, 0.69) for y in (-0.2, 0.2)])
    assert env.camera.height == env.camera.width == 64
    assert env.camera.metres_per_pixel(centre) <= 0.007
    assert env.camera.metres_per_pixel(corners).mean() <= 0.007
    assert env.camera.metres_per_pixel(corners).max() <= 0.0072  # the zone's far edge


def test_every_place_is_in_the_picture_and_so_is_most_of_a_cube_at_the_zone_s_edge(env):
    """64 px of 7 mm are 45 cm: the outermost 2 px of a cube that starts at the zone's very side are cut."""
    offsets = CUBE_HALF * np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    places = env.camera.project(np.array([env.task.place(t) for t in PLACES])[:, None] + offsets)
    assert (places > 0).all() and (places < 64).all()
    edges = np.array(
        [(x, y, CUBE_HALF) for x in (ZONE_LOW[0], ZONE_HIGH[0]) for y in (ZONE_LOW[1], ZONE_HIGH[1])]
    )
    pixels = env.camera.project(edges[:, None] + offsets)
    low, high = pixels.min(1), pixels.max(1)
    assert (env.camera.project(edges) > 1.5).all() and (env.camera.project(edges) < 62.5).all()
    assert ((np.minimum(high, 64) - np.maximum(low, 0)) / (high - low)).min() > 0.7


def test_project_agrees_with_the_rendered_cubes(env):
    for seed in range(4):
        frame, info = env.reset(seed=seed)
        for name, position in zip(env.task.vocabulary.objects, info["positions"], strict=False):
            own = {"red": 0, "blue": 2}[name.split()[0]]
            colour = frame.astype(float)
            seen = colour[..., own] > 1.6 * np.delete(colour, own, -1).max(-1)
            v, u = np.nonzero(seen)
            centroid = np.array([u.mean(), v.mean()]) + 0.5
            assert seen.sum() > 40 and np.abs(centroid - env.camera.project(position)).max() < 1.0


# --- the expert and the grasp ------------------------------------------------------------------


def test_the_expert_returns_the_cubes_within_10_mm(env, recorded):
    assert [len(episode) for _, episode in recorded] == [17, 33]
    for layout, episode in recorded:
        score = env.task.score(episode.positions, env.task.released(episode), episode.names, layout.plan)
        assert score.success and all(score.displaced.values())
        assert max(score.distances.values()) < 0.010
        assert len(score.distances) == len(layout.plan) // 4


def test_a_whole_chunk_lies_between_the_last_sight_of_the_start_and_the_return(env, recorded):
    for layout, episode in recorded:
        for cube in env.task.moves(layout.plan):
            chunk = next(i for i, s in enumerate(layout.plan) if (s.kind, s.object) == ("return", cube))
            returning = episode.segments[chunk]
            away = np.linalg.norm(episode.position(cube) - layout.start(cube), axis=1)
            last = np.flatnonzero(away[: returning.start + 1] < NEAR).max()
            between = [s for s in episode.segments if s.start >= last and s.stop <= returning.start]
            assert len(between) >= 1 and all(s.stop - s.start == env.task.chunk_frames for s in between)
            assert away[returning.start] > NEAR


def test_every_put_ends_at_its_place_and_only_the_named_cube_moves(env, recorded):
    for layout, episode in recorded:
        for subgoal, segment in zip(layout.plan, episode.segments, strict=True):
            track = episode.positions[[segment.start, segment.stop]]
            for cube in layout.names:
                i = episode.names.index(cube)
                if cube != subgoal.object:
                    assert np.linalg.norm(track[1, i] - track[0, i]) < 5e-3
                elif subgoal.kind == "put":
                    np.testing.assert_allclose(track[1, i], env.task.place(subgoal.target), atol=8e-3)
                elif subgoal.kind == "pick":
                    assert track[1, i, 2] > 0.1


def test_nothing_but_friction_holds_a_cube(env):
    assert env.model.neq == 0 and env.model.nmocap == 0 and env.model.ntendon == 0
    _, info = env.reset(seed=0)
    x, y, _ = info["positions"][RED]
    for action in (pose(x, y, TRAVEL_HEIGHT), pose(x, y, CUBE_HALF), pose(x, y, CUBE_HALF, CLOSED)):
        info = env.step(action)[-1]
    lifted = env.step(pose(x, y, TRAVEL_HEIGHT, CLOSED))[-1]["positions"]
    assert np.linalg.norm(lifted[RED] - lifted[GRIPPER]) < 0.01 and lifted[RED, 2] > 0.12
    dropped = env.step(pose(x, y, TRAVEL_HEIGHT, OPEN))[-1]["positions"]
    assert dropped[RED, 2] < 0.05, "an open gripper in the air lets the cube fall"


def test_a_gripper_that_closes_beside_a_cube_takes_nothing(env):
    _, info = env.reset(seed=0)
    start = info["positions"][RED].copy()
    x, y = start[0], start[1] - 0.10 * np.sign(start[1])
    for action in (pose(x, y, CUBE_HALF), pose(x, y, CUBE_HALF, CLOSED), pose(x, y, TRAVEL_HEIGHT, CLOSED)):
        info = env.step(action)[-1]
        assert info["error"] is None
    np.testing.assert_allclose(info["positions"][RED], start, atol=2e-3)


def test_the_expert_knows_only_its_own_task(env):
    layout = env.task.layout(1)
    home = dict(zip(layout.names, layout.starts, strict=True))
    for subgoal in layout.plan:
        actions = expert_actions(env.task, home, subgoal, home)
        assert actions.shape == (env.task.chunk_frames, 8) and actions.dtype == np.float32
        np.testing.assert_allclose(env.task.action_spec.clip(actions), actions, atol=1e-6)
        gripper = actions[:, -1].tolist()
        assert gripper == (
            [OPEN, OPEN, CLOSED, CLOSED] if subgoal.kind == "pick" else [CLOSED, CLOSED, OPEN, OPEN]
        )
    with pytest.raises(ValueError, match="no expert is written"):
        expert_actions(SimpleNamespace(name="elsewhere"), home, layout.plan[0], home)


class Sorting(CubeReturn):
    """A task of a file of its own."""


def test_a_task_finds_its_expert_through_a_yaml_alone(tmp_path, monkeypatch):
    for path in (expert.CONFIGS / "task").glob("*.yaml"):
        if target := OmegaConf.load(path).get("_target_"):  # a variant has its task's
            assert (expert.expert_of(get_class(target)) is not None) == (path.stem != "rlbench"), path.stem
    assert expert.expert_of(Sorting).func is carry, "a kind of cube_return"
    (tmp_path / "expert").mkdir()
    yaml = tmp_path / "expert" / f"{Sorting.__module__}.yaml"
    yaml.write_text("_target_: envs.explorer.walk\n_partial_: true\n")
    monkeypatch.setattr(expert, "CONFIGS", tmp_path)
    expert.expert_of.cache_clear()
    assert expert.expert_of(Sorting).func is walk and expert.expert_of(CubeReturn) is None
    expert.expert_of.cache_clear()


# --- OpenGL ------------------------------------------------------------------------------------


def headless(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "PYOPENGL_PLATFORM")}
    return {**kept, **extra}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have OpenGL built in")
def test_no_opengl_names_the_packages():
    code = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "from envs.tabletop import GraphicsError, TabletopEnv\n"
        "try: TabletopEnv()\n"
        "except GraphicsError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=headless(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    for package in ("apt-get install", "libegl1", "libgl1", "libosmesa6"):
        assert package in done.stdout


def test_mujoco_may_be_imported_before():
    code = "import mujoco, envs.tabletop as t; print(t.TabletopEnv(image_size=8).reset(seed=0)[0].max())"
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and int(done.stdout) > 100, done.stderr


@pytest.mark.skipif(not find_library("OSMesa"), reason="no OSMesa: apt-get install libosmesa6")
def test_osmesa_draws_the_same_frame(env):
    """The fallback of machines whose EGL has no device; here its vendors are hidden."""
    code = (
        "import os, sys; from envs.tabletop import TabletopEnv\n"
        "env = TabletopEnv(); sys.stdout.buffer.write(env.reset(seed=3)[0].tobytes()); env.close()\n"
        "assert os.environ['MUJOCO_GL'] == 'osmesa' and 'OpenGL.osmesa' in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        env=headless(__EGL_VENDOR_LIBRARY_FILENAMES=os.devnull),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    drawn = np.frombuffer(done.stdout, np.uint8).reshape(64, 64, 3).astype(int)
    assert np.abs(drawn - env.reset(seed=3)[0]).mean() < 2  # levels of 255: two rasterisers


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have OpenGL built in")
@pytest.mark.parametrize(
    ("command", "variable"),
    [
        ("envs.collect workers=1 path", "MUJOCO_GL"),
        ("envs.collect workers=1 path", "PYOPENGL_PLATFORM"),
        ("planner.run run_dir", "MUJOCO_GL"),
    ],
)
def test_a_command_without_opengl_says_so_in_one_line(tmp_path, command, variable):
    module, *options = f"{command}={tmp_path / 'made'} episodes=1".split()
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=REPO, env=headless(**{variable: "broken"}), capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.strip() and "?episode/s" not in line]
    assert done.returncode == 1 and len(lines) == 1, done.stderr  # beside a progress bar at nought
    assert lines[0].startswith("error: no OpenGL") and variable in lines[0] and "libegl1" in lines[0]
    assert not list(tmp_path.rglob("*.parquet")) and not (tmp_path / "made/result.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have OpenGL built in")
def test_egl_then_osmesa_then_the_display(monkeypatch):
    """Only the system's answers are replaced: which libraries there are, how many devices EGL has."""
    monkeypatch.setattr(os, "environ", headless())
    monkeypatch.setattr(tabletop, "find_library", lambda name: f"lib{name}.so.1")
    for devices, expected in ((1, "egl"), (0, "osmesa")):
        monkeypatch.setattr(tabletop, "egl_devices", lambda devices=devices: devices)
        choose_gl()
        assert os.environ.pop("MUJOCO_GL") == expected
    monkeypatch.setattr(tabletop, "find_library", lambda name: None)
    with pytest.raises(GraphicsError, match="neither an EGL with a device nor an OSMesa"):
        choose_gl()
    os.environ["DISPLAY"] = ":0"
    choose_gl()
    assert "MUJOCO_GL" not in os.environ
    os.environ["MUJOCO_GL"] = "osmesa"
    choose_gl()
    assert os.environ.pop("MUJOCO_GL") == "osmesa"
    os.environ["PYOPENGL_PLATFORM"] = "egl"  # MuJoCo would take no other then
    choose_gl()
    assert os.environ["MUJOCO_GL"] == "egl"


@pytest.mark.skipif(not find_library("EGL_mesa"), reason="no Mesa: apt-get install libegl1")
@pytest.mark.skipif(bool(find_library("EGL_nvidia")), reason="EGL has other drivers than Mesa's")
def test_an_egl_whose_driver_does_not_start_has_no_devices():
    code = "from envs.tabletop import egl_devices; print(egl_devices())"
    counts = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPO,
            env=headless(**extra),
            capture_output=True,
            text=True,
        ).stdout
        for extra in ({}, {"LIBGL_DRIVERS_PATH": os.devnull})
    ]
    assert int(counts[0]) >= 1 and counts[1] == "0\n"


def test_a_libegl_that_is_missing_or_no_library_has_no_devices(monkeypatch, tmp_path):
    monkeypatch.setattr(tabletop, "find_library", lambda name: None)
    assert tabletop.egl_devices() == 0
    (tmp_path / "libEGL.so.1").write_text("not a library")
    monkeypatch.setattr(tabletop, "find_library", lambda name: str(tmp_path / "libEGL.so.1"))
    assert tabletop.egl_devices() == 0


def test_a_missing_panda_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tabletop.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install 'gymnasium-robotics"):
        tabletop.panda_folder()


# --- speed -------------------------------------------------------------------------------------


def test_the_speed_benchmark_runs(tmp_path, capsys):
    out = tmp_path / "speed.json"
    arguments = ["--env", "tabletop", "--episodes", "1", "--frames", "5", "--steps", "50", "--json", str(out)]
    sim_speed.main(arguments)
    result = json.loads(out.read_text())
    figures = result["tabletop"]
    assert set(result) == {"tabletop", "hardware", "commit", "command"}
    rates = [k for k in figures if k.endswith("_per_second") or "_per_second_" in k]
    assert len(rates) == 4 and all(figures[k] > 0 for k in rates)
    assert figures["n"] == {"steps": 50, "frames": 5, "episodes": 1, "actions": 16}
    assert figures["image_size"] == 64 and figures["timestep"] == 0.004
    printed = capsys.readouterr().out
    assert all(key in printed for key in figures)
    with pytest.raises(SystemExit):
        sim_speed.main(["--episodes", "0"])
