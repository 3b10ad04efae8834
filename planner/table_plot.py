"""The planning table's picture: distances with their intervals, a dot a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from planner.row_names import NAMES
from tasks.files import atomic_path

COLUMNS = {"executed": "#1f45c4", "imagined": "#d97706"}
APART = 0.28  # of a row's height between its columns


def draw_planning(path: Path, result: Mapping[str, Any]) -> None:
    """Executed and imagined figure of each row, mean and 95% interval, in the task's unit, as PNG."""
    names = [n for n in NAMES if n in result["rows"]]
    width, height = 8.0, 0.36 * len(names) + 1.1
    figure = Figure(figsize=(width, height), dpi=110)
    figure.subplots_adjust(left=0.47, right=0.98, bottom=0.55 / height, top=1 - 0.15 / height)
    axes = figure.subplots()
    for number, (column, colour) in enumerate(COLUMNS.items()):
        for y, name in enumerate(names):
            if value := result["rows"][name].get(column):
                at = y + APART * (number - 0.5)
                axes.plot([value["low"], value["high"]], [at, at], color=colour, lw=2, solid_capstyle="butt")
                axes.plot(value["mean"], at, "o", color=colour, ms=4, label=column)
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    figure.legend(first.values(), first.keys(), fontsize=8, loc="lower left", ncols=2, frameon=False)
    axes.set_yticks(
        range(len(names)), [NAMES[n].replace("*", "").replace("`", "") for n in names], fontsize=8
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{result.get('figure', 'distance')}, {result['unit']}", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    with atomic_path(path) as temp:
        figure.savefig(temp, format="png")
