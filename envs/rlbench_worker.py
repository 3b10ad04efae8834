"""The worker's side of ``env=rlbench``: answers the calls of :mod:`envs.rlbench_env`.

Everything that is sent stands in the task's frame: axes as RLBench's, the origin on the table under the
robot's base.
"""

from __future__ import annotations

import difflib
import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from envs import rlbench_scene as scene
from envs.wire import Arrays, Calls, Reply

STOPPED = 0.1  # rad/s
SUPERSAMPLING = 2


class UnknownTaskError(ValueError):
    """RLBench has no task of that name."""


class Simulator:
    """One launched RLBench with one task."""

    def __init__(self) -> None:
        self.environment: Any = None
        self.task: Any = None  # RLBench's TaskEnvironment
        self.cubes: scene.CubeReturnScene | None = None
        self.solved = False

    # --- calls -------------------------------------------------------------------------------

    def launch(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Start CoppeliaSim and load the task.

        ``data``: ``task`` (``{"cubes": …}`` or ``{"name": …}``), ``camera``, ``image_size``, ``headless``.
        ``arrays``: ``view`` ``(4, 4)`` camera to task frame with columns right, up, back, and ``fovy``
        (degrees), or neither to leave the camera as RLBench has it.
        """
        self.camera, self.size = data["camera"], int(data["image_size"])
        wanted = data["task"]
        if "name" in wanted:
            self._check_name(wanted["name"])
        self.environment = scene.launch(self.camera, SUPERSAMPLING * self.size, bool(data["headless"]))
        self.task = self.environment.get_task(functools.partial(self._make, wanted))
        centre, low, high = scene.workspace()
        base = self.made.robot.arm.get_position()
        self.origin = np.array([base[0], base[1], centre[2]])
        camera = scene.sensor(self.camera)
        if "view" in arrays:
            view = arrays["view"].astype(np.float64)
            view[:3, 3] += self.origin
            camera.set_matrix(view @ np.diag([-1.0, 1.0, -1.0, 1.0]))  # PyRep: left, up, forward
            camera.set_perspective_angle(float(arrays["fovy"]))
        view = np.array(camera.get_matrix()) @ np.diag([-1.0, 1.0, -1.0, 1.0])
        view[:3, 3] -= self.origin
        return {"version": scene.VERSION, "variations": int(self.task.variation_count())}, {
            "view": view,
            "fovy": np.array(camera.get_perspective_angle(), np.float64),
            "bounds": np.stack([low, high]) - self.origin,
        }

    def reset(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Begin an episode, or say in ``refused`` that RLBench finds no room for its things.

        ``data``: ``seed``, ``variation`` or None, ``asked``; ``arrays``: ``starts``.
        """
        if self.cubes is not None:
            starts = arrays["starts"] + self.origin
            self.cubes.starts = dict(zip(self.cubes.cubes, starts))
            self.cubes.asked = list(data["asked"])
        self._seed(data)
        return self._begun(self.task.reset)

    def step(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Carry out ``arrays["action"]`` ``(8,)``; one that can't be leaves everything as it was."""
        action = arrays["action"].astype(np.float64)
        action[:3] += self.origin
        action[3:7] /= np.linalg.norm(action[3:7])
        try:
            observation, reward, terminated = self.task.step(action)
        except scene.REFUSED as error:
            return self._answer(self.task.get_observation(), refused=said(error))
        self.solved = self.solved or reward >= 1.0
        return self._answer(observation, terminated=bool(terminated), reward=float(reward))

    def demonstrate(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """RLBench's own demonstration of the episode that the same ``data`` resets to, as key poses.

        The episode is at its beginning again afterwards, in the demonstration's own layout: RLBench takes a layout
        that its planner finds a way through, and the planner draws anew each time. So the same call may also
        succeed after one that was ``refused``. Reply: ``actions`` ``(K, 8)``.
        """
        self._seed(data)
        try:
            [demo] = self.task.get_demos(1, live_demos=True, max_attempts=1)
        except (RuntimeError, *scene.NOT_PLACED) as error:  # how RLBench says that a demonstration failed
            self.reset(data, arrays)  # raises where it is the simulator that failed
            return {"refused": said(error)}, {}
        actions = np.stack([pose_of(demo[k]) for k in key_frames(demo)])
        actions[:, :3] -= self.origin
        self._seed(data)  # for Python's own generator; numpy's state is in the demonstration
        reply, more = self._begun(lambda: self.task.reset_to_demo(demo))
        return reply, {**more, "actions": actions}

    # --- parts -------------------------------------------------------------------------------

    def _begun(self, begin: Callable[[], Any]) -> Reply:
        """The reply of one of RLBench's two resets."""
        try:
            descriptions, observation = begin()
        except scene.NOT_PLACED as error:
            return {"refused": said(error)}, {}
        self.solved = False
        return self._answer(observation, descriptions=[str(d) for d in descriptions])

    def _make(self, wanted: dict[str, Any], pyrep, robot):
        """RLBench's Task; ``get_task`` calls this as it would call a class."""
        if "name" in wanted:
            self.made = scene.task_class(wanted["name"])(pyrep, robot)
        else:
            kind = scene.StackBlocksScene if wanted["model"] == "stack_blocks" else scene.CubeReturnScene
            options = {key: wanted[key] for key in ("cubes", "size", "tolerance", "displaced")}
            self.made = self.cubes = kind(pyrep, robot, **options)
        return self.made

    def _check_name(self, name: str) -> None:
        names = scene.task_names()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
            raise UnknownTaskError(
                f"RLBench has no task {name!r}; nearest of its {len(names)}: {', '.join(near) or 'none'}"
            )

    def _seed(self, data: dict[str, Any]) -> None:
        """RLBench draws layouts from numpy's global generator, a few of its tasks from Python's."""
        random.seed(int(data["seed"]))
        np.random.seed(int(data["seed"]) % 2**32)
        if data.get("variation") is None:
            self.task.sample_variation()
        else:
            self.task.set_variation(int(data["variation"]))

    def _answer(self, observation, **data: Any) -> Reply:
        frame = getattr(observation, f"{self.camera}_rgb")
        n, s = self.size, SUPERSAMPLING
        summed = frame.reshape(n, s, n, s, 3).astype(np.uint16).sum((1, 3))
        tip = np.array(observation.gripper_pose[:3]) - self.origin
        if self.cubes is not None:
            places = np.array(observation.misc["cube_positions"]) - self.origin
        else:
            places = np.array([[0.0 if self.solved else 1.0, 0.0, 0.0]])
        arrays = {
            "frame": ((summed + s * s // 2) // (s * s)).astype(np.uint8),
            "positions": np.concatenate([places, tip[None]]),
        }
        return {"solved": bool(self.solved), **data}, arrays


def said(error: Exception) -> str:
    """Name and text of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def pose_of(observation) -> np.ndarray:
    """``(8,)`` gripper pose and opening of one observation."""
    return np.concatenate([observation.gripper_pose, [float(observation.gripper_open > 0.5)]])


def key_frames(demo) -> list[int]:
    """Indices at which the gripper has just opened or closed or the arm stands still, and the last one.

    The heuristic of C2F-ARM and PerAct, by which planned poses stand for a whole demonstration.
    """
    seen = [demo[k] for k in range(len(demo))]
    opened = np.array([o.gripper_open > 0.5 for o in seen])
    still = np.array([np.abs(o.joint_velocities).max() < STOPPED for o in seen])
    found: list[int] = []
    for k in range(1, len(opened)):
        changed = opened[k] != opened[k - 1]
        stopped = still[k] and not still[k - 1]
        if changed or stopped or k == len(opened) - 1:
            if found and found[-1] == k - 1:
                found.pop()
            found.append(k)
    return found


def calls() -> Calls:
    simulator = Simulator()
    names = ("launch", "reset", "step", "demonstrate")
    return {name: getattr(simulator, name) for name in names}
