from __future__ import annotations

import re

import numpy as np

from pyrep.world import WORLD


class Object:
    kind = ""

    def __init__(self, name_or_handle):
        handle = name_or_handle if isinstance(name_or_handle, int) else WORLD.handle(name_or_handle)
        if handle not in WORLD.items:
            raise RuntimeError(f"Handle {name_or_handle} does not exist.")
        if self.kind and WORLD.items[handle].kind != self.kind:
            raise TypeError("WrongObjectTypeError")
        self._handle = handle

    @property
    def item(self):
        return WORLD.items[self._handle]

    @staticmethod
    def exists(name: str) -> bool:
        return WORLD.handle(name) is not None

    def get_handle(self) -> int:
        return self._handle

    def set_name(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name) or WORLD.handle(name) not in (None, self._handle):
            raise RuntimeError("The call failed on the V-REP side. Return value: -1")
        self.item.name = name

    def get_position(self, relative_to=None) -> np.ndarray:
        return self.item.place - (0 if relative_to is None else relative_to.item.place)

    def set_position(self, position, relative_to=None, reset_dynamics=True) -> None:
        move = np.array(position) + (0 if relative_to is None else relative_to.item.place) - self.item.place
        for handle in WORLD.tree(self._handle):
            WORLD.items[handle].place = WORLD.items[handle].place + move

    def get_quaternion(self, relative_to=None) -> np.ndarray:
        return self.item.turn.copy()

    def set_quaternion(self, quaternion, relative_to=None, reset_dynamics=True) -> None:
        self.item.turn = np.array(quaternion, float)

    def get_pose(self, relative_to=None) -> np.ndarray:
        return np.concatenate([self.item.place, self.item.turn])

    def get_matrix(self, relative_to=None) -> np.ndarray:
        return self.item.matrix.copy()

    def set_matrix(self, matrix: np.ndarray, relative_to=None) -> None:
        if not isinstance(matrix, np.ndarray):
            raise ValueError("Expected Numpy 4x4 array.")
        self.item.matrix = np.vstack([matrix[:3, :4].reshape(12).reshape(3, 4), [0, 0, 0, 1]])

    def get_bounding_box(self) -> list:
        return [v for half in np.array(self.item.size) / 2 for v in (-half, half)]

    def set_parent(self, parent_object, keep_in_place=True) -> None:
        self.item.parent = parent_object.get_handle()

    def set_model(self, value: bool) -> None:
        self.item.model = value

    def set_detectable(self, value: bool) -> None: ...

    def set_collidable(self, value: bool) -> None: ...

    def remove(self) -> None:
        for handle in WORLD.tree(self._handle) if self.item.model else [self._handle]:
            del WORLD.items[handle]
