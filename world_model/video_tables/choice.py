"""Rank and learning rate by how complex a scene is: the choice that the paper leaves open (Appendix D.3).

Known before anything is imagined: how many actions there are, and how much there is in the first picture. A
scene takes the cell of table 6 that did best on the scenes most like it. Measured with each clip's own figures
left out, and beside it the best cell for all scenes, chosen the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.commands import OptionError
from world_model.video_tables.clips import Clip
from world_model.video_tables.judge import summary
from world_model.video_tables.metrics import METRICS

SETS = ("simple", "medium", "complex")
CHOSEN, FIXED = "chosen_by_scene", "chosen_for_all"
LIKE = 10  # scenes that a choice looks at, a third of them at most
METRIC = "psnr"  # what a choice goes by: all scenes have it


def sets_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The complexity set of each clip, three of equal size: more actions, then more in the first picture."""
    order = sorted(range(len(records)), key=lambda i: (records[i]["chunks"], records[i]["complexity"]))
    place = {i: k for k, i in enumerate(order)}
    return [SETS[place[i] * len(SETS) // len(records)] for i in range(len(records))]


def by_set(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures apart for each set that has clips."""
    names = sets_of(records)
    parts = {s: [r for r, name in zip(records, names, strict=True) if name == s] for s in SETS}
    return {s: summary(part) for s, part in parts.items() if part}


def scenes_of(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """``(n, 2)``: actions and bits a pixel."""
    return np.array([[r["chunks"], r["complexity"]] for r in records], np.float64)


def most_like(scenes: np.ndarray, scene: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` scenes nearest to one, each measure over its own spread."""
    spread = scenes.std(0)
    apart = (scenes - scene) / np.where(spread > 0, spread, 1.0)
    return np.argsort(np.linalg.norm(apart, axis=1), kind="stable")[:count]


def best(cells: Mapping[str, np.ndarray], where: np.ndarray) -> str:
    """The cell whose mean over some clips is best."""
    better = METRICS[METRIC].better
    return max(cells, key=lambda name: better * float(cells[name][where].mean()))


def cells_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The rows that are cells of rank and learning rate, all on the same clips."""
    return {
        n: r
        for n, r in rows.items()
        if r["kind"] == "model" and {"rank", "learning_rate"} <= set(r["options"])
    }


def chosen_rows(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Two rows made of the cells' clips: the cell chosen for each scene, and one chosen for all; empty
    unless there are two cells and four clips."""
    cells = cells_of(rows)
    records = {n: r["clips"] for n, r in cells.items()}
    count = len(next(iter(records.values()), ()))
    if len(cells) < 2 or count < 4:
        return {}
    scenes = scenes_of(next(iter(records.values())))
    figures = {n: np.array([c[METRIC] for c in clips]) for n, clips in records.items()}
    like = min(LIKE, max(1, (count - 1) // 3))
    taken: dict[str, list[str]] = {CHOSEN: [], FIXED: []}
    for i in range(count):
        others = np.delete(np.arange(count), i)
        taken[CHOSEN].append(best(figures, others[most_like(scenes[others], scenes[i], like)]))
        taken[FIXED].append(best(figures, others))
    labels = {
        CHOSEN: f"rank and rate chosen by scene: what was best on the {like} other scenes most like it",
        FIXED: "one rank and rate for all: what was best on the other scenes",
    }
    return {name: chosen_row(label, taken[name], cells) for name, label in labels.items()}


def chosen_row(label: str, taken: Sequence[str], cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row whose i-th clip is that of the i-th cell named."""
    clips = [cells[name]["clips"][i] for i, name in enumerate(taken)]
    lengths = sorted({c["chunks"] for c in clips})
    return {
        "label": label, "kind": "model", "options": {}, "taken": list(taken), "psnr_by_frame": [],
        "figures": summary(clips), "clips": clips,
        "by_chunks": {str(n): summary([c for c in clips if c["chunks"] == n]) for n in lengths},
    }  # fmt: skip


def choose(result: Path, frame: np.ndarray, actions: int) -> tuple[str, dict[str, Any]]:
    """Temp-LoRA's options for a scene, from a finished table 6.

    Args:
        result: its ``result.json``.
        frame: ``(H, W, 3)`` uint8, the first picture.
        actions: how many there will be.

    Returns:
        The cell's label, and its options of the memory.

    Raises:
        OptionError: the file is no such table, or has too few cells.
    """
    try:
        rows = json.loads(result.read_text())["parts"]["long"]["rows"]
        cells = cells_of({n: r for n, r in rows.items() if n not in (CHOSEN, FIXED)})
        figures = {n: np.array([c[METRIC] for c in r["clips"]]) for n, r in cells.items()}
        scenes = scenes_of(next(iter(cells.values()))["clips"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise OptionError(
            f"choose={result}: expected table_6/result.json of python -m world_model.evaluate table=6"
        ) from None
    like = min(LIKE, max(1, len(scenes) // 3))
    name = best(figures, most_like(scenes, np.array([actions, Clip(0, frame[None], ()).complexity]), like))
    return cells[name]["label"], dict(cells[name]["options"])
