import random

import numpy as np
from pyrep.objects.dummy import Dummy
from pyrep.objects.shape import Shape
from pyrep.world import TABLE, WORLD

from rlbench.backend.conditions import Condition
from rlbench.backend.task import Task

COLOURS = ("red", "blue", "green")


class Reached(Condition):
    def __init__(self, task):
        self.task = task

    def condition_met(self):
        return np.linalg.norm(self.task.robot.arm.get_tip().get_position() - self.task.goal) < 0.02, False


class ReachTarget(Task):
    def load(self):
        base = Dummy.create()
        base.set_name(self.name)
        base.set_model(True)
        target = WORLD.add("shape", "target", size=np.full(3, 0.05), color=[1.0, 0.0, 0.0])
        WORLD.items[target].parent = base.get_handle()
        return base

    def init_task(self):
        self.register_success_conditions([Reached(self)])

    def init_episode(self, index):
        height = random.uniform(0.15, 0.25)  # as setup_chess does: numpy's is not the only generator
        self.goal = TABLE + np.array([*np.random.uniform(-0.1, 0.1, 2), height])
        Shape("target").set_position(self.goal)
        return [f"reach the {COLOURS[index]} target", "touch it"]

    def variation_count(self):
        return len(COLOURS)

    def way(self, scene):
        """What get_demo would return: up, then to the goal, with a stop at each."""
        seen = []
        down = np.array([0.0, 1.0, 0.0, 0.0])
        for place in (self.goal + np.array([0, 0, 0.1]), self.goal):
            for speed in (0.5, 0.5, 0.0, 0.0):
                scene.speed = speed
                tip = scene.robot.arm.get_tip()
                tip.set_position(place if speed == 0 else (place + tip.get_position()) / 2)
                tip.set_quaternion(down)
                seen.append(scene.get_observation())
        scene.speed = 0.0
        return seen
