"""The worker's side of ``env=minestudio``: Minecraft 1.16.5 with MineStudio's prebuilt engine.

MineStudio takes the game's own commands, so that night, weather and monsters can be switched off, which MineRL
cannot. Importing this file fails with an ImportError that says what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from minestudio.simulator import MinecraftSim
from minestudio.utils import get_mine_studio_dir

from envs.minecraft_worker import KEYS, LostError, MinecraftWorker, Seen
from envs.wire import Arrays, Calls, Reply

ENGINE = "engine/build/libs/mcprec-6.13.jar"
PLACE = ("x", "y", "z", "yaw", "pitch")

if not (Path(get_mine_studio_dir()) / ENGINE).is_file():  # else the first simulator asks on a terminal
    raise ImportError(
        f"MineStudio's engine is not in {get_mine_studio_dir()}; "
        f"{sys.executable} -m minestudio.simulator.entry -y downloads it (MINESTUDIO_DIR names another folder)"
    )


class Simulator(MinecraftWorker):
    """One Minecraft of MineStudio's."""

    def launch(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Describe the simulator; Minecraft itself starts at the first reset.

        ``data``: ``image_size``, ``render_size`` (a multiple of it), ``biome``, ``commands``, which are given
        at the beginning of each episode.
        """
        self.size, rendered = int(data["image_size"]), int(data["render_size"])
        self.commands = [str(command) for command in data["commands"]]
        self.env = MinecraftSim(
            action_type="env",
            obs_size=(rendered, rendered),
            render_size=(rendered, rendered),
            preferred_spawn_biome=data["biome"],
            num_empty_frames=1,  # with none MineStudio has nothing to return
        )
        missing = [key for key in (*KEYS, "camera") if key not in self.env.noop_action()]
        if missing:
            raise RuntimeError(f"this MineStudio knows no {', '.join(missing)}; expected MineStudio 1.1")
        return {}, {}

    def begin(self, seed: int) -> Seen:
        self.env.env.seed(seed)  # MineStudio's own reset takes none, and the inner one forgets it
        picture, info = self.env.reset()
        seen = self._seen(picture, info, ended=False)
        for command in self.commands:
            seen = self.tick({"chat": command})
        return seen

    def tick(self, action: dict[str, Any]) -> Seen:
        full = self.env.noop_action()
        full.update(action)
        full["camera"] = np.array(full["camera"], np.float32)
        seen, _, terminated, truncated, info = self.env.step(full)
        return self._seen(seen, info, ended=bool(terminated or truncated))

    def _seen(self, seen: dict[str, Any], info: dict[str, Any], ended: bool) -> Seen:
        if "error" in info:
            raise LostError(f"MineStudio lost its Minecraft: {info['error']}")
        dead = float(info.get("health", 20.0)) <= 0.0  # no quit at death is asked for: the game waits
        place = [float(info["player_pos"][key]) for key in PLACE]
        return np.ascontiguousarray(seen["image"]), place, ended or dead


def calls() -> Calls:
    return Simulator().calls()
