"""MineStudio's gymnasium environment, over the same plain as MineRL's stand-in."""

from __future__ import annotations

import numpy as np
from faults import FAULTS, log
from minerl.herobraine.env_specs.human_controls import HumanControlEnvSpec
from minerl.herobraine.hero import handlers as H


class Survival(HumanControlEnvSpec):
    biome = None

    def create_observables(self):
        return [H.POVObservation(self.resolution), H.ObservationFromCurrentLocation()]

    def create_agent_start(self):
        return [*super().create_agent_start(), H.PreferredSpawnBiome(self.biome)]

    create_server_world_generators = create_server_quit_producers = HumanControlEnvSpec.create_monitors


class MinecraftSim:
    def __init__(
        self,
        action_type="agent",
        obs_size=(224, 224),
        render_size=(640, 360),
        seed=0,
        inventory={},  # noqa: B006 (as the original has it)
        preferred_spawn_biome=None,
        num_empty_frames=20,
        callbacks=[],  # noqa: B006
        camera_config=None,
        **kwargs,
    ):
        if (action_type, obs_size) != ("env", render_size) or callbacks:
            raise NotImplementedError("the stand-in has no more than the project uses")
        spec = Survival("survival", resolution=render_size)
        spec.biome = preferred_spawn_biome
        self.env, self.num_empty_frames = spec.make(), num_empty_frames
        self.env.seed(seed)
        self.info: dict = {}

    def noop_action(self):
        known = {k: v for k, v in self.env.action_space.no_op().items() if k in self.env.action_space.spaces}
        return {**known, "chat": ""}

    def reset(self):
        self.env.reset()
        for _ in range(self.num_empty_frames):
            obs, _, _, info = self.env.step(self.env.action_space.no_op())
        return self._wrap_obs_info(obs, info)

    def step(self, action):
        action = dict(action)
        said = action.pop("chat")
        if said:
            log(event="chat", text=said)
        obs, reward, done, info = self.env.step(action)
        if done and not FAULTS.get("quits"):  # MineStudio asks for no quit at death
            done, info = "error" in info, {**info, "health": 0.0}
        return (*self._split(obs, info, reward, done),)

    def _split(self, obs, info, reward, done):
        seen, told = self._wrap_obs_info(obs, info)
        return seen, reward, done, done, told

    def _wrap_obs_info(self, obs, info):
        place = {k.removesuffix("pos"): float(v) for k, v in obs["location_stats"].items()}
        self.info.update({"health": 20.0, **info, "pov": obs["pov"], "player_pos": place})
        return {"image": np.ascontiguousarray(obs["pov"])}, self.info.copy()

    def close(self): ...
