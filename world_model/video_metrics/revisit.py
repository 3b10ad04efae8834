"""SRC, scene revisit consistency (Section 4.1): does a place look on return as it did at first?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world_model.video_metrics.features import FrameExtractor
from world_model.video_metrics.videos import Videos, as_list


@dataclass(frozen=True)
class Revisits:
    """SRC and what gives it a scale; cosines times 100, as the paper prints them.

    Attributes:
        src: mean cosine between the features of a place's first and later visits.
        unrelated: the same video's cosine between first visits and later visits of *other* places.
        floor, ceiling: ``unrelated`` and ``src`` of the simulator's own frames.
        normalised: (src - floor) / (ceiling - floor). A frozen video scores 1 or more.
        contrast: (src - unrelated) / (ceiling - floor). The truth scores 1, a frozen video 0.
        per_video: ``src`` of each video.
        extractor: whose features.
    """

    src: float
    unrelated: float
    floor: float
    ceiling: float
    normalised: float
    contrast: float
    per_video: tuple[float, ...]
    extractor: str


def out_and_back(frames: int, gap: int = 1) -> np.ndarray:
    """Pairs ``(P, 2)`` of (first, later) frames of a path that goes out and returns by reversed actions.

    Frame k and frame ``frames - 1 - k`` show one place; those less than ``gap`` frames apart, around the
    turning point, are left out.
    """
    if gap < 1:
        raise ValueError(f"gap={gap}: expected at least 1 frame")
    first = np.arange(frames // 2)
    later = frames - 1 - first
    kept = later - first >= gap
    return np.stack([first[kept], later[kept]], 1)


def scene_revisit_consistency(
    imagined: Videos, real: Videos, pairs: np.ndarray | Sequence[np.ndarray], extractor: FrameExtractor
) -> Revisits:
    """Compare first and later visits along one scripted path.

    The floor is taken over all pairs of a first visit with a later visit of another place, not over a
    sample of them. Cosines of features after a ReLU are high for any two frames, and a frozen video's
    SRC is 100: read ``contrast`` beside it, and whether the video follows its actions.

    Args:
        imagined, real: videos along that path; ``real`` are the simulator's.
        pairs: ``(P, 2)`` (first, later) frame numbers, of at least two places; one first frame may stand
            in several pairs. One array for all videos, or one for each, such as
            :func:`tasks.revisit.load_revisits` gives.
        extractor: ResNet-18 in the paper.

    Raises:
        ValueError: pairs that no video has, of fewer than two places, or a simulator whose visits look
            no more alike than unrelated places.
    """
    src, unrelated = _cosines(imagined, "imagined", pairs, extractor)
    ceiling, floor = (float(np.mean(v)) for v in _cosines(real, "real", pairs, extractor))
    if ceiling <= floor:
        raise ValueError(
            f"the simulator's revisits are no more alike ({ceiling:.2f}) than unrelated places ({floor:.2f}): "
            "the pairs do not show one place, or the extractor cannot tell places apart"
        )
    value, other = float(np.mean(src)), float(np.mean(unrelated))
    return Revisits(
        src=value,
        unrelated=other,
        floor=floor,
        ceiling=ceiling,
        normalised=(value - floor) / (ceiling - floor),
        contrast=(value - other) / (ceiling - floor),
        per_video=tuple(src),
        extractor=extractor.name,
    )


def visit_cosines(features: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Of one video the mean cosine (x 100) of visits of one place, and of unrelated places.

    Args:
        features: ``(T, D)``, of each frame.
        pairs: ``(P, 2)`` (first, later) frame numbers, of at least two places.

    Raises:
        ValueError: pairs of another shape, of fewer places, or of frames that are not there.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(set(pairs[:, 0].tolist())) < 2:
        raise ValueError(
            f"pairs of shape {pairs.shape}: expected (P, 2) of (first, later), two places or more"
        )
    if pairs.min() < 0 or pairs.max() >= len(features):
        raise ValueError(f"the video has {len(features)} frames, and a pair names frame {pairs.max()}")
    elsewhere = pairs[:, None, 0] != pairs[None, :, 0]
    unit = np.asarray(features, np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    cosines = 100 * unit[pairs[:, 0]] @ unit[pairs[:, 1]].T
    return float(np.diag(cosines).mean()), float(cosines[elsewhere].mean())


def _cosines(
    videos: Videos, what: str, pairs: np.ndarray | Sequence[np.ndarray], extractor: FrameExtractor
) -> tuple[list[float], list[float]]:
    """Of each video what :func:`visit_cosines` gives."""
    listed = as_list(videos, what)
    each = [pairs] * len(listed) if isinstance(pairs, np.ndarray) else list(pairs)
    if len(each) != len(listed):
        raise ValueError(f"{len(each)} arrays of pairs for {len(listed)} videos: expected one each, or one")
    found = [visit_cosines(extractor(video), p) for video, p in zip(listed, each, strict=True)]
    return [related for related, _ in found], [unrelated for _, unrelated in found]
