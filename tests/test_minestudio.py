"""env=minestudio against a stand-in for MineStudio (tests/fakes): what differs from env=minerl."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
from pathlib import Path

import hydra
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf
from signatures import Source, differences
from test_minerl import TICK, action
from test_rlbench import FAKES

from envs.collect import record
from envs.minerl_env import SETTLE
from envs.minestudio_env import MineStudioEnv
from envs.worker import MissingSimulatorError, WorkerError
from tasks.commands import compose
from tasks.path_retrace import AGENT, PathRetrace

YAML = Path(__file__).parents[1] / "configs/env/minestudio.yaml"
COMMANDS = list(OmegaConf.load(YAML).commands)
BEFORE = 1 + len(COMMANDS) + SETTLE  # ticks until an episode has begun
ENGINE = "engine/build/libs/mcprec-6.13.jar"


@pytest.fixture(scope="module")
def task():
    return PathRetrace()


@pytest.fixture
def studio(monkeypatch, tmp_path, task):
    """``studio(faults, **options)`` makes an env; ``studio.events(kind)`` is what the simulator saw."""
    made: list[MineStudioEnv] = []
    log = tmp_path / "events"
    (tmp_path / ENGINE).parent.mkdir(parents=True)
    (tmp_path / ENGINE).touch()
    monkeypatch.setenv("MINESTUDIO_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(FAKES))

    def make(faults=None, **options) -> MineStudioEnv:
        monkeypatch.setenv("FAKE_SIMULATOR", json.dumps(faults or {}))
        monkeypatch.setenv("FAKE_LOG", str(log))
        options = {"render_size": 64, "display": "inherit", "commands": COMMANDS, **options}
        env = MineStudioEnv(task, **options)
        made.append(env)
        return env

    def events(kind: str) -> list[dict]:
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["event"] == kind]

    make.events = events
    yield make
    for env in made:
        env.close()


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
def test_gymnasium_accepts_it(studio):
    check_env(studio(), skip_render_check=True)


def test_each_episode_is_seeded_and_begins_by_day_in_peace(studio, task):
    env = studio({"yaw": 77.0})
    for seed in (7, 7, 8):
        frame, info = env.reset(seed=seed)
        np.testing.assert_allclose(info["positions"][0], task.layout(seed).start(AGENT), atol=1e-9)
    assert [event["seed"] for event in studio.events("reset")] == [7, 7, 8]
    assert {event["biome"] for event in studio.events("reset")} == {"plains"}
    assert [event["text"] for event in studio.events("chat")] == 3 * COMMANDS
    ticks = studio.events("tick")
    assert len(ticks) == 3 * BEFORE and all(tick["pressed"] == [] for tick in ticks)
    assert frame[0, 0].tolist() == [255, 167, 120] and env.name == "minestudio (MineStudio 1.1, plains)"


def test_walking_turning_and_what_is_sent(studio, task):
    env = studio({"yaw": 123.0})
    _, info = env.reset(seed=3)
    start = info["positions"][0]
    heading = np.deg2rad(start[2])
    walked = env.step(action(task, forward=1))[-1]["positions"][0]
    ahead = np.array([np.sin(heading), np.cos(heading)])
    np.testing.assert_allclose(walked[:2] - start[:2], 4 * TICK * ahead, atol=1e-9)
    turned = env.step(action(task, camera_yaw=45))[-1]["positions"][0]
    np.testing.assert_allclose(turned, [*walked[:2], start[2] + 45], atol=1e-6)
    sent = studio.events("tick")[BEFORE:]
    assert [t["pressed"] for t in sent] == 4 * [["forward"]] + 4 * [[]]
    assert [t["camera"] for t in sent[4:]] == [[0, 45], [0, 0], [0, 0], [0, 0]], "the camera turns once"


def test_the_expert_retraces_its_path(studio, task):
    episode, error = record(studio(), task.layout(0))
    assert error is None and episode.provenance["success"] and episode.provenance["distance"] < 0.1


@pytest.mark.parametrize("faults", [{}, {"quits": 1}])
def test_death_ends_an_episode_though_the_game_goes_on(studio, task, faults):
    env = studio({"die_at_tick": BEFORE + 6, **faults})
    env.reset(seed=0)
    assert env.step(action(task))[2:4] == (False, False)
    assert env.step(action(task))[2:4] == (True, False)
    assert len(studio.events("tick")) == BEFORE + 6
    assert env.step(action(task))[-1]["error"].startswith("EpisodeOverError: the agent died")


def test_a_lost_minecraft_is_never_scored_and_is_built_again(studio, task):
    env = studio({"lose_at_tick": BEFORE + 6})
    env.reset(seed=0)
    seen = env.step(action(task, forward=1))[0]
    frame, reward, terminated, truncated, lost = env.step(action(task, forward=1))
    assert (reward, terminated, truncated, lost["lost"]) == (0.0, False, True, True)
    assert "LostError: MineStudio lost its Minecraft: Connection timed out!" in lost["error"]
    np.testing.assert_array_equal(frame, seen, "no random picture")
    assert env.reset(seed=1)[1].get("lost") is None and env.worker.starts == 2


def test_what_is_wrong_at_the_start_is_one_line(studio, tmp_path):
    with pytest.raises(WorkerError, match=r"knows no sprint; expected MineStudio 1\.1.*envs\.doctor"):
        studio({"missing_keys": ["sprint"]})
    with pytest.raises(ValueError, match="'kill' would be said, not done"):
        studio(commands=["kill"])
    with pytest.raises(ValueError, match=r"env\.render_size=100: expected a multiple"):
        studio(render_size=100)
    (tmp_path / ENGINE).unlink()
    with pytest.raises(MissingSimulatorError) as caught:
        studio()
    for words in ("env=minestudio", "engine is not in", "-m minestudio.simulator.entry -y"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("minestudio") is not None, reason="minestudio is installed here")
def test_the_yaml_instantiates_without_minestudio_and_every_option_is_read(task):
    factory = hydra.utils.instantiate(compose("run", ["env=minestudio"]).env)
    with pytest.raises(MissingSimulatorError, match=r"No module named 'minestudio'.*envs\.doctor"):
        factory(task=task, display="inherit")
    read = set(inspect.signature(MineStudioEnv).parameters) - {"task", "render_mode"}
    assert set(OmegaConf.load(YAML)) - {"_target_", "_partial_"} == read


@pytest.mark.skipif(
    not os.environ.get("MINESTUDIO_SRC"), reason="MINESTUDIO_SRC names no checkout of MineStudio"
)
def test_the_stand_in_has_the_signatures_of_the_real_one():
    root = Path(os.environ["MINESTUDIO_SRC"]) / "minestudio"
    assert ENGINE.rpartition("/")[2] in (root / "simulator/entry.py").read_text()
    wrong = differences(Source(FAKES / "minestudio"), Source(root), {}, frozenset(("Survival",)))
    assert wrong == []
