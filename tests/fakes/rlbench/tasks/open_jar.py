from rlbench.backend.task import Task


class OpenJar(Task):
    pass
