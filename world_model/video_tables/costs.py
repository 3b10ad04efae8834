"""Table 3: what a video takes with and without fast learning, by turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from tqdm import tqdm

from tasks.statistics import mean_interval, ratio_interval
from world_model.memory.base import AnyMemory
from world_model.memory.none import NoMemory
from world_model.model import WorldModel
from world_model.peak_memory import PeakMemory
from world_model.video_tables.clips import Clip
from world_model.video_tables.imagine import hardware, imagine
from world_model.video_tables.judge import figure
from world_model.video_tables.rows import LONG

PAPER = {"seconds": 13.8066 / 12.9305, "peak_mb": 9931 / 9579}  # its ratios, on a V100


def costs(model: WorldModel, clips: Sequence[Clip]) -> dict[str, Any]:
    """Whole videos one at a time, without and with the model's memory by turns, a warm-up first.

    Returns:
        ``rows`` ``without`` and ``with``: seconds a video and a chunk, and peak memory in MB, with 95%
        intervals over clips; ``ratios`` with over without, of the same clips; ``paper``: its ratios;
        ``hardware``: what they were measured on.
    """
    memory, theta0 = model.memory, model.theta0
    found: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    for number, clip in enumerate(tqdm([clips[0], *clips], "costs", unit="clip")):
        for name, records in found.items():
            model.use_memory(cast(AnyMemory, NoMemory()) if name == "without" else memory, theta0)
            with PeakMemory(model.device) as peak:
                seconds = imagine(model, LONG, [clip], [clip.captions])[0].seconds
            if number:
                records.append({"seed": clip.seed, "seconds": seconds, "per_chunk": seconds / clip.chunks})
                records[-1]["peak_mb"] = peak.megabytes
    measured = ("seconds", "per_chunk", "peak_mb")
    columns = {n: {k: [r[k] for r in records] for k in measured} for n, records in found.items()}
    return {
        "rows": {
            n: {"figures": {k: figure(mean_interval(v)) for k, v in c.items()}, "clips": found[n]}
            for n, c in columns.items()
        },
        "ratios": {k: figure(ratio_interval(columns["with"][k], columns["without"][k])) for k in measured},
        "paper": PAPER,
        "hardware": hardware(model.device),
    }
