"""What this package adds to RLBench: ``cube_return`` built in code, a camera framed on it, careful moves.

All that touches RLBench's and PyRep's own Python is here and runs in the worker's interpreter (RLBench
1.2.0, PyRep 4.1). Importing it fails with an ImportError that says what is missing. Lengths are metres in
RLBench's world frame, quaternions xyzw.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pyrep

if not hasattr(pyrep, "PyRep"):
    raise ImportError(
        f"the pyrep in {Path(pyrep.__file__).parent} is another project of that name (PyPI's); "
        "pip uninstall pyrep, then install PyRep from git"
    )

import rlbench
from pyrep.const import PrimitiveShape, RenderMode
from pyrep.errors import ConfigurationPathError, IKError
from pyrep.objects.dummy import Dummy
from pyrep.objects.object import Object
from pyrep.objects.shape import Shape
from pyrep.objects.vision_sensor import VisionSensor
from rlbench.action_modes.action_mode import MoveArmThenGripper
from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning
from rlbench.action_modes.gripper_action_modes import Discrete
from rlbench.backend.conditions import Condition
from rlbench.backend.exceptions import InvalidActionError, TaskEnvironmentError
from rlbench.backend.task import TASKS_PATH, Task
from rlbench.environment import Environment
from rlbench.observation_config import CameraConfig, ObservationConfig
from rlbench.utils import name_to_task_class

VERSION = rlbench.__version__
REFUSED = (InvalidActionError, ConfigurationPathError, IKError)
NOT_PLACED = (TaskEnvironmentError,)
CAMERAS = {
    "front": "cam_front",
    "overhead": "cam_overhead",
    "left_shoulder": "cam_over_shoulder_left",
    "right_shoulder": "cam_over_shoulder_right",
}
ACTION_SIZE = 8
ALREADY_THERE, TURNED = 1e-4, 1e-3  # m, rad: a path of no length is 0/0 in PyRep
NEAR_ENOUGH, ATTEMPTS = 5e-3, 3  # m; the arm lags behind its path, so a pose is sent again
CUBE_MASS = 0.1  # kg
CLEAR = 0.06  # m between gripper and cube when the gripper has let go and gone


class CarefulMove(MoveArmThenGripper):
    """RLBench's planned arm motion and discrete gripper, without three of their traps.

    A pose that the arm already has moves no joint; one that it only came near to is sent again before
    the gripper acts; and of the two poses that differ by half a turn about the approach axis, which two
    equal fingers make the same, the one that needs the smaller turn is taken.
    """

    def __init__(self):
        super().__init__(EndEffectorPoseViaPlanning(), Discrete())

    def action(self, scene, action: np.ndarray) -> None:
        tip = scene.robot.arm.get_tip()
        pose = nearer_twin(np.array(action[:7], np.float64), np.array(tip.get_pose()))
        for attempt in range(ATTEMPTS):
            now = np.array(tip.get_pose())
            gap, turn = np.linalg.norm(pose[:3] - now[:3]), angle_between(pose[3:], now[3:])
            if (gap < ALREADY_THERE and turn < TURNED) or (attempt and gap < NEAR_ENOUGH):
                break
            try:
                self.arm_action_mode.action(scene, pose)
            except REFUSED:
                if not attempt:
                    raise
                break
            if scene.task.success()[0]:
                break
        self.gripper_action_mode.action(scene, np.array(action[7:]))


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two unit quaternions, rad."""
    return float(2 * np.arccos(np.clip(abs(np.dot(a, b)), 0.0, 1.0)))


def nearer_twin(pose: np.ndarray, now: np.ndarray) -> np.ndarray:
    """``(7,)`` pose, turned by half a turn about its own z axis if that brings it nearer to ``now``."""
    x, y, z, w = pose[3:]
    twin = np.array([y, -x, w, -z])  # the Hamilton product with (0, 0, 1, 0)
    if angle_between(twin, now[3:]) < angle_between(pose[3:], now[3:]):
        return np.concatenate([pose[:3], twin])
    return pose


# --- cube_return -------------------------------------------------------------------------------


class Returned(Condition):
    """Every asked cube was put down away from home, stands at home again, and the gripper has left it.

    RLBench asks at every step of a path; what a cube did earlier is latched here until the next reset.
    """

    def __init__(self, scene: CubeReturnScene):
        self.scene = scene
        self.reset()

    def reset(self) -> None:
        self.displaced: set[str] = set()

    def condition_met(self) -> tuple[bool, bool]:
        scene = self.scene
        held = {held.get_handle() for held in scene.robot.gripper.get_grasped_objects()}
        tip = scene.robot.arm.get_tip().get_position()
        met = bool(scene.asked)
        for name in scene.asked:
            cube = scene.shapes[name]
            place, free = cube.get_position(), cube.get_handle() not in held
            away = np.linalg.norm(place - scene.home[name])
            if free and away > scene.displaced:
                self.displaced.add(name)
            left = np.linalg.norm(tip - place) > CLEAR
            met = met and name in self.displaced and free and bool(left and away < scene.tolerance)
        return met, False


class CubeReturnScene(Task):
    """Cubes on RLBench's table, made in code: no .ttm file is needed.

    Args:
        cubes: ``{name: [r, g, b]}``, colours 0 to 1.
        size: edge of a cube, m.
        tolerance: a cube this near to home is home, m.
        displaced: a cube that was put down farther than this from home was moved away, m.

    Attributes:
        starts: ``{name: (3,)}`` where the next reset places the cubes.
        asked: names of the cubes that are to be moved and returned.
        home: ``{name: (3,)}`` where the cubes stood when this episode began.
    """

    def __init__(
        self, pyrep, robot, cubes: dict, size: float, tolerance: float, displaced: float, name="cube_return"
    ):
        super().__init__(pyrep, robot, name=name)
        self.cubes, self.size, self.tolerance, self.displaced = dict(cubes), float(size), tolerance, displaced
        self.starts: dict[str, np.ndarray] = {}
        self.asked: list[str] = []
        self.home: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Shape] = {}

    def shape_name(self, index: int) -> str:
        return f"{self.name}_cube{index}"

    def load(self) -> Object:
        if not Object.exists(self.name):
            base = Dummy.create()
            base.set_name(self.name)
            base.set_model(True)  # so that unloading takes the cubes along
            for index, rgb in enumerate(self.cubes.values()):
                cube = Shape.create(  # the simulator's own library takes lists, not arrays
                    PrimitiveShape.CUBOID, size=[self.size] * 3, mass=CUBE_MASS, color=[float(c) for c in rgb]
                )
                cube.set_name(self.shape_name(index))
                cube.set_detectable(True)
                cube.set_collidable(True)
                cube.set_parent(base)
                cube.set_position([0.0, 2 * self.size * index, self.size / 2], base)
        return self.get_base()

    def init_task(self) -> None:
        self.shapes = {name: Shape(self.shape_name(i)) for i, name in enumerate(self.cubes)}
        self.register_graspable_objects(list(self.shapes.values()))
        self.register_success_conditions([Returned(self)])

    def init_episode(self, index: int) -> list[str]:
        for name, cube in self.shapes.items():
            if name in self.starts:
                cube.set_position([float(v) for v in self.starts[name]])
                cube.set_quaternion([0.0, 0.0, 0.0, 1.0])
        self.home = {name: cube.get_position() for name, cube in self.shapes.items()}
        return ["move the cubes away, then return them to where they were"]

    def variation_count(self) -> int:
        return 1

    def is_static_workspace(self) -> bool:
        return True

    def get_low_dim_state(self) -> np.ndarray:
        return np.concatenate([cube.get_position() for cube in self.shapes.values()])

    def decorate_observation(self, observation):
        places = np.stack([cube.get_position() for cube in self.shapes.values()])
        observation.misc["cube_positions"] = places
        observation.misc["home_distances"] = np.linalg.norm(
            places - np.stack(list(self.home.values())), axis=1
        )
        return observation


class StackBlocksScene(CubeReturnScene):
    """The same on the cubes of RLBench's own ``stack_blocks.ttm``, which are known to be graspable.

    The fallback, should shapes made in code behave badly in a simulator.
    """

    SPARE = ("target{}", "distractor{}")
    COUNT = 4  # of each kind in the file

    def __init__(self, pyrep, robot, **options):
        super().__init__(pyrep, robot, name="stack_blocks", **options)

    def shape_name(self, index: int) -> str:
        return f"stack_blocks_target{index}"

    def load(self) -> Object:
        return Task.load(self)

    def validate(self) -> None:
        """The file's waypoints are for stacking: whether the arm reaches them is no matter here."""

    def init_task(self) -> None:
        used = {self.shape_name(i) for i in range(len(self.cubes))}
        for pattern in self.SPARE:
            for name in (f"stack_blocks_{pattern.format(i)}" for i in range(self.COUNT)):
                if name not in used:
                    Shape(name).remove()  # allowed here only: RLBench counts the objects after this
        super().init_task()
        for cube, rgb in zip(self.shapes.values(), self.cubes.values()):
            cube.set_color([float(c) for c in rgb])


# --- the simulator -----------------------------------------------------------------------------


def launch(camera: str, size: int, headless: bool) -> Environment:
    """RLBench's Environment with one camera of ``size`` × ``size`` px, launched.

    The other cameras, depth, masks and clouds are on by default and cost most of the time. PyRep opens
    CoppeliaSim in a thread, and would wait for ever for one that has died: that ends the process instead.
    """
    threading.excepthook = _end
    cameras = {}
    for name in (*CAMERAS, "wrist"):
        config = CameraConfig(image_size=(size, size), render_mode=RenderMode.OPENGL)
        config.set_all(False)
        config.rgb = name == camera
        cameras[f"{name}_camera"] = config
    observations = ObservationConfig(joint_forces=False, **cameras)
    environment = Environment(CarefulMove(), obs_config=observations, headless=headless)
    environment.launch()
    if tuple(environment.action_shape) != (ACTION_SIZE,):
        raise RuntimeError(
            f"this RLBench takes actions of {environment.action_shape}; expected (8,): use upstream's"
        )
    return environment


def _end(died) -> None:
    threading.__excepthook__(died)
    os._exit(1)


def workspace() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre of the table, ``(3,)``, and low and high corner of the box in which poses are planned."""
    table = Shape("workspace")
    centre, box = table.get_position(), np.array(table.get_bounding_box()).reshape(3, 2)
    reach = np.abs(box[:2]) + 0.2
    low, high = np.array([*-reach[:, 0], 0.0]), np.array([*reach[:, 1], 1.0])
    return centre, centre + low, centre + high


def sensor(camera: str) -> VisionSensor:
    """The vision sensor behind one of :data:`CAMERAS`."""
    return VisionSensor(CAMERAS[camera])


def task_names() -> list[str]:
    """RLBench's own tasks, by their files."""
    return sorted(path.stem for path in Path(TASKS_PATH).glob("*.py") if path.stem != "__init__")


def task_class(name: str) -> type[Task]:
    """The class of one of RLBench's own tasks."""
    return name_to_task_class(name)
