"""One episode as it is played: what was asked and imagined so far, and every state one can go back to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from envs.base import EpisodeLostError
from planner.play.simulation import Executed, Simulation
from planner.play.studio import Stage, usual_actions
from tasks import PlanError, Subgoal
from tasks.commands import CommandError
from world_model.model import Chunk, Rollout, WorldModel

Listener = Callable[..., None]
"""Called with the name of an event and its facts while something is computed; what it raises ends that."""


@dataclass(frozen=True)
class Branch:
    """What became of an episode in one model: the state after a chunk, and the chunk's ``(F, H, W, 3)``."""

    rollout: Rollout
    frames: np.ndarray


@dataclass(frozen=True)
class Step:
    """One chunk.

    Attributes:
        text: the action.
        imagined: with the memory.
        seconds: ``imagine`` and ``remember``.
        effect: how much Θ changes the predicted noise once the chunk is remembered, if that is measured.
        without: the same without memory, if compared.
        executed: the same in the simulator, if there is one and it could go along.
        note: why it could not, or what was in its way.
    """

    text: str
    imagined: Branch
    seconds: dict[str, float]
    effect: float | None = None
    without: Branch | None = None
    executed: Executed | None = None
    note: str = ""


class Take:
    """An episode in progress.

    Args:
        stage: its parts.
        first: ``(H, W, 3)`` uint8, what it begins with.
        seed: of every random draw, and of the simulator's layout.
        source: what it began from, for people to read.
        simulation: goes along if given; it stands at the layout of the seed.
        compare: imagine each chunk without memory, too.
    """

    def __init__(
        self,
        stage: Stage,
        first: np.ndarray,
        seed: int,
        source: str,
        simulation: Simulation | None = None,
        compare: bool = False,
    ):
        self.stage, self.first, self.seed, self.source = stage, first, seed, source
        self.simulation, self.compare = simulation, compare
        self.start = stage.model.start(first[None], [seed])
        self.plain_start = stage.plain.start(first[None], [seed])
        self.steps: list[Step] = []
        self._usual = usual_actions(stage.task)

    @property
    def rollout(self) -> Rollout:
        """The state now."""
        return self.steps[-1].imagined.rollout if self.steps else self.start

    def origin(self) -> dict[str, Any]:
        """What it was made of and how, json-able."""
        return {
            "task": self.stage.task.name,
            "memory": self.stage.memory,
            "choice": self.stage.choice,
            "weights": self.stage.weights,
            "source": self.source,
            "seed": self.seed,
            "compare": self.compare,
            "simulator": self.simulation.by if self.simulation else None,
            "unit": self.simulation.unit if self.simulation else None,
        }

    def act(self, text: str, listen: Listener) -> Step:
        """Imagine and remember one more chunk. What ``listen`` raises leaves the episode as it was.

        Raises:
            CommandError: the episode is full.
        """
        if len(self.steps) >= self.stage.cfg.chunks:
            raise CommandError(
                f"The episode has {len(self.steps)} chunks, the most that chunks= allows; save it and start anew."
            )
        before, steps = self.rollout, list(self.steps)
        if self.compare:
            steps = self._caught_up(steps, listen)
        begun = time.perf_counter()
        rollout, chunk = imagine(self.stage.model, before, text, partial(listen, side="with"))
        imagined = time.perf_counter()
        rollout = self.stage.model.remember(
            rollout, chunk, progress=partial(listen, "phase", phase="remember")
        )
        seconds = {"imagine": imagined - begun, "remember": time.perf_counter() - imagined}
        effects = self.stage.model.effects(rollout)[0]
        step = Step(text, Branch(rollout, chunk.frames[0]), seconds, effects[-1] if effects else None)
        if self.compare:
            step = replace(step, without=self._without(steps, text, listen))
        if self.simulation is not None:
            listen("phase", phase="execute")
            step = self._executed(step, before)
        listen("phase", phase="done")
        self.steps = [*steps, step]
        return step

    def undo(self, count: int) -> None:
        """Go back to where ``count`` chunks were done; the memory goes back with it."""
        if not 0 <= count <= len(self.steps):
            raise CommandError(f"There is no chunk {count} to go back to; the episode has {len(self.steps)}.")
        self.steps = self.steps[:count]

    def catch_up(self, listen: Listener) -> None:
        """Compare from now on: imagine without memory what was imagined with it so far."""
        self.steps = self._caught_up(self.steps, listen)
        self.compare = True

    def _caught_up(self, steps: Sequence[Step], listen: Listener) -> list[Step]:
        out: list[Step] = []
        for step in steps:
            missing = step.without is None
            out.append(replace(step, without=self._without(out, step.text, listen)) if missing else step)
        return out

    def _without(self, done: Sequence[Step], text: str, listen: Listener) -> Branch:
        last = done[-1].without if done else None
        rollout = last.rollout if last else self.plain_start
        rollout, chunk = imagine(
            self.stage.plain, rollout, text, partial(listen, side="without", chunk=len(done) + 1)
        )
        return Branch(self.stage.plain.remember(rollout, chunk), chunk.frames[0])

    # --- the simulator -------------------------------------------------------------------------

    def plan(self, text: str) -> list[Subgoal]:
        """The task's subgoals so far, and the one that a text says."""
        asked = [*(s.text for s in self.steps), text]
        return [self._usual[t] for t in asked if t in self._usual]

    def _executed(self, step: Step, before: Rollout) -> Step:
        assert self.simulation is not None
        history = [s.executed.actions for s in self.steps if s.executed]
        if len(history) < len(self.steps):
            return replace(step, note="the simulator stayed behind at an earlier chunk")
        asked = (self._usual.get(step.text), self.plan(step.text), before.frames[0], step.imagined.frames)
        try:
            self.simulation.seek(self.seed, history)
            executed = self.simulation.carry_out(*asked)
        except (PlanError, EpisodeLostError) as error:
            return replace(step, note=f"not executed: {error}")
        return replace(step, executed=executed, note=executed.note)

    def close(self) -> None:
        """Let go of the simulator; in the thread that made it."""
        if self.simulation is not None:
            self.simulation.close()
            self.simulation = None


def imagine(model: WorldModel, rollout: Rollout, text: str, listen: Listener) -> tuple[Rollout, Chunk]:
    """One chunk of one episode, told as it comes."""

    def progress(done: int, steps: int) -> None:
        listen("progress", done=done, of=steps)

    def on_frame(number: int, frames: np.ndarray) -> None:
        listen("frame", number=number, picture=frames[0])

    return model.imagine(rollout, [text], progress, on_frame)


def facts(step: Step) -> dict[str, Any]:
    """What is said of a step beside its pictures."""
    return {
        "text": step.text,
        "seconds": {k: round(v, 3) for k, v in step.seconds.items()},
        "effect": step.effect,
        "distance": step.executed.distance if step.executed else None,
        "note": step.note,
    }
