"""The expert's episodes, collected by the real command in the real simulator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import invoke
import numpy as np
import pytest

from envs.collect import record
from envs.tabletop import TabletopEnv
from tasks.cube_return import CubeReturn
from tasks.dataset import load_episodes

REPO = Path(__file__).resolve().parents[1]
SMALL = ["env.image_size=16", "task.cubes=[red]"]


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "envs.collect", *SMALL, *options]


def run(*options: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), cwd=cwd, capture_output=True, text=True)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("collect") / "one"
    done = run("episodes=5", "workers=1", "group=2", f"path={path}")
    assert done.returncode == 0, done.stderr
    assert "5 episodes, 85 frames; the expert succeeded in 5 (100.0%)" in done.stdout
    return path


def test_the_expert_returns_the_cube(collected):
    task, episodes = CubeReturn(("red",)), load_episodes(collected)
    assert episodes.seeds == tuple(task.train_seeds[:5])
    for episode in episodes:
        layout = task.layout(episode.provenance["seed"])
        assert [s.caption for s in episode.segments] == [s.text for s in layout.plan]
        assert all(s.stop - s.start == task.chunk_frames for s in episode.segments)
        assert len(episode) == 1 + task.chunk_frames * len(layout.plan) and episode.frames.shape[1:] == (
            16,
            16,
            3,
        )
        assert np.allclose(episode.positions[0, 0], layout.starts[0], atol=2e-3)
        score = task.score(episode.positions, task.released(episode), episode.names, layout.plan)
        assert score.success and score.distance < 0.01
        assert episode.provenance["success"] and episode.provenance["distance"] == pytest.approx(
            score.distance, abs=1e-6
        )


@pytest.mark.slow
def test_more_workers_and_a_kill_give_the_same_data(collected, tmp_path):
    path = tmp_path / "two"
    options = ["episodes=5", "workers=2", "group=2", f"path={path}"]
    process = subprocess.Popen(
        command(*options), cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = tmp_path / "two.partial/meta/episodes/chunk-000/file-000.parquet"
    while not first.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not path.exists() and first.exists()

    again = run(*options)
    assert again.returncode == 0, again.stderr
    assert "going on after" in again.stdout and files(path) == files(collected)


@pytest.mark.long
def test_a_collection_killed_at_every_write_gives_the_same_data(collected, tmp_path):
    path = tmp_path / "killed"
    said = invoke.killed_at_every_write(
        "envs.collect", *SMALL, "episodes=5", "workers=1", "group=2", f"path={path}"
    )
    assert "going on after 2 episodes" in said and "going on after 5 episodes" in said
    assert files(path) == files(collected) and [p.name for p in tmp_path.iterdir()] == ["killed"]


def test_ctrl_c_is_one_line(tmp_path):
    process = subprocess.Popen(
        command("episodes=50", "workers=2", f"path={tmp_path / 'd'}"), cwd=REPO, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "d.partial/meta/collection.json").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert (
        process.returncode == 130
        and "interrupted; the same command goes on" in err
        and "Traceback" not in err
    )


def test_a_finished_collection_says_so(collected):
    before = files(collected)
    done = run("episodes=5", f"path={collected}")
    assert done.returncode == 0 and f"{collected} is finished already" in done.stdout
    other = run("episodes=6", f"path={collected}")
    assert other.returncode == 1 and other.stdout == ""
    assert other.stderr.startswith(
        f"error: path={collected} holds another collection (episodes: 5 there, 6 here)"
    )
    assert files(collected) == before


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["task=x"], 2, "unknown task 'x'; have: cube_return"),
        (["env=x"], 2, "unknown env 'x'; have: doom, "),
        (["episodes=0"], 2, "episodes=0: expected an integer, at least 1"),
        (["workers=0"], 2, "workers=0: expected an integer, at least 1"),
        (["task.cubes=[pink]"], 1, "cubes must be one to three of red, green, blue; got ['pink']"),
        (["episodes=2000000"], 1, "episodes=2000000: cube_return has 1000000 training seeds"),
        (["path=file.txt"], 1, "path=file.txt exists and was not made by this command"),
    ],
)
def test_bad_input_changes_nothing(tmp_path, monkeypatch, options, code, says):
    (tmp_path / "file.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    done = invoke.command("envs.collect", *options, check=False)
    assert (done.returncode, done.stdout) == (code, "") and done.stderr.startswith(f"error: {says}"), (
        done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_an_episode_with_an_error_is_left_out():
    task = CubeReturn(("red",))
    layout = task.layout(0)
    far = type(layout)(
        layout.seed, layout.instruction, layout.names, layout.starts + np.array([0.5, 0, 0]), layout.plan
    )
    env = TabletopEnv(task, image_size=16)
    episode, error = record(env, far)
    env.close()
    assert episode is None and error.startswith("OutOf")
