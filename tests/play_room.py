"""A studio for tests of the page: a tiny random model of the real classes, and a simulator that paints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image
from tiny import SIDE, WIDTH, frames, make_memory, make_model, make_text

from envs.base import TaskEnv
from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig
from planner.play.simulation import Simulation
from planner.play.studio import Stage, Studio
from tasks.cube_return import CubeReturn
from tasks.files import write_json, write_text
from tasks.path_retrace import PathRetrace
from world_model.text import SentenceEncoder

PICK, PUT = "pick up the red cube", "put the red cube on the left"


class PaintedEnv(TaskEnv):
    """Frames that its seed and its actions decide; the red cube moves with the gripper."""

    name, names = "painted", ("red cube", "blue cube", "gripper")

    def __init__(self) -> None:
        self.task, self.resets, self.closed = CubeReturn(), 0, False
        self.action_space = self.action_box()
        self.observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.layout = self.chosen_layout(seed, options)
        self.history: list[np.ndarray] = []
        return self.frame(), {**self.info(), "layout": self.layout}

    def step(self, action):
        self.history.append(np.asarray(action))
        return self.frame(), 0.0, False, False, self.info()

    def close(self) -> None:
        self.closed = True

    def frame(self) -> np.ndarray:
        told = np.concatenate([[self.layout.seed], *self.history]).astype(np.float32)
        return frames(1, seed=abs(hash(told.tobytes())) % 2**32)[0]

    def info(self) -> dict[str, Any]:
        tip = self.history[-1][:3] if self.history else np.zeros(3)
        return {"positions": np.stack([*self.layout.starts, tip]), "names": self.names, "error": None}


class Reader:
    """Reads nothing but stillness; its version is one that no weights have."""

    def __init__(self, version: str | None):
        self.version = version

    def actions(self, clips: np.ndarray) -> np.ndarray:
        return np.zeros((len(clips), clips.shape[1] - 1, 8), np.float32)


class Ruler:
    """A locator for which everything that is put down lies 0.25 away."""

    names, unit, scale = ("red cube", "blue cube"), "mm", 1000.0

    def chunk_error(self, episode, segment, subgoal, shown):
        assert segment.stop == len(episode) - 1 and segment.stop - segment.start == 4 and shown.ndim == 4
        return None if subgoal.kind == "pick" else 0.25


class TinyStudio(Studio):
    """A studio whose one model is a random one of the real classes."""

    steps, learning_steps, reader_version = 3, 2, "0a1b2c3d"

    def stage(self, task: str, memory: str, choice: str) -> Stage:
        key = task, memory, choice
        if key not in self._open:
            cfg = self.options(*key)
            learns = {"measure_effect": True, "steps": self.learning_steps}
            kept = make_memory(**learns) if memory == "temp_lora" else None
            model = make_model(make_text(), kept, sampling_steps=self.steps)
            parts = (CubeReturn(), memory, choice, model, model.without_memory())
            self._open[key] = Stage(*parts, "tiny (test)", cfg)
        return self._open[key]

    def simulation(self, stage: Stage, by) -> Simulation:
        reader = Reader(self.reader_version if by == "reader" else None)
        return Simulation(PaintedEnv(), reader, Ruler(), by)  # type: ignore[arg-type]


def finished_run(folder: Path, memory: str = "temp_lora") -> Path:
    """What planner.run leaves, as far as the page looks at it."""
    interval = {"mean": 0.05, "low": 0.04, "high": 0.06, "n": 4}
    summary = {"executed": interval, "imagined": interval, "success": {"share": 0.25, "n": 4}}
    parts = {"task": "cube_return (m)", "memory": memory}
    write_json(folder / "result.json", {"parts": parts, "summary": summary, "episodes": []})
    write_text(folder / "report.html", "<p>report")
    (folder / "media").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "media/episode_1_paths.png")
    return folder


INTERVAL = {"mean": 0.1, "low": 0.05, "high": 0.2, "n": 3}


def finished_rows(folder: Path, *names: str) -> dict[str, Any]:
    """What planner.evaluate leaves while it works: its finished rows, which are given back, too."""
    share = {"share": 0.5, "low": 0.1, "high": 0.9, "n": 2}
    row = {"executed": INTERVAL, "imagined": INTERVAL | {"mean": 0.15}, "success": share}
    rows = {name: row | {"parts": {"task": "cube_return (m)", "memory": "none"}} for name in names}
    for name in names:
        write_json(folder / f"finished/{name}.json", rows[name])
    return rows


def navigation(folder: Path, reads: bool = True) -> list[str]:
    """Options with which the page walks: random weights of ``path_retrace``, as the trainers write them."""
    task = PathRetrace()
    text = SentenceEncoder(WIDTH).fit([s.text for s in task.layout(0).plan])
    model = make_model(text, make_memory(), chunk_frames=task.chunk_frames, context_frames=8)
    model.save_pretrained(folder / "world_model")
    if reads:
        config = InverseDynamicsConfig(task.action_spec, (SIDE, SIDE), (8, 8, 8), keypoints=4, hidden=16)
        InverseDynamics(config).save_pretrained(folder / "inverse_dynamics")
    small = [f"env.image_size={SIDE}", "sampling_steps=2", "memory.rank=2", "memory.alpha=2"]
    weights = [f"weights={folder}", f"inverse_dynamics={folder / 'inverse_dynamics'}"]
    return ["task=path_retrace", *small, "memory.targets=attention", "memory.optimizer=adam", *weights]
