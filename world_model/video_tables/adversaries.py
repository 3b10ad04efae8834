"""What a row is to be read beside: true videos, and videos spoiled so that a metric must see it.

The spoiled ones go through the autoencoder first: an adversary of sharp frames would beat every model by
metrics of sharpness alone, whatever it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np

from world_model.video_metrics.videos import freeze, inject_cuts, shuffle
from world_model.video_tables.clips import Clip, Clips
from world_model.video_tables.judge import Judge
from world_model.video_tables.metrics import METRICS

REFERENCES = {
    "truth": "the truth itself",
    "other_layouts": "other true videos: floor of Fréchet distances, chance of the others",
    "autoencoded": "the truth through the autoencoder: the ceiling",
}
ADVERSARIES = {
    "frozen": "frozen: the last frame that was given, autoencoded",
    "shuffled": "shuffled: the true frames in random order, autoencoded",
    "cut_injected": "cut-injected: two hard cuts in the truth, autoencoded",
    "wrong_action": "wrong actions: true videos from the same start, autoencoded",
}
BARS = {  # the metrics by which an adversary must be worse than videos that are right
    "frozen": ("fvd", "frechet_steps", "psnr", "ssim", "lpips", "src_contrast", "followed"),
    "shuffled": ("fvd", "frechet_steps", "psnr", "ssim", "lpips", "src_contrast", "followed"),
    "cut_injected": ("fvd", "frechet", "frechet_steps", "psnr", "ssim", "lpips", "scuts", "followed"),
    "wrong_action": ("psnr", "ssim", "lpips", "followed"),
}
# Between its cuts it is the truth: only the ceiling has to be above.
MOSTLY_RIGHT = {"cut_injected": ("followed",)}
Videos = dict[int, np.ndarray]


class Autoencoded:
    """The true videos through an autoencoder, made once for all the rows that need them.

    Args:
        autoencode: ``(T, H, W, 3)`` uint8 there and back.
    """

    def __init__(self, clips: Clips, autoencode: Callable[[np.ndarray], np.ndarray]):
        self.clips, self.autoencode = clips, autoencode

    @cached_property
    def truth(self) -> list[Clip]:
        """With all frames, the first included."""
        return [replace(c, frames=self.autoencode(c.frames)) for c in self.clips.truth]

    @cached_property
    def wrong(self) -> Videos:
        """Videos of wrong actions, without the first frame."""
        return {i: self.autoencode(c.frames[1:]) for i, c in self.clips.wrong.items()}


def reference_row(
    name: str, clips: Clips, judge: Judge, chunk_frames: int | None, autoencoded: Autoencoded
) -> dict[str, Any] | None:
    """Floor, ceiling or an adversary, measured as a model's row is; None where there are no such videos.

    Args:
        name: in ``REFERENCES`` or ``ADVERSARIES``.
        chunk_frames: of a frozen video that starts anew with each chunk; None freezes the whole.
        autoencoded: the true videos as adversaries are made of them.
    """
    true: Videos = {i: c.frames[1:] for i, c in enumerate(clips.truth)}
    at: list[tuple[int, int]] = []
    videos: Videos = true
    if name == "other_layouts":
        videos = alike(clips)
    elif name == "wrong_action":
        videos = autoencoded.wrong
    elif name != "truth":
        blurred = autoencoded.truth
        if name == "autoencoded":
            videos = {i: c.frames[1:] for i, c in enumerate(blurred)}
        elif name == "frozen":
            videos = frozen(blurred, chunk_frames)
        elif name == "shuffled":
            videos = dict(enumerate(shuffle([c.frames[1:] for c in blurred])))
        else:
            videos, at = with_cuts(blurred)
    if not videos:
        return None
    anew = chunk_frames if name == "frozen" else None
    row = judge.measure(videos, name != "truth", name != "other_layouts", anew)
    injected = {"injected": cuts_found(row["clips"], at)} if at else {}
    label, kind = (REFERENCES[name], "reference") if name in REFERENCES else (ADVERSARIES[name], "adversary")
    return {"label": label, "kind": kind, **injected, **row}


def frozen(clips: Sequence[Clip], chunk_frames: int | None) -> Videos:
    """The first frame throughout; with ``chunk_frames`` the last true frame before each chunk."""
    whole = freeze([c.frames for c in clips])
    if chunk_frames is None:
        return {i: v[1:] for i, v in enumerate(whole)}
    return {i: np.repeat(c.frames[:-1:chunk_frames], chunk_frames, axis=0) for i, c in enumerate(clips)}


def with_cuts(clips: Sequence[Clip]) -> tuple[Videos, list[tuple[int, int]]]:
    """Hard cuts at a third and at two thirds of each video, and at which frames."""
    at = [(len(c.frames) // 3, 2 * len(c.frames) // 3) for c in clips]
    made = [inject_cuts([c.frames], places)[0] for c, places in zip(clips, at, strict=True)]
    return {i: v[1:] for i, v in enumerate(made)}, at


def cuts_found(records: list[dict[str, Any]], at: list[tuple[int, int]]) -> dict[str, int]:
    """How many injected cuts were found, and how many others."""
    hits = [len(set(r["cuts"]) & set(places)) for r, places in zip(records, at, strict=True)]
    total = sum(len(r["cuts"]) for r in records)
    return {"found": sum(hits), "of": sum(map(len, at)), "others": total - sum(hits)}


def alike(clips: Clips) -> Videos:
    """For each clip another true video of its length, where there is one."""
    by_length = {
        n: cycle([c for c in clips.others if c.chunks == n]) for n in {c.chunks for c in clips.others}
    }
    return {
        i: next(by_length[c.chunks]).frames[1:] for i, c in enumerate(clips.truth) if c.chunks in by_length
    }


@dataclass(frozen=True)
class Doubt:
    """A row that an adversary does not rank below, by one metric."""

    row: str
    adversary: str
    metric: str
    value: float
    beside: float


def doubts(rows: Mapping[str, Mapping[str, Any]]) -> list[Doubt]:
    """Where an adversary is as good as a row that should beat it.

    Of ``autoencoded`` it says that the metric cannot be trusted on these videos; of a model's row, that by
    this metric the row is no better than the adversary. ``MOSTLY_RIGHT`` is held against ``autoencoded`` alone.
    """
    found = []
    judged = {n: r for n, r in rows.items() if r["kind"] == "model" or n == "autoencoded"}
    for adversary, metrics in BARS.items():
        if adversary not in rows:
            continue
        bar = rows[adversary]["figures"]
        for name, row in judged.items():
            for metric in metrics:
                if metric not in row["figures"] or metric not in bar:
                    continue
                if row["kind"] == "model" and metric in MOSTLY_RIGHT.get(adversary, ()):
                    continue
                value, beside = row["figures"][metric]["value"], bar[metric]["value"]
                if METRICS[metric].better * (value - beside) <= 0:
                    found.append(Doubt(name, adversary, metric, value, beside))
    return found
