"""Videos as arrays, and the adversaries that a metric must not be fooled by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Videos = np.ndarray | Sequence[np.ndarray]
"""``(N, T, H, W, 3)`` uint8, or a list of N arrays ``(T, H, W, 3)`` uint8 of any lengths."""


def as_list(videos: Videos, what: str = "videos") -> list[np.ndarray]:
    """The videos as a list of ``(T, H, W, 3)`` uint8.

    Raises:
        ValueError: none given, or one is not uint8 of that shape; names ``what``.
    """
    listed = [np.asarray(video) for video in videos]
    if not listed:
        raise ValueError(f"{what}: none given; expected (N, T, H, W, 3) uint8 with N of at least 1")
    for k, video in enumerate(listed):
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
            raise ValueError(
                f"{what}[{k}]: {video.dtype} {video.shape}; expected uint8 (T, H, W, 3), values 0 to 255"
            )
    return listed


def as_pairs(videos: Videos, truth: Videos) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each video beside its truth; raises ValueError where number or shape differ."""
    left, right = as_list(videos), as_list(truth, "truth")
    if len(left) != len(right):
        raise ValueError(f"{len(left)} videos, {len(right)} of truth: expected one truth for each video")
    for k, (video, true) in enumerate(zip(left, right, strict=True)):
        if video.shape != true.shape:
            raise ValueError(
                f"video {k} is {video.shape}, its truth {true.shape}: cut and resize both alike first; "
                "no metric here resizes one to fit the other"
            )
    return list(zip(left, right, strict=True))


def freeze(videos: Videos) -> list[np.ndarray]:
    """Adversary: each video shows its first frame throughout. No cut, perfect revisits, no motion."""
    return [np.repeat(video[:1], len(video), axis=0) for video in as_list(videos)]


def shuffle(videos: Videos, seed: int = 0) -> list[np.ndarray]:
    """Adversary: each video's own frames in random order. Every frame is real, no motion is."""
    rng = np.random.default_rng(seed)
    return [video[rng.permutation(len(video))] for video in as_list(videos)]


def inject_cuts(videos: Videos, at: Sequence[int]) -> list[np.ndarray]:
    """Adversary: a hard cut before each frame in ``at``.

    From the first cut to the second every colour value is moved by half the range (x + 128 modulo 256),
    then as it was, and so on: as many cuts as ``at`` is long, in mid-grey scenes too, whose negative
    looks much like them.

    Raises:
        ValueError: a cut at or before frame 0, past the end, or given twice.
    """
    listed = as_list(videos)
    places = sorted(at)
    shortest = min(len(video) for video in listed)
    if len(set(places)) != len(places) or any(not 0 < k < shortest for k in places):
        raise ValueError(f"cuts at {list(at)}: expected different frames from 1 to {shortest - 1}")
    out = []
    for video in listed:
        moved = np.searchsorted(places, np.arange(len(video)), side="right") % 2 == 1
        out.append(np.where(moved[:, None, None, None], video ^ np.uint8(128), video))
    return out
