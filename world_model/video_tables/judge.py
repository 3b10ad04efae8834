"""Every metric of a set of videos against the truth, of each clip and with 95% intervals over clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.statistics import mean_interval, ratio_interval
from world_model.video_metrics.cuts import scene_cuts
from world_model.video_metrics.features import I3D, I3D_FRAMES, FrameExtractor
from world_model.video_metrics.frechet import frechet_of_features
from world_model.video_metrics.pixels import Lpips, psnr, ssim
from world_model.video_metrics.revisit import visit_cosines
from world_model.video_tables.clips import Clips
from world_model.video_tables.following import ReadBack
from world_model.video_tables.metrics import FOLLOWING

EQUAL = 60.0  # dB that a frame counts at most: one equal to the truth would be infinite
Figure = dict[str, Any]


class Judge:
    """Measures videos of the clips in ``clips.truth``.

    Args:
        clips: the truth, and other true videos for the floor of the Fréchet distances.
        features: of frames, for Fréchet distances and SRC.
        i3d: for FVD; None leaves it out.
        lpips: None leaves it out.
        cuts: options of :func:`scene_cuts`.
        resamples: of the Fréchet distances' bootstrap.
        read_back: the actions off the videos; None leaves that out.

    Attributes:
        detector: PySceneDetect's version and settings.
    """

    def __init__(
        self,
        clips: Clips,
        features: FrameExtractor,
        i3d: I3D | None = None,
        lpips: Lpips | None = None,
        cuts: Mapping[str, Any] | None = None,
        resamples: int = 200,
        read_back: ReadBack | None = None,
    ):
        self.read_back = read_back
        self.clips, self.features, self.i3d, self.lpips = clips, features, i3d, lpips
        self.cuts, self.resamples = dict(cuts or {}), resamples
        self.detector = scene_cuts([clips.truth[0].frames], **self.cuts).detector
        self.shortest = min(len(c.frames) for c in (*clips.truth, *clips.others)) - 1
        if i3d is not None and self.shortest < I3D_FRAMES:
            raise ValueError(
                f"clips of {self.shortest} new frames: FVD's I3D needs {I3D_FRAMES}; leave i3d out"
            )
        self._true = [features(c.frames) for c in clips.truth]
        self._other = [features(c.frames) for c in clips.others]
        self._true_logits, self._other_logits = (
            [] if i3d is None else self._logits([c.frames[1:] for c in some])
            for some in (clips.truth, clips.others)
        )
        self._visits = [
            None if c.pairs is None else visit_cosines(f, c.pairs)
            for c, f in zip(clips.truth, self._true, strict=True)
        ]

    def _logits(self, videos: Sequence[np.ndarray]) -> list[np.ndarray]:
        """I3D's, ``(1, 400)`` a video cut to the shortest clip's frames."""
        if not videos:
            return []
        assert self.i3d is not None
        return [x[None] for x in self.i3d(np.stack([v[: self.shortest] for v in videos]))]

    def measure(
        self,
        videos: Mapping[int, np.ndarray],
        against_truth: bool = True,
        visits: bool = True,
        chunk_frames: int | None = None,
    ) -> dict[str, Any]:
        """All figures of a set of videos.

        Args:
            videos: by number of a clip ``(T - 1, H, W, 3)`` uint8, without the frame that was given.
            against_truth: also what compares them with the truth: PSNR, SSIM, LPIPS, Fréchet distances.
            visits: also SRC, where the clips have pairs.
            chunk_frames: the videos are next chunks of so many frames, each from the true frames before it.

        Returns:
            ``figures`` over all clips, ``by_chunks`` apart for each length, ``psnr_by_frame`` (mean over
            clips; empty without ``against_truth``), and a record a clip in ``clips``.

        Raises:
            ValueError: a video has another shape than its truth.
        """
        numbers = sorted(videos)
        truth = [self.clips.truth[i] for i in numbers]
        whole = [np.concatenate([c.frames[:1], videos[i]]) for i, c in zip(numbers, truth, strict=True)]
        features = [self.features(video) for video in whole]
        found = scene_cuts(whole, **self.cuts)
        records: list[dict[str, Any]] = [
            {
                "seed": c.seed,
                "chunks": c.chunks,
                "complexity": c.complexity,
                "frames": len(v),
                "cuts": list(cuts),
            }
            for c, v, cuts in zip(truth, whole, found.cuts, strict=True)
        ]
        by_frame: list[np.ndarray] = []
        if against_truth:
            by_frame = self._pixels(records, numbers, videos)
        if visits:
            for record, i, clip, seen in zip(records, numbers, truth, features, strict=True):
                true = self._visits[i]
                if clip.pairs is not None and true is not None:
                    src, unrelated = visit_cosines(seen, clip.pairs)
                    record |= {"src": src, "unrelated": unrelated, "ceiling": true[0], "floor": true[1]}
        if self.read_back is not None:
            for record, i, clip in zip(records, numbers, truth, strict=True):
                record |= self.read_back.figures(clip, videos[i], chunk_frames)
        figures = summary(records)
        if against_truth and len(numbers) > 1:
            figures = self._frechet([videos[i] for i in numbers], features) | figures
        lengths = sorted({c.chunks for c in truth})
        return {
            "figures": figures,
            "by_chunks": {str(n): summary([r for r in records if r["chunks"] == n]) for n in lengths},
            "psnr_by_frame": mean_by_frame(by_frame),
            "clips": records,
        }

    def _pixels(
        self, records: list[dict[str, Any]], numbers: Sequence[int], videos: Mapping[int, np.ndarray]
    ) -> list[np.ndarray]:
        """Adds what compares frames with the true ones to the records; PSNR of each frame."""
        made, true = [videos[i] for i in numbers], [self.clips.truth[i].frames[1:] for i in numbers]
        decibels = [np.minimum(x, EQUAL) for x in psnr(made, true)]
        measured = {"psnr": decibels, "ssim": ssim(made, true)}
        if self.lpips is not None:
            measured["lpips"] = self.lpips(made, true)
        for name, values in measured.items():
            for record, i, x in zip(records, numbers, values, strict=True):
                record[name] = float(np.mean(x))
                pairs = self.clips.truth[i].pairs
                if pairs is not None and name in ("psnr", "lpips"):
                    record[f"revisit_{name}"] = float(np.mean(x[np.unique(pairs[:, 1]) - 1]))
        return decibels

    def _frechet(self, made: Sequence[np.ndarray], features: Sequence[np.ndarray]) -> dict[str, Figure]:
        """Fréchet distances, by the features of whole videos and, for FVD, of the new frames."""
        name = self.features.name
        ways = {
            "frechet": (name, [[f[1:] for f in x] for x in (features, self._true, self._other)]),
            "frechet_steps": (
                f"{name} steps",
                [[np.diff(f, axis=0) for f in x] for x in (features, self._true, self._other)],
            ),
        }
        out: dict[str, Figure] = {}
        if self.i3d is not None:
            sets = [self._logits(made), self._true_logits, self._other_logits]
            out["fvd"] = self._distance(sets, f"FVD, {self.i3d.name}", self.i3d.weights_sha256, "sample")
        for key, (extractor, sets) in ways.items():
            metric = f"Fréchet distance, {extractor}"
            out[key] = self._distance(sets, metric, self.features.weights_sha256, "ledoit_wolf")
        return out

    def _distance(self, sets: list, metric: str, sha256: str, covariance: str) -> Figure:
        given = sets if sets[2] else sets[:2]
        d = frechet_of_features(given, metric, sha256, covariance, self.resamples)
        return {
            "value": d.value, "low": d.low, "high": d.high, "n": d.videos[0], "floor": d.floor,
            "floor_n": d.floor_videos, "samples": list(d.samples), "metric": metric, "dimension": d.dimension,
            "covariance": covariance, "weights_sha256": sha256,
        }  # fmt: skip


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Figures ``{value, low, high, n}`` of clips' records, but the Fréchet distances."""

    def column(name: str) -> list[float]:
        return [r[name] for r in records if name in r]

    out = {
        name: figure(mean_interval(column(name)))
        for name in ("psnr", "ssim", "lpips", "src", "revisit_psnr", "revisit_lpips", *FOLLOWING)
        if column(name)
    }
    cuts = [1000.0 * len(r["cuts"]) for r in records]
    out["scuts"] = figure(ratio_interval(cuts, column("frames")))
    src, unrelated, ceiling, floor = (np.array(column(k)) for k in ("src", "unrelated", "ceiling", "floor"))
    if len(src) and (ceiling - floor).sum() > 0:
        out["src_normalised"] = figure(ratio_interval(list(src - floor), list(ceiling - floor)))
        out["src_contrast"] = figure(ratio_interval(list(src - unrelated), list(ceiling - floor)))
    return out


def figure(interval: Mapping[str, float]) -> Figure:
    """``{mean, low, high, n}`` as ``{value, low, high, n}``."""
    return {"value": interval["mean"], "low": interval["low"], "high": interval["high"], "n": interval["n"]}


def mean_by_frame(values: Sequence[np.ndarray]) -> list[float]:
    """Mean over videos of each frame's value, as far as the longest goes."""
    longest = max((len(v) for v in values), default=0)
    return [float(np.mean([v[k] for v in values if len(v) > k])) for k in range(longest)]
