import numpy as np
from pyrep.objects.dummy import Dummy
from pyrep.world import TABLE

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
        return base

    def init_task(self):
        self.register_success_conditions([Reached(self)])

    def init_episode(self, index):
        self.goal = TABLE + np.array([*np.random.uniform(-0.1, 0.1, 2), 0.2])
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
