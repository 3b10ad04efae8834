from pyrep.world import TABLE

from rlbench.backend.conditions import Condition
from rlbench.tasks.reach_target import ReachTarget


class Touched(Condition):
    def __init__(self, task):
        self.task = task

    def condition_met(self):
        return self.task.robot.arm.get_tip().get_position()[2] < TABLE[2] + 0.1, False


class BeatTheBuzz(ReachTarget):
    """One of the few that can fail: RLBench then ends the episode without a reward."""

    def init_task(self):
        super().init_task()
        self.register_fail_conditions([Touched(self)])
