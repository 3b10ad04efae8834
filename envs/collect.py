"""Collects the training data: the expert carries out each layout's plan, everything is recorded.

    python -m envs.collect task=cube_return episodes=2000 workers=2

Layouts come from the task's training seeds, in order. The data depend on the task, the env and
``episodes`` alone, not on ``workers`` or on how often the command was interrupted; ``group`` cuts them into
files.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from envs.base import EpisodeLostError, TaskEnv
from envs.expert import expert_actions
from tasks import Episode, Layout, Segment
from tasks.commands import CommandError, differences, factory, fail, integer, main, plain, version
from tasks.dataset import COLLECTION, DatasetWriter, EpisodeDataset, load_episodes

Seed = int
Recorded = tuple[Seed, Episode | None, str | None]


def record(env: TaskEnv, layout: Layout) -> tuple[Episode | None, str | None]:
    """Let the expert carry out a layout's plan.

    Returns:
        The episode and None, or None and the error of the action that could not be carried out.
    """
    try:
        return _record(env, layout)
    except EpisodeLostError as error:
        return None, str(error)


def _record(env: TaskEnv, layout: Layout) -> tuple[Episode | None, str | None]:
    frame, info = env.reset(seed=layout.seed, options={"layout": layout})
    shown = env.demonstration()
    layout, over = info["layout"], False
    home = dict(zip(info["names"], info["positions"], strict=True))
    frames, positions, segments = [frame], [info["positions"]], []
    actions: list[np.ndarray] = []
    for step, subgoal in enumerate(layout.plan):
        start, now = len(actions), dict(zip(info["names"], info["positions"], strict=True))
        if shown is None:
            chunk = expert_actions(env.task, now, subgoal, home, layout.plan, step)
        else:
            chunk = shown[start : start + env.task.chunk_frames]
        for action in chunk:
            if not over:  # a simulator that calls the task solved takes no further step
                frame, _, over, _, info = env.step(action)
            if info["error"]:
                return None, info["error"]
            frames.append(frame)
            positions.append(info["positions"])
            actions.append(action)
        segments.append(Segment(start, len(actions), subgoal.text))
    provenance = {"task": env.task.name, "env": env.name, "seed": layout.seed, "version": version()}
    episode = Episode(
        frames=np.stack(frames),
        actions=np.stack(actions).astype(np.float32),
        segments=tuple(segments),
        positions=np.stack(positions).astype(np.float32),
        names=tuple(info["names"]),
        provenance=provenance,
    )
    score = env.task.score(episode.positions, env.task.released(episode), episode.names, layout.plan)
    episode.provenance.update(
        instruction=layout.instruction, success=bool(score.success), distance=round(score.distance, 6)
    )
    return episode, None


# --- workers -----------------------------------------------------------------------------------


@cache
def _env(task: str, env: str) -> TaskEnv:
    """This process's simulator, made at first use from two yaml texts."""
    made: TaskEnv = hydra.utils.instantiate(OmegaConf.create(env))(
        task=hydra.utils.instantiate(OmegaConf.create(task))
    )
    return made


def _record_seed(task: str, env: str, seed: Seed) -> Recorded:
    made = _env(task, env)
    return seed, *record(made, made.task.layout(seed))


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
    episodes, workers, path = integer(cfg, "episodes", 1), integer(cfg, "workers", 1), Path(cfg.path)
    config = {key: value for key, value in plain(cfg).items() if key in ("task", "env", "episodes")}
    task = hydra.utils.instantiate(cfg.task)
    factory(cfg, "env")  # a wrong option is said at once
    if episodes > len(task.train_seeds):
        fail(f"episodes={episodes}: {task.name} has {len(task.train_seeds)} training seeds")
    seeds = task.train_seeds[:episodes]
    if path.exists():
        _print_finished(path, config, seeds, task.unit)
        return path
    env_class: Any = hydra.utils.get_class(cfg.env._target_)
    fps = env_class.metadata["render_fps"]
    group, robot = integer(cfg, "group", 1), cfg.env._target_.rpartition(".")[2]
    writer = DatasetWriter(path, fps, task.action_spec.names, config, group, robot)
    with closing(writer):
        begin = time.monotonic()
        frames = _fill(writer, seeds, OmegaConf.to_yaml(cfg.task), OmegaConf.to_yaml(cfg.env), workers)
        seconds = time.monotonic() - begin
        writer.finish()
    print(_summary(load_episodes(path), seeds, task.unit))
    print(f"{frames} frames in {seconds:.0f} s: {frames / max(seconds, 1e-9):.1f} frames/s")
    print(path)
    return path


def _fill(writer: DatasetWriter, seeds: Sequence[Seed], task: str, env: str, workers: int) -> int:
    """Record the seeds after the last one on disk; returns the number of new frames."""
    done = seeds.index(writer.rows[-1]["seed"]) + 1 if writer.saved else 0
    if done:
        print(f"going on after {writer.saved} episodes in {writer.partial}")
    todo, frames = seeds[done:], 0
    with _recorder(workers) as recorded, tqdm(total=len(seeds), initial=done, unit="episode") as bar:
        for seed, episode, error in recorded(_record_seed, [task] * len(todo), [env] * len(todo), todo):
            if episode is None:
                bar.write(f"seed {seed} left out: {error}")
            else:
                writer.append(episode)
                frames += len(episode)
            bar.update()
    return frames


def _print_finished(path: Path, config: dict[str, Any], seeds: Sequence[Seed], unit: str) -> None:
    """Say that the dataset is there already; CommandError if ``path`` holds anything else."""
    if not (path / COLLECTION).is_file():
        raise CommandError(
            f"path={path} exists and was not made by this command; delete it or give another path"
        )
    differ = differences(json.loads((path / COLLECTION).read_text()), config)
    if differ:
        raise CommandError(f"path={path} holds another collection ({differ}); give another path")
    print(_summary(load_episodes(path), seeds, unit))
    print(f"{path} is finished already")


def _summary(dataset: EpisodeDataset, seeds: Sequence[Seed], unit: str) -> str:
    made = [dataset.provenance(i) for i in range(len(dataset))]
    scale, unit = (1000, "mm") if unit == "m" else (1, unit)
    distance = scale * np.array([p["distance"] for p in made])
    success = sum(p["success"] for p in made)
    return (
        f"{len(dataset)} episodes, {dataset.lengths.sum()} frames; the expert succeeded in {success} "
        f"({success / len(dataset):.1%}); its return error: mean {distance.mean():.1f}, median "
        f"{np.median(distance):.1f}, worst {distance.max():.1f} {unit}; "
        f"{len(seeds) - len(dataset)} left out after an error"
    )


if __name__ == "__main__":
    main("collect", collect)
