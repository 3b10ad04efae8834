from rlbench.backend.task import Task


class StackBlocks(Task):
    pass
