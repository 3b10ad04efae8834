from enum import Enum


class PrimitiveShape(Enum):
    CUBOID = 0
    SPHERE = 1
    CYLINDER = 2
    CONE = 3


class RenderMode(Enum):
    OPENGL = 0
    OPENGL3 = 6
