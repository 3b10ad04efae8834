"""`python -m world_model.generate`: actions in, a video that grows, and that an interruption leaves no trace in."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from invoke import command
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from tiny import CAPTIONS, SIDE, frames, make_memory, make_model, make_text

from tasks.commands import CommandError, OptionError, compose
from tasks.lettering import font, wrapped
from world_model import generate
from world_model.action_lines import LONGEST, ActionError, FileActions, StreamActions, read_action
from world_model.growing_video import GrowingVideo, VideoError, boxes, captioned
from world_model.memory.retrieval import Retrieval
from world_model.model import WorldModel
from world_model.picture import PictureError, read_picture
from world_model.rollout_file import load_rollout, save_rollout
from world_model.training import CheckpointError

# --- actions -----------------------------------------------------------------------------------


def lines_of(tmp_path: Path, data: bytes, repeat: bool = False) -> FileActions:
    (tmp_path / "actions.txt").write_bytes(data)
    return FileActions(tmp_path / "actions.txt", repeat)


def test_a_file_gives_its_lines_and_repeats_them_where_it_shall(tmp_path):
    data = "\ufeff gehe geradeaus \r\nturn, then 'look'\n\n \n".encode()
    assert lines_of(tmp_path, data).lines == ("gehe geradeaus", "turn, then 'look'")
    once, again = lines_of(tmp_path, b"a\nb"), lines_of(tmp_path, b"a\nb", repeat=True)
    assert list(once.after(["a"])) == ["b"] and list(once.after(["a", "b", "a"])) == []
    rest = again.after(["a", "b", "a"])
    assert [next(rest) for _ in range(3)] == ["b", "a", "b"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no action; write one a line"),
        (b"\n \n", "holds no action"),
        (b"go\n\nstop\n", "line 2 is empty; say what should happen"),
        (b"go\nsto\x07p\n", r"line 2 holds a control character ('\x07', number 4); delete it"),
        (b"go\rstop\n", r"line 1 holds a control character ('\r', number 3)"),
        ("go \u202e pots".encode(), r"line 1 holds a control character ('\u202e', number 4)"),
        (b"go\n" + b"word " * 1000, f"line 2 is longer than {LONGEST} characters; divide it"),
        (b"x" * (LONGEST + 1), f"line 1 is longer than {LONGEST} characters"),
        ("go".encode("utf-16"), "line 1 is not UTF-8 text"),
    ],
)
def test_a_bad_line_is_one_clear_line(tmp_path, data, says):
    with pytest.raises(ActionError) as error:
        lines_of(tmp_path, data)
    assert says in str(error.value) and "\n" not in str(error.value) and "actions.txt" in str(error.value)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_the_longest_action_is_read():
    assert read_action("ä".encode() * LONGEST + b"\r\n", "that") == "ä" * LONGEST


def test_a_changed_line_is_not_passed_over(tmp_path):
    with pytest.raises(
        ActionError, match=r"action 2 is 'b', the video that is there was made with 'c'; give fresh"
    ):
        list(lines_of(tmp_path, b"a\nb").after(["a", "c"]))


def test_a_pipe_gives_all_actions_again():
    pipe = StreamActions(io.BytesIO(b"a\nb\nc\n\n"), terminal=False)
    assert list(pipe.after(["a"])) == ["b", "c"]
    later = StreamActions(io.BytesIO(b"a\n" + b"y" * 5000 + b"\nb\n"), terminal=False).after([])
    assert next(later) == "a"
    with pytest.raises(ActionError, match="standard input: line 2 is longer than"):
        next(later)


def test_a_terminal_goes_on_and_asks_again_for_a_bad_line(capsys):
    typed = StreamActions(io.BytesIO(b"\n" + b"y" * 5000 + b"\ngo\n"), terminal=True)
    assert list(typed.after(["a", "b"])) == ["go"]
    said = capsys.readouterr()
    assert said.out == "action 3> action 3> action 3> action 4> \n"
    assert said.err.splitlines() == [
        "that is empty; say what should happen in the chunk",
        f"that is longer than {LONGEST} characters; divide it into several lines",
    ]


# --- the picture -------------------------------------------------------------------------------


def test_a_picture_of_another_size_or_mode_is_said(tmp_path):
    pixels = frames(1)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    same, note = read_picture(tmp_path / "a.png", SIDE)
    assert note == "" and np.array_equal(same, pixels)
    Image.new("RGBA", (40, 20), (255, 0, 0, 0)).save(tmp_path / "b.png")
    other, note = read_picture(tmp_path / "b.png", SIDE)
    assert other.shape == (SIDE, SIDE, 3) and (other == 255).all()
    assert note == "RGBA became RGB; 40 × 20 px became 16 × 16, the sides cut off"


def test_what_is_no_picture_is_one_clear_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("I;16", (20, 20)).save(tmp_path / "deep.png")
    Image.fromarray(frames(1)[0]).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-200])
    unread = dict.fromkeys(("text.png", "cut.png"), "can't be read")
    for name, said in ({"none.png": "no such file", "deep.png": "of mode I;16"} | unread).items():
        with pytest.raises(PictureError, match=said) as error:
            read_picture(tmp_path / name, SIDE)
        assert name in str(error.value) and "\n" not in str(error.value)


# --- the video ---------------------------------------------------------------------------------


def pages(number: int, side: int = 32) -> np.ndarray:
    """Four pages, brighter with their number."""
    return np.stack([np.full((side, side, 3), 10 + 20 * (4 * number + t), np.uint8) for t in range(4)])


def brightness(path: Path) -> list[float]:
    """The mean of each frame that a player sees."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-loglevel",
        "quiet",
        "-i",
        str(path),
        "-vf",
        "scale=1:1:flags=area",
    ]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, 3).mean(1).tolist()


def test_a_video_that_was_gone_on_with_is_the_same_file(tmp_path):
    whole = GrowingVideo(tmp_path / "whole.mp4", 4)
    sizes = [whole.append(pages(k)) or whole.size for k in range(3)]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.path.read_bytes()[: sizes[1] + 100])  # killed while it wrote the third chunk
    again = GrowingVideo(cut, 4, 8, sizes[1])
    assert cut.stat().st_size == sizes[1]
    again.append(pages(2))
    assert cut.read_bytes() == whole.path.read_bytes() and again.frames == 12
    seen = brightness(cut)
    assert np.allclose(seen, [10 + 20 * t for t in range(12)], atol=4)
    times = [int.from_bytes(b[12:20]) for b in inner(cut.read_bytes(), (b"moof", b"traf", b"tfdt"))]
    assert times == [0, 4 * 256, 8 * 256]


def inner(data: bytes, path: tuple[bytes, ...]) -> list[bytes]:
    """The boxes at a path, such as moof, traf, tfdt."""
    found = [box for kind, box in boxes(data) if kind == path[0]]
    return found if len(path) == 1 else [b for box in found for b in inner(box[8:], path[1:])]


def test_a_fragment_cut_short_leaves_the_rest_to_play(tmp_path):
    video = GrowingVideo(tmp_path / "v.mp4", 4)
    for k in range(2):
        video.append(pages(k))
    os.truncate(video.path, video.size - 20)
    assert len(brightness(video.path)) >= 4


def test_a_video_that_can_not_be_gone_on_with(tmp_path):
    video = GrowingVideo(tmp_path / "v.mp4", 4)
    video.append(pages(0))
    with pytest.raises(VideoError, match="picture size; give fresh=true"):
        video.append(pages(1, side=48))
    assert video.path.stat().st_size == video.size
    with pytest.raises(VideoError, match=r"v.mp4 has \d+ bytes of 9999999"):
        GrowingVideo(video.path, 4, 4, 9999999)


def test_captions_stand_above_the_frames():
    clip = frames(3)
    shown = captioned(clip, "pick up the red cube", 7)
    bare = captioned(clip, "", 7)
    scale = round(360 / SIDE)
    assert shown.shape == (3, 64 + SIDE * scale + 12, SIDE * scale + 24, 3)
    assert np.array_equal(shown[:, 64:-12:, 12:-12][:, ::scale, ::scale], clip)
    assert (shown[0, :64] != bare[0, :64]).any() and np.array_equal(shown[0, 64:], bare[0, 64:])


def test_a_long_caption_is_wrapped_and_cut_with_an_ellipsis():
    pen, letters = ImageDraw.Draw(Image.new("RGB", (4, 4))), font(16)
    text = "walk through the long corridor and turn to the left at the very end of it"
    lines = wrapped(pen, text, letters, 200, 9)
    assert " ".join(lines) == text and len(lines) > 2
    assert all(pen.textlength(line, letters) <= 200 for line in lines)
    short = wrapped(pen, text, letters, 200, 2)
    assert short[0] == lines[0] and short[1].endswith("…") and pen.textlength(short[1], letters) <= 200
    assert wrapped(pen, "x" * 100, letters, 200, 2)[1].endswith("…")


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny world model, a picture and actions."""
    folder = tmp_path_factory.mktemp("generate")
    model = make_model(make_text(), make_memory(), sampling_steps=1)
    model.save_pretrained(folder / "model", torch.float32)
    Image.fromarray(frames(1)[0]).save(folder / "start.png")
    (folder / "actions.txt").write_text("\n".join(CAPTIONS))
    return folder


def options(made: Path, run: Path, *more: str) -> list[str]:
    return [
        f"image={made / 'start.png'}", f"actions={made / 'actions.txt'}", f"weights={made / 'model'}",
        f"image_size={SIDE}", "memory.rank=2", "memory.alpha=2", "memory.steps=1", "memory.learning_rate=0.01",
        "memory.optimizer=adam", "memory.begins=theta", "memory.optimizer_state=keep", "memory.targets=attention",
        "memory.draws=own", "memory.timesteps=[600,1000]",
        "device=cpu", f"run_dir={run}", *more,
    ]  # fmt: skip


def generated(made: Path, run: Path, *more: str) -> None:
    generate.run(compose("generate", options(made, run, *more)))


def latents(run: Path) -> torch.Tensor:
    return torch.cat([load_file(p)["latents"] for p in sorted((run / "latents").iterdir())])


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "state.safetensors")


def same_videos(a: Path, b: Path) -> None:
    """Latents, Temp-LoRA, Adam's moments and the video's bytes."""
    assert torch.equal(latents(a), latents(b))
    of_a, of_b = state(a), state(b)
    assert set(of_a) == set(of_b) and any(k.startswith("memory.second.") for k in of_a)
    assert [k for k in of_a if not torch.equal(of_a[k], of_b[k])] == []
    assert (a / "video.mp4").read_bytes() == (b / "video.mp4").read_bytes()


def test_frames_repeat_the_actions_and_more_of_them_go_on(made, tmp_path, capsys):
    generated(made, tmp_path / "a", "frames=3")
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[2] for line in said if line.startswith("chunk")] == list(CAPTIONS[:2])
    assert "peak" in said[-3] and said[-2].startswith("4 frames; 2 chunks: ")
    generated(made, tmp_path / "a", "frames=8")
    said = capsys.readouterr().out
    assert "goes on  after chunk 2" in said
    records = [json.loads(line) for line in (tmp_path / "a" / "chunks.jsonl").read_text().splitlines()]
    assert [r["action"] for r in records] == [*CAPTIONS, CAPTIONS[0]]
    assert [r["chunk"] for r in records] == [1, 2, 3, 4]
    assert all(r["seconds"] >= r["imagine"] + r["remember"] - 1e-3 and r["peak_gib"] > 0 for r in records)
    generated(made, tmp_path / "b", "frames=8")
    same_videos(tmp_path / "a", tmp_path / "b")
    assert len(brightness(tmp_path / "a" / "video.mp4")) == 9
    capsys.readouterr()
    before = (tmp_path / "a" / "state.safetensors").read_bytes()
    generated(made, tmp_path / "a")  # without a limit the file's actions were done long ago
    assert "finished already" in capsys.readouterr().out
    assert (tmp_path / "a" / "state.safetensors").read_bytes() == before


def test_the_generator_gives_the_commands_chunks(made, tmp_path):
    generated(made, tmp_path / "a")
    model = WorldModel.from_pretrained(made / "model", make_memory(steps=1, optimizer_state="keep"))
    given: list[str] = []

    def actions():
        for caption in CAPTIONS:
            given.append(caption)
            yield caption

    image = np.array(Image.open(made / "start.png"))
    chunks = []
    for number, chunk in enumerate(model.stream(image, actions()), 1):
        assert len(given) == number and chunk.frames.shape == (1, 2, SIDE, SIDE, 3)
        chunks.append(chunk)
    assert torch.equal(torch.cat([c.latents[0] for c in chunks]), latents(tmp_path / "a"))


def test_a_rollout_comes_back_from_its_file(tmp_path):
    for memory in (None, Retrieval(2), make_memory(measure_effect=True, replay=1)):
        model = make_model(make_text(), memory, sampling_steps=1)
        rollout = model.start(frames(1), [3])
        for caption in (None, *CAPTIONS[:2]):
            if caption:
                rollout, chunk = model.imagine(rollout, [caption])
                rollout = model.remember(rollout, chunk)
            save_rollout(tmp_path / "r.safetensors", model, rollout, note="x")
            again, more = load_rollout(tmp_path / "r.safetensors", model)
            assert more == {"note": "x"} and (again.seeds, again.index) == (rollout.seeds, rollout.index)
            assert torch.equal(again.past, rollout.past) and np.array_equal(again.frames, rollout.frames)
            chunk, other = (model.imagine(r, CAPTIONS[:1])[1] for r in (rollout, again))
            assert torch.equal(chunk.latents, other.latents)
    (tmp_path / "r.safetensors").write_bytes((tmp_path / "r.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"r.safetensors is damaged .*fresh=true"):
        load_rollout(tmp_path / "r.safetensors", model)


def test_what_can_be_wrong_is_one_line_and_writes_nothing(made, tmp_path):
    wrong = [
        (["image=null"], OptionError, "image=PICTURE and actions=FILE are needed"),
        (["image=none.png"], PictureError, "image=none.png: no such file"),
        (["actions=none.txt"], ActionError, "actions=none.txt: no such file"),
        (["frames=0"], OptionError, "frames=0: expected an integer, at least 1"),
        (["fps=0.5"], OptionError, "fps=0.5: expected an integer"),
        (["guidance=5"], OptionError, r"guidance=5: expected two numbers"),
        (["guidance=[1,a]"], OptionError, "expected two numbers"),
        (["sampling_steps=0"], OptionError, "sampling_steps=0: expected"),
        (["image_size=18"], OptionError, "image_size=18: expected a multiple of 4"),
        (["weights=none"], CommandError, "none is missing"),
    ]
    for more, kind, says in wrong:
        with pytest.raises(kind, match=says) as error:
            generated(made, tmp_path / "run", *more)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists(), more
    with pytest.raises(OptionError, match="memory=shuffled exchanges"):
        generate.run(compose("generate", [*options(made, tmp_path / "run")[:4], "memory=shuffled"]))
    assert not (tmp_path / "run").exists()


def test_a_single_frame_and_a_scenes_own_rank(made, tmp_path, capsys):
    generated(made, tmp_path / "single", "single_frame=true")
    assert state(tmp_path / "single")["past"].shape[1] == 1
    clips = [{"chunks": k, "complexity": 1.0, "psnr": 1.0} for k in range(4)]
    cell = {"kind": "model", "label": "rank 1", "options": {"rank": 1, "alpha": 1}, "clips": clips}
    cell["options"]["learning_rate"] = 0.02
    table = tmp_path / "result.json"
    table.write_text(json.dumps({"parts": {"long": {"rows": {"a": cell}}}}))
    capsys.readouterr()
    make_model(make_text(), sampling_steps=1).save_pretrained(tmp_path / "base")  # without a Θ₀ of some rank
    generated(made, tmp_path / "chosen", f"choose={table}", f"weights={tmp_path / 'base'}")
    assert "memory  temp_lora, chosen for this scene: rank 1" in capsys.readouterr().out
    adapter = [v for k, v in state(tmp_path / "chosen").items() if k.startswith("memory.theta.")]
    assert adapter and all(1 in v.shape[1:] for v in adapter)
    with pytest.raises(OptionError, match="give actions=FILE with it"):
        generated(made, tmp_path / "run", f"choose={table}", "actions=-")
    with pytest.raises(OptionError, match=r"expected table_6/result.json"):
        generated(made, tmp_path / "run", f"choose={made / 'actions.txt'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["context", "retrieval"])
def test_a_single_frame_is_what_the_memory_knows_of(made, tmp_path, kind):
    given = [*options(made, tmp_path / "run")[:4], f"memory={kind}", "single_frame=true", "device=cpu"]
    model, _ = generate.open_model(compose("generate", given))
    assert model.past_frames == model.memory.sizes.past_frames == 1


def test_a_scene_s_rank_is_of_the_actions_carried_out_and_stays(made, tmp_path, capsys):
    def cell(rank: int, psnrs: list[float]) -> dict:
        clips = [
            {"chunks": k, "complexity": 1.0, "psnr": p} for k, p in zip((1, 1, 4, 4), psnrs, strict=True)
        ]
        told = {"rank": rank, "alpha": rank, "learning_rate": 0.02}
        return {"kind": "model", "label": f"rank {rank}", "options": told, "clips": clips}

    table, base, lines = tmp_path / "result.json", tmp_path / "base", tmp_path / "lines.txt"
    cells = {"few": cell(1, [2, 2, 1, 1]), "many": cell(2, [1, 1, 2, 2])}
    table.write_text(json.dumps({"parts": {"long": {"rows": cells}}}))
    make_model(make_text(), sampling_steps=1).save_pretrained(base)
    lines.write_text(CAPTIONS[0])
    mine = [f"choose={table}", f"weights={base}", f"actions={lines}"]
    picture = frames(1)[0]
    for more, rank in (([], 1), (["frames=2"], 1), (["frames=8"], 2)):
        cfg = compose("generate", options(made, tmp_path / "run", *mine, *more))
        assert generate.memory_for(cfg, picture, generate.source_of(cfg))[0]["rank"] == rank
    generated(made, tmp_path / "run", *mine)
    lines.write_text("\n".join([CAPTIONS[0]] * 4))
    capsys.readouterr()
    generated(made, tmp_path / "run", *mine)
    said = capsys.readouterr().out
    assert "chosen for this scene: rank 1" in said and "goes on  after chunk 1" in said
    assert len(state_actions(tmp_path / "run")) == 4


def test_a_run_of_another_picture_or_other_actions_is_left_alone(made, tmp_path):
    for name in ("start.png", "actions.txt"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    mine = [f"image={tmp_path / 'start.png'}", f"actions={tmp_path / 'actions.txt'}"]
    generated(made, tmp_path / "run", *mine, "frames=2")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    (tmp_path / "actions.txt").write_text("sing a song")
    with pytest.raises(
        ActionError, match="action 1 is 'sing a song', the video that is there was made with 'pick"
    ):
        generated(made, tmp_path / "run", *mine, "frames=4")
    Image.fromarray(frames(1, seed=5)[0]).save(tmp_path / "start.png")
    with pytest.raises(CommandError, match=r"made with another image .* give fresh=true or another run_dir"):
        generated(made, tmp_path / "run", *mine, "frames=4")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before


def test_documented_options_exist(root):
    told = (root / "docs/generate.md").read_text() + (root / "README.md").read_text()
    commands = re.findall(r"python -m world_model\.generate ([^`\n]+)", told)
    assert len(commands) >= 4
    for line in commands:
        cfg = compose("generate", shlex.split(line))
        assert cfg.image == "start.png" and cfg.actions in ("actions.txt", "-")


@pytest.mark.slow
def test_the_documented_program_runs_on_the_shipped_weights(made, tmp_path, root, monkeypatch, capsys):
    program = re.search(r"```python\n(.*?)```", (root / "docs/generate.md").read_text(), re.DOTALL)
    (tmp_path / "start.png").write_bytes((made / "start.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(program[1], {})
    assert capsys.readouterr().out.splitlines() == [
        "('pick up the red cube',) (1, 4, 64, 64, 3)",
        "('put the red cube on the left',) (1, 4, 64, 64, 3)",
    ]


# --- as a process ------------------------------------------------------------------------------


def process(arguments: list[str], root: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen:
    """The command; Ctrl-C reaches it even where the tests run in the background of a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "world_model.generate", *arguments],
        cwd=root, text=True, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def ended(running: subprocess.Popen, code: int) -> tuple[str, str]:
    out, err = running.communicate()
    assert running.returncode == code, err[-2000:]
    return out, err


def wait_for(path: Path, running: subprocess.Popen) -> None:
    for _ in count():
        if path.exists():
            return
        assert running.poll() is None, running.communicate()[1][-2000:]
        time.sleep(0.01)


@pytest.mark.long
def test_after_ctrl_c_the_same_command_goes_on_bit_for_bit(made, tmp_path, root):
    limit = "frames=60"
    arguments = options(made, tmp_path / "cut", limit)
    running = process(arguments, root)
    wait_for(tmp_path / "cut" / "latents" / "chunk_00003.safetensors", running)
    running.send_signal(signal.SIGINT)
    _, err = ended(running, 130)
    assert err == "interrupted; the same command goes on from here\n"
    told = len(state_actions(tmp_path / "cut"))
    assert 2 <= told < 30
    seen = brightness(tmp_path / "cut" / "video.mp4")
    assert 1 + 2 * told <= len(seen) <= 3 + 2 * told
    running = process(arguments, root)
    wait_for(tmp_path / "cut" / "latents" / f"chunk_{told + 3:05d}.safetensors", running)
    running.kill()
    ended(running, -signal.SIGKILL)
    out, _ = ended(process(arguments, root), 0)
    assert "goes on  after chunk" in out and "60 frames; " in out
    generated(made, tmp_path / "whole", limit)
    same_videos(tmp_path / "whole", tmp_path / "cut")


def state_actions(run: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(run / "state.safetensors", "pt") as file:
        return json.loads(file.metadata()["rollout"])["more"]["actions"]


@pytest.mark.long
def test_actions_from_a_pipe_appear_as_chunks_before_the_next_is_given(made, tmp_path, root):
    arguments = [*options(made, tmp_path / "run"), "actions=-"]
    running = process(arguments, root, subprocess.PIPE)
    assert running.stdin
    for k in (0, 1):
        running.stdin.write(CAPTIONS[k] + "\n")
        running.stdin.flush()
        wait_for(tmp_path / "run" / "latents" / f"chunk_{k + 1:05d}.safetensors", running)
        assert not (tmp_path / "run" / "latents" / f"chunk_{k + 2:05d}.safetensors").exists()
    running.send_signal(signal.SIGINT)
    ended(running, 130)
    running = process(arguments, root, subprocess.PIPE)
    out, err = running.communicate("\n".join([*CAPTIONS, "", "bad after an empty line"]))
    assert running.returncode == 1 and err == (
        "error: standard input: line 4 is empty; say what should happen in the chunk\n"
    )
    assert "goes on  after chunk" in out and out.count("\nchunk ") in (1, 2)
    generated(made, tmp_path / "file")
    same_videos(tmp_path / "file", tmp_path / "run")


@pytest.mark.long
def test_what_is_typed_at_a_terminal_becomes_chunks(made, tmp_path, root):
    ours, theirs = pty.openpty()
    running = process([*options(made, tmp_path / "run"), "actions=-"], root, theirs)
    os.write(ours, f"\n{CAPTIONS[0]}\n".encode())
    wait_for(tmp_path / "run" / "state.safetensors", running)
    os.write(ours, b"\x04")
    out, err = ended(running, 0)
    os.close(ours), os.close(theirs)
    assert "action 1> action 1> chunk    1" in out and "action 2> \n2 frames; 1 chunks: " in out
    assert err == "that is empty; say what should happen in the chunk\n"
    assert state_actions(tmp_path / "run") == [CAPTIONS[0]]


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    options = ["image=none.png", "actions=none.txt", f"run_dir={tmp_path / 'run'}"]
    done = command("world_model.generate", *options, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: actions=none.txt: no such file")
    assert not (tmp_path / "run").exists()
