from rlbench.backend.task import Task


class CloseDoor(Task):
    pass
