"""env=rlbench against stand-ins for PyRep and RLBench (tests/fakes), in a real worker process.

With PYREP_SRC and RLBENCH_SRC, checkouts of both, the stand-ins' signatures are compared with the real
ones; the simulator itself is not needed for any test.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf
from signatures import Source, differences

from envs.base import EpisodeLostError
from envs.collect import record
from envs.gripper_expert import CLOSED, DOWN, OPEN, TRAVEL_HEIGHT
from envs.rlbench_env import CAMERAS, DEMONSTRATIONS, RLBenchEnv, coppelia_variables, framed_view
from envs.worker import MissingSimulatorError, WorkerError
from tasks import MalformedActionError, PlanError
from tasks.commands import compose
from tasks.cube_return import CUBE_HALF, ZONE_HIGH, ZONE_LOW, CubeReturn
from tasks.rlbench_task import RLBenchTask

FAKES = Path(__file__).with_name("fakes")


def pose(x, y, z, grip=OPEN, quaternion=DOWN) -> np.ndarray:
    return np.array([x, y, z, *quaternion, grip], np.float64)


@pytest.fixture
def simulator(monkeypatch, tmp_path):
    """``simulator(task, faults, **options)`` makes an env; ``simulator.events()`` is what the worker saw."""
    made: list[RLBenchEnv] = []
    log = tmp_path / "events"

    def make(task=None, faults=None, **options) -> RLBenchEnv:
        monkeypatch.setenv("PYTHONPATH", str(FAKES))
        monkeypatch.setenv("FAKE_SIMULATOR", json.dumps(faults or {}))
        monkeypatch.setenv("FAKE_LOG", str(log))
        env = RLBenchEnv(task or CubeReturn(), display="inherit", **options)
        made.append(env)
        return env

    def events(kind: str | None = None) -> list[dict]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if kind in (None, line["event"])]

    make.events = events
    yield make
    for env in made:
        env.close()


# --- the contract ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
@pytest.mark.filterwarnings("ignore:.*not within the observation space")
def test_gymnasium_accepts_it(simulator):
    check_env(simulator(), skip_render_check=True)


def test_reset_gives_the_layout_of_the_seed(simulator):
    env = simulator(image_size=32)
    frame, info = env.reset(seed=3)
    layout = env.task.layout(3)
    assert frame.shape == (32, 32, 3) and frame.dtype == np.uint8 and frame in env.observation_space
    assert info["names"] == ("red cube", "blue cube", "gripper") and info["error"] is None
    np.testing.assert_allclose(info["positions"][:-1], layout.starts, atol=1e-6)
    assert info["positions"].dtype == np.float64 and info["layout"].seed == 3
    np.testing.assert_allclose(env.reset(seed=3)[1]["positions"], info["positions"], atol=1e-6)
    assert [e["seed"] for e in simulator.events("reset")] == [3, 3]
    assert env.reset(seed=3, options={"layout": env.task.layout(8)})[1]["layout"].seed == 8
    assert env.name == "rlbench (RLBench 1.2.0)"


@pytest.mark.parametrize(("camera", "headless"), [(CAMERAS[0], True), *((c, False) for c in CAMERAS[1:])])
def test_only_the_used_camera_is_left_and_it_faces_the_zone(simulator, camera, headless):
    env = simulator(camera=camera, headless=headless)
    others = {*CAMERAS, "wrist"} - {camera}
    assert {e["name"] for e in simulator.events("camera removed")} == others
    assert simulator.events("launch") == [{"event": "launch", "headless": headless}]
    view, fovy = framed_view()
    np.testing.assert_allclose(env.camera.position, view[:3, 3], atol=1e-6)
    np.testing.assert_allclose(env.camera.rotation, view[:3, :3], atol=1e-6)
    assert env.camera.fovy == pytest.approx(fovy)
    centre = np.array([*(ZONE_LOW + ZONE_HIGH) / 2, 0.03])
    np.testing.assert_allclose(env.camera.project(centre), [32, 32], atol=1e-6)
    assert env.camera.metres_per_pixel(centre) == pytest.approx(0.0069)
    right_of_it = env.camera.project(centre + np.array([0, 0.1, 0]))
    assert right_of_it[0] > 40, "the picture's right is +y"
    assert env.camera.project(centre + np.array([0.1, 0, 0]))[1] > 35, "its front is +x"


def test_a_malformed_action_raises_before_the_simulator_hears_of_it(simulator):
    env = simulator()
    env.reset(seed=0)
    for action in (np.zeros(7), pose(np.nan, 0, 0.2), pose(0.5, 0, 0.2, quaternion=(0, 0, 0, 0)), None):
        with pytest.raises(MalformedActionError):
            env.step(action)
    assert simulator.events("step") == []


def test_quaternions_are_xyzw_renormalised_and_taken_the_short_way(simulator):
    env = simulator()
    env.reset(seed=0)
    rough = np.round(np.array([0.1234, 0.9923, 0.0021, 0.0113]), 3)
    assert env.step(pose(0.5, 0.1, 0.3, quaternion=rough))[-1]["error"] is None
    [sent] = simulator.events("step")
    assert np.linalg.norm(sent["action"][3:7]) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(sent["action"][3:7], rough / np.linalg.norm(rough), atol=1e-12)
    assert env.step(pose(0.5, 0.0, 0.3, quaternion=DOWN))[-1]["error"] is None
    turned = np.abs(simulator.events("path")[-1]["to"][3:])
    np.testing.assert_allclose(
        turned, [0, 1, 0, 0], atol=1e-6
    )  # half a turn from (1, 0, 0, 0), nearer to the arm


def test_what_is_outside_is_never_sent(simulator):
    env = simulator()
    frame, before = env.reset(seed=0)
    for action in (pose(0.95, 0, 0.2), pose(0.5, 0, -0.05), pose(0.5, -0.5, 0.2)):
        seen, reward, terminated, truncated, info = env.step(action)
        assert info["error"].startswith("OutOfWorkspaceError: [0.") and "\n" not in info["error"]
        assert (reward, terminated, truncated) == (0.0, False, False) and np.array_equal(seen, frame)
        np.testing.assert_array_equal(info["positions"], before["positions"])
    assert simulator.events("step") == []


def test_rlbench_s_own_bounds_hold_where_they_are_tighter(simulator):
    env = simulator(RLBenchTask())
    env.reset(seed=0)
    error = env.step(pose(1.06, 0.0, 0.3))[-1]["error"]
    assert error.startswith("OutOfWorkspaceError") and "1.034" in error
    assert simulator.events("step") == []


@pytest.mark.parametrize(
    ("faults", "action", "error"),
    [
        ({}, pose(0.80, 0.35, 0.45, CLOSED), None),
        ({"bare_path_error": 1}, pose(0.5, 0.0, 0.3), "ConfigurationPathError: Could not create path."),
    ],
)
def test_refused_actions_are_flagged_and_change_nothing(simulator, faults, action, error):
    env = simulator(RLBenchTask(), faults)
    _, before = env.reset(seed=0)
    if error is None:  # too far for the arm, yet inside the workspace
        action, error = pose(1.0, 0.6, 0.95), "InvalidActionError: A path could not be found. Most likely"
    frame, reward, terminated, truncated, info = env.step(action)
    assert info["error"].startswith(error) and "\n" not in info["error"]
    assert (reward, terminated, truncated) == (0.0, False, False) and frame in env.observation_space
    np.testing.assert_array_equal(info["positions"], before["positions"])
    assert "lost" not in info and env.step(pose(0.5, 0.0, 0.3))[-1]["error"] is None
    assert env.worker.starts == 1


def test_a_pose_already_taken_moves_only_the_gripper(simulator):
    env = simulator()
    env.reset(seed=0)
    env.step(pose(0.5, 0.1, 0.3))
    paths = len(simulator.events("path"))
    assert env.step(pose(0.5, 0.1, 0.3, CLOSED))[-1]["error"] is None
    assert len(simulator.events("path")) == paths and simulator.events("grip")[-1]["to"] == CLOSED


def test_an_arm_that_lags_is_sent_again_before_the_gripper_acts(simulator):
    env = simulator(faults={"lag": 0.03})
    env.reset(seed=0)
    info = env.step(pose(0.5, 0.1, 0.3, CLOSED))[-1]
    assert info["error"] is None and len(simulator.events("path")) == 2
    np.testing.assert_allclose(info["positions"][-1], [0.5, 0.1, 0.3], atol=1e-6)
    world = simulator.events("grip")[0]["tip"]
    np.testing.assert_allclose(world, [0.5 - 0.309, 0.1, 0.3 + 0.752], atol=1e-4)


# --- cube_return -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["code", "stack_blocks"])
def test_the_expert_returns_the_cubes_in_either_scene(simulator, model):
    env = simulator(model=model)
    for seed in (0, 1):
        layout = env.task.layout(seed)
        episode, error = record(env, layout)
        assert error is None and episode.provenance["success"] and episode.provenance["distance"] < 0.005
        assert len(episode) == 1 + 4 * len(layout.plan) and episode.provenance["env"] == env.name
        steps = len(simulator.events("step"))
        _, reward, terminated, truncated, info = env.step(episode.actions[-1])
        assert info["error"].startswith("EpisodeOverError: the task is solved")
        assert (reward, terminated, truncated) == (0.0, True, False)
        assert len(simulator.events("step")) == steps, "nothing is sent after the end"
    assert env.reset(seed=4)[1]["error"] is None, "the number of objects did not change"


def test_success_is_latched_for_each_asked_cube_and_forgotten_at_reset(simulator):
    env = simulator()
    layout = env.task.layout(0)  # moves the blue cube alone
    blue = layout.start("blue cube")
    _, info = env.reset(seed=0, options={"layout": layout})

    def carry(start, goal) -> list[bool]:
        ends = []
        for place in (start, goal):
            at_goal = place is goal
            x, y, z = place
            for height, grip in (
                (TRAVEL_HEIGHT, CLOSED if at_goal else OPEN),
                (z, CLOSED if at_goal else OPEN),
                (z, OPEN if at_goal else CLOSED),
                (TRAVEL_HEIGHT, OPEN if at_goal else CLOSED),
            ):
                info = env.step(pose(x, y, height, grip))
                assert info[-1]["error"] is None
                ends.append(info[2])
        return ends

    away = env.task.place("right")
    assert env.step(pose(*blue[:2], 0.3))[2] is False, "a cube that never left is not returned"
    near = blue + np.array([0.03, 0.0, 0.0])
    assert not any(carry(blue, near)), "3 cm are no move"
    assert not any(carry(near, blue))
    assert not any(carry(blue, away))
    ends = carry(away, blue)
    assert ends[-1] and not any(ends[:-1]), "only when the gripper has let go and left"
    _, info = env.reset(seed=0, options={"layout": layout})
    np.testing.assert_allclose(info["positions"][:-1], layout.starts, atol=1e-6)
    assert env.step(pose(*blue[:2], 0.3))[2] is False, "the last episode's success is forgotten"
    assert pytest.approx(info["positions"][0, 2]) == CUBE_HALF


# --- when the simulator fails ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"abort_at_step": 2}, r"died during 'step' \(signal SIGABRT\); it last said: qt.qpa.plugin"),
        ({"hang_at_step": 2}, r"gave no answer to 'step' in 3 s and was killed"),
        ({"simulator_error": 2}, r"RuntimeError: The call failed on the V-REP side"),
    ],
)
def test_a_lost_simulator_truncates_and_the_next_reset_starts_it_again(simulator, faults, error):
    env = simulator(faults=faults, step_timeout=3.0)
    env.reset(seed=0)
    seen, *_, info = env.step(pose(0.5, 0.1, 0.3))
    assert info["error"] is None
    frame, reward, terminated, truncated, info = env.step(pose(0.5, 0.0, 0.3))
    assert (reward, terminated, truncated, info["lost"]) == (0.0, False, True, True)
    assert info["error"].startswith("SimulatorLostError: ") and np.array_equal(frame, seen)
    assert re.search(error, info["error"])
    assert env.step(pose(0.5, 0.0, 0.3))[-1]["error"].startswith("EpisodeOverError: the simulator was lost")
    _, info = env.reset(seed=1)
    assert info["error"] is None and "lost" not in info and env.worker.starts == 2
    assert env.step(pose(0.5, 0.1, 0.3))[-1]["error"] is None


def test_an_episode_whose_simulator_was_lost_is_not_recorded(simulator):
    env = simulator(faults={"abort_at_step": 5})
    episode, error = record(env, env.task.layout(0))
    assert episode is None and error.startswith("SimulatorLostError")


def test_a_reset_that_kills_the_simulator_is_tried_once_more(simulator, tmp_path):
    env = simulator(faults={"abort_at_reset": 1, "once": str(tmp_path / "died")})
    assert env.reset(seed=0)[1]["error"] is None and env.worker.starts == 2
    env = simulator(faults={"abort_at_reset": 1})
    with pytest.raises(WorkerError, match="died during 'reset'"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"wrong_pyrep": 1}, "another project of that name .*pip uninstall pyrep"),
        ({"no_library": 1}, r"libcoppeliaSim\.so\.1: cannot open shared object"),
        ({"abort_at_launch": 1}, r"died during 'launch' \(signal SIGABRT\); it last said: qt"),
        ({"path_error": 1}, r"died during 'launch' \(exit code 1\); it last said: UnicodeEncodeError"),
        ({"peract": 1}, r"takes actions of \(9,\); expected \(8,\)"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_line(simulator, faults, error):
    with pytest.raises(WorkerError, match=error) as caught:
        simulator(faults=faults)
    assert "\n" not in str(caught.value) and "python -m envs.doctor" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("rlbench") is not None, reason="rlbench is installed here")
def test_the_yaml_instantiates_without_rlbench_and_calling_it_says_what_to_do():
    factory = hydra.utils.instantiate(compose("run", ["env=rlbench"]).env)
    with pytest.raises(MissingSimulatorError) as caught:
        factory(task=CubeReturn(), display="inherit")
    for words in ("env=rlbench", "No module named", "envs.doctor", "env.python=PATH", "env=tabletop"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_of_the_yaml_is_read():
    options = set(OmegaConf.load(Path(__file__).parents[1] / "configs/env/rlbench.yaml")) - {
        "_target_",
        "_partial_",
    }
    assert options == set(inspect.signature(RLBenchEnv).parameters) - {"task", "render_mode"}


def test_it_hosts_no_other_task():
    class Elsewhere:
        name = "elsewhere"

    with pytest.raises(ValueError, match="not task=elsewhere"):
        RLBenchEnv(Elsewhere())
    with pytest.raises(ValueError, match=r"env\.model=wood: expected code or stack_blocks"):
        RLBenchEnv(CubeReturn(), model="wood")


def test_a_wrong_camera_is_named_before_the_simulator_starts():
    with pytest.raises(
        ValueError, match=r"env\.camera=foo: expected front, overhead, left_shoulder or right_shoulder"
    ):
        RLBenchEnv(CubeReturn(), python="/nowhere/python", display="inherit", camera="foo")
    scene = ast.parse((Path(__file__).parents[1] / "envs/rlbench_scene.py").read_text())
    [known] = [
        n.value for n in scene.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "CAMERAS"
    ]
    assert tuple(ast.literal_eval(known)) == CAMERAS, "the worker knows the same"


def test_coppeliasim_s_variables(monkeypatch, tmp_path):
    for name in ("COPPELIASIM_ROOT", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert coppelia_variables(None) == {}
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/usr/local/lib:{tmp_path}")
    assert coppelia_variables(str(tmp_path)) == {
        "COPPELIASIM_ROOT": str(tmp_path),
        "LD_LIBRARY_PATH": f"/usr/local/lib:{tmp_path}",
        "QT_QPA_PLATFORM_PLUGIN_PATH": str(tmp_path),
    }


# --- RLBench's own tasks -----------------------------------------------------------------------


def test_a_task_speaks_rlbench_s_words_and_ends_when_it_is_solved(simulator):
    env = simulator(RLBenchTask(variation=1))
    _, info = env.reset(seed=5)
    layout = info["layout"]
    assert layout.instruction == "reach the blue target" and len(layout.plan) == env.task.chunks
    assert {s.text for s in layout.plan} == {"reach the blue target"}
    env.task.check_plan(layout.plan)
    assert info["names"] == ("reach target", "gripper") and info["positions"][0].tolist() == [1, 0, 0]
    actions = env.demonstration()
    assert actions.shape == (16, 8) and actions.dtype == np.float32
    assert env.step(actions[0])[1:3] == (0.0, False)
    _, reward, terminated, _, info = env.step(actions[1])
    assert (reward, terminated, info["positions"][0, 0]) == (1.0, True, 0.0)


def test_a_demonstration_is_recorded_and_no_step_follows_success(simulator):
    env = simulator(RLBenchTask())
    episode, error = record(env, env.task.layout(5))
    assert error is None and episode.provenance["success"] and len(episode) == 17
    assert episode.provenance["instruction"] == episode.segments[0].caption != "reach target"
    assert len(simulator.events("step")) == 2
    assert len({e["seed"] for e in simulator.events("reset")}) == 1
    assert len({e["variation"] for e in simulator.events("reset")}) == 1
    np.testing.assert_array_equal(episode.frames[2], episode.frames[-1])


def test_a_task_without_a_demonstration_is_left_out(simulator):
    env = simulator(RLBenchTask(), {"no_demo": DEMONSTRATIONS})
    episode, error = record(env, env.task.layout(0))
    assert episode is None and "RuntimeError: Could not collect demos" in error
    assert len(simulator.events("reset")) == 1 + 2 * DEMONSTRATIONS and env.worker.starts == 1
    episode, error = record(env, env.task.layout(1))
    assert error is None and episode.provenance["success"] and env.worker.starts == 1
    with pytest.raises(EpisodeLostError, match=r"2 key poses; task\.chunks give room for 1"):
        crowded = simulator(RLBenchTask(chunks=1, chunk_frames=1))
        crowded.reset(seed=0)
        crowded.demonstration()


def test_a_demonstration_that_fails_is_tried_again_from_the_same_layout(simulator):
    env = simulator(RLBenchTask(), {"no_demo": 3})
    episode, error = record(env, env.task.layout(5))
    assert error is None and episode.provenance["success"] and env.worker.starts == 1
    begun = {(e["seed"], e["variation"]) for e in simulator.events("reset")}
    assert len(begun) == 1 and len(simulator.events("launch")) == 1
    env = simulator(RLBenchTask(), {"dead_from_demo": 1})
    env.reset(seed=0)
    with pytest.raises(EpisodeLostError, match="The call failed on the V-REP side"):
        env.demonstration()
    assert env.reset(seed=0)[1]["error"] is None and env.worker.starts == 2, "that one was lost"


@pytest.mark.parametrize(
    ("fault", "says"), [("abort_at_demo", "died during 'demonstrate'"), ("hang_at_demo", "gave no answer")]
)
def test_a_simulator_that_dies_of_a_demonstration_costs_one_episode(simulator, tmp_path, fault, says):
    env = simulator(RLBenchTask(), {fault: 1, "once": str(tmp_path / "once")}, launch_timeout=20)
    episode, error = record(env, env.task.layout(5))
    assert episode is None and says in error and "env.launch_timeout=20 s" in error
    episode, error = record(env, env.task.layout(6))
    assert error is None and episode.provenance["success"] and env.worker.starts == 2


def test_what_is_recorded_stands_in_the_layout_of_its_demonstration(simulator):
    """RLBench lays out anew what its planner finds no way through, so two resets of a seed may differ."""
    env = simulator(
        RLBenchTask(variation=0), {"no_way": 2}
    )  # in the demonstration's reset, not in the first one
    episode, error = record(env, env.task.layout(5))
    assert error is None and episode.provenance["success"]
    assert len(simulator.events("reset")) == 3 and env.worker.starts == 1
    np.testing.assert_array_equal(episode.frames[0], episode.frames[-1], "one target, in one place")
    other, _ = record(env, env.task.layout(5))
    assert other.provenance["success"] and not np.array_equal(other.frames[0], episode.frames[0])


def test_a_task_that_can_fail_ends_without_being_called_solved(simulator):
    env = simulator(RLBenchTask(name="beat_the_buzz"))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(pose(0.5, 0.1, 0.05))
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["positions"][0, 0] == 1.0 and "lost" not in info
    _, reward, terminated, truncated, info = env.step(pose(0.5, 0.1, 0.3))
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["error"].startswith("EpisodeOverError: RLBench calls the task failed")
    assert len(simulator.events("step")) == 1
    assert env.reset(seed=1)[1]["error"] is None and env.step(pose(0.5, 0.1, 0.4))[2] is False


def test_a_layout_without_room_is_left_out_and_the_simulator_lives_on(simulator):
    env = simulator(RLBenchTask(), {"not_placed": 1})
    episode, error = record(env, env.task.layout(3))
    assert episode is None and "\n" not in error
    assert error.startswith("env=rlbench can't reset seed 3: TaskEnvironmentError: Could not place the task")
    assert env.step(pose(0.5, 0.1, 0.3))[-1]["error"].startswith("EpisodeOverError: no episode has begun")
    assert record(env, env.task.layout(4))[1] is None and env.worker.starts == 1


def test_a_variation_that_the_task_lacks_is_named_at_once(simulator):
    with pytest.raises(ValueError, match=r"task\.variation=3: reach_target has 3; expected 0 to 2, or null"):
        simulator(RLBenchTask(variation=3))
    assert simulator.events("reset") == []


def test_an_unknown_task_is_answered_with_the_nearest_names(simulator):
    with pytest.raises(
        ValueError, match=r"^task\.name=close_jars: RLBench has no task 'close_jars'; nearest"
    ) as e:
        simulator(RLBenchTask(name="close_jars"))
    assert "close_jar, close_door" in str(e.value) and "\n" not in str(e.value)


def test_rlbench_task_as_a_task(simulator):
    task = hydra.utils.instantiate(compose("run", ["task=rlbench", "task.name=close_jar"]).task)
    assert compose("run", ["task=rlbench"]).env._target_.endswith("RLBenchEnv")
    assert compose("run", ["task=rlbench", "env=tabletop"]).env._target_.endswith("TabletopEnv")
    assert task.words == "close jar" and task.layout(3).instruction == "close jar"
    names, plan = ["close jar", "gripper"], task.layout(3).plan
    track = np.zeros((3, 2, 3))
    track[:, 0, 0] = [1, 1, 0]
    free = np.ones((3, 2), bool)
    solved, missed = (task.score(t, free, names, plan) for t in (track, track[:2]))
    assert solved.success and solved.distance == 0.0 and not missed.success and missed.distance == 1.0
    with pytest.raises(PlanError, match=r"0 steps; close_jar takes task\.chunks=4"):
        task.check_plan(())
    with pytest.raises(PlanError, match="has only 'do' 'close jar'"):
        task.subgoal("pick", "close jar")
    with pytest.raises(PlanError, match="no objects to move"):
        task.layout(0, {"a": "b"})
    for name in ("Close Jar", "../etc", "CloseJar", ""):
        with pytest.raises(ValueError, match="expected a name as RLBench"):
            RLBenchTask(name=name)


# --- are the stand-ins like the real ones? -----------------------------------------------------


OWN = frozenset(("Item", "World", "Tip", "Object.item", "Arm.home", "Gripper.__init__", "Scene.move"))
OWN |= {
    "ObservationConfig.sensors",
    "ObservationConfig.camera",
    "Reached",
    "Touched",
    "ReachTarget.way",
}  # the stand-ins' alone


@pytest.mark.skipif(
    not (os.environ.get("PYREP_SRC") and os.environ.get("RLBENCH_SRC")),
    reason="PYREP_SRC and RLBENCH_SRC name no checkouts of PyRep and RLBench",
)
def test_the_stand_ins_have_the_signatures_of_the_real_ones():
    real = Source(Path(os.environ["PYREP_SRC"]) / "pyrep", Path(os.environ["RLBENCH_SRC"]) / "rlbench")
    assert differences(Source(FAKES / "pyrep", FAKES / "rlbench"), real, {}, OWN) == []


@pytest.mark.parametrize(
    ("there", "gone", "said"),
    [
        (
            "rlbench/task_environment.py",
            "def get_observation(self):",
            "TaskEnvironment.get_observation(self): ",
        ),
        (
            "rlbench/task_environment.py",
            "def set_variation(self, v: int)",
            "TaskEnvironment.set_variation(self, v): ",
        ),
        ("pyrep/objects/vision_sensor.py", "class VisionSensor", "class VisionSensor: missing"),
        ("rlbench/utils.py", "def name_to_task_class(", "name_to_task_class("),
    ],
)
def test_what_the_real_source_no_longer_has_is_found(tmp_path, there, gone, said):
    for package in ("pyrep", "rlbench"):
        shutil.copytree(FAKES / package, tmp_path / package)
    ours, file = Source(FAKES / "pyrep", FAKES / "rlbench"), tmp_path / there
    assert differences(ours, Source(tmp_path), {}, OWN) == []
    assert file.read_text().count(gone) == 1
    file.write_text(
        file.read_text().replace(gone, gone.replace("def ", "def old_").replace("class ", "class Old"))
    )
    wrong = differences(ours, Source(tmp_path), {}, OWN)
    assert wrong and wrong[0].startswith(said) and "missing" in wrong[0], wrong


def test_nothing_of_the_worker_s_side_needs_more_than_numpy_and_the_simulator():
    folder = Path(__file__).parents[1] / "envs"
    todo = [folder / "worker_main.py", folder / "wire.py", *sorted(folder.glob("*_worker.py"))]
    assert {"rlbench_worker.py", "minecraft_worker.py", "minerl_worker.py", "minestudio_worker.py"} <= {
        path.name for path in todo
    }
    allowed = {"numpy", "pyrep", "rlbench", "minerl", "minestudio", *sys.stdlib_module_names}
    for path in todo:  # grows by what these import of this package
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module
                names = [f"envs.{a.name}" for a in node.names] if node.module == "envs" else [node.module]
            for name in names:
                if name.startswith("envs."):
                    imported = folder / f"{name.removeprefix('envs.')}.py"
                    todo += [imported] if imported not in todo else []
                else:
                    assert name.split(".")[0] in allowed, f"{path.name}:{node.lineno} {name}"
    assert folder / "rlbench_scene.py" in todo and folder / "base.py" not in todo


@pytest.mark.parametrize("name", ["CloseJar", "close-jar", "close jar"])
def test_a_name_of_another_form_is_answered_with_the_file_s(name):
    with pytest.raises(ValueError, match=r"files have, such as close_jar$"):
        RLBenchTask(name=name)
