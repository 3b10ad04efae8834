"""SCuts: how often a video jumps to another scene, by PySceneDetect's detectors on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.video_metrics.videos import Videos, as_list

THRESHOLDS = {"adaptive": 3.0, "content": 27.0}  # PySceneDetect's own defaults
MIN_SCENE = 15  # frames; PySceneDetect's default


@dataclass(frozen=True)
class SceneCuts:
    """Cuts, and what found them.

    Attributes:
        per_1000: cuts for every 1,000 frames, over all videos.
        cuts: for each video the frames at which a new scene starts.
        frames: each video's length.
        detector: name, thresholds and version.
    """

    per_1000: float
    cuts: tuple[tuple[int, ...], ...]
    frames: tuple[int, ...]
    detector: str


def scene_cuts(
    videos: Videos, detector: str = "adaptive", threshold: float | None = None, min_scene: int = MIN_SCENE
) -> SceneCuts:
    """Count scene cuts. A frozen video has none: never a figure to report alone.

    Frames go to the detector as they are, at their own size, in BGR as PySceneDetect wants them. Both
    detectors score the mean change of hue, saturation and brightness (0 to 255) from frame to frame.

    Args:
        detector: ``adaptive``: a cut is ``threshold`` times the mean score of the 2 frames before and
            the 2 after, and at least 15; so none in the first 2 and last 2 frames. ``content``: a score
            of at least ``threshold``.
        threshold: PySceneDetect's default where not given, 3 and 27.
        min_scene: frames that must pass since the start, and since the last cut, for a cut to count.

    Raises:
        ValueError: no such detector, or a setting out of range.
    """
    import scenedetect
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    if detector not in THRESHOLDS:
        raise ValueError(f"detector={detector}: expected {' or '.join(THRESHOLDS)}")
    limit = THRESHOLDS[detector] if threshold is None else threshold
    if limit <= 0 or min_scene < 0:
        raise ValueError(
            f"threshold={limit}, min_scene={min_scene}: expected a threshold above 0 and 0 frames or more"
        )
    listed, found = as_list(videos), []
    for video in listed:
        watcher = (
            AdaptiveDetector(adaptive_threshold=limit, min_scene_len=min_scene)
            if detector == "adaptive"
            else ContentDetector(threshold=limit, min_scene_len=min_scene)
        )
        found.append(_cuts(video, watcher))
    frames = tuple(len(video) for video in listed)
    floor = ", min_content_val 15" if detector == "adaptive" else ""
    return SceneCuts(
        per_1000=1000 * sum(map(len, found)) / sum(frames),
        cuts=tuple(found),
        frames=frames,
        detector=f"PySceneDetect {scenedetect.__version__} {detector}, threshold {limit:g}{floor}, "
        f"min_scene_len {min_scene} frames",
    )


def _cuts(video: np.ndarray, detector) -> tuple[int, ...]:
    """The frames at which ``detector``, fresh, sees a cut in ``(T, H, W, 3)`` uint8 RGB."""
    from scenedetect import FrameTimecode

    cuts = []
    time = FrameTimecode(0, fps=30.0)  # counts frames: no setting here is in seconds
    for k, frame in enumerate(video):
        time = FrameTimecode(k, fps=30.0)
        cuts += detector.process_frame(time, np.ascontiguousarray(frame[..., ::-1]))
    cuts += detector.post_process(time)
    return tuple(sorted(cut.frame_num for cut in cuts))
