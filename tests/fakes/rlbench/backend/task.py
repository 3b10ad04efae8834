from __future__ import annotations

import copy
import os
import re

import numpy as np
from pyrep.objects.dummy import Dummy
from pyrep.objects.object import Object
from pyrep.world import BASE, REACH, TABLE, WORLD

from rlbench.backend.exceptions import WaypointError

TASKS_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tasks")


class Task:
    def __init__(self, pyrep, robot, name=None):
        self.pyrep, self.robot = pyrep, robot
        self.name = name if name else re.sub("(?<!^)(?=[A-Z])", "_", self.__class__.__name__).lower()
        self._conditions, self._fails, self._graspable = [], [], []

    def init_task(self) -> None:
        raise NotImplementedError()

    def init_episode(self, index: int):
        raise NotImplementedError()

    def variation_count(self) -> int:
        raise NotImplementedError()

    def get_low_dim_state(self) -> np.ndarray:
        return np.zeros(0)

    def step(self) -> None: ...

    def reward(self):
        return None

    def cleanup(self) -> None: ...

    def decorate_observation(self, observation):
        return observation

    def is_static_workspace(self) -> bool:
        return False

    def register_success_conditions(self, condition) -> None:
        self._conditions = condition

    def register_fail_conditions(self, condition) -> None:
        self._fails = condition

    def register_graspable_objects(self, objects) -> None:
        self._graspable = objects

    def get_graspable_objects(self):
        return self._graspable

    def success(self):
        failed = np.all([c.condition_met()[0] for c in self._fails])
        if self._fails and failed:
            return False, True
        met = np.all([c.condition_met()[0] for c in self._conditions])
        return met, met

    def get_name(self) -> str:
        return self.name

    def validate(self) -> None:
        """The arm must reach each waypoint of the file, wherever in the scene it is."""
        ways = [item for item in WORLD.items.values() if re.fullmatch(r"waypoint\d+", item.name)]
        for way in ways:
            if np.linalg.norm(way.place - BASE - [0, 0, 0.333]) > REACH:
                raise WaypointError(f"Infeasible episode. Can't reach {way.name}.", self)

    def load(self) -> Object:
        """What a .ttm would hold: only stack_blocks' is pretended here."""
        if self.name != "stack_blocks":
            raise FileNotFoundError(f"The following is not a valid task .ttm file: {self.name}.ttm")
        base = Dummy.create()
        base.set_name(self.name)
        base.set_model(True)
        for kind in ("target", "distractor"):
            for i in range(4):
                place = TABLE + np.array([0.1 * (kind == "target"), -0.3 + 0.2 * i, 0.025])
                name = f"stack_blocks_{kind}{i}"
                handle = WORLD.add("shape", name, place=place, size=np.full(3, 0.05), static=False)
                WORLD.items[handle].parent = base.get_handle()
        way = WORLD.add("dummy", "waypoint0", place=TABLE + np.array([0.9, 0.0, 0.2]))
        WORLD.items[way].parent = base.get_handle()
        return base

    def get_base(self) -> Dummy:
        return Dummy(self.name)

    def unload(self) -> None:
        self.get_base().remove()

    def cleanup_(self) -> None:
        for condition in self._conditions + self._fails:
            condition.reset()
        self.cleanup()

    def get_state(self):
        return {h: copy.deepcopy(WORLD.items[h]) for h in WORLD.tree(self.get_base().get_handle())}

    def restore_state(self, state) -> None:
        now = WORLD.tree(self.get_base().get_handle())
        if len(now) != len(state):
            raise RuntimeError(f"Expected to be resetting {len(state)} objects, but there were {len(now)}.")
        for handle, item in state.items():
            WORLD.items[handle] = copy.deepcopy(item)
