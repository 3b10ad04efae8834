"""Figures of many episodes, of one training of the weights or of several on the same layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tasks.statistics import crossed_interval, share_interval

# What planner.records.summary_row says; ``training`` is the index of its weights, 0 if it has none.
Summary = dict[str, Any]
Values = Callable[[Summary], Iterable[float]]  # of one episode


def aggregate(rows: Sequence[Summary]) -> dict[str, Any]:
    """The figures of a run: executed and imagined distance, displaced, success, things lost, seconds, memory, and
    the task's details. Where rows name the ``training`` of their weights, the intervals cover trainings and layouts."""
    parts = {p for r in rows for p in r["seconds"]}
    effects = [r["effect"] for r in rows if r["effect"]]
    peaks = [r["peak_mb"] for r in rows if r.get("peak_mb") is not None]
    updates = range(min((len(e) for e in effects), default=0))
    total: dict[str, Any] = {
        "executed": mean_of(rows, executed),
        "imagined": mean_of(rows, imagined),
        "executed_over_displaced": mean_of(rows, moved),
        "displaced": share_of(rows, lambda r: r["displaced"].values()),
        "success": share_of(rows, lambda r: [r["success"]]),
        "imagined_lost": share_of(rows, lambda r: r["imagined_lost"].values()),
        "seconds_per_episode": {
            p: float(np.mean([r["seconds"].get(p, 0.0) for r in rows])) for p in sorted(parts)
        },
        "peak_mb": max(peaks, default=None),
        "effect": [float(np.mean([e[k] for e in effects])) for k in updates],
        "by_chunks": by_chunks(rows),
    }
    return total | details_of(rows)


def executed(row: Summary) -> list[float]:
    """An episode's executed distance, as :func:`mean_of` takes it."""
    return [row["executed_distance"]]


def imagined(row: Summary) -> list[float]:
    """An episode's imagined distance; nothing where nothing measures it."""
    return [] if row["imagined_distance"] is None else [row["imagined_distance"]]


def moved(row: Summary) -> list[float]:
    """The distances of the things that were displaced."""
    return [row["distances"][name] for name, displaced in row["displaced"].items() if displaced]


def cells(rows: Sequence[Summary], values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the episodes' values, each ``(trainings, layouts)``."""
    trainings, layouts = (sorted({r.get(k, 0) for r in rows}) for k in ("training", "seed"))
    totals, counts = np.zeros((2, len(trainings), len(layouts)))
    for row in rows:
        found = list(values(row))
        cell = trainings.index(row.get("training", 0)), layouts.index(row["seed"])
        totals[cell] += sum(found)
        counts[cell] += len(found)
    return totals, counts


def mean_of(rows: Sequence[Summary], values: Values) -> dict[str, float] | None:
    """Mean of the episodes' values with its interval over trainings and layouts; None where there are no values."""
    totals, counts = cells(rows, values)
    return crossed_interval(totals, counts) if counts.any() else None


def share_of(rows: Sequence[Summary], hits: Values) -> dict[str, float] | None:
    """Share of the episodes' hits with its Clopper-Pearson interval. Several trainings count as one there, for their
    layouts are the same, and the interval is at least that of the bootstrap over trainings and layouts. None where
    nothing could be hit."""
    found = [bool(hit) for row in rows for hit in hits(row)]
    if not found:
        return None
    share, trainings = share_interval(found), len({row.get("training", 0) for row in rows})
    if trainings == 1:
        return share
    count = len(found) // trainings
    once = share_interval(np.arange(count) < round(share["share"] * count))
    drawn = crossed_interval(*cells(rows, hits))
    return share | {"low": min(once["low"], drawn["low"]), "high": max(once["high"], drawn["high"])}


def by_chunks(rows: Sequence[Summary]) -> dict[str, dict[str, Any]]:
    """Executed distance and success apart for each length of plan."""
    lengths = sorted({len(r["plan"]) for r in rows})
    groups = {str(n): [r for r in rows if len(r["plan"]) == n] for n in lengths}
    return {
        n: {
            "executed": mean_of(group, executed),
            "imagined": mean_of(group, imagined),
            "success": share_of(group, lambda r: [r["success"]]),
        }
        for n, group in groups.items()
    }


def details_of(rows: Sequence[Summary]) -> dict[str, Any]:
    """``{"details": {name: interval}}`` over episodes whose task has some, else nothing."""
    found = [r for r in rows if r.get("details")]
    names = found[0]["details"] if found else {}
    return {"details": {n: mean_of(found, partial(_detail, n)) for n in names}} if names else {}


def _detail(name: str, row: Summary) -> list[float]:
    return [row["details"][name]]
