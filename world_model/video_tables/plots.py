"""Pictures of a video table: figures with their intervals, quality over time, and frames of one video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tasks.files import atomic_path
from world_model.video_tables.metrics import METRICS
from world_model.video_tables.page import COSTS, columns_of

COLOURS = {"reference": "#6b7280", "adversary": "#c62828", "model": "#1f45c4"}
SHOWN, GAP = 9, 3  # frames of a film strip, and the pixels between them


def draw_intervals(
    path: Path, rows: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> None:
    """A panel a figure, a dot with its 95% interval a row; references grey, adversaries red, models blue.

    Args:
        names: of the figures that are shown; None: of every metric that a row has.
    """
    names = {m: METRICS[m].name for m in columns_of(rows)} if names is None else names
    metrics = list(names)
    width, height = 2.2 * len(metrics) + 2.5, 0.28 * len(rows) + 1.2
    figure = Figure(figsize=(width, height), dpi=110)
    figure.subplots_adjust(
        left=2.4 / width, right=1 - 0.2 / width, bottom=0.35 / height, top=1 - 0.6 / height
    )
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for y, row in enumerate(rows.values()):
            value = row["figures"].get(metric)
            if value is not None:
                colour = COLOURS[row["kind"]]
                axes.plot([value["low"], value["high"]], [y, y], color=colour, lw=2, solid_capstyle="butt")
                axes.plot(value["value"], y, "o", color=colour, ms=4)
        axes.set_title(names[metric].replace(", ", ",\n"), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [r["label"].partition(":")[0] for r in rows.values()], fontsize=7)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    _write(path, figure)


def draw_costs(path: Path, costs: Mapping[str, Any]) -> None:
    """Table 3: seconds and memory, without fast learning grey, with it blue."""
    kinds = {"without": "reference", "with": "model"}
    rows = {n: {**row, "label": f"{n} fast learning", "kind": kinds[n]} for n, row in costs["rows"].items()}
    draw_intervals(path, rows, {key: name for key, (name, _) in COSTS.items()})


def draw_over_time(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """PSNR of each frame, mean over videos: how fast a long video leaves the truth."""
    figure = Figure(figsize=(7.5, 4), dpi=110)
    axes = figure.subplots()
    for name, row in rows.items():
        if values := row["psnr_by_frame"]:
            dashed = "-" if row["kind"] == "model" else ":"
            grey: dict[str, Any] = (
                {} if row["kind"] == "model" else {"color": COLOURS[row["kind"]], "alpha": 0.6}
            )
            axes.plot(range(1, len(values) + 1), values, dashed, lw=1.5, label=name, **grey)
    axes.set_xlabel("frame")
    axes.set_ylabel("PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    _write(path, figure)


def draw_strip(path: Path, videos: Mapping[str, np.ndarray]) -> None:
    """Frames of one clip at equal steps, a line a row; ``(T, H, W, 3)`` uint8 each."""
    length, height, width, _ = next(iter(videos.values())).shape
    chosen = np.linspace(0, length - 1, SHOWN).round().astype(int)
    page = np.full((len(videos) * (height + GAP), SHOWN * (width + GAP), 3), 255, np.uint8)
    for y, video in enumerate(videos.values()):
        for x, k in enumerate(chosen):
            top, left = y * (height + GAP), x * (width + GAP)
            page[top : top + height, left : left + width] = video[k]
    figure = Figure(figsize=(SHOWN + 2.5, len(videos) + 0.5), dpi=110)
    axes = figure.add_axes((0.2, 0.02, 0.79, 0.9))
    axes.imshow(page, interpolation="nearest", aspect="equal")
    rows, columns = (
        np.arange(n) * (side + GAP) + side / 2 for n, side in ((len(videos), height), (SHOWN, width))
    )
    axes.set_yticks(rows, [name.replace("_", " ") for name in videos], fontsize=7)
    axes.set_xticks(columns, [f"frame {k + 1}" for k in chosen], fontsize=7)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    _write(path, figure)


def _write(path: Path, figure: Figure) -> None:
    with atomic_path(path) as temp:
        figure.savefig(temp, format="png")
