"""The SRC benchmark: scripted paths that come to the same places many times, and which frames show one place.

    python -m envs.revisit episodes=50 kinds=[out_and_back,loop]

The dataset is laid out as :mod:`envs.collect` lays out its own and resumes likewise; every chunk's caption says
what it does. Layouts come from the task's held-out seeds, in order, the kinds by turns. The pairs of frames stand
in each episode's provenance, where ``python -m world_model.evaluate data=…`` finds them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf

from envs.base import EpisodeLostError
from envs.collect import Recorded, Recording, is_finished, record, simulator, write
from envs.explorer import move
from tasks import Episode
from tasks.commands import OptionError, fail, integer, main, plain
from tasks.dataset import EpisodeDataset
from tasks.path_retrace import AGENT, PathRetrace
from tasks.revisit import KINDS, REVISITS, Script, draw_script, load_revisits, revisits


def walk_script(script: Script, recording: Recording) -> Episode:
    """Walk a script whose layout was begun.

    Raises:
        EpisodeLostError: something stopped the walk, or it never came to a place again.
    """
    task = recording.env.task
    assert isinstance(task, PathRetrace)
    for motion in script.motions:
        recording.carry_out(motion.caption, move(task, motion))
    episode = recording.episode(kind=script.kind)
    episode.provenance[REVISITS] = revisits(episode.position(AGENT)).tolist()
    if not episode.provenance[REVISITS]:
        raise EpisodeLostError("no place was seen again")
    return episode


def _record_script(task: str, env: str, script: Script) -> Recorded:
    return record(simulator(task, env), script.layout, partial(walk_script, script))


# --- the command -------------------------------------------------------------------------------


def revisit(cfg: DictConfig) -> Path:
    """Make the benchmark that ``cfg`` describes, or go on making it; returns its path."""
    episodes, rounds = integer(cfg, "episodes", 1), integer(cfg, "rounds", 2)
    given = ("task", "env", "episodes", "kinds", "rounds", "seeds")
    config = {key: value for key, value in plain(cfg).items() if key in given}
    kinds, task = _kinds(config["kinds"]), hydra.utils.instantiate(cfg.task)
    if not isinstance(task, PathRetrace):
        fail(f"task={task.name} has no paths to walk; python -m envs.revisit takes task=path_retrace")
    seeds = _seeds(task, config["seeds"], episodes)
    summary = partial(_summary, asked=episodes)
    if not is_finished(cfg, config, summary):
        jobs = {seed: draw_script(task, kinds[i % len(kinds)], seed, rounds) for i, seed in enumerate(seeds)}
        work = partial(_record_script, OmegaConf.to_yaml(cfg.task), OmegaConf.to_yaml(cfg.env))
        write(cfg, config, task, work, jobs, summary)
    return Path(cfg.path)


def _kinds(given: Any) -> list[str]:
    if not isinstance(given, list) or not given or any(kind not in KINDS for kind in given):
        raise OptionError(f"kinds={given}: expected a list of {', '.join(KINDS)}")
    return given


def _seeds(task: PathRetrace, given: Any, episodes: int) -> range:
    """The first of the held-out seeds, or of those for training, none of which is among the others."""
    if given not in ("heldout", "train"):
        raise OptionError(f"seeds={given}: expected heldout or train")
    seeds, others = task.heldout_seeds, task.train_seeds
    if given == "train":
        seeds, others = others, seeds
    if episodes > len(seeds):
        fail(f"episodes={episodes}: {task.name} has {len(seeds)} {given} seeds")
    if shared := [seed for seed in seeds[:episodes] if seed in others]:
        fail(f"seeds={given}: seed {shared[0]} is both for training and held out; the two must be disjoint")
    return seeds[:episodes]


def _summary(dataset: EpisodeDataset, asked: int) -> str:
    pairs = load_revisits(dataset)
    visits = np.concatenate([1 + np.unique(p[:, 0], return_counts=True)[1] for p in pairs])
    return (
        f"{len(dataset)} episodes, {dataset.lengths.sum()} frames; {len(visits)} places come again, "
        f"each seen {visits.min()} to {visits.max()} times; {sum(map(len, pairs))} pairs of a first and a "
        f"later visit; {asked - len(dataset)} left out after an error"
    )


if __name__ == "__main__":
    main("revisit", revisit)
