"""env=minerl against a stand-in for MineRL 1.0 (tests/fakes), in a real worker process."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import zipfile
from pathlib import Path

import hydra
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf
from signatures import Source, differences
from test_rlbench import FAKES

from envs.base import EpisodeLostError
from envs.collect import record
from envs.minerl_env import SETTLE, MineRLEnv
from envs.worker import MissingSimulatorError, WorkerError
from tasks import MalformedActionError
from tasks.commands import compose
from tasks.path_retrace import AGENT, PathRetrace

TICK = 4.317 / 20  # blocks
OWN = frozenset(("Handler.__init__",))  # what only the stand-in has


@pytest.fixture(scope="module")
def task():
    return PathRetrace()


@pytest.fixture
def minecraft(monkeypatch, tmp_path, task):
    """``minecraft(faults, **options)`` makes an env; ``minecraft.events()`` is what the simulator saw."""
    made: list[MineRLEnv] = []
    log = tmp_path / "events"

    def make(faults=None, task=task, **options) -> MineRLEnv:
        monkeypatch.setenv("PYTHONPATH", str(FAKES))
        monkeypatch.setenv("FAKE_SIMULATOR", json.dumps(faults or {}))
        monkeypatch.setenv("FAKE_LOG", str(log))
        options = {"render_size": 64, "display": "inherit", "launch_timeout": 600, **options}
        env = MineRLEnv(task, **options)
        made.append(env)
        return env

    def events(kind: str | None = None) -> list[dict]:
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if kind in (None, line["event"])]

    make.events = events
    yield make
    for env in made:
        env.close()


def action(task, **named) -> np.ndarray:
    return task.action_spec.to_vector({**dict.fromkeys(task.action_spec.names, 0.0), **named})


# --- the contract ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
def test_gymnasium_accepts_it(minecraft):
    check_env(minecraft(), skip_render_check=True)


def test_an_episode_begins_at_the_layout_s_start_wherever_minecraft_spawns(minecraft, task):
    env = minecraft({"yaw": 77.0}, image_size=16)
    for seed in (3, 4):
        frame, info = env.reset(seed=seed)
        np.testing.assert_allclose(info["positions"][0], task.layout(seed).start(AGENT), atol=1e-9)
        assert info["names"] == (AGENT,) and info["error"] is None and not info["success"]
    assert frame.shape == (16, 16, 3) and frame.flags.c_contiguous and frame in env.observation_space
    assert frame[0, 0].tolist() == [255, 167, 120] and frame[-1, 0].tolist() == [0, 0, 0], "upright, averaged"


def test_the_seed_is_given_before_every_reset_and_the_agent_lands_first(minecraft):
    env = minecraft()
    for seed in (7, 7, 1_000_000):
        env.reset(seed=seed)
    resets = minecraft.events("reset")
    assert [r["seed"] for r in resets] == [7, 7, 1_000_000]
    assert all(r["biome"] == "plains" and r["world"] is None and r["done_on_death"] for r in resets)
    ticks = minecraft.events("tick")
    assert len(ticks) == 3 * SETTLE and all(t["pressed"] == [] for t in ticks)


@pytest.mark.parametrize("yaw", [0.0, 123.0])
def test_walking_and_turning_in_the_task_s_frame(minecraft, task, yaw):
    """Whatever way Minecraft's agent looks at first: ahead is where the layout's start looks."""
    env = minecraft({"yaw": yaw})
    _, info = env.reset(seed=3)
    start = info["positions"][0]
    heading = np.deg2rad(start[2])
    ahead, right = np.array([np.sin(heading), np.cos(heading)]), np.array([np.cos(heading), -np.sin(heading)])
    walked = env.step(action(task, forward=1))[-1]["positions"][0]
    np.testing.assert_allclose(walked[:2] - start[:2], 4 * TICK * ahead, atol=1e-9)
    aside = env.step(action(task, right=1))[-1]["positions"][0]
    np.testing.assert_allclose(aside[:2] - walked[:2], 4 * TICK * right, atol=1e-9)
    turned = env.step(action(task, camera_yaw=45))[-1]["positions"][0]
    np.testing.assert_allclose(turned, [*aside[:2], start[2] + 45], atol=1e-6)


@pytest.mark.parametrize("faults", [{}, {"wrap": 1}])
def test_yaw_is_unwrapped(minecraft, task, faults):
    env = minecraft(faults)
    start = env.reset(seed=3)[1]["positions"][0, 2]
    for _ in range(12):
        info = env.step(action(task, camera_yaw=45))[-1]
    assert info["positions"][0, 2] == pytest.approx(start + 12 * 45)


def test_only_ints_are_sent_and_never_escape_or_the_inventory(minecraft, task):
    env = minecraft()
    env.reset(seed=0)
    values = np.ones(len(task.action_spec)) * 0.9
    assert env.step(values)[-1].get("lost") is None
    sent = minecraft.events("tick")[SETTLE:]
    assert len(sent) == env.ticks == 4
    assert all(t["pressed"] == sorted(task.action_spec.names[:8]) for t in sent)
    assert [t["camera"] for t in sent] == [[0.9, 0.9], [0, 0], [0, 0], [0, 0]], "the camera turns once"


def test_a_malformed_action_raises_and_a_wild_camera_is_flagged(minecraft, task):
    env = minecraft()
    env.reset(seed=0)
    with pytest.raises(MalformedActionError):
        env.step(np.zeros(3))
    before = len(minecraft.events("tick"))
    info = env.step(action(task, camera_yaw=200))[-1]
    assert info["error"].startswith("CameraError: a turn of [0.0, 200.0] degrees")
    assert len(minecraft.events("tick")) == before


def test_a_step_that_is_stopped_is_flagged(minecraft, task):
    env = minecraft({"wall": SETTLE + 4})
    env.reset(seed=0)
    assert env.step(action(task, forward=1))[-1]["error"] is None
    assert env.step(action(task, forward=1))[-1]["error"].startswith("BlockedError: something ended")
    assert env.step(action(task, forward=1, back=1))[-1]["error"] is None
    assert env.step(action(task))[-1]["error"] is None


# --- the end of an episode ---------------------------------------------------------------------


def test_the_expert_retraces_its_path_and_the_reward_comes_once(minecraft, task):
    env = minecraft()
    layout = task.layout(0)
    episode, error = record(env, layout)
    assert error is None and episode.provenance["success"] and episode.provenance["distance"] < 0.1
    assert len(episode) == 1 + task.chunk_frames * len(layout.plan)
    _, info = env.reset(seed=0, options={"layout": layout})
    rewards, successes = [], []
    for values in episode.actions:
        _, reward, terminated, truncated, info = env.step(values)
        assert not terminated and not truncated
        rewards.append(reward)
        successes.append(info["success"])
    assert sum(rewards) == 1.0 and successes[-1] and not successes[0]
    assert rewards.index(1.0) >= task.chunk_frames * task.explored(layout.plan)


def test_death_terminates_and_the_time_limit_truncates(minecraft, task):
    env = minecraft({"die_at_tick": SETTLE + 6})
    env.reset(seed=0)
    assert env.step(action(task))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(action(task))
    assert (reward, terminated, truncated) == (0.0, True, False) and "lost" not in info
    ticks = len(minecraft.events("tick"))
    assert ticks == SETTLE + 6, "no tick after death"
    info = env.step(action(task))[-1]
    assert (
        info["error"].startswith("EpisodeOverError: the agent died")
        and len(minecraft.events("tick")) == ticks
    )
    env = minecraft(time_limit=2)
    env.reset(seed=0)
    assert env.step(action(task))[2:4] == (False, False)
    assert env.step(action(task))[2:4] == (False, True)
    assert env.step(action(task))[-1]["error"].startswith("EpisodeOverError: the time limit")
    env.reset(seed=0)
    assert env.step(action(task))[2:4] == (False, False)


# --- when Minecraft fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"lose_at_tick": SETTLE + 6}, "LostError: MineRL lost its Minecraft: Connection timed out!"),
        (
            {"silent_at_sight": SETTLE + 7},
            "LostError: Minecraft gave no position",
        ),  # the reset's is the first
        ({"abort_at_tick": SETTLE + 6}, r"died during 'step' \(signal SIGABRT\)"),
        ({"hang_at_tick": SETTLE + 6}, r"gave no answer to 'step' in 3 s and was killed"),
    ],
)
def test_a_lost_minecraft_truncates_is_never_scored_and_is_built_again(minecraft, task, faults, error):
    env = minecraft(faults, step_timeout=3.0)
    env.reset(seed=0)
    seen, *_, info = env.step(action(task, forward=1))
    frame, reward, terminated, truncated, lost = env.step(action(task, forward=1))
    assert (reward, terminated, truncated, lost["lost"]) == (0.0, False, True, True)
    assert lost["error"].startswith("SimulatorLostError") and re.search(error, lost["error"])
    np.testing.assert_array_equal(frame, seen, "no random picture")
    np.testing.assert_array_equal(lost["positions"], info["positions"])
    assert env.step(action(task))[3] is True, "it stays lost"
    assert env.reset(seed=1)[1].get("lost") is None and env.worker.starts == 2
    assert env.step(action(task, forward=1))[-1]["error"] is None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"lose_at_tick": SETTLE + 30}, "MineRL lost its Minecraft"),
        ({"die_at_tick": SETTLE + 30}, "the simulator ended the episode at action 8 without success"),
    ],
)
def test_a_lost_episode_is_not_recorded(minecraft, task, fault, says):
    episode, error = record(minecraft(fault), task.layout(0))
    assert episode is None and says in error


def test_a_reset_that_fails_is_tried_once_more_in_a_new_minecraft(minecraft, tmp_path):
    env = minecraft({"abort_at_reset": 1, "once": str(tmp_path / "died")})
    assert env.reset(seed=0)[1]["error"] is None and env.worker.starts == 2
    env = minecraft({"error_at_reset": 1})
    with pytest.raises(WorkerError, match=r"env=minerl can't reset seed 0: TypeError: a bytes-like.*doctor"):
        env.reset(seed=0)
    assert env.worker.starts == 2 and not env.worker.alive
    env = minecraft()
    env.reset(seed=0)
    minecraft({"error_at_reset": 1})  # from now on, in every process
    env.worker.close()
    with pytest.raises(EpisodeLostError, match="env=minerl can't reset seed 1: TypeError: a bytes-like"):
        env.reset(seed=1)  # it could be started, so that it is the episode that is lost


def test_a_saved_world_and_java_s_memory(minecraft, tmp_path, monkeypatch):
    world = tmp_path / "hill & dale <1>.zip"  # MineRL writes the path into xml as it stands
    with zipfile.ZipFile(world, "w") as packed:
        packed.writestr("./saves/flat/level.dat", b"")
    monkeypatch.chdir(tmp_path)
    env = minecraft(world=world.name, max_memory="8G")
    env.reset(seed=0)
    [reset] = minecraft.events("reset")
    assert reset["world"] == str(world) and reset["biome"] is None
    assert minecraft.events("launch") == [{"event": "launch", "memory": "8G"}]


def test_what_is_wrong_at_the_start_is_one_line(minecraft, task):
    with pytest.raises(WorkerError, match=r"this MineRL knows no sprint; expected MineRL 1\.0.*envs\.doctor"):
        minecraft({"missing_keys": ["sprint"]})
    for options, error in (
        ({"render_size": 100}, r"env\.render_size=100: expected a multiple of env\.image_size=64"),
        ({"ticks": 0}, r"env\.ticks=0"),
        (
            {"ticks": 8},
            r"env\.ticks=8 walks 1\.73 blocks a step, task\.stride=0\.875: expected env\.ticks=4 and",
        ),
        ({"world": "nowhere.zip"}, r"env\.world=nowhere\.zip: no such file"),
    ):
        with pytest.raises(ValueError, match=error):
            minecraft(**options)
    with pytest.raises(ValueError, match="can't host task=elsewhere"):

        class Elsewhere:
            name = "elsewhere"

        MineRLEnv(Elsewhere())


@pytest.mark.skipif(importlib.util.find_spec("minerl") is not None, reason="minerl is installed here")
def test_the_yaml_instantiates_without_minerl_and_calling_it_says_what_to_do(task):
    factory = hydra.utils.instantiate(compose("run", ["env=minerl"]).env)
    with pytest.raises(MissingSimulatorError) as caught:
        factory(task=task, display="inherit")
    for words in ("env=minerl", "No module named 'minerl'", "envs.doctor", "env.python=PATH", "env=doom"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_of_the_yaml_is_read():
    options = set(OmegaConf.load(Path(__file__).parents[1] / "configs/env/minerl.yaml"))
    read = set(inspect.signature(MineRLEnv).parameters) - {"task", "render_mode"}
    assert options - {"_target_", "_partial_"} == read


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (None, r"world\.zip is no zip; expected one of a saved world"),
        ("", r"begins with the entry ''; expected \./saves/NAME/"),
        ("saves/flat/level.dat", r"begins with the entry 'saves/flat/level\.dat'; expected \./saves/NAME/"),
        ("./flat/level.dat", r"begins with the entry '\./flat/level\.dat'; expected \./saves/NAME/"),
    ],
)
def test_a_world_that_minecraft_would_not_find_is_refused_before_it_starts(minecraft, tmp_path, entry, error):
    world = tmp_path / "world.zip"
    if entry is None:
        world.write_bytes(b"no zip")
    else:
        with zipfile.ZipFile(world, "w") as packed:
            if entry:
                packed.writestr(entry, b"")
    with pytest.raises(ValueError, match=error) as caught:
        minecraft(world=str(world))
    assert "\n" not in str(caught.value) and not minecraft.events()


def test_a_stride_of_the_task_s_own_takes_the_ticks_that_walk_it(minecraft):
    start = minecraft(task=PathRetrace(stride=0.65), ticks=3).reset(seed=0)[1]
    assert start["layout"].seed == 0
    for stride, ticks in ((0.65, 4), (0.75, 3), (0.75, 4)):
        with pytest.raises(ValueError, match=r"expected env\.ticks=3 and a stride near 0\.65"):
            minecraft(task=PathRetrace(stride=stride), ticks=ticks)


# --- is the stand-in like the real one? --------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("MINERL_SRC"), reason="MINERL_SRC names no checkout of MineRL")
def test_the_stand_in_has_the_signatures_of_the_real_one():
    ours, real = Source(FAKES / "minerl"), Source(Path(os.environ["MINERL_SRC"]) / "minerl")
    assert differences(ours, real, {"Minecraft": "_SingleAgentEnv", "Actions": "Dict"}, OWN) == []
