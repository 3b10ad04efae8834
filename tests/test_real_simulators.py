"""The workers of env=rlbench and env=minerl on the simulators' real Python, with what is compiled stood in for.

    RLBENCH_SRC=… PYREP_SRC=… MINERL_SRC=… SIMULATORS_PYTHON=… python -m pytest tests/test_real_simulators.py

The first three are checkouts at the commits of environment-rlbench.yml and environment-minerl.yml; without them
these tests are skipped. SIMULATORS_PYTHON has what the three import (cffi, scipy, gymnasium, pyquaternion, natsort,
pillow; gym 0.23.1 and MineRL's requirements.txt); without it this interpreter is taken. Neither CoppeliaSim nor
Minecraft is needed: ``fakes/real`` stands in for the compiled library of the one and the process of the other.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from envs.collect import record
from envs.gripper_expert import DOWN
from envs.minerl_env import SETTLE, MineRLEnv
from envs.rlbench_env import RLBenchEnv
from envs.worker import WorkerError
from tasks.cube_return import CubeReturn
from tasks.path_retrace import PathRetrace
from tasks.rlbench_task import RLBenchTask

BELOW = Path(__file__).with_name("fakes") / "real"
PYTHON = os.environ.get("SIMULATORS_PYTHON", sys.executable)
rlbench = pytest.mark.skipif(
    not (os.environ.get("PYREP_SRC") and os.environ.get("RLBENCH_SRC")),
    reason="PYREP_SRC and RLBENCH_SRC name no checkouts of PyRep and RLBench",
)
minerl = pytest.mark.skipif(not os.environ.get("MINERL_SRC"), reason="MINERL_SRC names no checkout of MineRL")


# --- RLBench -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """PyRep's and RLBench's Python as an install lays it out, with our library in place of the compiled one."""
    folder = tmp_path_factory.mktemp("installed")
    for source, package in (("PYREP_SRC", "pyrep"), ("RLBENCH_SRC", "rlbench")):
        for path in (Path(os.environ[source]) / package).rglob("*.py"):
            copy = folder / path.relative_to(os.environ[source])
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    shutil.copy(BELOW / "coppeliasim.py", folder / "pyrep/backend/_sim_cffi.py")
    (folder / "rlbench/task_design.ttt").touch()
    for task in ("reach_target", "beat_the_buzz", "stack_blocks"):
        (folder / f"rlbench/task_ttms/{task}.ttm").touch()
    return folder


@pytest.fixture
def coppeliasim(monkeypatch, tmp_path, installed):
    """``coppeliasim(task, **options)`` makes an env on the real RLBench."""
    made: list[RLBenchEnv] = []
    monkeypatch.setenv("PYTHONPATH", str(installed))

    def make(task=None, root=tmp_path, **options) -> RLBenchEnv:
        root.mkdir(exist_ok=True)
        options = {"display": "inherit", "coppeliasim_root": str(root), **options}
        made.append(RLBenchEnv(task or CubeReturn(), PYTHON, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def pose(x, y, z, grip=1.0) -> np.ndarray:
    return np.array([x, y, z, *DOWN, grip])


@rlbench
@pytest.mark.parametrize("model", ["code", "stack_blocks"])
def test_the_expert_returns_the_cubes_through_rlbench_s_own_python(coppeliasim, model):
    env = coppeliasim(model=model, image_size=32)
    layout = env.task.layout(0)
    for _ in range(2):  # the second time after a reset
        episode, error = record(env, layout)
        assert error is None and episode.provenance["success"] and episode.provenance["distance"] < 0.002
    assert (
        episode.frames.shape[1:] == (32, 32, 3)
        and episode.frames[0, 0].mean() > 200 > 50 > episode.frames[0, -1].mean()
    )
    assert env.step(pose(0.5, 0.0, 0.3))[-1]["error"].startswith("EpisodeOverError: the task is solved")
    np.testing.assert_allclose(env.bounds, [[0.084, -0.655, 0], [1.034, 0.655, 1]], atol=1e-5)
    env.reset(seed=1)
    moved = env.step(pose(0.5, 0.1, 0.3))[-1]
    assert moved["error"] is None and env.worker.starts == 1
    np.testing.assert_allclose(moved["positions"][-1], [0.5, 0.1, 0.3], atol=1e-5)


@rlbench
def test_a_task_of_rlbench_s_own_is_demonstrated_and_solved(coppeliasim):
    env = coppeliasim(RLBenchTask(variation=3), camera="overhead")
    for seed in (5, 6):
        episode, error = record(env, env.task.layout(seed))
        assert error is None and episode.provenance["success"] and env.worker.starts == 1
        assert episode.provenance["instruction"].startswith("reach the ")
    env.reset(seed=5)
    outcomes = [env.step(pose(1.0, 0.6, 0.95)), env.step(env.demonstration()[0])]
    assert outcomes[0][-1]["error"].startswith("InvalidActionError: A path could not be found. Most likely")
    assert outcomes[1][1:4] == (1.0, True, False)


@rlbench
def test_a_task_that_fails_and_one_that_is_unknown(coppeliasim):
    env = coppeliasim(RLBenchTask(name="beat_the_buzz"))
    assert env.reset(seed=0)[1]["layout"].instruction == "beat the buzz"
    assert env.step(pose(0.5, 0.1, 0.3))[1:4] == (0.0, True, False), (
        "the wand stands in what it must not touch"
    )
    assert "calls the task failed" in env.step(pose(0.5, 0.0, 0.3))[-1]["error"]
    with pytest.raises(ValueError, match=r"^task\.name=close_jars: RLBench has no task .*: close_jar, "):
        coppeliasim(RLBenchTask(name="close_jars"))


@rlbench
def test_a_thread_of_pyrep_s_that_dies_is_no_hang(coppeliasim, tmp_path):
    with pytest.raises(WorkerError, match=r"died during 'launch' .*UnicodeEncodeError"):
        coppeliasim(root=tmp_path / "Köln")  # PyRep writes the path in ASCII, in the thread of its window


# --- MineRL ------------------------------------------------------------------------------------


@pytest.fixture
def minecraft(monkeypatch, tmp_path):
    """``minecraft(faults, **options)`` makes an env on the real MineRL; ``.events(kind)`` is what Minecraft heard."""
    made: list[MineRLEnv] = []
    log = tmp_path / "events"
    skipped = shutil.ignore_patterns("Malmo", "MCP-Reborn", "*.pyc")
    shutil.copytree(Path(os.environ["MINERL_SRC"]) / "minerl", tmp_path / "src/minerl", ignore=skipped)
    script = tmp_path / "src/minerl/MCP-Reborn/launchClient.sh"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{BELOW / "minecraft.py"}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    monkeypatch.setenv("FAKE_LOG", str(log))

    def make(faults=None, **options) -> MineRLEnv:
        monkeypatch.setenv("FAKE_SIMULATOR", json.dumps(faults or {}))
        made.append(MineRLEnv(PathRetrace(), PYTHON, render_size=64, display="inherit", **options))
        return made[-1]

    def events(kind: str) -> list[dict]:
        return [e for e in map(json.loads, log.read_text().splitlines()) if e["event"] == kind]

    make.events = events
    yield make
    for env in made:
        env.close()


@minerl
def test_the_expert_retraces_a_path_through_minerl_s_own_python(minecraft):
    env = minecraft()
    layout = env.task.layout(7)
    episode, error = record(env, layout)
    assert error is None and episode.provenance["success"] and episode.provenance["distance"] < 0.1
    assert episode.frames[0, 0, 0].tolist() == [120, 167, 255] and episode.frames[0, -1, 0].tolist() == [
        60,
        120,
        50,
    ]
    [mission] = minecraft.events("mission")
    assert mission["seed"] == ["7"] and mission["death"] and mission["PreferredSpawnBiome"] == "plains"
    ticks = minecraft.events("tick")
    assert len(ticks) == SETTLE + env.ticks * (len(episode) - 1)
    assert not any(t["ESC"] or t["inventory"] for t in ticks) and any(t["forward"] for t in ticks)


@minerl
def test_a_minecraft_that_hangs_up_is_lost_and_launched_anew(minecraft, tmp_path):
    world = tmp_path / "hill & dale.zip"
    with zipfile.ZipFile(world, "w") as packed:
        packed.writestr("./saves/flat/level.dat", b"")
    env = minecraft({"hang_up_at": SETTLE + 6}, world=str(world), max_memory="2G")
    still = np.zeros(len(env.task.action_spec))
    env.reset(seed=3)
    seen, *_, info = env.step(still)
    assert info["error"] is None
    frame, _, terminated, truncated, info = env.step(still)
    assert (terminated, truncated, info["lost"]) == (False, True, True)
    assert "LostError: MineRL lost its Minecraft: Connection timed out!" in info["error"]
    np.testing.assert_array_equal(frame, seen, "no random picture")
    env.reset(seed=4)
    assert env.worker.starts == 2
    missions = minecraft.events("mission")
    assert [m["seed"] for m in missions] == [["3"], ["4"]]
    assert all(m["LoadWorldFile"] == str(world) and "PreferredSpawnBiome" not in m for m in missions)
    assert all(m["arguments"][m["arguments"].index("-maxMem") + 1] == "2G" for m in missions)


@minerl
def test_a_minecraft_that_can_t_start_says_why_in_one_short_line(minecraft):
    env = minecraft({"exit": 1})
    with pytest.raises(WorkerError, match=r"EOFError: .*OutOfMemoryError: no heap") as caught:
        env.reset(seed=0)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
