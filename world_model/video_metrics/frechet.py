"""Fréchet distances between imagined and real videos, each with an interval and a real-vs-real floor.

Only the distance over the I3D of StyleGAN-V is called FVD. Any other is named after its extractor and is
never set beside published FVDs. The distance falls with more samples whatever is compared: rows are
comparable at one n only, and a value means something only beside its floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world_model.video_metrics.features import I3D, FrameExtractor
from world_model.video_metrics.videos import Videos, as_list

COVARIANCES = ("sample", "ledoit_wolf")


@dataclass(frozen=True)
class Frechet:
    """A distance and what it takes to read it.

    Attributes:
        metric: its name, extractor included.
        value: the squared 2-Wasserstein distance of two Gaussians, 0 for equal sets.
        low, high: 95% bootstrap over videos. Resampling repeats videos, which alone raises the distance,
            so the spread is taken about the resamples' mean and laid around ``value``.
        floor: the same distance between two sets of real videos.
        floor_videos: how many videos each of those sets has; fewer than ``videos`` overstates the floor.
        videos, samples: how many of each, imagined and real; a sample is a frame, a step or a clip.
        dimension: of the features.
        covariance: ``sample`` or ``ledoit_wolf``.
    """

    metric: str
    value: float
    low: float
    high: float
    floor: float
    floor_videos: int
    videos: tuple[int, int]
    samples: tuple[int, int]
    dimension: int
    covariance: str
    resamples: int
    weights_sha256: str


def frechet_of_frames(
    imagined: Videos,
    real: Videos,
    extractor: FrameExtractor,
    *,
    more_real: Videos | None = None,
    covariance: str = "ledoit_wolf",
    resamples: int = 200,
    seed: int = 0,
) -> Frechet:
    """Fréchet distance between the frames of two sets of videos. Blind to their order.

    Args:
        imagined: at least two videos; any number and lengths, the same in every row of a table.
        real: at least two.
        extractor: ``EfficientNetLite0()`` needs no download.
        more_real: other real videos for the floor, best as many as ``imagined``; without them the floor
            is the mean over random halves of ``real``.
        covariance: ``ledoit_wolf`` (shrunk, for few samples; takes frames as independent) or ``sample``.
        resamples: of the bootstrap over videos.

    Raises:
        ValueError: too few videos, or no such covariance.
    """
    sets = [_frame_features(v, extractor) for v in _given(imagined, real, more_real)]
    name = f"Fréchet distance, {extractor.name}"
    return frechet_of_features(sets, name, extractor.weights_sha256, covariance, resamples, seed)


def frechet_of_steps(
    imagined: Videos,
    real: Videos,
    extractor: FrameExtractor,
    *,
    more_real: Videos | None = None,
    covariance: str = "ledoit_wolf",
    resamples: int = 200,
    seed: int = 0,
) -> Frechet:
    """As ``frechet_of_frames``, over the differences between consecutive frames' features.

    Sees what frames alone cannot: a frozen or shuffled video, and cuts. Ours, for want of the I3D.
    """
    given = _given(imagined, real, more_real)
    if any(len(video) < 2 for videos in given for video in videos):
        raise ValueError("a video of one frame has no steps; expected at least 2 frames in each")
    sets = [[np.diff(f, axis=0) for f in _frame_features(v, extractor)] for v in given]
    name = f"Fréchet distance, {extractor.name} steps"
    return frechet_of_features(sets, name, extractor.weights_sha256, covariance, resamples, seed)


def fvd(
    imagined: Videos,
    real: Videos,
    i3d: I3D,
    *,
    more_real: Videos | None = None,
    covariance: str = "sample",
    resamples: int = 200,
    seed: int = 0,
) -> Frechet:
    """Fréchet video distance (Unterthiner et al. 2018) as StyleGAN-V computes it: one sample a video.

    Clips must have one length (at least 10 frames), frame rate and size in every row. With the plain
    covariance, as published values have it; with fewer clips than the 400 features it is singular, the
    distance is still exact for those samples, and the floor says how much of it is bias.
    """
    sets = []
    for videos in _given(imagined, real, more_real):
        sets.append([clip[None] for clip in i3d(np.stack(_one_shape(videos)))])
    name = f"FVD, {i3d.name}"
    return frechet_of_features(sets, name, i3d.weights_sha256, covariance, resamples, seed)


def frechet_of_features(
    sets: Sequence[Sequence[np.ndarray]],
    metric: str,
    weights_sha256: str = "",
    covariance: str = "ledoit_wolf",
    resamples: int = 200,
    seed: int = 0,
) -> Frechet:
    """The same from features: ``sets`` are imagined, real and perhaps more real, ``(n, D)`` a video."""
    imagined, real, *more = sets
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance={covariance}: expected {' or '.join(COVARIANCES)}")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: expected at least 1")
    if min(len(imagined), len(real)) < 2:
        raise ValueError(
            f"{len(imagined)} imagined and {len(real)} real videos: a Fréchet distance needs at least 2 of each"
        )

    def distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
        return gaussian_distance(*gaussian(a, covariance), *gaussian(b, covariance))

    rng = np.random.default_rng(seed)
    value = distance(imagined, real)
    again = np.array([distance(_resampled(imagined, rng), _resampled(real, rng)) for _ in range(resamples)])
    low, high = np.maximum(value + np.quantile(again, [0.025, 0.975]) - again.mean(), 0)
    if more:
        floor, floor_videos = distance(more[0], real), min(len(more[0]), len(real))
    else:
        floor_videos = len(real) // 2
        orders = [rng.permutation(len(real)) for _ in range(5)]
        halves = [
            ([real[k] for k in o[:floor_videos]], [real[k] for k in o[floor_videos : 2 * floor_videos]])
            for o in orders
        ]
        floor = float(np.mean([distance(a, b) for a, b in halves]))
    return Frechet(
        metric=metric,
        value=value,
        low=float(low),
        high=float(high),
        floor=floor,
        floor_videos=floor_videos,
        videos=(len(imagined), len(real)),
        samples=(sum(map(len, imagined)), sum(map(len, real))),
        dimension=int(real[0].shape[1]),
        covariance=covariance,
        resamples=resamples,
        weights_sha256=weights_sha256,
    )


def gaussian(features: Sequence[np.ndarray], covariance: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(D,)`` and covariance ``(D, D)`` of all samples, float64.

    A single sample has covariance 0. ``ledoit_wolf`` moves it towards a multiple of the identity by the
    share that Ledoit and Wolf (2004) estimate, which keeps it regular and damps what few samples add.
    """
    samples = np.concatenate([np.asarray(f, np.float64) for f in features])
    n, dimension = samples.shape
    mean = samples.mean(0)
    centred = samples - mean
    if covariance == "sample":
        return mean, centred.T @ centred / max(n - 1, 1)
    spread = centred.T @ centred / n
    scale = np.trace(spread) / dimension
    target = scale * np.eye(dimension)
    distance = np.sum((spread - target) ** 2)
    noise = (np.sum(np.sum(centred**2, 1) ** 2) / n - np.sum(spread**2)) / n
    share = min(max(noise / distance, 0.0), 1.0) if distance > 0 else 0.0
    return mean, share * target + (1 - share) * spread


def gaussian_distance(mean: np.ndarray, cov: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m - m2|^2 + tr(C + C2 - 2 (C^1/2 C2 C^1/2)^1/2) of two Gaussians (Dowson and Landau 1982).

    The last trace is the sum of the singular values of C^1/2 C2^1/2, which is real and accurate for
    singular covariances too.
    """
    shared = np.linalg.svd(_root(cov) @ _root(cov2), compute_uv=False).sum()
    value = np.sum((mean - mean2) ** 2) + np.trace(cov) + np.trace(cov2) - 2 * shared
    return float(max(value, 0.0))


def _root(cov: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _resampled(features: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    return [features[k] for k in rng.integers(len(features), size=len(features))]


def _given(imagined: Videos, real: Videos, more_real: Videos | None) -> list[list[np.ndarray]]:
    """The sets that were given, checked."""
    more = [] if more_real is None else [as_list(more_real, "more_real")]
    return [as_list(imagined, "imagined"), as_list(real, "real"), *more]


def _frame_features(videos: list[np.ndarray], extractor: FrameExtractor) -> list[np.ndarray]:
    return [extractor(video) for video in videos]


def _one_shape(videos: list[np.ndarray]) -> list[np.ndarray]:
    shapes = sorted({video.shape for video in videos})
    if len(shapes) > 1:
        raise ValueError(f"clips of {shapes[0]} and {shapes[1]}: FVD compares clips of one length and size")
    return videos
