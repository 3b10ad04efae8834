from pyrep.objects.object import Object
from pyrep.world import WORLD


class Dummy(Object):
    kind = "dummy"

    @staticmethod
    def create(size=0.01) -> "Dummy":
        return Dummy(WORLD.add("dummy", "Dummy"))
