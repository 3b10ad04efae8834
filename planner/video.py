"""Clips of imagined beside executed frames, with the subgoal as caption: mp4 and gif."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from tasks.files import atomic_path
from tasks.lettering import fitting, font

PAPER, INK, FAINT = (255, 255, 255), (24, 28, 36), (96, 104, 118)
Sides = tuple[tuple[str, tuple[int, int, int]], tuple[str, tuple[int, int, int]]]
SIDES: Sides = (("imagined", (20, 92, 168)), ("executed", (178, 84, 0)))  # the same colours as in the report
MARGIN, BAR, LABEL = 12, 40, 26  # px


def side_by_side(
    imagined: np.ndarray,
    executed: np.ndarray,
    captions: Sequence[str],
    scale: int | None = None,
    sides: Sides = SIDES,
) -> np.ndarray:
    """Lay out one clip.

    Args:
        imagined: ``(T, H, W, 3)`` uint8.
        executed: the same shape; frame t of both is meant to show the same moment.
        captions: T texts, such as the subgoal that frame t carries out.
        scale: whole pixels that each pixel becomes; by default so that a side is about 320 px.
        sides: name and colour of the left and of the right side.

    Returns:
        ``(T, H', W', 3)`` uint8 with even sides, as video encoders want.
    """
    imagined, executed = np.asarray(imagined), np.asarray(executed)
    if imagined.shape != executed.shape or imagined.ndim != 4 or imagined.shape[-1] != 3 or len(imagined) < 1:
        raise ValueError(f"expected two (T, H, W, 3) clips alike, got {imagined.shape} and {executed.shape}")
    if len(captions) != len(imagined):
        raise ValueError(f"expected {len(imagined)} captions, one a frame, got {len(captions)}")
    scale = scale or max(1, round(320 / imagined.shape[2]))
    pairs = zip(imagined, executed, captions, strict=True)
    return np.array([_page(pair, scale, t, len(imagined), sides) for t, pair in enumerate(pairs)])


def write_mp4(path: str | Path, clip: np.ndarray, fps: float = 4.0) -> None:
    """Write a ``(T, H, W, 3)`` uint8 clip with even sides as H.264 (yuv420p), atomically."""
    _, height, width, _ = clip.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 takes even sides, got {width} × {height}")
    with atomic_path(path) as temp:
        # the container is named, because the temporary name tells ffmpeg nothing
        options = ["-crf", "20", "-movflags", "+faststart", "-f", "mp4"]
        writer = imageio_ffmpeg.write_frames(
            str(temp), (width, height), fps=fps, codec="libx264", quality=None, macro_block_size=2,
            pix_fmt_in="rgb24", pix_fmt_out="yuv420p", output_params=options, ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        for frame in clip:
            writer.send(np.ascontiguousarray(frame))
        writer.close()


def write_gif(path: str | Path, clip: np.ndarray, fps: float = 4.0) -> None:
    """Write a ``(T, H, W, 3)`` uint8 clip as an endless gif that rests on its last frame, atomically."""
    pages = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in clip]
    durations = [round(1000 / fps)] * (len(pages) - 1) + [1500]
    with atomic_path(path) as temp:
        pages[0].save(temp, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0)


def _page(
    pair: tuple[np.ndarray, np.ndarray, str], scale: int, t: int, count: int, sides: Sides
) -> np.ndarray:
    *frames, caption = pair
    height, width = frames[0].shape[0] * scale, frames[0].shape[1] * scale
    size = (2 * width + 3 * MARGIN, BAR + LABEL + height + 2 * MARGIN)
    page = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAPER)
    pen = ImageDraw.Draw(page)
    moment = f"frame {t} of {count - 1}"
    small = font(13)
    pen.text((page.width - MARGIN, BAR / 2 + 4), moment, FAINT, small, anchor="rm")
    room = page.width - 3 * MARGIN - pen.textlength(moment, small)
    pen.text((MARGIN, BAR / 2 + 4), caption, INK, fitting(pen, caption, room), anchor="lm")
    for i, (frame, (label, colour)) in enumerate(zip(frames, sides, strict=True)):
        left, top = MARGIN + i * (width + MARGIN), BAR + LABEL
        pen.text((left, top - 6), label, colour, font(15, bold=True), anchor="ls")
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, top))
        pen.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline=colour, width=2)
    done = round((page.width - 1) * t / max(count - 1, 1))
    pen.rectangle((0, page.height - 4, done, page.height - 1), fill=INK)
    return np.array(page)
