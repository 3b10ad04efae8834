"""What only a GPU can show: the commands use it, and it computes what the CPU computes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from invoke import command
from tiny import frames, make_dataset, make_memory, make_model, make_text

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def test_an_imagined_and_remembered_chunk_is_that_of_the_cpu():
    shown: list[np.ndarray] = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = make_model(make_text(), sampling_steps=4)
        model.unet.to(device)
        model.autoencoder.to(device)
        model.use_memory(make_memory())
        rollout = model.start(frames(2), [1, 2])
        for _ in range(2):
            rollout, chunk = model.imagine(rollout, ["pick up the red cube"] * 2)
            rollout = model.remember(rollout, chunk)
        shown.append(chunk.frames.astype(int))
    assert np.abs(shown[0] - shown[1]).mean() < 1


def test_training_and_planning_use_it(tmp_path):
    data = make_dataset(tmp_path / "data")
    command(
        "world_model.pretrain", f"data={data}", f"run_dir={tmp_path}/base", "device=cuda", "precision=bf16",
        "autoencoder.steps=2", "autoencoder.every=1", "autoencoder.batch_size=2", "diffusion.steps=2",
        "diffusion.batch_size=2", "diffusion.every=1", "diffusion.held_out_chunks=1",
    )  # fmt: skip
    assert json.loads((tmp_path / "base/model/metrics.json").read_text())["device"] == "cuda"
    command("planner.run", "episodes=1", "media=0", "device=cuda", f"run_dir={tmp_path}/run")
    cost = json.loads((tmp_path / "run/result.json").read_text())["cost"]
    assert cost["gpu_peak_mb"] > 0
