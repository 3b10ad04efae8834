"""Own data: videos with captions and LeRobot's datasets become episodes; what is wrong is one line each."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from footage import grey, numbers, write_lerobot, write_mp4
from omegaconf import OmegaConf

from tasks import Episode, Segment
from tasks.commands import OptionError, compose, main
from tasks.dataset import DatasetError, DatasetWriter, load_episodes
from world_model.data.footage import DataOptions, Footage, as_footage, open_data, open_source
from world_model.data.takes import Caption, DataError, check_captions
from world_model.data.video_file import read_video

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two videos of 5 s at 12 frames a second, captioned in the two ways; no test changes it."""
    folder = tmp_path_factory.mktemp("videos")
    write_mp4(folder / "a.mp4", grey(60), 12)
    shutil.copytree(folder, folder / "more")
    (folder / "a.txt").write_text("0 2 pick up the cube\n0:02 5 put it down\n")
    (folder / "captions.csv").write_text(
        "video,start,end,caption\nmore/a.mp4,3,5,stop\nmore/a.mp4,0,1.75,go\n"
    )
    return folder


@pytest.fixture
def mine(videos, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(videos, tmp_path / "mine"))


def ours(path: Path, fps: int = 4, count: int = 3, side: int = 16) -> Path:
    """A dataset of this project's writer."""
    writer = DatasetWriter(path, fps, ("x", "y"))
    for seed in range(count):
        segments = (Segment(0, CHUNK, "go"), Segment(CHUNK, 2 * CHUNK, "stop"))
        T = 2 * CHUNK + 1
        known = {"seed": 70 + seed, "revisits": [[0, 8]]}
        still, places = np.zeros((T - 1, 2), np.float32), np.zeros((T, 1, 3), np.float32)
        writer.append(Episode(grey(T, side, side), still, segments, places, ("c",), known))
    return writer.finish()


# --- videos ------------------------------------------------------------------------------------


def test_frames_are_the_nearest_in_time_of_the_centre_square(tmp_path):
    frames = grey(40)
    frames[:, :, :8] = frames[:, :, -8:] = 0  # what a centre square leaves out
    file = write_mp4(tmp_path / "v.mp4", frames, 20)
    for start, fps, wanted in [(0, 4, [0, 5, 10, 15]), (0.5, 20, [10, 11, 12, 13]), (1, 8, [20, 22, 25, 28])]:
        made = read_video(file, start, fps, 4, 16)
        assert made.shape == (4, 16, 16, 3) and numbers(made) == wanted
    assert numbers(read_video(file, 0, 40, 4, 16)) == [0, 0, 1, 2]  # more frames than there are


def test_captions_become_chunks_and_gaps_divide_episodes(videos):
    footage = open_data(str(videos), CHUNK)
    assert [len(e) for e in footage] == footage.lengths.tolist() == [17, 5, 5]
    whole, go, stop = footage
    assert [s.caption for s in whole.segments] == ["pick up the cube"] * 2 + ["put it down"] * 2
    assert whole.frames.shape == (17, 64, 64, 3) and numbers(whole.frames)[:5] == [0, 3, 6, 9, 12]
    assert ([s.caption for s in go.segments], [s.caption for s in stop.segments]) == (["go"], ["stop"])
    assert numbers(stop.frames) == [36, 39, 42, 45, 48]
    assert go.provenance["recording"] == "more/a.mp4" and stop.provenance["start"] == 3
    (line,) = footage.told
    assert (
        "48 × 32 px become 64 × 64, the centre square; 12 frames a second become 4" in line
        and "3 clips" in line
    )


def test_long_recordings_are_cut_into_clips(videos):
    footage = open_data({"sources": [str(videos)], "fps": 4, "image_size": 16, "clip_chunks": 1}, CHUNK)
    assert footage.lengths.tolist() == [5] * 6
    assert [numbers(footage[i].frames)[0] for i in range(4)] == [0, 12, 24, 36]
    assert [s.caption for i in range(4) for s in footage.segments(i)] == ["pick up the cube"] * 2 + [
        "put it down"
    ] * 2


def test_revisits_come_with_videos(mine):
    (mine / "revisits.csv").write_text("video,first,later\na.mp4,0.5,3\na.mp4,4,9\n")
    assert open_data(str(mine), CHUNK)[0].provenance["revisits"] == [[2, 12]]
    (mine / "revisits.csv").write_text("video,first\na.mp4,0.5\n")
    assert "no column later; the first line should read video,first,later" in open_source(mine).wrong[0]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("a.txt", "0 3 go\n2 5 stop\n", r"a.mp4: the captions 'go' at 0–3 s and 'stop' at 2–5 s overlap"),
        ("a.txt", "0 3 go\n3 9 stop\n", r"a.mp4: the caption 'stop' at 3–9 s runs past the end .*\(5.00 s\)"),
        ("a.txt", "3 1 go\n", r"'go' at 3–1 s does not end after it begins"),
        ("a.txt", "0 3 go\nstop\n", r"a.txt: line 2: expected START END CAPTION"),
        ("a.txt", "0 3\n", r"a.txt: line 1 is empty; say what should happen"),
        ("a.txt", "\n", r"a.txt is empty; write START END CAPTION"),
        ("a.txt", "0 3 " + "word " * 1000, r"a.txt: line 1 is longer than 300 characters"),
        ("a.txt", None, r"a.mp4: no caption; write a.txt beside it, or a line in captions.csv"),
        ("more/a.txt", "go\n", r"captions in captions.csv and in a.txt; keep one of them"),
        ("captions.csv", "video,text\nb.mp4,go\n", r"captions.csv: no column caption; the first line should read"),
        ("captions.csv", "video,caption\nmore/a.mp4,go\nb.mp4,go\n", r"captions.csv: line 3: no video 'b.mp4'"),
        ("captions.csv", "video,start,caption\nmore/a.mp4,soon,go\n", r"line 2, start: 'soon' is no time"),
        ("captions.csv", "video,caption\nmore/a.mp4,\n", r"captions.csv: line 2 is empty; say what"),
        ("a.mp4", "no video", r"a.mp4 is no video that ffmpeg can read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(mine, file, text, says):
    (mine / file).unlink(missing_ok=True)
    if text is not None:
        (mine / file).write_text(text)
    assert [line for line in open_source(mine).wrong if re.search(says, line)]
    with pytest.raises(DataError, match=r"python -m world_model.data inspect") as error:
        open_data(str(mine), CHUNK)
    assert "\n" not in str(error.value)


def test_a_video_cut_short_is_noticed_where_it_is_read(mine):
    data = (mine / "a.mp4").read_bytes()
    (mine / "a.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=r"a.mp4 (ends after|is damaged)") as error:
        open_data(str(mine), CHUNK)[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "first"), [("captions.csv", "video,caption"), ("revisits.csv", "video,first,later")]
)
def test_a_csv_of_any_lines_is_read_or_named(mine, name, first):
    rest = {"captions.csv": ["more/a.mp4,go"], "revisits.csv": ["more/a.mp4,3.25,4", "a.mp4,1,2"]}[name]
    (mine / name).write_bytes("\r".join([first, *rest, ""]).encode())
    assert open_source(mine).wrong == ()
    (mine / name).write_text("\n".join([first, *rest, 'more/a.mp4,"1' + " and on" * 20000]))
    says = rf"{name}: line {2 + len(rest)} can't be read \(field larger .*; is a quote left open\?"
    assert re.search(says, open_source(mine).wrong[0])


@pytest.mark.timeout(120)
def test_errors_without_end_do_not_stop_the_reading(mine, tmp_path, monkeypatch):
    """ffmpeg waits for whoever reads its errors; here it has 200 KiB of them before the first frame."""
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(
        "#!/bin/sh\nhead -c 204800 /dev/zero | tr '\\0' 'x' >&2\n"
        "printf '\\nfirst\\nerror while\\ndecoding MB 3 4\\n' >&2\nhead -c 3072 /dev/zero\n"
    )
    ffmpeg.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(ffmpeg))
    with pytest.raises(DataError, match=r"a.mp4 is damaged \(error while decoding MB 3 4\); get it again"):
        read_video(mine / "a.mp4", 0, 4, 4, 16)


def test_what_holds_nothing_to_train_on(tmp_path, mine):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no .mp4.* and no meta/info.json"):
        open_data(str(tmp_path / "empty"), CHUNK)
    with pytest.raises(DatasetError, match=r"no dataset at nowhere"):
        open_data("nowhere", CHUNK)
    (ours(tmp_path / "cut") / "meta/collection.json").unlink()
    with pytest.raises(DatasetError, match=r"cut/meta/collection.json: the file is missing"):
        open_data(str(tmp_path / "cut"), CHUNK)
    with pytest.raises(DataError, match=r"nothing is as long as a chunk of 4 frames at 0.5 a second"):
        open_data({"sources": [str(mine)], "fps": 0.5}, CHUNK)
    assert check_captions([Caption(0, 1, "a"), Caption(1 - 1e-3, 2, "b")], 2, 10) == []


# --- LeRobot -----------------------------------------------------------------------------------


@pytest.mark.parametrize("video", [True, False])
def test_a_dataset_that_lerobot_recorded(tmp_path, video):
    folder = write_lerobot(tmp_path / "robot", (30, 24, 5), 10, video, ("push the T", "stack"))
    footage = open_data({"sources": [str(folder)], "fps": 5, "image_size": 16}, CHUNK)
    assert footage.lengths.tolist() == [13, 9] and "1 too short, left out" in footage.told[0]
    assert [numbers(e.frames) for e in footage] == [list(range(0, 26, 2)), list(range(0, 18, 2))]
    assert [{s.caption for s in e.segments} for e in footage] == [{"push the T"}, {"stack"}]
    odd = open_data({"sources": [str(folder)], "fps": 20.1, "image_size": 16}, CHUNK)
    assert odd.lengths.tolist() == [61, 49, 9]  # the last frame in time is not the next episode's first
    assert [numbers(e.frames)[-1] for e in odd] == [29, 23, 4]
    (note,) = open_source(folder).notes
    assert note == "camera observation.images.top; not taken: observation.images.wrist"
    wrist = open_data({"sources": [{"path": str(folder), "camera": "observation.images.wrist"}]}, CHUNK)
    assert wrist[0].frames.shape[1:] == (64, 64, 3) and wrist[0].frames[0].mean() == pytest.approx(235, abs=2)
    with pytest.raises(
        DataError, match=r"no camera 'left'; has observation.images.top, observation.images.wrist"
    ):
        open_data({"sources": [{"path": str(folder), "camera": "left"}]}, CHUNK)


def test_a_broken_dataset_is_named(tmp_path):
    folder = write_lerobot(tmp_path / "robot", (12, 12), 10, False, ("go",))
    file = folder / "data/chunk-000/file-000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"file-000.parquet can't be read"):
        open_data(str(folder), CHUNK)
    file.write_bytes(whole)
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(DataError, match=r"is a LeRobotDataset v2.1; convert it to v3.0 with LeRobot"):
        open_data(str(folder), CHUNK)
    for text in ("{", "[]", json.dumps(info | {"features": []})):
        (folder / "meta/info.json").write_text(text)
        with pytest.raises(DataError, match=r"info.json is no LeRobotDataset's"):
            open_data(str(folder), CHUNK)


def test_a_picture_with_a_flipped_bit_is_named(tmp_path):
    folder = write_lerobot(tmp_path / "robot", (12,), 10, False, ("go",))
    file = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    at = table.column_names.index("observation.images.top")
    pictures = table[at].to_pylist()
    png = bytearray(pictures[0]["bytes"])
    png[11] ^= 1  # the length of IHDR: Pillow raises ValueError
    pictures[0]["bytes"] = bytes(png)
    pq.write_table(table.set_column(at, table.schema.field(at), [pictures]), file)
    with pytest.raises(DataError, match=r"file-000.parquet: episode 0 frame 0 is no picture"):
        open_data(str(folder), CHUNK)[0]


# --- several sources ---------------------------------------------------------------------------


def test_a_dataset_of_ours_alone_stays_as_it_is_and_among_others_gives_size_and_rate(tmp_path, videos):
    folder = ours(tmp_path / "ours")
    alone = open_data(str(folder), CHUNK)
    mixed = open_data([{"path": str(folder), "weight": 3}, str(videos)], CHUNK)
    assert alone.told == () and len(alone.told) == 0 and alone.seeds == (70, 71, 72)
    for i in range(3):
        assert np.array_equal(mixed[i].frames, alone[i].frames) and mixed.segments(i) == alone.segments(i)
    assert mixed[3].frames.shape == (17, 16, 16, 3) and mixed.seeds[:4] == (70, 71, 72, None)
    assert mixed.weights == [3, 1] and [mixed.source_of(i) for i in (0, 2, 3, 5)] == [0, 0, 1, 1]
    assert "weight 3 of 4" in mixed.told[0] and "weight 1 of 4" in mixed.told[1]
    assert mixed[0].provenance["revisits"] == [[0, 8]]
    slower = open_data({"sources": [str(folder)], "fps": 2, "image_size": 32}, CHUNK)[0]
    assert numbers(slower.frames) == [0, 2, 4, 6, 8] and slower.provenance["revisits"] == [[0, 4]]
    assert slower.frames.shape[1:] == (32, 32, 3)


def test_a_fingerprint_follows_the_frames(mine):
    def told(**more: object) -> str:
        return open_data({"sources": [str(mine)], **more}, CHUNK).fingerprint()

    first = told()
    assert first == told() and len({first, told(fps=6), told(image_size=32), told(clip_chunks=1)}) == 4
    (mine / "a.txt").write_text("0 2 pick up the cube\n0:02 4 put it down\n")
    shorter = told()
    write_mp4(mine / "a.mp4", 255 - grey(60), 12)
    assert len({first, shorter, told()}) == 3


def test_sources_may_stand_in_a_file(tmp_path, videos):
    file = tmp_path / "mix.yaml"
    told = {"sources": [{"path": str(videos), "weight": 2}], "fps": 6, "image_size": 16}
    file.write_text(OmegaConf.to_yaml(told))
    assert DataOptions.of(str(file)) == DataOptions.of(OmegaConf.create(told)) == DataOptions.of(told)
    assert open_data(str(file), CHUNK)[0].provenance["fps"] == 6
    given = compose(
        "pretrain", [f"data={{sources: [{{path: {videos}, weight: 2}}], fps: 6, image_size: 16}}"]
    )
    assert DataOptions.of(given.data) == DataOptions.of(told)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"sources": []}, "data.sources is empty"),
        ({"path": "a"}, "expected a folder, or"),
        ([{"weight": 2}], "expected path, and if you like weight and camera"),
        ([{"path": "a", "weight": 0}], "weight=0 of a: expected a number above 0"),
        ({"sources": ["a"], "fps": "fast"}, "data.fps=fast: expected a number above 0"),
        ("none.yaml", "data=none.yaml can't be read"),
    ],
)
def test_wrong_options_are_one_line(data, says):
    with pytest.raises(OptionError, match=re.escape(says)):
        DataOptions.of(data)


# --- training ----------------------------------------------------------------------------------


def test_sources_are_drawn_by_their_weights(tmp_path):
    import torch
    from tiny import make_autoencoder

    from world_model.chunks import LatentEpisodes
    from world_model.train_autoencoder import draw_frames, held_out_split

    folders = [ours(tmp_path / name, count=n) for name, n in (("few", 2), ("many", 12))]
    mixed = open_data([{"path": str(folders[0]), "weight": 3}, {"path": str(folders[1])}], CHUNK)
    training, held = held_out_split(mixed)
    assert held == [1, 13] and len(training) == 12
    with pytest.raises(ValueError, match="too few to hold some out"):
        held_out_split(open_data(str(ours(tmp_path / "one", count=1)), CHUNK))
    latents = LatentEpisodes(mixed, make_autoencoder(), training)
    named = zip(latents.sources, latents.segments, strict=True)
    latents.segments = [tuple(Segment(s.start, s.stop, f"{k}") for s in x) for k, x in named]
    drawn = latents.draw(400, 1, CHUNK, torch.Generator().manual_seed(0)).captions
    assert 0.69 < drawn.count("0") / 400 < 0.81
    parts = [torch.zeros(5, 1, 1, 3, dtype=torch.uint8), torch.ones(50, 1, 1, 3, dtype=torch.uint8)]
    frames = draw_frames(parts, mixed.weights, 400, torch.Generator().manual_seed(0))
    assert 0.19 < float(frames.float().mean()) < 0.31
    assert isinstance(mixed, Footage)


@pytest.mark.parametrize(
    ("chunks", "held"),
    [
        ([2, 2, 1], [1]),
        ([1, 2, 1], [2]),
        ([3, 2, 2], [2]),
        ([1, 1, 1], [2]),
        ([2] + [1] * 38 + [2], [38, 39]),
    ],
)
def test_longer_clips_are_held_out_where_one_is_left(tmp_path, chunks, held):
    from tiny import make_dataset

    from world_model.train_autoencoder import held_out_split

    footage = as_footage(load_episodes(make_dataset(tmp_path / "made", tuple(chunks))))
    training, out = held_out_split(footage)
    assert out == held and sorted(training + out) == list(range(len(chunks)))


def test_lengths_are_checked_without_frames(tmp_path):
    from tiny import make_dataset

    from world_model.chunks import check_lengths

    data = load_episodes(make_dataset(tmp_path / "made", (2, 1, 3)))
    check_lengths(data, [0, 1, 2], [(1, 4), (9, 4), (4, 1)])
    with pytest.raises(
        ValueError, match=r"no held-out episode has 9 past and 4 new frames: of 2 the longest has 9"
    ):
        check_lengths(data, [0, 1], [(1, 4), (9, 4)], "held-out")
    with pytest.raises(
        ValueError, match=r"no training episode has 1 past and 5 new .* in chunks of 4; give more"
    ):
        check_lengths(data, [2], [(1, 5)])


@pytest.mark.long
def test_pretraining_on_own_videos_and_a_dataset(tmp_path, videos):
    from test_pretrain import TINY

    from world_model.model import WorldModel

    robot = write_lerobot(tmp_path / "robot", (30, 30, 30), 10, True, ("push",))
    data = f"data={{sources: [{{path: {videos}}}, {{path: {robot}, weight: 2}}], fps: 4, image_size: 16}}"
    command = ["-m", "world_model.pretrain", data, "diffusion.steps=2", f"run_dir={tmp_path / 'run'}", *TINY]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("data: ") == 2 and "weight 2 of 3" in done.stdout
    model = WorldModel.from_pretrained(tmp_path / "run/model")
    chunk = next(model.stream(grey(1, 16, 16)[0], ["push the T over the edge"]))
    assert chunk.frames.shape == (1, 4, 16, 16, 3)


# --- the command -------------------------------------------------------------------------------


def inspected(arguments: list[str]) -> int:
    from world_model.data.__main__ import start

    with pytest.raises(SystemExit) as end:
        start(arguments)
    return int(end.value.code)


def test_inspect_shows_what_is_there(videos, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert inspected(["inspect", str(videos), f"sheet={sheet}", "image_size=16"]) == 0
    said = capsys.readouterr().out
    assert "2 recordings, 0.2 minutes; videos with captions" in said and "4 different" in said
    assert "clips     3, 6 chunks of 4 frames (1.00 s)" in said and "wrong     nothing" in said
    from PIL import Image

    with Image.open(sheet) as drawn:
        assert drawn.height == 3 * 100 and len(set(np.asarray(drawn)[50, 260::100, 0].tolist())) > 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", []),
        ("it's mine, [too]", []),
        ("it's mine, [too]", ["clip_chunks=1"]),
        ("2024", ["fps=6", "image_size=16"]),
        ("plain", ["camera=observation.images.top", "task=path_retrace"]),
    ],
)
def test_inspect_ends_with_a_command_that_reads_the_same(
    videos, tmp_path, monkeypatch, capsys, name, options
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(videos, name)
    assert inspected(["inspect", name, f"sheet={tmp_path / 'sheet.png'}", *options]) == 0
    out = capsys.readouterr().out
    told = out.partition("train on it: ")[2].strip()
    assert ("hold two chunks or more: 0; training needs one" in out) == ("clip_chunks=1" in options)
    python, _, module, *given = shlex.split(told)
    cfg = compose("pretrain", given)
    asked = dict(option.split("=") for option in options)
    source = {"path": name, **{k: asked[k] for k in ("camera",) if k in asked}}
    numbers_given = {k: int(v) for k, v in asked.items() if k in ("fps", "image_size", "clip_chunks")}
    assert (python, module, cfg.task.name) == (
        "python", "world_model.pretrain", asked.get("task", "cube_return")
    )  # fmt: skip
    assert DataOptions.of(cfg.data) == DataOptions.of({"sources": [source], **numbers_given})


def test_inspect_lists_all_that_is_wrong(mine, tmp_path, capsys):
    (mine / "a.txt").write_text("0 3 go\n2 9 stop\n")
    data = (mine / "more/a.mp4").read_bytes()
    (mine / "more/a.mp4").write_bytes(data[: len(data) * 2 // 3])
    assert inspected(["inspect", str(mine), f"sheet={tmp_path / 's.png'}"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "things are wrong; training would stop at the first" in err
    assert "overlap" in out and "runs past the end" in out and "more/a.mp4" in out.partition("wrong ")[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected python -m world_model.data inspect PATH"),
        (["look", "x"], "expected python -m world_model.data inspect PATH"),
        (["inspect", "nowhere"], "no data at nowhere"),
        (["inspect", ".", "speed=3"], "unknown option 'speed'"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, says, capsys):
    assert inspected(arguments) in (1, 2)
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_the_documented_commands_are_read(root):
    told = (root / "docs/own_data.md").read_text()
    for command, given in re.findall(
        r"python -m world_model\.(pretrain|slowfast_loop|evaluate) ([^`\n]+)", told
    ):
        cfg = compose({"evaluate": "evaluate_video"}.get(command, command), shlex.split(given))
        assert DataOptions.of(cfg.data) if not str(cfg.data).endswith(".yaml") else True
    assert main is not None
