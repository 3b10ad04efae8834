"""The worker's side of ``env=minerl``: MineRL 1.0 with a specification of its own for ``path_retrace``.

MineRL 1.0's Java half ignores flat worlds, time limits, time of day, weather, mob spawning and rewards, so
none of them is asked for: the time limit and the score are the parent's. Importing this file fails with an
ImportError that says what is missing. Lengths are blocks, angles Minecraft's degrees (yaw 0 looks to +z,
90 to −x, and is not wrapped).
"""

from __future__ import annotations

import os
from typing import Any

import minerl  # noqa: F401  (its handlers need it imported)
import numpy as np
from minerl.env.malmo import InstanceManager, MinecraftInstance
from minerl.herobraine.env_specs.human_controls import HumanControlEnvSpec
from minerl.herobraine.hero import handlers

from envs.wire import Arrays, Calls, Reply

NAME = "SlowFastPathRetrace-v0"
KEYS = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")  # never ESC nor inventory
PLACE = ("xpos", "ypos", "zpos", "yaw", "pitch")
ENDLESS = 1_000_000_000  # steps


class LostError(RuntimeError):
    """Minecraft is gone in the middle of an episode; what MineRL gives then is a random picture."""


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
            handlers.LoadWorldAgentStart(self.world)
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


class Simulator:
    """One Minecraft."""

    def __init__(self) -> None:
        self.env: Any = None

    # --- calls -------------------------------------------------------------------------------

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

    def reset(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Begin an episode in the world of ``data["seed"]``, then stand still for ``data["settle"]`` ticks."""
        self.env.seed(int(data["seed"]))  # it counts once: without it the next world is another
        seen, ended = self.env.reset(), False
        for _ in range(int(data["settle"])):
            seen, ended = self._tick({})
            if ended:
                raise LostError("the agent died before the episode began")
        return self._answer(seen, ended)

    def step(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        """Hold the keys ``data["pressed"]`` for ``data["ticks"]`` ticks.

        ``arrays["camera"]`` (2,), degrees down and to the right, turns in the first tick.
        """
        pressed = {key: 1 for key in data["pressed"] if key in KEYS}
        turn = [float(v) for v in arrays["camera"]]
        for tick in range(int(data["ticks"])):
            seen, ended = self._tick({**pressed, "camera": turn if tick == 0 else [0.0, 0.0]})
            if ended:
                break
        return self._answer(seen, ended)

    def close(self, data: dict[str, Any], arrays: Arrays) -> Reply:
        if self.env is not None:
            self.env.close()
            self.env = None
        return {}, {}

    # --- parts -------------------------------------------------------------------------------

    def _tick(self, action: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """One tick, 50 ms of the game; keys are ints, for Java reads nothing else."""
        full = self.env.action_space.no_op()
        full.update(action)
        seen, _, done, info = self.env.step(full)
        if "error" in info:
            raise LostError(f"MineRL lost its Minecraft: {info['error']}")
        return seen, bool(done)

    def _answer(self, seen: dict[str, Any], ended: bool) -> Reply:
        picture = np.ascontiguousarray(seen["pov"])  # MineRL gives a view that runs backwards
        side = picture.shape[0] // self.size
        blocks = picture.reshape(self.size, side, self.size, side, 3).astype(np.uint32).sum((1, 3))
        place = [float(seen["location_stats"][key]) for key in PLACE]
        arrays = {
            "frame": ((blocks + side * side // 2) // (side * side)).astype(np.uint8),
            "place": np.array(place),
        }
        return {"ended": ended}, arrays


def calls() -> Calls:
    logs = os.environ.get("MALMO_MINECRAFT_OUTPUT_LOGDIR")
    if logs:
        os.chdir(logs)  # MineRL writes a folder ``logs`` wherever it stands
    simulator = Simulator()
    return {name: getattr(simulator, name) for name in ("launch", "reset", "step", "close")}
