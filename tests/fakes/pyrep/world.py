"""The pretended simulator: one scene per process."""

from __future__ import annotations

import numpy as np

TABLE = np.array([0.25, 0.0, 0.752])
BASE = np.array([-0.309, 0.0, 0.82])
DOWN = np.array([0.0, 0.9927, 0.0, 0.1209])
REACH = 0.95


class Item:
    def __init__(self, kind: str, name: str, parent: int = -1):
        self.kind, self.name, self.parent = kind, name, parent
        self.place, self.turn, self.size = np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(3)
        self.color, self.model, self.static = [0.5] * 3, False, True
        self.resolution, self.angle, self.matrix = [128, 128], 40.0, np.eye(4)


class World:
    def __init__(self):
        self.items: dict[int, Item] = {}
        self.count = 0
        self.ticks = 0
        self.running = False

    def add(self, kind: str, name: str, **values) -> int:
        stem, n = name, 0
        while self.handle(name) is not None:
            name, n = f"{stem}{n}", n + 1
        self.count += 1
        self.items[self.count] = Item(kind, name)
        for key, value in values.items():
            setattr(self.items[self.count], key, value)
        return self.count

    def handle(self, name: str) -> int | None:
        return next((h for h, item in self.items.items() if item.name == name), None)

    def tree(self, handle: int) -> list[int]:
        below = [h for h, item in self.items.items() if item.parent == handle]
        return [handle, *(x for h in below for x in self.tree(h))]

    def tick(self, held: list[int]) -> None:
        """Boxes fall onto the table or onto each other."""
        self.ticks += 1
        loose = [i for h, i in self.items.items() if i.kind == "shape" and not i.static and h not in held]
        for item in sorted(loose, key=lambda i: i.place[2]):
            floor = TABLE[2]
            for other in loose:
                over = np.all(np.abs(other.place[:2] - item.place[:2]) < (other.size + item.size)[:2] / 2)
                if other is not item and over and other.place[2] < item.place[2] - 1e-6:
                    floor = max(floor, other.place[2] + other.size[2] / 2)
            item.place[2] = max(floor + item.size[2] / 2, item.place[2] - 0.1)

    def draw(self, item: Item) -> np.ndarray:
        """``(H, W, 3)`` in 0…1: the boxes seen from above."""
        width, height = item.resolution
        picture = np.full((height, width, 3), 0.35)
        for shape in (i for i in self.items.values() if i.kind == "shape" and i.size[2] > 0):
            row = int((0.55 - shape.place[0]) / 0.6 * height)
            column = int((shape.place[1] + 0.46) / 0.92 * width)
            picture[max(row - 3, 0) : max(row + 3, 0), max(column - 3, 0) : max(column + 3, 0)] = shape.color
        return picture


WORLD = World()
