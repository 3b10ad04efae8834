"""How far a row's imagined videos are from the expert's of the same layouts, as sets (Table 2's FVD columns).

Called FVD only over StyleGAN-V's I3D, which is measured where ``i3d`` names it; see
:mod:`world_model.video_metrics.frechet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from planner.expert_episode import Experts
from planner.loop import PlanResult
from world_model.video_metrics.features import I3D, FrameExtractor
from world_model.video_metrics.frechet import frechet_of_features


class FrechetColumn:
    """Measures rows on the same layouts. What the camera saw itself, first frames and explored chunks, is left
    out on both sides.

    Args:
        experts: the true videos; of two layouts at least.
        features: of frames.
        i3d: for FVD; None leaves it out.
        resamples: of the bootstrap over videos.
    """

    def __init__(self, experts: Experts, features: FrameExtractor, i3d: I3D | None, resamples: int):
        self.experts, self.resamples = experts, resamples
        self.features, self.i3d = features, i3d

    @cached_property
    def _true(self) -> dict[str, list[np.ndarray]]:
        return self._sets([e.frames[self.experts.begin(x.plan) :] for x, e in self.experts.episodes])

    def _sets(self, videos: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
        frames = [self.features(v) for v in videos]
        sets = {"frames": frames, "steps": [np.diff(f, axis=0) for f in frames]}
        if self.i3d is not None:
            shortest = min(map(len, videos))
            sets["fvd"] = [x[None] for x in self.i3d(np.stack([v[:shortest] for v in videos]))]
        return sets

    def __call__(self, results: Sequence[PlanResult]) -> dict[str, dict[str, Any]]:
        """Distances of one row's episodes, by kind: over frames, over the steps from frame to frame, FVD."""
        videos = [r.imagined[self.experts.begin(r.plan) :] for r in results]
        out = {}
        for kind, made in self._sets(videos).items():
            extractor = self.i3d if kind == "fvd" and self.i3d is not None else self.features
            metric = (
                f"FVD, {extractor.name}" if kind == "fvd" else f"Fréchet distance, {extractor.name} {kind}"
            )
            covariance = "sample" if kind == "fvd" else "ledoit_wolf"
            sets = [made, self._true[kind]]
            distance = frechet_of_features(sets, metric, extractor.weights_sha256, covariance, self.resamples)
            out[kind] = asdict(distance)
        return out
