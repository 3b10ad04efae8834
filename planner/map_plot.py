"""A map of one walk, from above: the way out, and the way back as it was imagined and as it was executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator

from tasks.files import atomic_path

EXECUTED, IMAGINED, OUT, INK = "#b25400", "#145ca8", "#6b7280", "#181c24"  # the colours of the clips
AROUND = 3.0  # units of map around the paths


def draw_map(
    path: str | Path,
    walls: np.ndarray,
    waypoints: Mapping[str, np.ndarray],
    executed: np.ndarray,
    imagined: np.ndarray,
    explored: int,
    tolerance: float,
    unit: str,
) -> None:
    """Write a png, north up.

    Args:
        path: of the png; written atomically.
        walls: ``(S, 4)`` lines x1 y1 x2 y2.
        waypoints: ``(2,)`` each.
        executed: ``(T, 2)`` true places; the first ``1 + explored`` are the way out.
        imagined: ``(T, 2)`` places read off the imagined frames; of the way out they are what is read off the
            camera's, and not drawn.
        explored: frames of the way out.
        tolerance: around a waypoint that counts as reached.
        unit: of all of these, for the axes.
    """
    figure = Figure(figsize=(6.4, 5.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.add_collection(LineCollection(list(walls.reshape(-1, 2, 2)), colors=INK, linewidths=1.6))
    for name, place in waypoints.items():
        axes.add_patch(Circle(tuple(place), tolerance, facecolor=OUT, alpha=0.12, linewidth=0))
        axes.plot(*place, marker="o", color="white", markeredgecolor=OUT, markersize=5, zorder=5)
        text = axes.annotate(
            name, tuple(place), (5, 5), textcoords="offset points", fontsize=9, color=OUT, zorder=7
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    out, back, dreamt = executed[: explored + 1], executed[explored:], imagined[explored:]
    axes.plot(*out.T, color=OUT, linewidth=1.4, label="way out")
    axes.plot(*back.T, color=EXECUTED, linewidth=5, alpha=0.45, solid_capstyle="round", label="executed back")
    axes.plot(*dreamt.T, color=IMAGINED, linewidth=1.5, linestyle=(0, (3, 2)), marker=".", markersize=5,
              label="imagined back")  # fmt: skip
    axes.plot(*back[-1], marker="s", color=EXECUTED, markeredgecolor="white", markersize=9, linestyle="",
              label="executed end", zorder=6)  # fmt: skip
    axes.plot(*dreamt[-1], marker="X", color=IMAGINED, markeredgecolor="white", markersize=10, linestyle="",
              label="imagined end", zorder=6)  # fmt: skip
    _finish(axes, np.concatenate([executed, imagined]), unit)
    with atomic_path(path) as temp:
        figure.savefig(temp, format="png")


def _finish(axes: Axes, shown: np.ndarray, unit: str) -> None:
    shown = shown[np.isfinite(shown).all(1)]
    low, high = shown.min(0), shown.max(0)
    middle, half = (low + high) / 2, float(max(high - low)) / 2 + AROUND  # a square: one scale for both axes
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    axes.set_xlabel(f"east, {unit}", fontsize=9)
    axes.set_ylabel(f"north, {unit}", fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(max(1, round(half / 5))))
    axes.tick_params(length=0, labelsize=8)
    axes.grid(color="#e3e6ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color("#d5d9e0")
