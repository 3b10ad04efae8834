"""Minecraft through MineRL 1.0 behind the project's contract: ``path_retrace`` in a real world.

The simulator runs in a worker process under its own interpreter (:mod:`envs.minerl_worker`). Minecraft
spawns where it likes, so an episode's frame is laid over the world when it begins: the agent's first pose is
the layout's start, whatever its place in Minecraft. x is east, y north, yaw degrees clockwise from north and
unwrapped. Where the path leads is the world's affair: a hill or a tree that stops a step is flagged.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from envs.remote import LOST, RemoteEnv
from envs.wire import Arrays
from envs.worker import CallError, Worker, WorkerError, display_prefix
from tasks import Task
from tasks.actions import KEYS
from tasks.path_retrace import AGENT, PathRetrace

ADVICE = (
    "`python -m envs.doctor` prints the lines that install it, env.python=PATH names the interpreter that has "
    "it, and env=doom runs without it"
)
DIED = "the agent died and the episode is over; reset it first"
OUT_OF_TIME = "the time limit is reached and the episode over; reset it first"
BLOCKED = 0.25  # of a stride: a step that gets less far was stopped; the first of a walk is slow
SNEAK = 0.3  # of walking speed
TICK = 4.317 / 20  # blocks that Minecraft walks in one game tick
STRIDE_OFF = 0.05  # of the task's stride: what a step may walk more or less
ENTRY = re.compile(r"\./saves/[^/]+/")  # how a saved world's zip begins; Java reads the world's name off it
SETTLE = 20  # ticks after a reset, in which the agent lands


def java_variables(python: str | None) -> dict[str, str]:
    """What makes the interpreter's own JDK the one that is used, as activating a conda environment does."""
    path = shutil.which(os.path.expanduser(python or sys.executable))
    if path is None:
        return {}
    folder = os.path.dirname(os.path.abspath(path))
    found = {"PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}
    javac = Path(folder) / "javac"
    return {**found, "JAVA_HOME": str(javac.resolve().parents[1])} if javac.exists() else found


def check_world(world: str) -> None:
    """ValueError unless ``world`` is a zip of a saved world that Minecraft will find."""
    if not Path(world).is_file():
        raise ValueError(f"env.world={world}: no such file; expected the zip of a saved world")
    if not zipfile.is_zipfile(world):
        raise ValueError(
            f"env.world={world} is no zip; expected one of a saved world, entries ./saves/NAME/…"
        )
    with zipfile.ZipFile(world) as packed:
        first = next(iter(packed.namelist()), "")
    if not ENTRY.match(first):
        raise ValueError(
            f"env.world={world} begins with the entry {first!r}; expected ./saves/NAME/… (Python's ZipFile.write and "
            "`zip` leave out the ./; ZipFile.writestr keeps it)"
        )


class MineRLEnv(RemoteEnv):
    """One Minecraft, with ``path_retrace``'s paths in it; positions are poses x, y (blocks) and yaw.

    An episode ends when the agent dies (terminated) or after ``time_limit`` steps (truncated). The reward is
    1 in the step in which the path counts as retraced.

    Args:
        task: ``path_retrace``.
        python: interpreter that has MineRL; None takes this one.
        image_size: side of the square frames, px.
        render_size: side of the picture that Minecraft draws, px; a multiple of ``image_size``.
        ticks: game ticks (50 ms) of one step; four walk 0.86 blocks.
        biome: where to spawn.
        world: zip of a saved world instead of a new one for each seed, entries ``./saves/NAME/…``.
        max_memory: Java's heap, such as ``8G``; None leaves MineRL's 4 GB.
        time_limit: steps until an episode is truncated.
        display: ``auto`` takes a virtual display where there is none; ``inherit`` changes nothing.
        launch_timeout: seconds for Minecraft to start or to make a world.
        step_timeout: seconds for one step.
    """

    backend, about, starts_at_reset = "minerl", "MineRL 1.0", True
    task: PathRetrace
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's own type)

    def __init__(
        self,
        task: Task | None = None,
        python: str | None = None,
        image_size: int = 64,
        render_size: int = 256,
        ticks: int = 4,
        biome: str = "plains",
        world: str | None = None,
        max_memory: str | None = None,
        time_limit: int = 2000,
        display: str = "auto",
        launch_timeout: float = 600.0,
        step_timeout: float = 60.0,
        render_mode: str | None = "rgb_array",
    ):
        if world is not None:
            check_world(world)
        wanted = {
            "biome": biome,
            "world": os.path.abspath(world) if world else None,
            "max_memory": max_memory,
        }
        timeouts = launch_timeout, step_timeout
        self._open(
            task, python, (image_size, render_size), ticks, time_limit, display, timeouts, render_mode, wanted
        )

    def _open(
        self,
        task: Task | None,
        python: str | None,
        sizes: tuple[int, int],
        ticks: int,
        time_limit: int,
        display: str,
        timeouts: tuple[float, float],
        render_mode: str | None,
        wanted: dict[str, Any],
    ) -> None:
        """Check what every Minecraft takes, then launch it; ``sizes`` are sent and drawn, px."""
        if not isinstance(task, PathRetrace | None):
            raise ValueError(f"env={self.backend} has paths to walk; it can't host task={task.name}")
        self.task = task or PathRetrace()
        image_size, render_size = sizes
        if image_size < 1 or render_size % image_size:
            raise ValueError(
                f"env.render_size={render_size}: expected a multiple of env.image_size={image_size}"
            )
        if ticks < 1 or time_limit < 1:
            raise ValueError(f"env.ticks={ticks}, env.time_limit={time_limit}: expected at least 1 each")
        if abs(ticks * TICK - self.task.stride) > STRIDE_OFF * self.task.stride:
            near = round(self.task.stride / TICK)
            raise ValueError(
                f"env.ticks={ticks} walks {ticks * TICK:.2f} blocks a step, task.stride={self.task.stride:g}: "
                f"expected env.ticks={near} and a stride near {near * TICK:.2f}"
            )
        place = Path(wanted["world"]).name if wanted.get("world") else wanted["biome"]
        self.name, self.names = f"{self.backend} ({self.about}, {place})", (AGENT,)
        self.ticks, self.time_limit = ticks, time_limit
        self._wanted = {"image_size": image_size, "render_size": render_size, **wanted}
        self._logs = tempfile.TemporaryDirectory(prefix=f"{self.backend}-", ignore_cleanup_errors=True)
        worker = Worker(
            self.backend,
            Path(__file__).with_name(f"{self.backend}_worker.py"),
            python,
            environ={**java_variables(python), "MALMO_MINECRAFT_OUTPUT_LOGDIR": self._logs.name},
            prefix=display_prefix(display, self.backend),
            advice=ADVICE,
        )
        RemoteEnv.__init__(self, worker, image_size, *timeouts, render_mode)
        self._launch()

    # --- gymnasium ---------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        layout = self.chosen_layout(seed, options)
        self._start, self._origin = np.array(layout.start(AGENT), np.float64), np.empty(0)
        self._plan, self._steps, self._solved = layout.plan, 0, False
        self._begin("reset", {"seed": layout.seed % 2**31, "settle": SETTLE}, {})
        self._track = [self._positions.copy()]
        return self._frame, {**self._info(), "success": False, "layout": layout}

    def step(self, action):
        values = self.action_spec.validate(action)
        if self._over:
            return self._ended(f"EpisodeOverError: {self._over}")
        camera, limit = values[self.action_spec.indices("degrees")], max(self.action_spec.high)
        if (np.abs(camera) > limit + 1e-6).any():
            error = (
                f"CameraError: a turn of {camera.round(1).tolist()} degrees in one frame, at most {limit:g}"
            )
            return self._frame, 0.0, False, False, self._told(error)
        before = self._positions[0, :2].copy()
        pressed = [key for key, value in zip(KEYS, values, strict=False) if value > 0.5]
        reply = self._send("step", {"pressed": pressed, "ticks": self.ticks}, {"camera": camera})
        if isinstance(reply, str):
            return self._ended(reply)
        self._steps += 1
        self._track.append(self._positions.copy())
        reward = self._newly_solved()
        if reply["ended"]:
            self._over = DIED
        elif self._steps >= self.time_limit:
            self._over = OUT_OF_TIME
        told = self._blocked(set(pressed), float(np.linalg.norm(self._positions[0, :2] - before)))
        return self._frame, reward, self._over == DIED, self._over == OUT_OF_TIME, self._told(told)

    def close(self) -> None:
        super().close()
        self._logs.cleanup()

    # --- measuring ---------------------------------------------------------------------------

    def _ended(self, error: str):
        """A step that is not taken, for the episode is over."""
        return self._frame, 0.0, self._over == DIED, self._over in (LOST, OUT_OF_TIME), self._told(error)

    def _told(self, error: str | None) -> dict[str, Any]:
        return {**self._info(error), "success": self._solved}

    def _newly_solved(self) -> float:
        """1 in the step in which the path walked so far counts as retraced, else 0."""
        out = self.task.chunk_frames * self.task.explored(self._plan)
        if self._solved or len(self._track) <= out + 1:
            return 0.0
        track = np.stack(self._track)
        free = np.ones(track.shape[:2], bool)
        self._solved = self.task.score(track, free, self.names, self._plan).success
        return float(self._solved)

    def _blocked(self, pressed: set[str], walked: float) -> str | None:
        """Why a step that was to walk did not, if so."""
        still = ("forward" in pressed) == ("back" in pressed) and ("left" in pressed) == ("right" in pressed)
        stride = self.task.stride * (SNEAK if "sneak" in pressed else 1.0)
        if still or walked >= BLOCKED * stride:
            return None
        return f"BlockedError: something ended the step after {walked:.2f} blocks"

    # --- the worker --------------------------------------------------------------------------

    def _launch(self) -> None:
        try:
            self.worker.call("launch", self._wanted, {}, self.launch_timeout)
        except CallError as error:
            self.worker.close()
            raise WorkerError(f"env={self.backend} can't start: {error}; {ADVICE}") from None

    def _see(self, arrays: Arrays) -> None:
        """Minecraft's pose, turned and moved so that the episode began at the layout's start."""
        x, _, z, yaw, _ = arrays["place"]
        pose = np.array([x, -z, yaw - 180.0])  # Minecraft's −z is north, and its yaw 180 looks there
        if not self._origin.size:  # the first sight of the episode
            self._origin, self._turned = pose, pose[2]
        self._turned += (pose[2] - self._turned + 180.0) % 360.0 - 180.0
        turn = self._start[2] - self._origin[2]
        east, north = pose[:2] - self._origin[:2]
        c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        place = self._start[:2] + np.array([east * c + north * s, north * c - east * s])
        self._positions = np.array([[*place, self._turned + turn]])
        self._frame = arrays["frame"]
