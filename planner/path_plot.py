"""A plan of the table: where each thing went in the imagination, and where it truly went.

Both paths are drawn as the camera sees them: a lifted thing stands before the table a little further
back, in the imagined frames as in the true ones, so that the two lines can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator

from tasks.camera import Camera
from tasks.files import atomic_path

COLOURS = {"red": "#c62828", "green": "#1b7a2f", "blue": "#1f45c4"}
OTHERS = ("#6a1b9a", "#00796b", "#8d5a00")
GREY = "#6b7280"
HALF = 0.025  # m, half the side of the squares drawn for things and places


def draw_paths(
    path: str | Path,
    camera: Camera,
    names: Sequence[str],
    starts: np.ndarray,
    executed: np.ndarray,
    imagined: np.ndarray,
    places: Mapping[str, np.ndarray],
    tolerance: float,
) -> None:
    """Write a png of the table from above, turned as the camera sees it (its right is right).

    Args:
        path: of the png; written atomically.
        camera: gives the directions.
        names: of the N things.
        starts: ``(N, 3)`` m.
        executed: ``(T, N, 3)`` m, true positions.
        imagined: ``(T, N, 3)`` m, read off the imagined frames as if on the table; NaN where not found.
        places: named places, ``(2,)`` or ``(3,)`` m.
        tolerance: m around a start that counts as back.
    """
    right, near = camera.rotation[:2, 0], camera.rotation[:2, 2]
    axes_of = np.column_stack([right / np.linalg.norm(right), -near / np.linalg.norm(near)])
    figure = Figure(figsize=(6.4, 5.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, position in places.items():
        _square(axes, position[:2] @ axes_of, facecolor="#e9ecf1", edgecolor="none")
        _label(axes, place, position[:2] @ axes_of, GREY)
    ends = []
    for i, name in enumerate(names):
        colour = COLOURS.get(name.split()[0], OTHERS[i % len(OTHERS)])
        start = starts[i, :2] @ axes_of
        seen = camera.unproject_to_height(camera.project(executed[:, i]), starts[i, 2])
        real, dreamt = seen[:, :2] @ axes_of, imagined[:, i, :2] @ axes_of
        _square(axes, start, facecolor="none", edgecolor=colour, linestyle=(0, (2, 1.5)), linewidth=1.6)
        axes.add_patch(Circle(start, tolerance, facecolor=colour, alpha=0.15, linewidth=0))
        axes.plot(*real.T, color=colour, linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot(*dreamt.T, color=colour, linewidth=1.5, linestyle=(0, (3, 2)), marker=".", markersize=5)
        _square(
            axes,
            executed[-1, i, :2] @ axes_of,
            facecolor=colour,
            edgecolor="white",
            alpha=0.55,
            linewidth=0.8,
        )
        if np.isfinite(dreamt[-1]).all():
            axes.plot(*dreamt[-1], marker="X", color=colour, markeredgecolor="white", markersize=10, zorder=5)
        gap = float(np.linalg.norm(executed[-1, i] - starts[i])) * 1000
        dream = float(np.linalg.norm(imagined[-1, i, :2] - starts[i, :2])) * 1000
        ends.append(
            f"{name}: ends {gap:.0f} mm from its start"
            + (f" (imagined {dream:.0f} mm)" if np.isfinite(dream) else " (lost in the imagination)")
        )
        _label(axes, f"{name}'s start", start + np.array([0.0, HALF + 0.012]), colour)
    _finish(axes, ends)
    with atomic_path(path) as temp:
        figure.savefig(temp, format="png")


def _square(axes: Axes, centre: np.ndarray, **style) -> None:
    axes.add_patch(Rectangle(tuple(centre - HALF), 2 * HALF, 2 * HALF, **style))


def _label(axes: Axes, text: str, where: np.ndarray, colour: str) -> None:
    text_at = axes.text(
        float(where[0]), float(where[1]), text, ha="center", va="center", color=colour, fontsize=9, zorder=6
    )
    text_at.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _finish(axes: Axes, ends: Sequence[str]) -> None:
    key = [
        Line2D([], [], color=GREY, linewidth=5, alpha=0.35, label="executed"),
        Line2D([], [], color=GREY, linewidth=1.4, linestyle=(0, (3, 2)), marker=".", label="imagined"),
        Line2D([], [], color=GREY, linestyle="", marker="s", markersize=9, alpha=0.55, label="executed end"),
        Line2D([], [], color=GREY, linestyle="", marker="X", markersize=9, label="imagined end"),
        Line2D([], [], color=GREY, linestyle="", marker="s", markersize=9, fillstyle="none", label="start"),
    ]
    axes.figure.legend(handles=key, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    axes.set_title("\n".join(ends), fontsize=10, loc="left")
    axes.set_aspect("equal", adjustable="datalim")
    axes.autoscale_view()
    axes.margins(0.08)
    axes.set_xlabel("← left          as the camera sees the table, grid 10 cm          right →", fontsize=9)
    axes.set_ylabel("← front (near the camera)          back →", fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.1))
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(color="#e3e6ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color("#d5d9e0")
