"""The report: clips that players open, and a page that holds everything and asks the network for nothing."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from envs.tabletop import TabletopEnv
from planner.decomposer.scripted import ScriptedDecomposer
from planner.locate import CubeLocator
from planner.loop import _result, begin, execute
from planner.records import load_result, save_result, summary_row
from planner.report import EpisodeReport, Interval, Summary, length, write_report
from planner.run import report_of
from planner.video import SIDES, side_by_side, write_gif, write_mp4
from tasks.camera import Camera
from tasks.cube_return import PLACES, CubeReturn

TASK = CubeReturn()
VOID = {"meta", "img", "br", "hr", "link", "input"}
HEADER = {"env": "tabletop", "model": "tiny", "memory": "temp_lora <rank 32>", "decomposer": "scripted"}
EXECUTED, IMAGINED = Interval(0.0132, 0.0051, 0.0223), Interval(0.021, 0.01, 0.03)
SUMMARY = Summary(3, EXECUTED, IMAGINED, 1.0, Interval(2 / 3, 0.09, 0.99))


class Page(HTMLParser):
    """Collects tags and text, and fails on one that closes another."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def camera() -> Camera:
    tilt = np.deg2rad(50)
    back = np.array([np.cos(tilt), 0.0, np.sin(tilt)])
    rotation = np.column_stack([[0, 1, 0], np.cross(back, [0, 1, 0]), back])
    return Camera(np.array([0.54, 0, 0.03]) + 3 * back, rotation, 8.417, 64, 64)


def episode(seed: int, **changes) -> EpisodeReport:
    layout = TASK.layout(seed)
    frames = 1 + TASK.chunk_frames * len(layout.plan)
    rng = np.random.default_rng(seed)
    track = np.repeat(layout.starts[None], frames, 0) + rng.normal(0, 0.01, (frames, 2, 3)).cumsum(0)
    track[0], track[-1] = layout.starts, layout.starts + np.array([0.012, 0, 0])
    dreamt = track.copy()
    dreamt[-1] = layout.starts + np.array([0, 0.009, 0])
    dreamt[3:5, 0] = np.nan
    captions = ("start", *(s.text for s in layout.plan for _ in range(TASK.chunk_frames)))
    moved = TASK.moves(layout.plan)
    good = EpisodeReport(
        seed, layout.instruction, captions,
        *rng.integers(0, 256, (2, frames, 64, 64, 3), np.uint8),
        layout.names, layout.starts, track, dreamt, dict.fromkeys(moved, 0.012), dict.fromkeys(moved, 0.009),
        True, True, {"imagine": 12.34, "simulate": 1.0},
    )  # fmt: skip
    return replace(good, **changes)


def test_a_page_has_both_clips_and_the_caption() -> None:
    rng = np.random.default_rng(0)
    imagined, executed = rng.integers(0, 256, (2, 3, 64, 64, 3), np.uint8)
    clip = side_by_side(imagined, executed, ["start", "pick up the red cube", "x" * 300], scale=4)
    assert clip.dtype == np.uint8 and clip.shape[0] == 3
    assert clip.shape[1] % 2 == 0 and clip.shape[2] % 2 == 0
    row = clip[0, clip.shape[1] // 2]  # a row through both pictures: their frames begin 2 px before them
    left, right = (int(np.flatnonzero((row == colour).all(-1))[0]) + 2 for _, colour in SIDES)
    top = int(np.flatnonzero((clip[0, :, left + 200] == SIDES[0][1]).all(-1))[0]) + 2
    for start, frames in ((left, imagined), (right, executed)):
        np.testing.assert_array_equal(clip[:, top : top + 256 : 4, start : start + 256 : 4], frames)
    assert (clip[0, :40] != clip[1, :40]).any()


def test_refuses_clips_that_do_not_match() -> None:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="expected two"):
        side_by_side(frames, frames[:2], ["a"] * 3)
    with pytest.raises(ValueError, match="expected 3 captions"):
        side_by_side(frames, frames, ["a"])


def test_mp4_and_gif_open_again(tmp_path: Path) -> None:
    grey = np.arange(0, 250, 25, np.uint8)[:, None, None, None]
    clip = np.broadcast_to(grey, (10, 48, 64, 3)).copy()
    write_mp4(tmp_path / "a.mp4", clip, fps=4)
    write_gif(tmp_path / "a.gif", clip, fps=4)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    meta = next(reader)
    read = [np.frombuffer(frame, np.uint8).reshape(48, 64, 3) for frame in reader]
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 4
    assert len(read) == 10
    np.testing.assert_allclose(np.array(read).mean((1, 2, 3)), clip.mean((1, 2, 3)), atol=4)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 10 and gif.info["loop"] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4"]
    with pytest.raises(ValueError, match="even sides"):
        write_mp4(tmp_path / "odd.mp4", clip[:, :47])


def test_report_is_whole_and_self_contained(tmp_path: Path, camera: Camera) -> None:
    episodes = [
        episode(
            1_000_000,
            instruction="Move the <red> cube & return it",
            notes=("'it' is the red cube",),
            errors=("BlockedError: <a>", "OutOfReachError: b", "BlockedError: <a>"),
        ),
        episode(1_000_001, success=False),
        episode(1_000_002, success=False, displaced=False, executed_distances={"red cube": 0.15}),
    ]
    places = {name: TASK.place(name) for name in PLACES}
    path = write_report(tmp_path, HEADER, SUMMARY, episodes, camera, TASK, places, media=1)
    text = path.read_text()
    page = Page(text)
    assert not page.open
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    sources = [a["src"] for tag in ("img", "video") for a in page.all(tag)]
    assert sources and all(s.startswith("data:") for s in sources)
    assert all(a.get("alt") for a in page.all("img")) and all(a.get("aria-label") for a in page.all("video"))
    assert len(page.all("video")) == 1
    embedded = base64.b64decode(page.all("video")[0]["src"].split(",")[1])
    assert embedded == (tmp_path / "media/episode_1000000.mp4").read_bytes()
    assert sorted(p.name for p in (tmp_path / "media").iterdir()) == [
        "episode_1000000.gif", "episode_1000000.mp4", "episode_1000000_paths.png"
    ]  # fmt: skip
    # what a person looks for
    for words in ("2 of 3 episodes succeeded", "13 mm", "95% interval 5 mm to 22 mm", "temp_lora <rank 32>",
                  "Move the <red> cube & return it", "✓ success", "✗ missed", "✗ missed, never moved away",
                  "imagine, s", "12.3",
                  "How the instruction was read'it' is the red cube",
                  "Actions that could not be carried outBlockedError: <a> (2 times)OutOfReachError: b",
                  "ends 12 mm from its start (imagined: ends 9 mm",
                  "pick up the"):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("tr")) == 1 + len(episodes)
    with Image.open(tmp_path / "media/episode_1000000_paths.png") as plot:
        assert min(plot.size) > 400


def test_notes_of_the_plan_and_errors_of_its_execution_reach_result_and_report(tmp_path: Path) -> None:
    instruction = "Put the blue cube on the left, then bring it back."
    env = TabletopEnv()
    try:
        running = begin(env, 1_000_000, ScriptedDecomposer(), instruction)
        execute(running, np.tile([0.95, 0.0, 0.2, 1, 0, 0, 0, 1], (TASK.chunk_frames * len(running.plan), 1)))
    finally:
        env.close()
    running.imagined = running.executed
    made = _result(running, CubeLocator(env.camera, TASK.vocabulary.objects))
    save_result(tmp_path, made)
    result = load_result(tmp_path, 1_000_000)
    assert result is not None and result.notes == made.notes and result.errors == made.errors
    row, shown = summary_row(result), report_of(result)
    assert any("it" in note for note in row["notes"]) and len(row["errors"]) == len(running.actions)
    assert shown.notes == tuple(row["notes"]) and shown.errors == tuple(row["errors"])
    text = Page(write_report(tmp_path, HEADER, SUMMARY, [shown], env.camera, TASK).read_text()).text
    assert all(note in text for note in row["notes"])
    assert "OutOfWorkspaceError: [0.95, 0.0, 0.2]" in text and f"({len(running.actions)} times)" in text


def test_the_filmstrip_shows_start_and_the_end_of_each_subgoal(tmp_path: Path, camera: Camera) -> None:
    one = episode(1_000_000)
    page = Page(write_report(tmp_path, HEADER, SUMMARY, [one], camera, TASK, media=1).read_text())
    strip = [a for a in page.all("img") if a.get("class") in ("imagined", "executed")]
    assert "How the instruction was read" not in page.text and "could not be carried out" not in page.text
    moments = [0, *range(TASK.chunk_frames, len(one.captions), TASK.chunk_frames)]
    assert [a["alt"] for a in strip] == [f"{s} frame {t}" for t in moments for s in ("imagined", "executed")]


def test_says_when_the_score_counts_more_than_the_gap(tmp_path: Path, camera: Camera) -> None:
    one = episode(1_000_002)
    [cube] = one.executed_distances
    lost = one.imagined_track.copy()
    lost[-1] = np.nan
    one = replace(
        one,
        executed_distances={cube: 0.15},
        imagined_track=lost,
        imagined_distances={cube: 0.16},
        displaced=False,
        success=False,
    )
    text = Page(write_report(tmp_path, HEADER, SUMMARY, [one], camera, TASK).read_text()).text
    assert "ends 12 mm from its start, counts as 150 mm (imagined: lost at the end, counts as 160 mm)" in text


def test_units_are_said_once_and_right() -> None:
    assert length(0.0134, "m") == "13 mm"
    assert length(2.5, "blocks") == "2.50 blocks"
    assert length(float("nan"), "m") == "–"


def test_no_episodes_no_report(tmp_path: Path, camera: Camera) -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        write_report(tmp_path, HEADER, SUMMARY, [], camera, TASK)
    assert not list(tmp_path.iterdir())
