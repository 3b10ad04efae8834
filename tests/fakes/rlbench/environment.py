from __future__ import annotations

from faults import FAULTS
from pyrep import PyRep

from rlbench.backend.scene import Robot, Scene
from rlbench.observation_config import ObservationConfig
from rlbench.task_environment import TaskEnvironment


class Environment:
    def __init__(
        self,
        action_mode,
        dataset_root: str = "",
        obs_config: ObservationConfig | None = None,
        headless: bool = False,
        static_positions: bool = False,
        robot_setup: str = "panda",
        randomize_every=None,
        frequency: int = 1,
        visual_randomization_config=None,
        dynamics_randomization_config=None,
        attach_grasped_objects: bool = True,
        shaped_rewards: bool = False,
        arm_max_velocity: float = 1.0,
        arm_max_acceleration: float = 4.0,
    ):
        self._action_mode, self._config, self._headless = action_mode, obs_config, headless
        self._scene = self._pyrep = None

    def launch(self):
        if self._pyrep is not None:
            raise RuntimeError("Already called launch!")
        self._pyrep = PyRep()
        self._pyrep.launch("task_design.ttt", headless=self._headless)
        self._robot = Robot()
        self._scene = Scene(self._pyrep, self._robot, self._config)

    def shutdown(self):
        self._pyrep = None

    def get_task(self, task_class) -> TaskEnvironment:
        self._scene.unload()
        task = task_class(self._pyrep, self._robot)
        return TaskEnvironment(self._pyrep, self._robot, self._scene, task, self._action_mode)

    @property
    def action_shape(self):
        return (9 if FAULTS.get("peract") else self._action_mode.action_shape(self._scene),)
