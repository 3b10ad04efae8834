import numpy as np

from pyrep.objects.object import Object
from pyrep.world import WORLD


class VisionSensor(Object):
    kind = "sensor"

    def handle_explicitly(self) -> None: ...

    def capture_rgb(self) -> np.ndarray:
        return WORLD.draw(self.item)

    def set_resolution(self, resolution) -> None:
        self.item.resolution = list(resolution)

    def get_perspective_angle(self) -> float:
        return self.item.angle

    def set_perspective_angle(self, angle: float) -> None:
        self.item.angle = float(angle)
