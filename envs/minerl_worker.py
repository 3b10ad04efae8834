"""The worker's side of ``env=minerl``: MineRL 1.0 with a specification of its own for ``path_retrace``.

MineRL 1.0's Java half ignores flat worlds, time limits, time of day, weather, mob spawning and rewards, so
none of them is asked for: the time limit and the score are the parent's. Importing this file fails with an
ImportError that says what is missing.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

import minerl  # noqa: F401  (its handlers need it imported)
import numpy as np
from minerl.env.malmo import InstanceManager, MinecraftInstance
from minerl.herobraine.env_specs.human_controls import HumanControlEnvSpec
from minerl.herobraine.hero import handlers

from envs.minecraft_worker import KEYS, LostError, MinecraftWorker, Seen
from envs.wire import Arrays, Calls, Reply

NAME = "SlowFastPathRetrace-v0"
PLACE = ("xpos", "ypos", "zpos", "yaw", "pitch")
ENDLESS = 1_000_000_000  # steps


class PathRetraceSpec(HumanControlEnvSpec):
    """First-person walking with the position among the observations, as far as MineRL 1.0 honours it.

    Args:
        resolution: (width, height) of the picture, px.
        biome: where to spawn, such as ``plains``; not used with ``world``.
        world: absolute path of a saved world's zip, whose entries begin with ``./saves/NAME/``; or None.
    """

    def __init__(self, resolution: tuple[int, int], biome: str, world: str | None):
        self.biome, self.world = biome, world  # before super(), which builds the handlers
        super().__init__(NAME, resolution=resolution, max_episode_steps=ENDLESS)

    def create_observables(self):
        """The position must be an observable: monitors are silent at a reset."""
        return [handlers.POVObservation(self.resolution), handlers.ObservationFromCurrentLocation()]

    def create_monitors(self):
        return [handlers.IsGuiOpen()]

    def create_agent_start(self):
        """The inherited ones must stay: without them Java meets a null and the reset dies."""
        where = (
            handlers.LoadWorldAgentStart(escape(self.world))  # MineRL writes it into xml as it is
            if self.world
            else handlers.PreferredSpawnBiome(self.biome)
        )
        return [*super().create_agent_start(), where, handlers.DoneOnDeath()]

    def create_agent_handlers(self):
        return []

    def create_rewardables(self):
        return []

    def create_server_world_generators(self):
        return [handlers.DefaultWorldGenerator(force_reset=True)]

    def create_server_decorators(self):
        return []

    def create_server_quit_producers(self):
        return [handlers.ServerQuitWhenAnyAgentFinishes()]

    def create_server_initial_conditions(self):
        return []

    def is_from_folder(self, folder: str) -> bool:
        return False

    def determine_success_from_rewards(self, rewards: list) -> bool:
        return False

    def get_docstring(self) -> str:
        return "Walk out, then back along the same path."


class Simulator(MinecraftWorker):
    """One Minecraft of MineRL's."""

    def launch(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Describe the simulator; Minecraft itself starts at the first reset.

        ``data``: ``image_size``, ``render_size`` (a multiple of it), ``biome``, ``world``, ``max_memory``
        (such as ``8G``, or None for MineRL's own 4 GB).
        """
        self.size, rendered = int(data["image_size"]), int(data["render_size"])
        spec = PathRetraceSpec((rendered, rendered), data["biome"], data["world"])
        instances = []
        if data["max_memory"]:
            instance = MinecraftInstance(InstanceManager._get_valid_port(), max_mem=data["max_memory"])
            instance.launch()
            instance.had_to_clean = False
            instances.append(instance)
        self.env = spec.make(instances=instances)
        missing = [key for key in (*KEYS, "camera") if key not in self.env.action_space.spaces]
        if missing:
            raise RuntimeError(f"this MineRL knows no {', '.join(missing)}; expected MineRL 1.0")
        return {}, {}

    def begin(self, seed: int) -> Seen:
        self.env.seed(seed)  # it counts once: without it the next world is another
        return self._seen(self.env.reset(), False)

    def tick(self, action: dict[str, Any]) -> Seen:
        full = self.env.action_space.no_op()
        full.update(action)
        seen, _, done, info = self.env.step(full)
        if "error" in info:
            raise LostError(f"MineRL lost its Minecraft: {info['error']}")
        return self._seen(seen, done)

    def _seen(self, seen: dict[str, Any], ended: bool) -> Seen:
        picture = np.ascontiguousarray(seen["pov"])  # MineRL gives a view that runs backwards
        place = [float(seen["location_stats"][key]) for key in PLACE]
        if not any(place[:3]):  # what MineRL gives where Minecraft said nothing
            raise LostError("Minecraft gave no position")
        return picture, place, bool(ended)


def calls() -> Calls:
    return Simulator().calls()
