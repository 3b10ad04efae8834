"""MineRL's specification class and the gym-0.19 environment that it makes, over a flat plain."""

from __future__ import annotations

import math

import numpy as np
from faults import FAULTS, fault, log, misbehave

from minerl.herobraine.hero import handlers as H

KEYS = [
    "forward",
    "back",
    "left",
    "right",
    "jump",
    "sneak",
    "sprint",
    "attack",
    "use",
    "pickItem",
    "inventory",
]
KEYS += ["drop", "swapHands", "ESC", *[f"hotbar.{i}" for i in range(1, 10)]]
WALK = 4.317 / 20  # blocks a tick


class Actions:
    spaces = dict.fromkeys([k for k in [*KEYS, "camera"] if k not in FAULTS.get("missing_keys", [])])

    def no_op(self):
        return {**dict.fromkeys(KEYS, 0), "camera": np.zeros(2, np.float32)}


class HumanControlEnvSpec:
    def __init__(
        self,
        name,
        *args,
        resolution=(640, 360),
        guiscale_range=(1, 1),
        gamma_range=(2.0, 2.0),
        fov_range=(70.0, 70.0),
        cursor_size_range=(16, 16),
        **kwargs,
    ):
        self.resolution, self.name = resolution, name
        self.reset()

    def reset(self):
        self.observables, self.agent_start = self.create_observables(), self.create_agent_start()
        self.monitors = self.create_monitors()
        self.server_world_generators = self.create_server_world_generators()
        self.server_quit_producers = self.create_server_quit_producers()

    def create_observables(self):
        raise NotImplementedError

    def create_monitors(self):
        return []

    def create_agent_start(self):
        return [H.GuiScale(1.0)]

    def make(self, fake=False, **additional):
        return Minecraft(self, **additional)


class Minecraft:
    def __init__(self, env_spec: HumanControlEnvSpec, instances=None):
        self.spec, self.instances, self.action_space = env_spec, instances or [], Actions()
        self._seed, self.done, self.tick = None, True, 0
        self.random = np.random.default_rng(0)

    def seed(self, seed=None, seed_spaces=True):
        if not isinstance(seed, int) and seed is not None:
            raise AssertionError("Seed must be an int!")
        self._seed = seed

    def reset(self):
        misbehave("reset")
        if fault("error_at_reset"):
            raise TypeError("a bytes-like object is required, not 'NoneType'")
        self.spec.reset()
        kinds = {type(h).__name__: h for h in self.spec.agent_start}
        if "GuiScale" not in kinds:
            raise TypeError("a bytes-like object is required, not 'NoneType'")
        log(
            event="reset",
            seed=self._seed,
            biome=kinds["PreferredSpawnBiome"].values[0] if "PreferredSpawnBiome" in kinds else None,
            world=kinds["LoadWorldAgentStart"].values[0] if "LoadWorldAgentStart" in kinds else None,
            done_on_death="DoneOnDeath" in kinds,
        )
        rng = np.random.default_rng(self._seed)
        self.place, self.yaw, self.pitch = rng.uniform(-50, 50, 2), FAULTS.get("yaw", 0.0), 0.0
        self._seed, self.done, self.screen = None, False, False
        return self._see()

    def step(self, single_agent_action):
        if self.done:
            raise RuntimeError("Attempted to step an environment server with done=True")
        misbehave("tick")
        sent = {}
        for key, value in single_agent_action.items():
            if key == "camera":
                sent[key] = [float(v) for v in value]
            elif key in KEYS:
                if not isinstance(value, int) or isinstance(
                    value, bool
                ):  # Java reads "True" and "1.0" as errors
                    return self._random(f"{key}={value!r} is no integer")
                sent[key] = value
        self.tick += 1
        pressed = sorted(k for k, v in sent.items() if k != "camera" and v)
        log(event="tick", pressed=pressed, camera=sent["camera"])
        if fault("lose_at_tick"):
            return self._random("Connection timed out!")
        if sent["ESC"] or sent["inventory"]:
            self.screen = True
        if not self.screen:
            self._walk(sent)
        self.done = fault("die_at_tick")
        return self._see(), 0.0, self.done, {}

    def close(self): ...

    def _random(self, error: str):
        self.done = True
        noise = self.random.integers(0, 256, self._see()["pov"].shape, np.uint8)
        place = {k: np.array(self.random.normal()) for k in ("xpos", "ypos", "zpos", "yaw", "pitch")}
        return {"pov": noise, "location_stats": place}, 0.0, True, {"error": error}

    def _walk(self, sent: dict) -> None:
        self.pitch, self.yaw = self.pitch + sent["camera"][0], self.yaw + sent["camera"][1]  # never wrapped
        if "wrap" in FAULTS:
            self.yaw = (self.yaw + 180) % 360 - 180
        ahead, aside = sent["forward"] - sent["back"], sent["left"] - sent["right"]
        if (not ahead and not aside) or FAULTS.get("wall", 1 << 30) <= self.tick:
            return
        speed = WALK * (0.3 if sent["sneak"] else 1.0) / math.hypot(ahead, aside)
        c, s = math.cos(math.radians(self.yaw)), math.sin(math.radians(self.yaw))
        self.place = self.place + speed * np.array([-s * ahead + c * aside, c * ahead + s * aside])

    def _see(self):
        width, height = self.spec.resolution
        picture = np.zeros((height, width, 3), np.uint8)
        picture[height // 2 :] = (255, 167, 120)
        seen = {"pov": picture[::-1]}  # sky on top once flipped
        if any(isinstance(h, H.ObservationFromCurrentLocation) for h in self.spec.observables):
            x, z = self.place
            place = {"xpos": x, "ypos": 64.0, "zpos": z, "yaw": self.yaw, "pitch": self.pitch}
            if fault("silent_at_sight"):  # where Minecraft says nothing, MineRL fills in its defaults
                place = dict.fromkeys(place, 0.0)
            seen["location_stats"] = {key: np.array(value) for key, value in place.items()}
        return seen
