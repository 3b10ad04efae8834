"""The arm, the gripper and what RLBench's Scene does with a task."""

from __future__ import annotations

import numpy as np
from faults import FAULTS, fault, log
from pyrep.objects.object import Object
from pyrep.objects.vision_sensor import VisionSensor
from pyrep.world import BASE, DOWN, TABLE, WORLD

from rlbench.backend.exceptions import WaypointError

HOME = np.array([0.2785, -0.0082, 1.4720])


class Tip(Object):
    pass


class Arm:
    def __init__(self):
        self._tip = Tip(WORLD.add("dummy", "Panda_tip"))

    def home(self) -> None:
        self._tip.set_position(HOME)
        self._tip.set_quaternion(DOWN)

    def get_tip(self) -> Object:
        return self._tip

    def get_position(self) -> np.ndarray:
        return BASE.copy()


class Gripper:
    def __init__(self, arm: Arm):
        self.arm, self.open, self.held = arm, 1.0, []

    def get_grasped_objects(self):
        return list(self.held)

    def get_open_amount(self):
        return [self.open, self.open]

    def grasp(self, obj) -> bool:
        gap = np.abs(obj.get_position() - self.arm.get_tip().get_position())
        if (gap < 0.03).all():
            self.held.append(obj)
        return obj in self.held

    def release(self) -> None:
        self.held = []


class Robot:
    def __init__(self):
        self.arm = Arm()
        self.gripper = Gripper(self.arm)


class Observation:
    def __init__(self, **values):
        self.__dict__.update(values)


class Scene:
    def __init__(self, pyrep, robot, obs_config):
        self.pyrep, self.robot, self.task = pyrep, robot, None
        self.cameras = {}
        for name, sensor in obs_config.sensors():
            camera = VisionSensor(sensor)
            if not obs_config.camera(name).rgb:
                camera.remove()
                log(event="camera removed", name=name)
            else:
                camera.set_resolution(obs_config.camera(name).image_size)
                self.cameras[name] = camera
        self.speed = 0.0

    def load(self, task) -> None:
        task.load()
        task.get_base().set_position(TABLE)
        self.task, self.initialised = task, False

    def unload(self) -> None:
        if self.task is not None:
            self.task.unload()
        self.task = None

    def reset(self) -> None:
        self.robot.gripper.release()
        self.robot.gripper.open = 1.0
        self.robot.arm.home()
        if self.initialised:
            self.task.cleanup_()
            self.task.restore_state(self.state)

    def init_episode(
        self, index: int, randomly_place: bool = True, max_attempts: int = 5, place_demo: bool = False
    ):
        if not self.initialised:
            self.task.init_task()
            self.state, self.initialised = self.task.get_state(), True
        self.index, self.attempts = index, 0
        while self.attempts < max_attempts:
            descriptions = self.task.init_episode(index)
            if place_demo:  # the demonstration's own number of tries, without the planner
                self.attempts += 1
                continue
            try:
                if fault("no_way"):  # the planner draws anew each time: what it refuses differs
                    raise WaypointError("Infeasible episode. Can't reach waypoint 0.", self.task)
                self.task.validate()
                break
            except WaypointError:
                self.task.cleanup_()
                self.task.restore_state(self.state)
                self.attempts += 1
                if self.attempts >= max_attempts:
                    raise
        for _ in range(10):
            WORLD.tick([])
        return descriptions

    def step(self) -> None:
        WORLD.tick([thing.get_handle() for thing in self.robot.gripper.get_grasped_objects()])
        self.task.step()

    def move(self, place: np.ndarray, turn: np.ndarray) -> None:
        """Carry the tip, and what it holds, along a straight line in ticks of 4 cm."""
        tip = self.robot.arm.get_tip()
        start = tip.get_position()
        way = place - start
        count = int(np.ceil(np.linalg.norm(way) / 0.04))
        log(event="path", to=[round(float(v), 5) for v in [*place, *turn]])
        if count == 0:
            raise ZeroDivisionError("path of length 0")  # the real one divides 0 by 0
        lag = FAULTS.pop("lag", None)  # once: the arm stops short of its goal
        for k in range(1, count + 1):
            share = k / count - (lag / np.linalg.norm(way) if lag and k == count else 0)
            step = start + way * share - tip.get_position()
            for thing in [tip, *self.robot.gripper.get_grasped_objects()]:
                thing.set_position(thing.get_position() + step)
            tip.set_quaternion(turn)
            self.step()
            if self.task.success()[0]:
                break

    def get_observation(self) -> Observation:
        frames = {
            f"{n}_rgb": np.clip(c.capture_rgb() * 255, 0, 255).astype(np.uint8)
            for n, c in self.cameras.items()
        }
        return self.task.decorate_observation(
            Observation(
                gripper_pose=self.robot.arm.get_tip().get_pose(),
                gripper_open=float(self.robot.gripper.open > 0.9),
                joint_velocities=np.full(7, self.speed),
                misc={"variation_index": self.index},
                **frames,
            )
        )
