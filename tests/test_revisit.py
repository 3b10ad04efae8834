"""The SRC benchmark: its scripts, its ground truth, the dataset that the real command makes in ViZDoom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_video_metrics import Patches

import tasks.floor_plan
from envs.collect import record
from envs.explorer import move
from envs.revisit import revisit, walk_script
from tasks.commands import RunDir, compose, main
from tasks.dataset import DatasetError, DatasetWriter, load_episodes
from tasks.path_retrace import PathRetrace
from tasks.revisit import KINDS, draw_script, load_revisits, revisits
from world_model.video_metrics.revisit import scene_revisit_consistency
from world_model.video_tables.clips import open_clips

REPO = Path(__file__).resolve().parents[1]
TASKS = [PathRetrace(), PathRetrace(way_back="turn"), PathRetrace(map="cig_arena")]
BODY = 0.5  # blocks, half the width of a walker
SIZE = 36  # px


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "envs.revisit", f"env.image_size={SIZE}", "episodes=2", "group=1", *options]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), cwd=REPO, capture_output=True, text=True)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# --- scripts and ground truth, without an engine -----------------------------------------------


def ideal(task: PathRetrace, script) -> np.ndarray:
    """The ``(T, 3)`` poses of a script that is walked perfectly."""
    actions = np.concatenate([move(task, motion) for motion in script.motions])
    return task.walked(script.layout.start("agent"), actions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.map}-{t.way_back}")
def test_scripts_stay_on_the_floor_and_show_every_place_in_each_round(task, kind):
    drawn = [draw_script(task, kind, seed, 3) for seed in task.heldout_seeds[:3]]
    assert len({script.layout.starts.tobytes() for script in drawn}) == 3
    for script in drawn:
        poses = ideal(task, script)
        np.testing.assert_allclose(poses[-1, :2], poses[0, :2], atol=1e-9)
        assert (poses[-1, 2] - poses[0, 2]) % 360 == pytest.approx(0)
        assert task.floor_plan.inside(poses[:, :2]).all()
        assert task.floor_plan.free(poses[:-1, :2], poses[1:, :2], BODY + 0.1).all()
        pairs = revisits(poses)
        first, seen = np.unique(pairs[:, 0], return_counts=True)
        assert seen.min() + 1 >= 3 and len(first) + len(pairs) == len(poses)
    again = draw_script(task, kind, drawn[0].layout.seed, 3)
    assert again.motions == drawn[0].motions and np.array_equal(again.layout.starts, drawn[0].layout.starts)


def test_a_place_is_a_pose_modulo_whole_turns_and_staying_is_no_visit():
    poses = np.array([
        (0, 0, 0), (0, 1, 0), (0, 1, 0), (0, 1.02, 360.4), (0, 0.04, 720), (0, 1, 90), (0, 1, -360), (3, 0, 0)
    ])  # fmt: skip
    assert revisits(poses).tolist() == [[0, 4], [1, 6]]
    assert revisits(poses[:2]).shape == (0, 2)


def test_a_slow_drift_does_not_become_one_place():
    assert revisits(np.column_stack([np.arange(40) * 0.04, np.zeros((40, 2))])).shape == (0, 2)


class Slippery:
    """A simulator of grey frames in which every step slips ``slip`` blocks to the side."""

    name = "slippery"

    def __init__(self, task: PathRetrace, slip: float):
        self.task, self.slip = task, slip

    def reset(self, seed, options):
        self.pose = options["layout"].start("agent")
        frame, *_, info = self.step(np.zeros(len(self.task.action_spec)))
        return frame, info | {"layout": options["layout"]}

    def step(self, action):
        self.pose = self.task.walked(self.pose, action[None])[-1] + [self.slip, 0, 0]
        info = {"names": ("agent",), "positions": self.pose[None], "error": None}
        return np.zeros((4, 4, 3), np.uint8), 0.0, False, False, info


def test_a_walk_that_never_returns_is_left_out():
    task = PathRetrace()
    script = draw_script(task, "loop", 0, 2)
    episode, error = record(Slippery(task, 0.0), script.layout, partial(walk_script, script))
    assert error is None and episode is not None and episode.provenance["kind"] == "loop"
    lost = record(Slippery(task, 0.1), script.layout, partial(walk_script, script))
    assert lost == (None, "no place was seen again")


# --- the dataset -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("revisit") / "one"
    done = run("workers=1", f"path={path}")
    assert done.returncode == 0, done.stderr
    assert "2 episodes, " in done.stdout and "each seen 3 to 6 times; " in done.stdout
    assert "0 left out after an error" in done.stdout
    return path


def test_captions_and_actions_tell_what_is_done(made):
    task, episodes = PathRetrace(), load_episodes(made)
    assert episodes.seeds == tuple(task.heldout_seeds[:2])
    assert not set(episodes.seeds) & set(task.train_seeds)
    assert [e.provenance["kind"] for e in episodes] == ["out_and_back", "loop"]
    told = {
        "go forward": (1, 0, 0),
        "go backward": (0, 1, 0),
        "turn left": (0, 0, -1),
        "turn right": (0, 0, 1),
    }
    entries = [task.action_spec.names.index(n) for n in ("forward", "back", "camera_yaw")]
    for episode in episodes:
        script = draw_script(task, episode.provenance["kind"], episode.provenance["seed"], 3)
        assert [s.caption for s in episode.segments] == [motion.caption for motion in script.motions]
        for s in episode.segments:
            assert s.stop - s.start == task.chunk_frames
            done = np.sign(episode.actions[s.start : s.stop][:, entries])
            assert (done == told[s.caption]).all(), s
        np.testing.assert_allclose(episode.position("agent"), ideal(task, script), atol=0.05)
    assert {s.caption for s in episodes[0].segments} == set(told)


def test_pairs_show_one_place_and_every_place_comes_again(made):
    for episode, pairs in zip(load_episodes(made), load_revisits(made), strict=True):
        first, later = pairs.T
        apart = episode.position("agent")[first] - episode.position("agent")[later]
        assert np.linalg.norm(apart[:, :2], axis=1).max() < 0.02
        assert np.abs((apart[:, 2] + 180) % 360 - 180).max() < 0.05
        places, seen = np.unique(first, return_counts=True)
        assert seen.min() + 1 >= 3, "each round comes to each place"
        assert sorted([*places, *later]) == list(range(len(episode))), "every frame is a visit"
        frames = episode.frames.astype(int)
        alike = np.abs(frames[first] - frames[later]).mean((1, 2, 3))
        unrelated = np.abs(frames[first] - frames[np.roll(later, len(later) // 3)]).mean()
        print(f"{episode.provenance['kind']}: {alike.mean():.2f} (worst {alike.max():.2f}), {unrelated:.1f}")
        assert alike.mean() < unrelated / 20 and alike.max() < unrelated / 3


def test_the_simulators_own_frames_are_consistent(made):
    videos, pairs = [e.frames for e in load_episodes(made)], load_revisits(made, gap=8)
    assert len(videos[0]) != len(videos[1]) and min((p[:, 1] - p[:, 0]).min() for p in pairs) >= 8
    truth = scene_revisit_consistency(videos, videos, pairs, Patches())
    print(truth)
    assert truth.src == truth.ceiling > 99 and truth.floor < 95 and truth.contrast == pytest.approx(1)


def test_the_video_tables_take_its_pairs(made):
    cfg = compose("evaluate_video", ["task=path_retrace", f"data={made}", "clips=2"])
    clips = open_clips(cfg, PathRetrace(), RunDir(made, True), gap=8).truth
    for clip, pairs, episode in zip(clips, load_revisits(made, gap=8), load_episodes(made), strict=True):
        assert clip.pairs is not None and np.array_equal(clip.pairs, pairs)
        assert clip.captions == tuple(s.caption for s in episode.segments)


def test_the_documented_program_runs(made, capsys):
    program = re.search(r"```python\n(.*?)```", (REPO / "docs/revisit.md").read_text(), re.DOTALL)
    assert program and "data/path_retrace_revisit" in program[1] and "EfficientNetLite0())" in program[1]
    text = (
        program[1].replace("data/path_retrace_revisit", str(made)).replace("EfficientNetLite0()", "Patches()")
    )
    exec(text, {"Patches": Patches})
    src, contrast = map(float, capsys.readouterr().out.split())
    assert src == pytest.approx(100) and contrast == pytest.approx(0, abs=1e-6)


@pytest.mark.long
def test_more_workers_and_a_kill_give_the_same_data(made, tmp_path):
    path = tmp_path / "two"
    process = subprocess.Popen(
        command("workers=2", f"path={path}"), cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = tmp_path / "two.partial/meta/episodes/chunk-000/file-000.parquet"
    while not first.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not path.exists() and first.exists()
    with pytest.raises(DatasetError, match="is not finished; run its command"):
        load_revisits(path)

    again = run("workers=2", f"path={path}")
    assert again.returncode == 0, again.stderr
    assert "going on after 1 episodes" in again.stdout and files(path) == files(made)


# --- errors ------------------------------------------------------------------------------------


def call(argv: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main("revisit", revisit, argv)
    return end.value.code, *capsys.readouterr()


def test_a_finished_benchmark_says_so(made, capsys):
    before, options = files(made), [f"env.image_size={SIZE}", "episodes=2", f"path={made}"]
    code, out, _ = call(options, capsys)
    assert code == 0 and f"{made} is finished already" in out
    code, out, err = call([*options, "kinds=[loop]"], capsys)
    assert (code, out) == (1, "") and err.startswith(f"error: path={made} holds another collection (kinds: ")
    assert files(made) == before


CLOSET = {"walls": [[0, 0, 3, 0], [3, 0, 3, 3], [3, 3, 0, 3], [0, 3, 0, 0]], "ledges": []}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["kinds=[spiral]"], 2, "kinds=['spiral']: expected a list of out_and_back, loop"),
        (["kinds=[]"], 2, "kinds=[]: expected a list of"),
        (["kinds=loop"], 2, "kinds=loop: expected a list of"),
        (["episodes=0"], 2, "episodes=0: expected an integer, at least 1"),
        (["rounds=1"], 2, "rounds=1: expected an integer, at least 2"),
        (["workers=0"], 2, "workers=0: expected an integer, at least 1"),
        (["seeds=all"], 2, "seeds=all: expected heldout or train"),
        (["episodes=2000000"], 1, "episodes=2000000: path_retrace has 1000000 heldout seeds"),
        (
            ["+task.heldout_seeds={_target_: builtins.range, _args_: [5, 9]}"],
            1,
            "seeds=heldout: seed 5 is both for training and held out; the two must be disjoint",
        ),
        (
            ["task=cube_return"],
            1,
            "task=cube_return has no paths to walk; python -m envs.revisit takes task=path",
        ),
        (["task.map=closet", "kinds=[loop]"], 1, "map=closet has no place for a loop; give another map"),
        (["task.map=closet"], 1, "map=closet has no place for a path that long; give another map"),
        (["path=file.txt"], 1, "path=file.txt exists and was not made by this command"),
    ],
)
def test_bad_input_changes_nothing(tmp_path, monkeypatch, capsys, options, code, says):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/closet.json").write_text(json.dumps(CLOSET))
    if "task.map=closet" in options:
        monkeypatch.setattr(tasks.floor_plan, "MAPS", tmp_path / "maps")
    (tmp_path / "file.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    status, out, err = call(["episodes=2", *options], capsys)
    assert (status, out) == (code, "") and err.startswith(f"error: {says}") and err.count("\n") == 1, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "maps"]


def test_a_missing_wad_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(["episodes=1", "workers=1", "env.wad=gone.wad"], capsys)
    assert code == 1 and err.splitlines()[-1].startswith(
        "error: the WAD gone.wad of map=my_way_home is missing"
    )


def test_revisits_that_cannot_be_read(tmp_path, made):
    with pytest.raises(DatasetError, match="no dataset at"):
        load_revisits(tmp_path / "nowhere")
    writer = DatasetWriter(tmp_path / "other", 5, PathRetrace().action_spec.names)
    episode = load_episodes(made)[0]
    writer.append(replace(episode, provenance={"seed": 0}))
    with pytest.raises(DatasetError, match=r"episode 0 has no revisits; was it made by envs\.revisit\?"):
        load_revisits(writer.finish())
    with pytest.raises(ValueError, match="gap=0: expected at least 1 frame"):
        load_revisits(made, gap=0)
