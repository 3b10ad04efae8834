"""The simulator of one episode: carries out what is imagined, and says how far the two are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from envs.base import TaskEnv
from envs.expert import expert_actions
from inverse_dynamics.model import InverseDynamics
from planner.locator import Locator
from planner.loop import Running, execute
from tasks import ActionSpec, Episode, PlanError, Segment, Subgoal

Executor = Literal["expert", "reader"]


@dataclass(frozen=True)
class Executed:
    """One chunk in the simulator.

    Attributes:
        actions: ``(F, A)`` that were carried out.
        frames: ``(F, H, W, 3)`` uint8.
        distance: of the subgoal's thing, between where it was imagined and where it is, in the locator's
            unit; None where that is not measured or not seen.
        note: why something was not carried out to its end, or nothing.
    """

    actions: np.ndarray
    frames: np.ndarray
    distance: float | None
    note: str


class Reader:
    """An inverse dynamics model that is opened once something is read with it.

    Args:
        open: gives the model and the digest of its weights; what it raises is raised where the model is first
            needed.
    """

    def __init__(self, open: Callable[[], tuple[InverseDynamics, str]]):
        self._open = open
        self.version: str | None = None  # the digest, once something was read

    @cached_property
    def model(self) -> InverseDynamics:
        """The model itself."""
        model, self.version = self._open()
        return model

    @property
    def spec(self) -> ActionSpec:
        """Of the actions that it reads."""
        return self.model.spec

    def actions(self, clips: np.ndarray) -> np.ndarray:
        """See :meth:`InverseDynamics.actions`."""
        return self.model.actions(clips)


class Simulation:
    """A simulator, and whose hands act in it.

    Args:
        env: reset by :meth:`begin`.
        reader: reads actions off imagined frames.
        locator: reads positions off imagined frames, if there is one.
        by: ``expert`` carries out the same action as was imagined, which is its ground truth; ``reader``
            what the inverse dynamics model reads off the imagined frames; None for nobody.
        unmeasured: why there is no locator.
    """

    def __init__(
        self,
        env: TaskEnv,
        reader: Reader,
        locator: Locator | None,
        by: Executor | None,
        unmeasured: str = "",
    ):
        self.env, self.reader, self.locator, self.by = env, reader, locator, by
        self.unmeasured = "" if locator else unmeasured
        self.running: Running | None = None
        self._done: list[np.ndarray] = []

    @property
    def unit(self) -> str:
        """Of distances."""
        return self.locator.unit if self.locator else self.env.task.unit

    def begin(self, seed: int) -> np.ndarray:
        """Reset to the layout of a seed; its ``(H, W, 3)`` uint8 frame."""
        layout = self.env.task.layout(seed)
        frame, info = self.env.reset(seed=seed, options={"layout": layout})
        self.running = Running(self.env, info["layout"], (), [frame], [info["positions"]])
        self._done = []
        return frame

    def seek(self, seed: int, history: Sequence[np.ndarray]) -> None:
        """Bring the simulator to where the ``(F, A)`` actions of some chunks lead from a seed."""
        same = len(history) == len(self._done) and all(map(np.array_equal, history, self._done))
        if self.running is not None and same:
            return
        self.begin(seed)
        for actions in history:
            self._execute(actions)

    def carry_out(
        self, subgoal: Subgoal | None, asked: Sequence[Subgoal], before: np.ndarray, imagined: np.ndarray
    ) -> Executed:
        """Carry out one chunk.

        Args:
            subgoal: what was asked, None if it is none of the task's.
            asked: the subgoals so far, this one included.
            before: ``(H, W, 3)`` the imagined frame before the chunk.
            imagined: ``(F, H, W, 3)`` uint8.

        Raises:
            PlanError: the expert can't carry it out.
        """
        assert self.running is not None
        if self.by == "expert":
            if subgoal is None:
                raise PlanError("the expert knows the task's usual actions only")
            now, home = (
                dict(zip(self.env.names, p, strict=True))
                for p in (self.running.positions[-1], self.running.positions[0])
            )
            plan = self.env.task.plan_of(asked)
            actions = expert_actions(self.env.task, now, subgoal, home, plan, len(plan) - 1)
        else:
            actions = self.reader.actions(np.concatenate([before[None], imagined])[None])[0]
        errors = len(self.running.errors)
        frames = self._execute(actions)
        note = "; ".join(dict.fromkeys(self.running.errors[errors:]))
        return Executed(np.asarray(actions), frames, self._distance(subgoal, imagined, len(frames)), note)

    def _execute(self, actions: np.ndarray) -> np.ndarray:
        assert self.running is not None
        running, self.running = self.running, None  # until the chunk is done: else it begins anew
        execute(running, actions)
        self.running = running
        self._done.append(np.asarray(actions))
        return np.stack(running.executed[-len(actions) :])

    def _distance(self, subgoal: Subgoal | None, imagined: np.ndarray, count: int) -> float | None:
        if self.locator is None or subgoal is None or self.running is None:
            return None
        r = self.running
        stop = len(r.executed) - 1
        episode = Episode(
            np.stack(r.executed),
            np.stack(r.actions),
            (),
            np.stack(r.positions).astype(np.float32),
            tuple(r.env.names),
        )
        segment = Segment(stop - count, stop, subgoal.text)
        gap = self.locator.chunk_error(episode, segment, subgoal, imagined)
        return None if gap is None or not np.isfinite(gap) else float(gap * self.locator.scale)

    def close(self) -> None:
        self.env.close()
