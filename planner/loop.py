"""Closed loop over a batch of environments: decompose, imagine, read actions, execute, remember.

Paper, Sections 3.4 and 4.2: each subgoal is one imagined chunk; the inverse dynamics model reads the
action between every two consecutive frames; the environment executes it; the chunk goes into memory. What a
task lets the expert explore first is not imagined: the camera's frames of it go into memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.base import EpisodeLostError, TaskEnv
from envs.expert import expert_actions
from inverse_dynamics.model import InverseDynamics
from planner.decomposer.base import Decomposer
from planner.expert_episode import chunk_ends
from planner.locator import Locator
from tasks import Episode, Layout, Score, Segment, Subgoal, Task
from world_model.model import Chunk, Rollout, WorldModel

ConditionOn = Literal["imagined", "observed"]


class SeedLostError(EpisodeLostError):
    """An episode that must not be scored.

    Attributes:
        seed: of its layout.
        reason: what happened.
    """

    def __init__(self, seed: int, reason: str):
        super().__init__(f"seed {seed} can't be scored: {reason}")
        self.seed, self.reason = seed, reason


@contextmanager
def losing(seed: int) -> Iterator[None]:
    """Say whose episode is lost inside. Raises SeedLostError for EpisodeLostError."""
    try:
        yield
    except EpisodeLostError as error:
        raise SeedLostError(seed, str(error)) from None


@dataclass(frozen=True)
class PlanResult:
    """One episode: what was asked, imagined and done.

    Attributes:
        layout: where it began.
        plan: the validated subgoals.
        imagined: ``(1 + nF, H, W, 3)`` uint8; the first frame is the camera's, and so are those of the
            chunks that were explored.
        executed: frames, actions and true positions.
        located: ``(1 + nF, N, 3)`` positions that the locator reads off the imagined frames; NaN where it
            finds nothing that it can place; None without a locator.
        score: of the executed episode.
        imagined_score: of the located positions, if there are any.
        errors: per action that could not be carried out, its reason.
        seconds: per part, this episode's share of the batch's time.
        effect: per chunk, how much Θ changed the predicted noise, if the memory measures it.
        notes: how the decomposer read open words.
        planned_by: who made the plan: the scripted decomposer, or a language model.
        peak_mb: the most memory that its batch took, MB: of a GPU's what torch gave out, else the process's; None where
            it was not measured.
    """

    layout: Layout
    plan: tuple[Subgoal, ...]
    imagined: np.ndarray
    executed: Episode
    located: np.ndarray | None
    score: Score
    imagined_score: Score | None
    errors: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    effect: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    planned_by: str = ""
    peak_mb: float | None = None


@dataclass
class Running:
    """One environment's record while its episode goes on; once the simulator ends it, the last frame stays."""

    env: TaskEnv
    layout: Layout
    plan: tuple[Subgoal, ...]
    executed: list[np.ndarray]
    positions: list[np.ndarray]
    actions: list[np.ndarray] = field(default_factory=list)
    imagined: list[np.ndarray] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    planned_by: str = ""
    over: bool = False


class Clock:
    """Seconds per part of the loop."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str):
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def reset(env: TaskEnv, layout: Layout) -> tuple[np.ndarray, dict[str, Any]]:
    """The first ``(H, W, 3)`` frame of a layout and what else is known. Raises SeedLostError."""
    with losing(layout.seed):
        return env.reset(seed=layout.seed, options={"layout": layout})


def begin(env: TaskEnv, seed: int, decomposer: Decomposer, instruction: str | None) -> Running:
    """Reset one environment and decompose its instruction; a given one may need another layout of the
    seed, in which what it asks for can be asked."""
    task = env.task
    frame, info = reset(env, task.layout(seed))
    layout = info["layout"]  # a simulator may have words of its own for what is asked
    decomposed = decomposer.decompose(task, instruction or layout.instruction, frame)
    plan = tuple(decomposed.subgoals)
    task.check_plan(plan)
    if instruction is not None:
        layout = replace(task.layout(seed, task.moves(plan)), instruction=instruction, plan=plan)
        frame, info = reset(env, layout)
    notes = tuple(decomposed.notes)
    if (asked := info["layout"].instruction) != layout.instruction:
        notes += (f"the simulator asks for {asked!r}, and success is that",)
    seen, source = [info["positions"]], decomposed.source
    return Running(env, layout, plan, [frame], seen, imagined=[frame], notes=notes, planned_by=source)


def execute(running: Running, actions: np.ndarray) -> None:
    """Carry out ``(F, A)`` actions; one that can't be carried out, or not to its end, leaves its reason. What
    comes after the simulator has ended the episode is not sent; an end without a reward leaves a reason, too.

    Raises:
        SeedLostError: the simulator is gone.
    """
    for action in actions:
        frame, positions = running.executed[-1], running.positions[-1]
        if not running.over:
            frame, reward, running.over, _, info = running.env.step(action)
            if info.get("lost"):
                raise SeedLostError(running.layout.seed, info["error"])
            early = f"EpisodeOverError: the simulator ended the episode at action {len(running.actions) + 1}"
            if error := info["error"] or (early if running.over and float(reward) <= 0 else None):
                running.errors.append(error)
            positions = info["positions"]
        running.executed.append(frame)
        running.positions.append(positions)
        running.actions.append(np.asarray(action, np.float32))


def execute_whole(running: Running, actions: np.ndarray) -> None:
    """Carry out ``(F, A)`` actions of what is explored first, without which it is another episode.

    Raises:
        SeedLostError: one of them was not carried out to its end.
    """
    before = len(running.errors)
    execute(running, actions)
    if blocked := running.errors[before:]:
        raise SeedLostError(
            running.layout.seed, f"what is explored first was not walked to its end: {blocked[0]}"
        )


def explore(running: Running, k: int) -> None:
    """Let the expert carry out chunk k of the plan. Raises SeedLostError where it does not come through."""
    now, home = (
        dict(zip(running.env.names, p, strict=True)) for p in (running.positions[-1], running.positions[0])
    )
    execute_whole(running, expert_actions(running.env.task, now, running.plan[k], home, running.plan, k))


def expected_ends(running: Running) -> np.ndarray:
    """``(n, H, W, 3)``: how the expert ends each chunk of an episode that has just begun; begins it anew."""
    with losing(running.layout.seed):
        ends = chunk_ends(running.env, running.layout)
    reset(running.env, running.layout)
    return ends


def run_episodes(
    envs: Sequence[TaskEnv],
    seeds: Sequence[int],
    decomposer: Decomposer,
    world_model: WorldModel,
    inverse_dynamics: InverseDynamics,
    locator: Locator | None,
    condition_on: ConditionOn = "imagined",
    instruction: str | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
    load_memory: Path | None = None,
    save_memory: Path | None = None,
) -> list[PlanResult]:
    """Run one episode in each environment, in lock-step.

    Args:
        seeds: one per environment: its layout and every random draw.
        locator: reads positions off imagined frames; without one, what is imagined is not measured.
        condition_on: what the next chunk starts from. ``imagined`` latents go straight into the next
            past and into fast learning, never decoded and encoded again; with ``observed`` the
            encoded camera frames replace both.
        instruction: for all episodes; None takes each layout's own.
        on_chunk: called with (chunks done, chunks in all).
        load_memory: a saved memory that every episode starts with; None starts with an empty one.
        save_memory: where each episode's memory is written at its start and after each chunk.

    Raises:
        SeedLostError: one of the episodes must not be scored, and so the others have come to no end.
    """
    clock = Clock()
    with clock.part("reset"):
        running = [begin(e, s, decomposer, instruction) for e, s in zip(envs, seeds, strict=True)]
    shapes = [(r.env.task.explored(r.plan), len(r.plan)) for r in running]
    order = [[i for i, s in enumerate(shapes) if s == shape] for shape in sorted(set(shapes))]
    total, done = sum(len(running[g[0]].plan) for g in order), 0
    effects: dict[int, tuple[float, ...]] = {}
    for group in order:
        members, explored = [running[i] for i in group], shapes[group[0]][0]
        rollout = _start(members, [seeds[i] for i in group], world_model, load_memory, clock)
        if save_memory:
            world_model.save_memory(rollout, save_memory)
        for k in range(len(members[0].plan)):
            if k < explored:
                rollout = _explored_chunk(members, k, rollout, world_model, clock)
            else:
                rollout = _one_chunk(members, k, rollout, world_model, inverse_dynamics, condition_on, clock)
            if save_memory:
                world_model.save_memory(rollout, save_memory)
            done += 1
            if on_chunk:
                on_chunk(done, total)
        effects |= dict(zip(group, world_model.effects(rollout), strict=True))
    with clock.part("measure"):
        results = [_result(r, locator) for r in running]
    share = {name: round(s / len(running), 4) for name, s in clock.seconds.items()}
    return [replace(r, seconds=share, effect=effects[i]) for i, r in enumerate(results)]


def _start(
    members: list[Running], seeds: list[int], world_model: WorldModel, load_memory: Path | None, clock: Clock
) -> Rollout:
    with clock.part("encode"):
        rollout = world_model.start(np.stack([r.executed[0] for r in members]), seeds)
    if world_model.foresees:
        with clock.part("foresee"):
            rollout = world_model.foresee(rollout, np.stack([expected_ends(r) for r in members]))
    return world_model.load_memory(rollout, load_memory) if load_memory else rollout


def _explored_chunk(
    members: list[Running], k: int, rollout: Rollout, world_model: WorldModel, clock: Clock
) -> Rollout:
    with clock.part("explore"):
        for r in members:
            before = len(r.executed)
            explore(r, k)
            r.imagined.extend(r.executed[before:])
    seen = np.stack([np.stack(r.executed[before:]) for r in members])
    with clock.part("remember"):
        return world_model.observe(rollout, [r.plan[k] for r in members], seen)


def _one_chunk(
    members: list[Running],
    k: int,
    rollout: Rollout,
    world_model: WorldModel,
    inverse_dynamics: InverseDynamics,
    condition_on: ConditionOn,
    clock: Clock,
) -> Rollout:
    with clock.part("imagine"):
        rollout, chunk = world_model.imagine(rollout, [r.plan[k] for r in members])
    with clock.part("inverse_dynamics"):
        actions = inverse_dynamics.actions(np.concatenate([rollout.frames[:, None], chunk.frames], 1))
    with clock.part("execute"):
        for r, a, frames in zip(members, actions, chunk.frames, strict=True):
            execute(r, a)
            r.imagined.extend(frames)
    with clock.part("remember"):
        return world_model.remember(
            rollout, chunk, _observed(members, chunk) if condition_on == "observed" else None
        )


def _observed(members: list[Running], chunk: Chunk) -> np.ndarray:
    """``(B, F, H, W, 3)`` camera frames of the chunk just executed."""
    count = chunk.frames.shape[1]
    return np.stack([np.stack(r.executed[-count:]) for r in members])


def score_executed(running: Running) -> tuple[Episode, Score]:
    """What was done, as an episode, and its score."""
    task: Task = running.env.task
    chunk = (len(running.executed) - 1) // len(running.plan)
    executed = Episode(
        np.stack(running.executed),
        np.stack(running.actions),
        tuple(Segment(i * chunk, (i + 1) * chunk, s.text) for i, s in enumerate(running.plan)),
        np.stack(running.positions).astype(np.float32),
        tuple(running.env.names),
        {"task": task.name, "env": running.env.name, "seed": running.layout.seed},
    )
    return executed, task.score(executed.positions, task.released(executed), executed.names, running.plan)


def _result(running: Running, locator: Locator | None) -> PlanResult:
    executed, score = score_executed(running)
    imagined = np.stack(running.imagined)
    located: np.ndarray | None = None
    imagined_score: Score | None = None
    if locator is not None:
        located, imagined_score = score_located(running.env.task, imagined, running, locator)
    return PlanResult(
        running.layout,
        running.plan,
        imagined,
        executed,
        located,
        score,
        imagined_score,
        tuple(running.errors),
        notes=running.notes,
        planned_by=running.planned_by,
    )


def score_located(
    task: Task, imagined: np.ndarray, running: Running, locator: Locator
) -> tuple[np.ndarray, Score]:
    """The positions that the imagined frames show, and their score."""
    seen = locator.follow(imagined, running.layout.starts, running.plan)
    return seen.positions, task.score(seen.track, seen.released, locator.names, running.plan)
