"""The benchmarks of long streams and of a chunk's speed: the same pictures by every way, and figures that resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SIDE, make_dataset, make_model, make_text

from benchmarks import chunk_speed, long_stream, training_step
from planner.results import write_results
from world_model.diffusion import Diffusion
from world_model.model import WorldModel

CHUNK = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny world model."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    settings = {"chunk_frames": CHUNK, "context_frames": 8, "sampling_steps": 1, "guidance": (1, 1)}
    make_model(make_text(), **settings).save_pretrained(folder)
    return folder


# --- long streams ------------------------------------------------------------------------------


def test_drift_is_of_blocks_and_flatness_of_both_ends():
    assert long_stream.blocks(np.arange(120.0)) == [24.5, 74.5]
    assert long_stream.blocks(np.arange(130.0))[-1] == 114.5
    true = np.zeros((100, 16, 16, 3), np.uint8)
    made = true.copy()
    made[50:] = 16
    assert long_stream.drift(made, true, None)["psnr"] == pytest.approx([60.0, 20 * np.log10(255 / 16)])
    log = [{"seconds": 1.0 if k < 15 else 1.1, "peak_gib": 2.0} for k in range(40)]
    log[0]["seconds"] = 9.0  # the first chunks load and warm up
    flat = long_stream.flatness(log)
    assert flat["seconds_ratio"] == pytest.approx(1.1) and flat["peak_gib_ratio"] == 1


def test_the_summary_is_over_streams_and_paired():
    flat = {"seconds_ratio": 1.01, "peak_gib_ratio": 1.0, "seconds_late": 2.0}

    def stream(psnr: float, ratio: float = 1.01) -> dict:
        return {"drift": {"psnr": [psnr, psnr - 5]}, "flat": {**flat, "seconds_ratio": ratio}}

    streams = {
        "temp_lora": [stream(20), stream(30, 1.2)], "none": [stream(19), stream(29)],
        "autoencoded": [stream(40)] * 2, "frozen": [stream(10)] * 2,
    }  # fmt: skip
    found = long_stream.summary(streams)
    assert found["difference"]["psnr"][0] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert found["drift"]["psnr"]["none"][1]["mean"] == 19
    assert found["flat"]["none"]["holds"] and not found["flat"]["temp_lora"]["holds"]


@pytest.mark.long
def test_streams_through_the_command(weights, tmp_path, capfd):
    data = make_dataset(tmp_path / "data", (26, 26))
    command = [
        "--data", str(data), "--weights", str(weights), "--loop-weights", str(weights), "--frames", "100",
        "--streams", "2", "--device", "cpu", "--run-dir", str(tmp_path / "run"),
        "--json", str(tmp_path / "results/long_stream_tiny.json"),
    ]  # fmt: skip
    long_stream.main(command)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert len(result["drift"]["psnr"]["temp_lora"]) == 2 and len(result["streams"]["none"]) == 2
    assert len(result["streams"]["none"][0]["seconds"]) == 25 and (tmp_path / "run/drift.png").is_file()
    video = tmp_path / "run/none/stream_1/video.mp4"
    before = video.stat().st_mtime_ns
    long_stream.main(command)  # nothing is made twice
    assert video.stat().st_mtime_ns == before
    page = write_results(tmp_path / "results", tmp_path / "page.md").read_text()
    assert "## 100 frames in one stream (cube_return)" in page and "temp_lora less none" in page
    with pytest.raises(SystemExit, match="belongs to other options"):
        long_stream.main([*command, "--seed", "1"])


@pytest.mark.long
def test_the_expert_keeps_going():
    (episode,) = long_stream.true_episodes("cube_return", 1, 12, 0)
    said = [s.caption for s in episode.segments]
    assert len(episode) == 1 + 12 * CHUNK and all(c.startswith("pick up") for c in said[::2])
    assert all(c.startswith(("put", "return")) for c in said[1::2]) and len(set(said)) > 2
    moved = np.linalg.norm(np.diff(episode.positions[:: 2 * CHUNK, :2, :2], axis=0), axis=-1)
    assert (moved.max(1) > 0.1).all()  # each pair of actions takes a cube elsewhere


def test_what_is_asked_wrongly_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="--frames 10: at least 100"):
        long_stream.main(["--frames", "10", "--run-dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        long_stream.main(["--streams", "1"])
    with pytest.raises(SystemExit, match="error: --weights mine: give --loop-weights, too;"):
        long_stream.main(["--weights", "mine", "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


# --- speed -------------------------------------------------------------------------------------


def test_every_way_makes_the_same_chunk(weights):
    model = WorldModel.from_pretrained(weights)
    scene = chunk_speed.Scene(model, SIDE)
    given = (scene.past, scene.noise, scene.tokens, 3, (2.0, 5.0))
    apart = chunk_speed.passes_in_turn(model.diffusion, *given)
    assert torch.allclose(apart, Diffusion.sample(model.diffusion, *given), atol=1e-4)
    runs = chunk_speed.ways(model, scene, (2.0, 5.0), 3, 3)
    made = [run() for run in runs.values()]
    assert all((m.int() - made[0].int()).abs().max() <= 1 for m in made[:4])
    assert (made[4].int() - made[0].int()).abs().max() > 1  # without guidance it is another one


def test_the_fewest_steps_of_equal_quality():
    rng = np.random.default_rng(0)
    plain = rng.normal(20, 3, 64)
    found = {
        20: list(plain),
        10: list(plain - 0.02),
        4: list(plain - 0.05),
        2: list(plain - rng.normal(1, 1, 64)),
    }
    assert chunk_speed.fewest(found, 20)[0] == 4
    assert chunk_speed.fewest({20: list(plain), 2: found[2]}, 20)[0] == 20


@pytest.mark.slow
def test_the_speed_of_a_chunk(weights, tmp_path):
    data, out = make_dataset(tmp_path / "data"), tmp_path / "results/chunk_speed.json"
    command = ["--data", str(data), "--weights", str(weights), "--chunks", "2", "--device", "cpu"]
    command += ["--threads", "1", "--rounds", "2", "--steps", "5", "--no-compile"]
    chunk_speed.main([*command, "--json", str(out)])
    result = json.loads(out.read_text())
    rows = list(result["rows"].values())
    assert len(rows) == 5 and rows[0]["times_as_fast"]["mean"] == 1
    assert all(r["share_of_matrix_rate"] > 0 for r in rows) and rows[4]["gflop"] < rows[2]["gflop"]
    assert (
        rows[2]["gflop"] == pytest.approx(rows[1]["gflop"], rel=0.01) and rows[1]["gflop"] < rows[0]["gflop"]
    )
    page = write_results(out.parent, tmp_path / "page.md").read_text()
    assert "## How fast a chunk is made" in page and "not asked for." in page
    with pytest.raises(SystemExit, match=r"error: no dataset at nowhere"):
        chunk_speed.main([*command, "--data", "nowhere"])


@pytest.mark.long
def test_torch_compile_is_measured_or_said_to_be_missing(weights):
    model = WorldModel.from_pretrained(weights)
    eager = model.diffusion.unet
    run = list(chunk_speed.ways(model, chunk_speed.Scene(model, SIDE), (2.0, 5.0), 3, 2).values())[-1]
    found = chunk_speed.compiled(model, run, 1)
    assert model.diffusion.unet is eager
    assert "left_out" in found or found["times_as_fast"]["n"] == 1


# --- a training step ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_step_is_measured_way_by_way(weights, tmp_path, capsys):
    out = tmp_path / "training_step.json"
    sizes = ["--weights", str(weights), "--batch", "2", "--steps", "1", "--rounds", "1"]
    training_step.main([*sizes, "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["plain", "freed memory kept", "products=high", "products=medium"]
    assert all(row["seconds"] > 0 for row in rows.values())
    off = [row["gradient_difference"] for row in rows.values()]
    assert off[0] == off[1] == 0 and off[3] < 0.1
    assert "| products=medium |" in write_results(tmp_path, tmp_path / "page.md").read_text()
    with pytest.raises(SystemExit):
        training_step.main(["--batch", "0"])
    assert "--threads must be at least 1" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="nowhere"):
        training_step.in_a_process("plain", ["--weights", "nowhere"])
