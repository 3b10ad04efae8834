"""Minecraft through MineStudio behind the project's contract: ``path_retrace`` by day, in peace.

The same as :mod:`envs.minerl_env`, whose class does the measuring; another worker, another simulator.
"""

from __future__ import annotations

from collections.abc import Sequence

from envs.minerl_env import MineRLEnv
from tasks import Task


class MineStudioEnv(MineRLEnv):
    """One Minecraft of MineStudio's; see :class:`MineRLEnv` for how an episode runs and ends.

    Args:
        task: ``path_retrace``.
        python: interpreter that has MineStudio; None takes this one.
        image_size: side of the square frames, px.
        render_size: side of the picture that Minecraft draws, px; a multiple of ``image_size``.
        ticks: game ticks (50 ms) of one step; four walk 0.86 blocks.
        biome: where to spawn.
        commands: of the game, given at the beginning of each episode.
        time_limit: steps until an episode is truncated.
        display: ``auto`` takes a virtual display where there is none; ``inherit`` changes nothing.
        launch_timeout: seconds for Minecraft to start or to make a world.
        step_timeout: seconds for one step.
    """

    backend, about = "minestudio", "MineStudio 1.1"

    def __init__(
        self,
        task: Task | None = None,
        python: str | None = None,
        image_size: int = 64,
        render_size: int = 256,
        ticks: int = 4,
        biome: str = "plains",
        commands: Sequence[str] = (),
        time_limit: int = 2000,
        display: str = "auto",
        launch_timeout: float = 600.0,
        step_timeout: float = 60.0,
        render_mode: str | None = "rgb_array",
    ):
        wrong = [command for command in commands if not str(command).startswith("/")]
        if wrong:
            raise ValueError(f"env.commands: {wrong[0]!r} would be said, not done; expected /COMMAND")
        wanted = {"biome": biome, "commands": [str(command) for command in commands]}
        timeouts = launch_timeout, step_timeout
        self._open(
            task, python, (image_size, render_size), ticks, time_limit, display, timeouts, render_mode, wanted
        )
