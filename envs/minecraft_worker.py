"""What the workers of ``env=minerl`` and ``env=minestudio`` share: episodes, ticks, pictures.

Lengths are blocks, angles Minecraft's degrees (yaw 0 looks to +z, 90 to −x, and is not wrapped).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from envs.wire import Arrays, Calls, Reply

KEYS = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")  # never ESC nor inventory

Seen = tuple[np.ndarray, list[float], bool]
"""A square picture ``(S, S, 3)`` uint8; x, y, z, yaw, pitch; whether the episode has ended."""


class LostError(RuntimeError):
    """Minecraft is gone in the middle of an episode; what the simulator gives then is a random picture."""


class MinecraftWorker:
    """One Minecraft. Subclasses say how it is launched, seeded and ticked."""

    env: Any = None  # with ``close()``
    size: int  # of the square frames that are sent, px

    def launch(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Describe the simulator; Minecraft itself may start as late as at the first reset."""
        raise NotImplementedError

    def begin(self, seed: int) -> Seen:
        """Make the world of a seed and spawn in it."""
        raise NotImplementedError

    def tick(self, action: dict[str, Any]) -> Seen:
        """One tick, 50 ms of the game: ints by key, ``camera`` as [down, right] degrees.

        Raises:
            LostError: Minecraft is gone.
        """
        raise NotImplementedError

    # --- calls -------------------------------------------------------------------------------

    def reset(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Begin an episode in the world of ``data["seed"]``, then stand still for ``data["settle"]`` ticks."""
        seen = self.begin(int(data["seed"]))
        for _ in range(int(data["settle"])):
            seen = self.tick({})
            if seen[2]:
                raise LostError("the agent died before the episode began")
        return self._answer(*seen)

    def step(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Hold the keys ``data["pressed"]`` for ``data["ticks"]`` ticks.

        ``arrays["camera"]`` (2,), degrees down and to the right, turns in the first tick.
        """
        pressed = {key: 1 for key in data["pressed"] if key in KEYS}  # ints, for Java reads nothing else
        turn = [float(v) for v in arrays["camera"]]
        for tick in range(int(data["ticks"])):
            seen = self.tick({**pressed, "camera": turn if tick == 0 else [0.0, 0.0]})
            if seen[2]:
                break
        return self._answer(*seen)

    def calls(self) -> Calls:
        """The calls that a worker answers; what it writes goes to the folder for Minecraft's logs."""
        logs = os.environ.get("MALMO_MINECRAFT_OUTPUT_LOGDIR")
        if logs:
            os.chdir(logs)  # a folder ``logs`` is made wherever the process stands
        return {name: getattr(self, name) for name in ("launch", "reset", "step")}

    # --- parts -------------------------------------------------------------------------------

    def _answer(self, picture: np.ndarray, place: list[float], ended: bool) -> Reply:
        side = picture.shape[0] // self.size
        blocks = picture.reshape(self.size, side, self.size, side, 3).astype(np.uint32).sum((1, 3))
        frame = ((blocks + side * side // 2) // (side * side)).astype(np.uint8)
        return {"ended": bool(ended)}, {"frame": frame, "place": np.array(place, np.float64)}
