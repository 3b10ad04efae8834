"""How quick the tabletop is on this machine.

    python -m benchmarks.sim_speed --episodes 4 --json benchmarks/results/sim_speed.json

Physics runs in one thread. "Idle" holds the arm still over the layout's cubes; "moving" is the scripted
expert with its inverse kinematics and contacts, rendering left out; an action is a whole ``env.step``,
its frame included.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envs.expert import expert_actions
from envs.tabletop import TabletopEnv, load_mujoco
from tasks.cube_return import CubeReturn
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor


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


def measure(episodes: int = 4, image_size: int = 64, frames: int = 200, steps: int = 2000) -> dict[str, Any]:
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
        "hardware": processor(),
        "commit": commit(),
        "command": command_line("benchmarks.sim_speed"),
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
    parser = argparse.ArgumentParser(description="Speed of the tabletop simulator.")
    parser.add_argument("--episodes", type=int, default=4, help="expert episodes (default 4)")
    parser.add_argument("--frames", type=int, default=200, help="frames rendered (default 200)")
    parser.add_argument("--steps", type=int, default=2000, help="idle physics steps (default 2000)")
    parser.add_argument("--image-size", type=int, default=64, help="side of the frames, px (default 64)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(args.episodes, args.frames, args.steps, args.image_size) < 1:
        parser.error("--episodes, --frames, --steps and --image-size must be at least 1")
    figures = measure(args.episodes, args.image_size, args.frames, args.steps)
    for key, value in figures.items():
        print(f"{key:32} {value}")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
