"""The contract between the planner and a simulator."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from tasks import ActionSpec, Layout, Task
from tasks.camera import Camera


class EpisodeLostError(RuntimeError):
    """A simulator can't begin or go on with an episode, so that it must not be scored; says why."""


class TaskEnv(gymnasium.Env):
    """A gymnasium environment that carries out one task's actions and shows one camera.

    ``reset(seed=…)`` draws the task's layout of that seed; ``options={"layout": layout}`` gives it.
    Observations are ``(H, W, 3)`` uint8 frames. A malformed action raises
    :class:`tasks.MalformedActionError`; one that can't be carried out changes nothing, one that is
    physically blocked ends where it was stopped. Of both ``info["error"]`` names the reason, while the
    observation stays valid.

    ``info``: ``positions`` ``(N, 3)`` float64 of ``names`` in the task's unit, for measurement and the
    scripted expert only; ``names``; ``error`` (str or None); after a reset also ``layout``; ``lost`` once
    the simulator is gone and the episode must not be scored.

    Attributes:
        name: of the simulator and its version.
        names: of the things that have a position.
        camera: the one that takes the frames, if it stands still.
        walls: ``(S, 4)`` lines x1 y1 x2 y2 that nobody passes, in the task's unit, to draw.
    """

    name: str
    task: Task
    names: tuple[str, ...]
    camera: Camera | None = None
    walls: np.ndarray = np.zeros((0, 4))

    @property
    def action_spec(self) -> ActionSpec:
        return self.task.action_spec

    def demonstration(self) -> np.ndarray | None:
        """``(K, A)`` actions of the simulator's own expert for the episode just reset; None if it has none."""
        return None

    def chosen_layout(self, seed: int | None, options: dict[str, Any] | None) -> Layout:
        """The layout that a reset asks for; without a seed, one drawn from ``np_random``."""
        layout = (options or {}).get("layout")
        if layout is not None:
            return layout
        if seed is None:
            seed = int(self.np_random.integers(self.task.train_seeds.stop))
        return self.task.layout(seed)

    def action_box(self) -> gymnasium.spaces.Box:
        spec = self.action_spec
        low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
        return gymnasium.spaces.Box(low, high, dtype=np.float32)
