"""RLBench behind the project's contract: ``cube_return`` in CoppeliaSim, and any of RLBench's own tasks.

The simulator runs in a worker process under its own interpreter (:mod:`envs.rlbench_worker`). Positions
and actions stand in RLBench's axes with the origin on the table under the robot's base, the frame of
``env=tabletop``. An action goes through RLBench's planner, then the gripper opens or closes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from envs.base import EpisodeLostError
from envs.remote import LOST, RefusedError, RemoteEnv
from envs.tabletop import CAMERA_ELEVATION, METRES_PER_PIXEL_64, RGBA
from envs.wire import Arrays
from envs.worker import CallError, MissingSimulatorError, Worker, WorkerError, display_prefix
from tasks import Layout, Task
from tasks.camera import Camera
from tasks.cube_return import CUBE_HALF, DISPLACED, ZONE_HIGH, ZONE_LOW, CubeReturn
from tasks.rlbench_task import RLBenchTask

ADVICE = (
    "`python -m envs.doctor` prints the lines that install it, env.python=PATH names the interpreter that has "
    "it, and env=tabletop runs without it"
)
CAMERAS = ("front", "overhead", "left_shoulder", "right_shoulder")
CAMERA_DISTANCE = 1.3  # m: inside RLBench's room
BLOCKED = 0.01  # m: a tip that stops farther off was held up
DEMONSTRATIONS = 10  # tries: RLBench's planner draws anew each time
SOLVED = "the task is solved and the episode over; reset it first"
FAILED = "RLBench calls the task failed and the episode over; reset it first"


def coppelia_variables(root: str | None) -> dict[str, str]:
    """What PyRep needs in the environment before its Python starts; empty without a folder to point at."""
    root = root or os.environ.get("COPPELIASIM_ROOT")
    if not root:
        return {}
    root = os.path.abspath(os.path.expanduser(root))
    libraries = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p and p != root]
    return {
        "COPPELIASIM_ROOT": root,
        "LD_LIBRARY_PATH": ":".join([*libraries, root]),
        "QT_QPA_PLATFORM_PLUGIN_PATH": root,
    }


def framed_view(distance: float = CAMERA_DISTANCE) -> tuple[np.ndarray, float]:
    """A camera opposite the robot that shows the cubes' zone at 6.9 mm a pixel (64 px).

    Returns:
        ``(4, 4)`` camera to task frame, with columns right, up, back; field of view, degrees.
    """
    centre = np.array([*(ZONE_LOW + ZONE_HIGH) / 2, 0.03])
    back = np.array([np.cos(CAMERA_ELEVATION), 0.0, np.sin(CAMERA_ELEVATION)])
    right = np.array([0.0, 1.0, 0.0])
    view = np.eye(4)
    view[:3, :3] = np.column_stack([right, np.cross(back, right), back])
    view[:3, 3] = centre + distance * back
    return view, float(2 * np.rad2deg(np.arctan(METRES_PER_PIXEL_64 * 32 / distance)))


class RLBenchEnv(RemoteEnv):
    """One RLBench simulator. An episode ends when RLBench calls the task solved or failed; no step follows.

    Args:
        task: ``cube_return``, or one of RLBench's own.
        python: interpreter that has RLBench; None takes this one.
        coppeliasim_root: CoppeliaSim's folder; None takes ``COPPELIASIM_ROOT``.
        image_size: side of the square frames, px; rendered at twice the side and averaged.
        camera: ``front``, ``overhead``, ``left_shoulder`` or ``right_shoulder``; the others are off. For
            ``cube_return`` it is moved to face the cubes' zone.
        model: ``code`` builds the cubes in code; ``stack_blocks`` takes those of RLBench's task.
        headless: no window.
        display: ``auto`` takes a virtual display where there is none; ``inherit`` changes nothing.
        launch_timeout: seconds for the simulator to start, for a reset, and for a whole demonstration.
        step_timeout: seconds for one action, planning included.
    """

    camera: Camera

    def __init__(
        self,
        task: Task | None = None,
        python: str | None = None,
        coppeliasim_root: str | None = None,
        image_size: int = 64,
        camera: str = "front",
        model: str = "code",
        headless: bool = True,
        display: str = "auto",
        launch_timeout: float = 180.0,
        step_timeout: float = 120.0,
        render_mode: str | None = "rgb_array",
    ):
        self.task = task or CubeReturn()
        if not isinstance(self.task, (CubeReturn, RLBenchTask)):
            raise ValueError(
                f"env=rlbench hosts cube_return and RLBench's own tasks, not task={self.task.name}"
            )
        if model not in ("code", "stack_blocks"):
            raise ValueError(f"env.model={model}: expected code or stack_blocks")
        if camera not in CAMERAS:
            raise ValueError(f"env.camera={camera}: expected {', '.join(CAMERAS[:-1])} or {CAMERAS[-1]}")
        self.names = (*self.task.vocabulary.objects, "gripper")
        self._wanted = {
            "task": self._described(self.task, model),
            "camera": camera,
            "image_size": image_size,
            "headless": headless,
        }
        worker = Worker(
            "rlbench",
            Path(__file__).with_name("rlbench_worker.py"),
            python,
            environ=coppelia_variables(coppeliasim_root),
            prefix=display_prefix(display, "rlbench"),
            advice=ADVICE,
        )
        super().__init__(worker, image_size, launch_timeout, step_timeout, render_mode)
        self._launch()

    # --- gymnasium ---------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        layout = self.chosen_layout(seed, options)
        data = {"seed": layout.seed, "asked": self._asked(layout)}
        data["variation"] = getattr(self.task, "variation", None)
        reply, _ = self._begin("reset", data, {"starts": layout.starts})
        if isinstance(self.task, RLBenchTask):
            layout = self.task.told(layout, reply["descriptions"][0])
        self._begun = data, {"starts": layout.starts}
        return self._frame, {**self._info(), "layout": layout}

    def step(self, action):
        target = self.action_spec.validate(action)
        if self._over:
            error = f"EpisodeOverError: {self._over}"
            return self._frame, 0.0, self._over in (SOLVED, FAILED), self._over == LOST, self._info(error)
        outside = self._outside(target[:3])
        if outside:
            return self._frame, 0.0, False, False, self._info(outside)
        reply = self._send("step", {}, {"action": target})
        if isinstance(reply, str):
            return self._frame, 0.0, False, True, self._info(reply)
        terminated = bool(reply.get("terminated", False))
        if terminated:  # also where a task counts as failed, such as a ring that touched its pole
            self._over = SOLVED if reply["solved"] else FAILED
        told = reply.get("refused") or (None if terminated else self._blocked(target[:3]))
        return self._frame, float(reply.get("reward", 0.0)), terminated, False, self._info(told)

    # --- more than gymnasium -----------------------------------------------------------------

    def demonstration(self) -> np.ndarray | None:
        """RLBench's own way through the episode just reset, or None for ``cube_return``.

        Returns:
            ``(chunks × chunk_frames, 8)`` float32 actions: the demonstration's key poses, the last one
            repeated. The episode is at its beginning again, laid out as the demonstration was: frame and
            positions are new, for RLBench may have placed its things otherwise than in the reset before.

        Raises:
            EpisodeLostError: RLBench finds no demonstration in ``DEMONSTRATIONS`` tries, or one longer than the
                task's chunks.
        """
        if not isinstance(self.task, RLBenchTask):
            return None
        actions, room = self._demonstrated(), self.task.chunks * self.task.chunk_frames
        if len(actions) > room:
            raise EpisodeLostError(
                f"the demonstration has {len(actions)} key poses; task.chunks give room for {room}"
            )
        padded = np.concatenate([actions, np.repeat(actions[-1:], room - len(actions), axis=0)])
        return self.action_spec.clip(padded)

    # --- the worker --------------------------------------------------------------------------

    def _demonstrated(self) -> np.ndarray:
        """``(K, 8)`` key poses; a try that fails is made again from the same layout, as it often succeeds then."""
        try:
            for _ in range(DEMONSTRATIONS - 1):
                with suppress(RefusedError):
                    return self._begin("demonstrate", *self._begun, again=False)[1]["actions"]
            return self._begin("demonstrate", *self._begun, again=False)[1]["actions"]
        except MissingSimulatorError:
            raise
        except WorkerError as error:  # the next reset starts it again
            limit = f"a demonstration may take env.launch_timeout={self.launch_timeout:g} s"
            raise EpisodeLostError(f"{error}; {limit}") from None

    def _described(self, task: Task, model: str) -> dict[str, Any]:
        """The task as the worker builds it."""
        if isinstance(task, RLBenchTask):
            return {"name": task.name}
        cubes = {n: [float(v) for v in RGBA[n.split()[0]].split()[:3]] for n in task.vocabulary.objects}
        sizes = {"size": 2 * CUBE_HALF, "tolerance": task.tolerance, "displaced": DISPLACED}
        return {"cubes": cubes, "model": model, **sizes}

    def _asked(self, layout: Layout) -> list[str]:
        return list(dict.fromkeys(s.object for s in layout.plan if s.kind == "return"))

    def _launch(self) -> None:
        """Start the simulator and learn where its camera and its bounds are."""
        view: Arrays = {}
        if isinstance(self.task, CubeReturn):
            view["view"], fovy = framed_view()
            view["fovy"] = np.array(fovy)
        try:
            reply, arrays = self.worker.call("launch", self._wanted, view, self.launch_timeout)
        except CallError as error:
            self.worker.close()
            if error.kind == "UnknownTaskError":
                raise ValueError(f"task.name={self.task.name}: {error.message}") from None
            raise WorkerError(f"env=rlbench can't start: {error}; {ADVICE}") from None
        variation = getattr(self.task, "variation", None)
        if variation is not None and not 0 <= variation < reply["variations"]:
            self.worker.close()
            raise ValueError(
                f"task.variation={variation}: {self.task.name} has {reply['variations']}; expected 0 to "
                f"{reply['variations'] - 1}, or null to draw one"
            )
        size = self._frame.shape[0]
        placed = arrays["view"]
        self.camera = Camera(placed[:3, 3], placed[:3, :3], float(arrays["fovy"]), size, size)
        self.bounds = arrays["bounds"]
        self.name = f"rlbench (RLBench {reply['version']})"

    def _outside(self, position: np.ndarray) -> str | None:
        """Why a position can't be sent: outside the task's box, or the simulator's."""
        spec = self.action_spec
        low = np.maximum(np.array(spec.low[:3], np.float32), self.bounds[0])
        high = np.minimum(np.array(spec.high[:3], np.float32), self.bounds[1])
        if (position >= low - 1e-6).all() and (position <= high + 1e-6).all():
            return None
        box = f"{low.round(3).tolist()}..{high.round(3).tolist()}"
        return f"OutOfWorkspaceError: {position.round(3).tolist()} m is outside {box}"

    def _blocked(self, position: np.ndarray) -> str | None:
        """Why the tip is not where it was sent, if it is not."""
        off = float(np.linalg.norm(self._positions[-1] - position))
        if off <= BLOCKED:
            return None
        return f"BlockedError: the tip stopped {1000 * off:.0f} mm from {position.round(3).tolist()} m"
