"""What every kind of recording is brought to: takes, unbroken stretches of frames that captions cover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np

from tasks import Episode, Segment
from tasks.revisit import REVISITS

Read = Callable[[float, float, int, int], np.ndarray]
"""``(start in seconds, frames a second, count, side in px)`` to ``(count, side, side, 3)`` uint8."""
SLACK = 1e-6  # seconds by which sums of frame times miss each other


class DataError(ValueError):
    """Data that can't be trained on; names the file and what to do."""


@dataclass(frozen=True)
class Caption:
    """What happens from ``start`` to ``end``, in seconds of the recording."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Take:
    """An unbroken stretch of a recording.

    Attributes:
        name: of the file or episode, for messages.
        captions: each begins where the one before it ends.
        read: its frames, at any rate and size.
        more: what else is known of it, as json-able values.
        revisits: pairs of seconds at which one view is seen, for SRC.
    """

    name: str
    captions: tuple[Caption, ...]
    read: Read
    more: dict = field(default_factory=dict)
    revisits: tuple[tuple[float, float], ...] = ()

    @property
    def start(self) -> float:
        """Seconds of the recording."""
        return self.captions[0].start

    def chunks(self, fps: float, chunk_frames: int) -> int:
        """Whole chunks that fit into it, after a first frame."""
        frames = ceil((self.captions[-1].end - self.start) * fps - SLACK)
        return max(0, (frames - 1) // chunk_frames)

    def cut(self, fps: float, chunk_frames: int, most: int) -> list[Take]:
        """Consecutive takes of ``most`` chunks; a rest of a chunk or more is one, too."""
        length = most * chunk_frames / fps
        made = []
        for k in range(-(-self.chunks(fps, chunk_frames) // most)):
            low, high = self.start + k * length, self.start + (k + 1) * length + 1 / fps
            inside = [
                Caption(max(c.start, low), min(c.end, high), c.text)
                for c in self.captions
                if min(c.end, high) - max(c.start, low) > SLACK
            ]
            made.append(replace(self, captions=tuple(inside)))
        return made

    def segments(self, fps: float, chunk_frames: int) -> tuple[Segment, ...]:
        """One a chunk, said by the caption that covers most of it."""
        return tuple(
            Segment(k * chunk_frames, (k + 1) * chunk_frames, self._said(k * chunk_frames / fps, chunk_frames / fps))
            for k in range(self.chunks(fps, chunk_frames))
        )  # fmt: skip

    def _said(self, at: float, length: float) -> str:
        low, high = self.start + at, self.start + at + length
        shares = [min(c.end, high) - max(c.start, low) for c in self.captions]
        return self.captions[int(np.argmax(shares))].text

    def episode(self, fps: float, chunk_frames: int, side: int) -> Episode:
        """Whole chunks of it, without actions and positions. Raises DataError."""
        segments = self.segments(fps, chunk_frames)
        count = 1 + segments[-1].stop
        return Episode(
            frames=self.read(self.start, fps, count, side),
            actions=np.zeros((count - 1, 0), np.float32),
            segments=segments,
            positions=np.zeros((count, 0, 3), np.float32),
            names=(),
            provenance=self.origin(fps, chunk_frames),
        )

    def origin(self, fps: float, chunk_frames: int) -> dict:
        """Where the episode comes from; its revisits as ``[first, later]`` frames of it."""
        last = self.chunks(fps, chunk_frames) * chunk_frames
        frames = [[round((s - self.start) * fps) for s in pair] for pair in self.revisits]
        inside = [pair for pair in frames if min(pair) >= 0 and max(pair) <= last]
        pairs = {REVISITS: inside} if self.revisits else {}
        return {**self.more, "recording": self.name, "start": round(self.start, 6), "fps": fps, **pairs}


@dataclass(frozen=True)
class Source:
    """One folder of recordings.

    Attributes:
        path: the folder.
        kind: what it is, for people.
        recordings: how many there are, usable or not.
        size: width and height in px; of the first recording, if they differ.
        fps: frames a second, likewise.
        seconds: of all recordings.
        takes: what can be trained on.
        wrong: a line for each thing that can't.
        notes: what else a user should know.
        ours: whether it is a dataset that this project's commands wrote.
    """

    path: Path
    kind: str
    recordings: int
    size: tuple[int, int]
    fps: float
    seconds: float
    takes: tuple[Take, ...]
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ours: bool = False


def check_captions(captions: Sequence[Caption], seconds: float, fps: float) -> list[str]:
    """What is wrong with a recording's captions, in the order of their starts; a frame's length is no fault."""
    if not captions:
        return ["no caption; say what happens in it"]
    frame, found = 1 / fps + SLACK, []
    for c in captions:
        told = f"the caption {c.text[:40]!r} at {span(c)}"
        if c.start < 0 or c.end <= c.start:
            found.append(f"{told} does not end after it begins; give seconds, start before end")
        elif c.end > seconds + frame:
            found.append(f"{told} runs past the end of the video ({seconds:.2f} s); end it there")
    for a, b in pairwise(captions):
        if b.start < a.end - frame:
            found.append(
                f"the captions {a.text[:40]!r} at {span(a)} and {b.text[:40]!r} at {span(b)} overlap; "
                "end one before the other begins"
            )
    return found


def span(caption: Caption) -> str:
    """``1.5–3 s``."""
    return f"{caption.start:.6g}–{caption.end:.6g} s"


def unbroken(captions: Sequence[Caption], fps: float) -> list[tuple[Caption, ...]]:
    """Captions in order, divided where more than a frame lies between two."""
    runs: list[list[Caption]] = []
    for c in captions:
        if runs and c.start <= runs[-1][-1].end + 1 / fps + SLACK:
            runs[-1].append(c)
        else:
            runs.append([c])
    return [tuple(run) for run in runs]
