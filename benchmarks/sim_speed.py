"""How quick the embedded simulators are on this machine.

    python -m benchmarks.sim_speed --json benchmarks/results/sim_speed.json
    python -m benchmarks.sim_speed --env doom --episodes 4

Of the tabletop: physics runs in one thread. "Idle" holds the arm still over the layout's cubes; "moving" is the
scripted expert with its inverse kinematics and contacts, rendering left out; an action is a whole ``env.step``,
its frame included. Of Doom: the scripted explorer's steps, each with its frame, on the clock, and to the second of
processor time that this process and the engine's take together, which is the rate of one core.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envs.doom import DoomEnv
from envs.expert import expert_actions
from envs.tabletop import TabletopEnv, load_mujoco
from tasks.cube_return import CubeReturn
from tasks.files import write_json
from tasks.path_retrace import PathRetrace
from tasks.provenance import command_line, commit, processor

ENVS = ("tabletop", "doom")


class Stopwatch:
    """A function that adds up the seconds of its calls."""

    def __init__(self, function: Callable[[], Any]):
        self.function, self.seconds, self.calls = function, 0.0, 0

    def __call__(self) -> Any:
        begin = time.perf_counter()
        out = self.function()
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return out


def measure_doom(episodes: int = 4, image_size: int = 64) -> dict[str, Any]:
    """Time the explorer on the first held-out layouts of ``path_retrace``.

    Args:
        episodes: layouts that are walked.
        image_size: side of the frames, px.

    Returns:
        Figures in 1/s, beside what they were measured on; json-able.
    """
    task = PathRetrace()
    seeds = task.heldout_seeds[:episodes]
    begun, walked = (_walk(DoomEnv(task, image_size), seeds, walks) for walks in (False, True))
    frames = walked["frames"]
    return {
        "frames_per_second": round(frames / walked["clock"], 1),
        "frames_per_core_second": per_core_second(frames, begun["processor"], walked["processor"]),
        "image_size": image_size,
        "n": {"episodes": episodes, "frames": frames},
        "seeds": [seeds.start, seeds.stop - 1],
        "simulator": walked["name"],
    }


def per_core_second(frames: int, begun: float, walked: float) -> float | None:
    """Frames to a second of processor time, without what the layouts' beginning took (both in seconds); None where
    the walk was too short to be told from the beginnings' own spread."""
    return round(frames / (walked - begun), 1) if walked > begun else None


def _walk(env: DoomEnv, seeds: range, walks: bool) -> dict[str, Any]:
    """Begin the layouts, and walk their paths if told: frames, seconds on the ``clock`` of the steps alone, seconds
    of ``processor`` time of everything, the engine's process included."""
    begin, frames, clock = _processor_seconds(), 0, 0.0
    for seed in seeds:
        layout = env.reset(seed=seed)[1]["layout"]
        for step, subgoal in enumerate(layout.plan if walks else ()):
            chunk = expert_actions(env.task, {}, subgoal, {}, layout.plan, step)
            since = time.perf_counter()
            for action in chunk:
                env.step(action)
            clock += time.perf_counter() - since
            frames += len(chunk)
    env.close()  # an engine's time is known once it has ended
    return {"frames": frames, "clock": clock, "processor": _processor_seconds() - begin, "name": env.name}


def _processor_seconds() -> float:
    """Of this process and of those it started that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def measure_tabletop(
    episodes: int = 4, image_size: int = 64, frames: int = 200, steps: int = 2000
) -> dict[str, Any]:
    """Time idle physics, rendering, and the expert on the first held-out layouts.

    Args:
        episodes: layouts the expert carries out.
        image_size: side of the frames, px.
        frames: frames rendered for frames/s.
        steps: physics steps for the idle figure.

    Returns:
        Figures in 1/s, beside what they were measured on; json-able.
    """
    mujoco, task = load_mujoco(), CubeReturn()
    seeds = task.heldout_seeds[:episodes]
    env = TabletopEnv(task, image_size)
    env.reset(seed=seeds[0])
    idle = Stopwatch(lambda: mujoco.mj_step(env.model, env.data, nstep=steps))
    idle()
    picture = Stopwatch(env.render)
    for _ in range(frames):
        picture()
    acting, physics, actions = _expert(env, task, seeds)
    env.close()
    return {
        "physics_steps_per_second_idle": round(steps / idle.seconds),
        "physics_steps_per_second_moving": round(physics / acting["physics"]),
        "frames_per_second": round(frames / picture.seconds, 1),
        "actions_per_second": round(actions / acting["all"], 2),
        "physics_steps_per_action": round(physics / actions, 1),
        "timestep": env.model.opt.timestep,
        "image_size": image_size,
        "n": {"steps": steps, "frames": frames, "episodes": episodes, "actions": actions},
        "seeds": [seeds.start, seeds.stop - 1],
        "opengl": os.environ.get("MUJOCO_GL", "display"),
        "mujoco": mujoco.__version__,
    }


def _expert(env: TabletopEnv, task: CubeReturn, seeds: range) -> tuple[dict[str, float], int, int]:
    """Seconds (``all``, and ``physics`` without rendering), physics steps and actions of the expert."""
    picture = Stopwatch(env.render)
    env.render = picture  # type: ignore[method-assign]
    seconds = {"all": 0.0, "physics": 0.0}
    steps = actions = 0
    for seed in seeds:
        _, info = env.reset(seed=seed)
        layout, home = info["layout"], dict(zip(info["names"], info["positions"], strict=True))
        simulated, drawn, begin = env.data.time, picture.seconds, time.perf_counter()
        for subgoal in layout.plan:
            now = dict(zip(info["names"], info["positions"], strict=True))
            for action in expert_actions(task, now, subgoal, home):
                info = env.step(action)[-1]
                actions += 1
        passed = time.perf_counter() - begin
        seconds["all"] += passed
        seconds["physics"] += passed - (picture.seconds - drawn)
        steps += round((env.data.time - simulated) / env.model.opt.timestep)
    return seconds, steps, actions


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="Speed of the embedded simulators.")
    parser.add_argument("--env", nargs="+", choices=ENVS, default=ENVS, help="which (default: all)")
    parser.add_argument("--episodes", type=int, default=4, help="expert episodes (default 4)")
    parser.add_argument("--frames", type=int, default=200, help="tabletop: frames rendered (default 200)")
    parser.add_argument("--steps", type=int, default=2000, help="tabletop: idle physics steps (default 2000)")
    parser.add_argument("--image-size", type=int, default=64, help="side of the frames, px (default 64)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(args.episodes, args.frames, args.steps, args.image_size) < 1:
        parser.error("--episodes, --frames, --steps and --image-size must be at least 1")
    result: dict[str, Any] = {}
    if "tabletop" in args.env:
        result["tabletop"] = measure_tabletop(args.episodes, args.image_size, args.frames, args.steps)
    if "doom" in args.env:
        result["doom"] = measure_doom(args.episodes, args.image_size)
    for env, figures in result.items():
        for key, value in figures.items():
            print(f"{env:10} {key:32} {value}")
    if args.json:
        origin = {
            "hardware": processor(),
            "commit": commit(),
            "command": command_line("benchmarks.sim_speed"),
        }
        write_json(args.json, {**result, **origin})


if __name__ == "__main__":
    main()
