"""Pictures of a video table: figures with their intervals, quality over time, and frames of one video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tasks.files import atomic_path
from world_model.video_tables.metrics import METRICS
from world_model.video_tables.page import columns_of

COLOURS = {"reference": "#6b7280", "adversary": "#c62828", "model": "#1f45c4"}
SHOWN = 9  # frames of a film strip


def draw_intervals(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A panel a metric, a dot with its 95% interval a row; references grey, adversaries red, models blue."""
    metrics = columns_of(rows)
    figure = Figure(figsize=(2.2 * len(metrics) + 2.5, 0.28 * len(rows) + 1.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for y, row in enumerate(rows.values()):
            value = row["figures"].get(metric)
            if value is not None:
                colour = COLOURS[row["kind"]]
                axes.plot([value["low"], value["high"]], [y, y], color=colour, lw=2, solid_capstyle="butt")
                axes.plot(value["value"], y, "o", color=colour, ms=4)
        axes.set_title(METRICS[metric].name.replace(", ", ",\n"), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [r["label"].partition(":")[0] for r in rows.values()], fontsize=7)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    _write(path, figure)


def draw_over_time(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """PSNR of each frame, mean over videos: how fast a long video leaves the truth."""
    figure = Figure(figsize=(7.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, row in rows.items():
        if values := row["psnr_by_frame"]:
            dashed = "-" if row["kind"] == "model" else ":"
            grey = {} if row["kind"] == "model" else {"color": COLOURS[row["kind"]], "alpha": 0.6}
            axes.plot(range(1, len(values) + 1), values, dashed, lw=1.5, label=name, **grey)
    axes.set_xlabel("frame")
    axes.set_ylabel("PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    _write(path, figure)


def draw_strip(path: Path, videos: Mapping[str, np.ndarray]) -> None:
    """Frames of one clip at equal steps, a line a row; ``(T, H, W, 3)`` uint8 each."""
    figure = Figure(figsize=(SHOWN + 1.6, 1.05 * len(videos) + 0.3), dpi=110, layout="constrained")
    grid = figure.subplots(len(videos), SHOWN, squeeze=False)
    for line, (name, video) in zip(grid, videos.items(), strict=True):
        for axes, k in zip(line, np.linspace(0, len(video) - 1, SHOWN).round().astype(int), strict=True):
            axes.imshow(video[k], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{k + 1}" if line is grid[0] else "", fontsize=7)
        line[0].set_ylabel(
            name.replace("_", " "),
            fontsize=7,
            rotation=0,
            horizontalalignment="right",
            verticalalignment="center",
        )
    _write(path, figure)


def _write(path: Path, figure: Figure) -> None:
    with atomic_path(path) as temp:
        figure.savefig(temp, format="png")
