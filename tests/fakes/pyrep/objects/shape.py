import numpy as np

from pyrep.const import PrimitiveShape
from pyrep.objects.object import Object
from pyrep.world import WORLD


class Shape(Object):
    kind = "shape"

    @staticmethod
    def create(
        type: PrimitiveShape,
        size,
        mass=1.0,
        backface_culling=False,
        visible_edges=False,
        smooth=False,
        respondable=True,
        static=False,
        renderable=True,
        position=None,
        orientation=None,
        color=None,
    ) -> "Shape":
        for given in (size, color or []):
            if not isinstance(given, list) or not all(isinstance(v, float) for v in given):
                raise TypeError("initializer for ctype 'float *' must be a cdata pointer, not ndarray")
        shape = Shape(WORLD.add("shape", "Cuboid", size=size, static=static))
        shape.item.size = np.array(size)
        shape.item.color = color or [0.5] * 3
        return shape

    def set_color(self, color) -> None:
        self.item.color = list(color)
