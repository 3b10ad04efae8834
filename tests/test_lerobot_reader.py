"""LeRobot's own reader opens our datasets, in an environment of its own.

``LEROBOT_PYTHON`` names an interpreter that has lerobot (``pip install lerobot`` in a fresh environment); without it
this environment's is used if it has one. lerobot needs an older torch and diffusers than this project.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks import Episode, Segment
from tasks.dataset import DatasetWriter, captions
from tasks.lerobot import ACTION, IMAGE, STATE
from world_model.data.footage import open_data

PYTHON = os.environ.get("LEROBOT_PYTHON") or (sys.executable if importlib.util.find_spec("lerobot") else None)
READ = f"""
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("local/ours", root=sys.argv[1])
items = [data[i] for i in range(len(data))]
print(json.dumps({{
    "episodes": data.num_episodes, "frames": data.num_frames, "fps": data.fps,
    "images": [(255 * x[{IMAGE!r}]).round().flatten()[:9].int().tolist() for x in items],
    "shape": list(items[0][{IMAGE!r}].shape), "states": [x[{STATE!r}].tolist() for x in items],
    "actions": [x[{ACTION!r}].tolist() for x in items], "tasks": [x["task"] for x in items],
    "means": data.meta.stats[{STATE!r}]["mean"].tolist(),
}}))
"""
WRITE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
kind = {"dtype": sys.argv[2], "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
features = {"observation.images.top": kind, "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}}
data = LeRobotDataset.create("local/theirs", 10, features, root=sys.argv[1], use_videos=sys.argv[2] == "video")
for episode in range(2):
    for k in range(30):
        frame = {"observation.images.top": np.full((64, 96, 3), 20 + 3 * k, np.uint8)}
        data.add_frame(frame | {"action": np.zeros(2, np.float32), "task": f"push {episode}"})
    data.save_episode()
data.finalize()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="no lerobot; LEROBOT_PYTHON names an interpreter that has it"),
]


def run(program: str, *arguments: str) -> str:
    """A program in LeRobot's environment; its last line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [str(PYTHON), "-c", program, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return (done.stdout.strip().splitlines() or [""])[-1]


def episode(seed: int) -> Episode:
    """Random frames and numbers, two captions."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (9, 64, 96, 3), np.uint8)
    actions, places = rng.random((8, 3), np.float32), rng.random((9, 2, 3), np.float32)
    segments = (Segment(0, 4, f"go {seed}"), Segment(4, 8, "stop"))
    return Episode(frames, actions, segments, places, ("a", "b"), {"seed": seed})


def test_lerobot_reads_what_we_write(tmp_path: Path):
    writer = DatasetWriter(tmp_path / "ours", 4, ("x", "y", "z"), group=2)
    episodes = [episode(seed) for seed in range(3)]
    for e in episodes:
        writer.append(e)
    told = json.loads(run(READ, str(writer.finish())))
    assert (told["episodes"], told["frames"], told["fps"], told["shape"]) == (3, 27, 4, [3, 64, 96])
    assert told["tasks"] == [text for e in episodes for text in captions(e)]
    frames = np.concatenate([e.frames for e in episodes]).transpose(0, 3, 1, 2).reshape(27, -1)[:, :9]
    assert np.array_equal(told["images"], frames)
    states = np.concatenate([e.positions.reshape(9, 6) for e in episodes])
    assert np.allclose(told["states"], states) and np.allclose(told["means"], states.mean(0), atol=1e-5)
    padded = np.concatenate([np.concatenate([e.actions, e.actions[-1:]]) for e in episodes])
    assert np.allclose(told["actions"], padded)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_we_read_what_lerobot_writes(tmp_path: Path, kind: str):
    run(WRITE, str(tmp_path / "theirs"), kind)
    footage = open_data({"sources": [str(tmp_path / "theirs")], "fps": 5, "image_size": 32}, 4)
    assert footage.lengths.tolist() == [13, 13]
    assert [{s.caption for s in e.segments} for e in footage] == [{"push 0"}, {"push 1"}]
    for e in footage:
        assert np.allclose(e.frames[:, 8:-8, 8:-8].mean((1, 2, 3)), 20 + 6 * np.arange(13), atol=2)
