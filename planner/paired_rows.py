"""The planning table's rows against the full method, layout by layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planner.aggregates import cells, executed
from planner.figures import interval, signed
from planner.row_names import NAMES
from tasks.statistics import paired_intervals


def ends_on(row: dict[str, Any], seeds: Sequence[int], first: bool = False) -> np.ndarray:
    """Executed distance on some layouts, ``(trainings, layouts)``; ``first`` takes the first training alone."""
    there = set(seeds)
    totals, counts = cells([e for e in row["episodes"] if e["seed"] in there], executed)
    ends = totals / counts
    return ends[:1] if first else ends


def layouts_of(row: dict[str, Any]) -> set[int]:
    """The layouts whose episodes every training of a row finished."""
    _, counts = cells(row["episodes"], executed)
    seeds = sorted({e["seed"] for e in row["episodes"]})
    return {seed for seed, whole in zip(seeds, counts.min(0) > 0, strict=True) if whole}


def paired_table(result: dict[str, Any]) -> str:
    """The other rows against the full method on the same layouts: how much farther they end, how many times as far,
    and, where the oracle was measured, how many times as far beyond it; empty without the full method's row."""
    rows = {n: result["rows"][n] for n in NAMES if n in result["rows"]}
    if "full" not in rows:
        return ""
    beyond = "oracle" in rows
    heads = " times as far beyond the oracle |" if beyond else ""
    lines = [
        f"| row, paired with the full method | farther by, {result['unit']} | times as far |{heads} layouts |",
        "|---|---|---|---|" + "---|" * beyond,
    ]
    shared = layouts_of(rows["full"])
    if beyond:
        shared &= layouts_of(rows["oracle"])
    for name in (n for n in rows if n != "full"):
        seeds = sorted(shared & layouts_of(rows[name]))
        if not seeds:
            continue
        there = ends_on(rows[name], seeds)
        full = ends_on(rows["full"], seeds, first=not rows[name].get("every_training", True))
        by, times = paired_intervals(there, full)
        cell = f"| {NAMES[name]} | {signed(by, '.3f')} | {interval(times, form='.2f')} |"
        if beyond:
            floor = ends_on(rows["oracle"], seeds)
            more = None if name == "oracle" else paired_intervals(there, full, floor)[1]
            cell += f" {interval(more, form='.2f')} |"
        lines.append(f"{cell} {len(seeds)} |")
    return "\n".join(lines) + "\n" + without_memory(rows)


def without_memory(rows: Mapping[str, Any]) -> str:
    """Which row counts as no memory: the better of the base and of as many more steps; empty unless both are there."""
    if not {"no_memory", "equal_steps"} <= set(rows):
        return ""
    seeds = sorted(layouts_of(rows["no_memory"]) & layouts_of(rows["equal_steps"]))
    if not seeds:
        return ""
    better = min(("no_memory", "equal_steps"), key=lambda n: ends_on(rows[n], seeds).mean())
    return f"\nWithout memory, the better of the base and its equal steps: {NAMES[better]}.\n"
