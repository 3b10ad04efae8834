from rlbench.backend.task import Task


class CloseJar(Task):
    pass
