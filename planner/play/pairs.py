"""Two clips that can be compared: of episodes saved with their comparison, and of runs that share layouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from planner.play.runs import results
from planner.play.saved import FOLDER, RECORD, SavedError, listed, read_frames, read_record
from planner.records import load_result


@dataclass(frozen=True)
class Condition:
    """How a clip was made: with which memory, on which world model's weights (their digest).

    ``none`` on weights that a loop finetuned is another condition than ``none`` on the base.
    """

    memory: str
    weights: str


@dataclass(frozen=True)
class Pair:
    """Two clips of one episode.

    Attributes:
        name: of the pair, the same whenever it is listed.
        task: of both.
        conditions: how each was made.
        sources: where each lies: a saved episode and its side, or a run's episode.
    """

    name: str
    task: str
    conditions: tuple[Condition, Condition]
    sources: tuple[tuple[Path, str], tuple[Path, str]]


def pairs_below(runs: Path) -> list[Pair]:
    """Everything in a runs folder that could be compared."""
    return [*_saved(runs), *_runs(runs)]


def _saved(runs: Path) -> Iterator[Pair]:
    for told in listed(runs):
        folder = runs / FOLDER / told["name"]
        chunks = len(told["captions"])
        if told["compare"] and told["memory"] != "none" and chunks:
            sources = (folder, "imagined"), (folder, "without")
            made = tuple(Condition(m, told["weights_version"]) for m in (told["memory"], "none"))
            yield Pair(told["name"], told["task"], (made[0], made[1]), sources)


def _runs(runs: Path) -> Iterator[Pair]:
    found: list[tuple[str, Condition, Path, set[str]]] = []
    for folder, told in results(runs):
        memory, task, weights = (str(told["parts"].get(part)) for part in ("memory", "task", "weights"))
        seeds = {p.stem for p in (folder / "episodes").glob("*.json") if p.stem.isdecimal()}
        made = Condition(memory, weights.rpartition("(")[2].rstrip(")"))  # behind their folder
        found.append((task.partition(" (")[0], made, folder, seeds))  # the unit behind the task
    for (task, a, first, ours), (other, b, second, theirs) in combinations(found, 2):
        if task == other and a != b:
            for seed in sorted(ours & theirs):
                sources = (first / "episodes", seed), (second / "episodes", seed)
                names = (f.relative_to(runs).as_posix() for f in (first, second))
                yield Pair("|".join((*names, seed)), task, (a, b), sources)


def clip_of(folder: Path, which: str) -> tuple[list[str], np.ndarray]:
    """A caption per frame and ``(T, H, W, 3)`` uint8 of one source of a pair."""
    if (folder / RECORD).is_file():
        tensors, told = read_frames(folder), read_record(folder)
        chunks = [tensors[f"{which}.{i}"] for i in range(len(told["chunks"]))]
        captions = ["start", *(c["text"] for c, f in zip(told["chunks"], chunks, strict=True) for _ in f)]
        return captions, np.concatenate([tensors["first"][None], *chunks])
    result = load_result(folder, int(which))
    if result is None or not result.plan:
        raise SavedError("The episode is not there.")
    frames = (len(result.imagined) - 1) // len(result.plan)
    return ["start", *(s.text for s in result.plan for _ in range(frames))], result.imagined
