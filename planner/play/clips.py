"""Pictures and clips of an episode."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from planner.play.take import Take
from planner.video import SIDES, Sides, side_by_side, write_gif, write_mp4
from world_model.growing_video import captioned

IMAGINED, FAINT = SIDES[0][1], (89, 98, 115)


def data_url(frame: np.ndarray) -> str:
    """``(H, W, 3)`` uint8 as a PNG in a ``data:`` address."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def clip(take: Take) -> np.ndarray:
    """``(T, H', W', 3)`` uint8: the episode under its captions, beside itself without memory if compared."""
    steps = list(take.steps)
    captions = ["start", *(s.text for s in steps for _ in s.imagined.frames)]
    frames = np.concatenate([take.first[None], *(s.imagined.frames for s in steps)])
    others = [s.without.frames for s in steps if s.without]
    if others and len(others) == len(steps):
        sides: Sides = ((f"with {take.stage.memory}", IMAGINED), ("without memory", FAINT))
        return side_by_side(frames, np.concatenate([take.first[None], *others]), captions, sides=sides)
    pages = [captioned(f[None], c, i) for i, (f, c) in enumerate(zip(frames, captions, strict=True))]
    return np.concatenate(pages)


def write_clip(path: Path, take: Take, fps: int) -> None:
    """Write the episode as ``.mp4`` or ``.gif``."""
    (write_gif if path.suffix == ".gif" else write_mp4)(path, clip(take), fps)
