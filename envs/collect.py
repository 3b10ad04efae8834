"""Collects the training data: the expert carries out each layout's plan, everything is recorded.

    python -m envs.collect task=cube_return episodes=2400 workers=2

Layouts come from the task's training seeds, in order. The data depend on the task, the env and
``episodes`` alone, not on ``workers`` or on how often the command was interrupted; ``group`` cuts them into
files.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from envs.base import EpisodeLostError, TaskEnv
from envs.expert import expert_actions
from tasks import Episode, Layout, Segment, Task
from tasks.commands import differences, factory, fail, integer, main, plain, version
from tasks.dataset import COLLECTION, DatasetWriter, EpisodeDataset, collection, load_episodes

Seed = int
Recorded = tuple[Episode | None, str | None]
"""An episode and None, or None and the error of the action that could not be carried out."""


class Recording:
    """One episode while it is carried out, from its reset on.

    Attributes:
        env: the simulator.
        layout: as the simulator began it.
        actions: the ``(A,)`` actions so far.
    """

    def __init__(self, env: TaskEnv, layout: Layout):
        frame, self._info = env.reset(seed=layout.seed, options={"layout": layout})
        self.env, self._over = env, False
        self.layout: Layout = self._info["layout"]
        self.actions: list[np.ndarray] = []
        self._frames, self._positions = [frame], [self._info["positions"]]
        self._segments: list[Segment] = []

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Where everything is now."""
        return dict(zip(self._info["names"], self._info["positions"], strict=True))

    def look_again(self) -> None:
        """Take the first frame anew: a demonstration lays its episode out again, where everything stood before."""
        self._frames[:] = [self.env.render()]

    def carry_out(self, caption: str, chunk: np.ndarray) -> None:
        """Take the ``(F, A)`` actions of one subgoal.

        Raises:
            EpisodeLostError: one of them could not be carried out, or the simulator ended the episode as a failure.
        """
        start = len(self.actions)
        for action in chunk:
            frame = self._frames[-1]
            if not self._over:  # a simulator that calls the task solved takes no further step
                frame, reward, self._over, _, self._info = self.env.step(action)
                if self._info["error"]:
                    raise EpisodeLostError(self._info["error"])
                if self._over and float(reward) <= 0:
                    at = len(self.actions) + 1
                    raise EpisodeLostError(f"the simulator ended the episode at action {at} without success")
            self._frames.append(frame)
            self._positions.append(self._info["positions"])
            self.actions.append(action)
        self._segments.append(Segment(start, len(self.actions), caption))

    def episode(self, **provenance: Any) -> Episode:
        """What was seen and done, with task, env, seed, version and ``provenance`` beside it."""
        origin = {"task": self.env.task.name, "env": self.env.name, "seed": self.layout.seed}
        return Episode(
            frames=np.stack(self._frames),
            actions=np.stack(self.actions).astype(np.float32),
            segments=tuple(self._segments),
            positions=np.stack(self._positions).astype(np.float32),
            names=tuple(self._info["names"]),
            provenance={**origin, "version": version(), **provenance},
        )


def follow_plan(recording: Recording) -> Episode:
    """Let the expert carry out the layout's plan."""
    env, layout = recording.env, recording.layout
    shown, home = env.demonstration(), recording.places
    if shown is not None:
        recording.look_again()
    for step, subgoal in enumerate(layout.plan):
        if shown is None:
            chunk = expert_actions(env.task, recording.places, subgoal, home, layout.plan, step)
        else:
            start = len(recording.actions)
            chunk = shown[start : start + env.task.chunk_frames]
        recording.carry_out(subgoal.text, chunk)
    episode = recording.episode(instruction=layout.instruction)
    score = env.task.score(episode.positions, env.task.released(episode), episode.names, layout.plan)
    episode.provenance.update(success=bool(score.success), distance=round(score.distance, 6))
    return episode


def record(env: TaskEnv, layout: Layout, play: Callable[[Recording], Episode] = follow_plan) -> Recorded:
    """Begin a layout and ``play`` it: the expert's plan, unless told."""
    try:
        return play(Recording(env, layout)), None
    except EpisodeLostError as error:
        return None, str(error)


# --- workers -----------------------------------------------------------------------------------


@cache
def simulator(task: str, env: str) -> TaskEnv:
    """This process's simulator, made at first use from two yaml texts."""
    made: TaskEnv = hydra.utils.instantiate(OmegaConf.create(env))(
        task=hydra.utils.instantiate(OmegaConf.create(task))
    )
    return made


def _record_seed(task: str, env: str, seed: Seed) -> Recorded:
    made = simulator(task, env)
    return record(made, made.task.layout(seed))


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]


@contextmanager
def _recorder(workers: int) -> Iterator[Callable[..., Iterator[Recorded]]]:
    """A ``map`` that keeps the order: in this process for one worker, else over ``workers`` processes."""
    if workers == 1:
        yield map
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)

    def start(*work: Any) -> Iterator[Recorded]:
        """Workers are born deaf to Ctrl-C: one that comes while they still import is the parent's."""
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return pool.map(*work)
        finally:
            signal.signal(signal.SIGINT, heard)

    try:
        yield start
    except BrokenProcessPool:
        fail("a worker process died (out of memory?); the same command goes on; try fewer workers=")
    finally:
        pool.shutdown(cancel_futures=True)


# --- the command -------------------------------------------------------------------------------


def collect(cfg: DictConfig) -> Path:
    """Make the dataset that ``cfg`` describes, or go on making it; returns its path."""
    episodes, task = integer(cfg, "episodes", 1), hydra.utils.instantiate(cfg.task)
    config = {key: value for key, value in plain(cfg).items() if key in ("task", "env", "episodes")}
    if episodes > len(task.train_seeds):
        fail(f"episodes={episodes}: {task.name} has {len(task.train_seeds)} training seeds")
    work = partial(_record_seed, OmegaConf.to_yaml(cfg.task), OmegaConf.to_yaml(cfg.env))
    summary = partial(_summary, asked=episodes, unit=task.unit)
    if not is_finished(cfg, config, summary):
        write(cfg, config, task, work, {seed: seed for seed in task.train_seeds[:episodes]}, summary)
    return Path(cfg.path)


def is_finished(cfg: DictConfig, config: dict[str, Any], summary: Callable[[EpisodeDataset], str]) -> bool:
    """Whether the dataset of ``config`` lies at ``cfg.path`` already, which is then said.

    Raises:
        CommandError: ``cfg.path`` holds anything else.
    """
    path = Path(cfg.path)
    if not path.exists():
        return False
    if not (path / COLLECTION).is_file():
        fail(f"path={path} exists and was not made by this command; delete it or give another path")
    differ = differences(collection(path), config)
    if differ:
        fail(f"path={path} holds another collection ({differ}); give another path")
    print(summary(load_episodes(path)))
    print(f"{path} is finished already")
    return True


def write(
    cfg: DictConfig, config: dict[str, Any], task: Task, work: Callable[[Any], Recorded],
    jobs: Mapping[Seed, Any], summary: Callable[[EpisodeDataset], str],
) -> None:  # fmt: skip
    """Record the jobs that the dataset at ``cfg.path`` lacks, finish it and say what is in it.

    Args:
        cfg: ``path``, ``env``, ``workers`` and ``group`` are read.
        config: json-able, all that the data depend on.
        task: names the entries of an action.
        work: makes a job an episode, in any process.
        jobs: by seed, in the order of the episodes.
        summary: a line on the finished dataset.
    """
    workers, group, path = integer(cfg, "workers", 1), integer(cfg, "group", 1), Path(cfg.path)
    factory(cfg, "env")  # a wrong option is said at once
    env_class: Any = hydra.utils.get_class(cfg.env._target_)
    fps = env_class.metadata["render_fps"]
    robot = cfg.env._target_.rpartition(".")[2]
    writer = DatasetWriter(path, fps, task.action_spec.names, config, group, robot)
    with closing(writer):
        begin, seeds, frames = time.monotonic(), list(jobs), 0
        done = seeds.index(writer.rows[-1]["seed"]) + 1 if writer.saved else 0
        if done:
            print(f"going on after {writer.saved} episodes in {writer.partial}")
        todo = seeds[done:]
        with _recorder(workers) as recorded, tqdm(total=len(seeds), initial=done, unit="episode") as bar:
            for seed, (episode, error) in zip(todo, recorded(work, map(jobs.get, todo)), strict=True):
                if episode is None:
                    bar.write(f"seed {seed} left out: {error}")
                else:
                    writer.append(episode)
                    frames += len(episode)
                bar.update()
        seconds = time.monotonic() - begin
        writer.finish()
    print(summary(load_episodes(path)))
    print(f"{frames} frames in {seconds:.0f} s: {frames / max(seconds, 1e-9):.1f} frames/s")
    print(path)


def _summary(dataset: EpisodeDataset, asked: int, unit: str) -> str:
    made = [dataset.provenance(i) for i in range(len(dataset))]
    scale, unit = (1000, "mm") if unit == "m" else (1, unit)
    distance = scale * np.array([p["distance"] for p in made])
    success = sum(p["success"] for p in made)
    return (
        f"{len(dataset)} episodes, {dataset.lengths.sum()} frames; the expert succeeded in {success} "
        f"({success / len(dataset):.1%}); its return error: mean {distance.mean():.1f}, median "
        f"{np.median(distance):.1f}, worst {distance.max():.1f} {unit}; "
        f"{asked - len(dataset)} left out after an error"
    )


if __name__ == "__main__":
    main("collect", collect)
