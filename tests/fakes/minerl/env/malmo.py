from faults import log


class InstanceManager:
    @classmethod
    def _get_valid_port(cls):
        return 9000


class MinecraftInstance:
    def __init__(self, port=None, existing=False, status_dir=None, seed=None, instance_id=None, max_mem=None):
        self._max_mem = max_mem

    def launch(self, daemonize=False, replaceable=True):
        log(event="launch", memory=self._max_mem)
