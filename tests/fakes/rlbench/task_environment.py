from __future__ import annotations

import numpy as np
from faults import FAULTS, fault, log, misbehave

from rlbench.backend.exceptions import TaskEnvironmentError, WaypointError


class Demo:
    def __init__(self, observations, random_seed=None, num_reset_attempts=None):
        self._observations = observations
        self.random_seed, self.num_reset_attempts = random_seed, num_reset_attempts

    def __len__(self):
        return len(self._observations)

    def __getitem__(self, i):
        return self._observations[i]

    def restore_state(self):
        np.random.set_state(self.random_seed)


class TaskEnvironment:
    def __init__(self, pyrep, robot, scene, task, action_mode):
        self._scene, self._task, self._action_mode, self._variation = scene, task, action_mode, 0
        scene.load(task)

    def variation_count(self) -> int:
        return self._task.variation_count()

    def set_variation(self, v: int) -> None:
        if v >= self.variation_count():
            raise TaskEnvironmentError(
                f"Requested variation {v}, but there are only {self.variation_count()}."
            )
        self._variation = v

    def sample_variation(self) -> int:
        self._variation = np.random.randint(0, self._task.variation_count())
        return self._variation

    def reset(self, demo=None):
        misbehave("reset")
        log(event="reset", seed=int(np.random.get_state()[1][0]), variation=self._variation)
        if FAULTS.get("dead"):
            raise RuntimeError("The call failed on the V-REP side. Return value: -1")
        self._scene.reset()
        if fault("not_placed"):
            raise TaskEnvironmentError("Could not place the task in the scene.\nThis should not happen.")
        attempts = 40 if demo is None else demo.num_reset_attempts
        try:
            descriptions = self._scene.init_episode(
                self._variation, max_attempts=attempts, place_demo=demo is not None
            )
        except WaypointError as error:
            raise TaskEnvironmentError(
                f"Could not place the task {self._task.get_name()} in the scene."
            ) from error
        return descriptions, self._scene.get_observation()

    def reset_to_demo(self, demo):
        demo.restore_state()
        self.set_variation(demo[0].misc["variation_index"])
        return self.reset(demo)

    def get_observation(self):
        return self._scene.get_observation()

    def step(self, action):
        misbehave("step")
        log(event="step", action=[float(v) for v in action])
        self._action_mode.action(self._scene, action)
        success, terminate = self._task.success()
        return self._scene.get_observation(), float(success), terminate

    def get_demos(
        self,
        amount: int,
        live_demos: bool = False,
        image_paths: bool = False,
        callable_each_step=None,
        max_attempts: int = 10,
        random_selection: bool = True,
        from_episode_number: int = 0,
    ):
        state = np.random.get_state()
        self.reset()
        misbehave("demo")
        if fault("dead_from_demo"):
            FAULTS["dead"] = 1
        if FAULTS.get("dead") or FAULTS.get("no_demo", 0) > 0 or not hasattr(self._task, "way"):
            FAULTS["no_demo"] = FAULTS.get("no_demo", 0) - 1
            raise RuntimeError("Could not collect demos. Maybe a problem with the task?")
        return [Demo(self._task.way(self._scene), state, self._scene.attempts + 1)]
