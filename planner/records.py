"""Finished episodes on disk: one json and one npz each, so that an interrupted run loses none."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from planner.loop import PlanResult
from tasks import Episode, Layout, Score, Segment, Subgoal
from tasks.files import atomic_path, read_json, write_json

LEFT_OUT = "left_out"  # the folder, beside the episodes, of those that must not be scored


def summary_row(result: PlanResult) -> dict[str, Any]:
    """What ``result.json`` says of one episode; ``details`` only where the task has some, None of what was imagined
    where nothing measures it."""
    imagined = result.imagined_score
    row: dict[str, Any] = {
        "seed": result.layout.seed,
        "instruction": result.layout.instruction,
        "plan": [s.text for s in result.plan],
        "executed_distance": result.score.distance,
        "imagined_distance": imagined.distance if imagined else None,
        "displaced": dict(result.score.displaced),
        "success": result.score.success,
        "distances": dict(result.score.distances),
        "imagined_distances": dict(imagined.distances) if imagined else None,
        "imagined_lost": lost_things(result),
        "notes": list(result.notes),
        "planned_by": result.planned_by,
        "errors": list(result.errors),
        "seconds": result.seconds,
        "peak_mb": result.peak_mb,
        "effect": list(result.effect),
    }
    return row | ({"details": dict(result.score.details)} if result.score.details else {})


def lost_things(result: PlanResult) -> dict[str, bool]:
    """Per returned thing, whether it is not to be found in the frame that ends its return; empty without a locator."""
    if result.located is None:
        return {}
    names = result.layout.names
    chunk = (len(result.imagined) - 1) // len(result.plan)
    ends = {s.object: chunk * (i + 1) for i, s in enumerate(result.plan) if s.kind == "return"}
    return {name: bool(np.isnan(result.located[end, names.index(name)]).any()) for name, end in ends.items()}


def save_result(folder: Path, result: PlanResult) -> None:
    """Write ``SEED.npz`` and then ``SEED.json``, which says that it is complete."""
    stem = folder / str(result.layout.seed)
    e = result.executed
    arrays = {"imagined": result.imagined, "frames": e.frames, "actions": e.actions, "positions": e.positions}
    if result.located is not None:
        arrays["located"] = result.located
    with atomic_path(stem.with_suffix(".npz")) as temp, open(temp, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    record = {
        "layout": {**_plain_layout(result.layout)},
        "plan": [asdict(s) for s in result.plan],
        "names": e.names,
        "segments": [asdict(s) for s in e.segments],
        "provenance": e.provenance,
        "score": asdict(result.score),
        "imagined_score": asdict(result.imagined_score) if result.imagined_score else None,
        "notes": result.notes,
        "planned_by": result.planned_by,
        "errors": result.errors,
        "seconds": result.seconds,
        "peak_mb": result.peak_mb,
        "effect": result.effect,
    }
    write_json(stem.with_suffix(".json"), record)


def has_result(folder: Path, seed: int) -> bool:
    """Whether the episode of a seed is finished."""
    return (folder / f"{seed}.json").is_file()


def leave_out(folder: Path, seed: int, reason: str) -> None:
    """Write down that the episode of a seed must not be scored, so that it is not tried again."""
    write_json(folder / LEFT_OUT / f"{seed}.json", {"seed": seed, "reason": reason})


def left_out(folder: Path, seeds: Sequence[int]) -> dict[int, str]:
    """The seeds whose episodes must not be scored, and why."""
    files = {seed: folder / LEFT_OUT / f"{seed}.json" for seed in seeds}
    return {seed: str(read_json(file)["reason"]) for seed, file in files.items() if file.is_file()}


def load_result(folder: Path, seed: int) -> PlanResult | None:
    """The finished episode of a seed, or None.

    Raises:
        ValueError: one of its files is missing or damaged.
    """
    stem = folder / str(seed)
    if not has_result(folder, seed):
        return None
    try:
        record = read_json(stem.with_suffix(".json"))
        with np.load(stem.with_suffix(".npz"), allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{stem}.json and .npz hold no whole episode ({reason}); delete both, the same command makes them again"
        ) from None
    layout = record["layout"]
    return PlanResult(
        Layout(
            layout["seed"], layout["instruction"], tuple(layout["names"]), np.array(layout["starts"]),
            tuple(Subgoal(**s) for s in layout["plan"]),
        ),
        tuple(Subgoal(**s) for s in record["plan"]),
        arrays["imagined"],
        Episode(
            arrays["frames"], arrays["actions"], tuple(Segment(**s) for s in record["segments"]), arrays["positions"],
            tuple(record["names"]), record["provenance"],
        ),
        arrays.get("located"),
        Score(**record["score"]),
        Score(**record["imagined_score"]) if record["imagined_score"] else None,
        tuple(record["errors"]),
        record["seconds"],
        tuple(record.get("effect", ())),
        tuple(record.get("notes", ())),
        record.get("planned_by", ""),
        record.get("peak_mb"),
    )  # fmt: skip


def _plain_layout(layout: Layout) -> dict[str, Any]:
    return {
        "seed": layout.seed,
        "instruction": layout.instruction,
        "names": list(layout.names),
        "starts": layout.starts.tolist(),
        "plan": [asdict(s) for s in layout.plan],
    }
