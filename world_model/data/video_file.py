"""Frames of a video file at any rate and size, by the ffmpeg that imageio-ffmpeg carries."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np

from world_model.data.takes import DataError

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


@dataclass(frozen=True)
class VideoFacts:
    """What a file says of itself: px, frames a second, seconds."""

    width: int
    height: int
    fps: float
    seconds: float


def facts(path: Path) -> VideoFacts:
    """Read a file's header. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        told = next(reader)
    except (OSError, RuntimeError, StopIteration, ValueError, IndexError):
        raise DataError(f"{path} is no video that ffmpeg can read; is it cut short? Get it again") from None
    finally:
        reader.close()
    width, height = told["size"]
    found = VideoFacts(int(width), int(height), float(told["fps"]), float(told["duration"]))
    if min(found.width, found.height, found.fps, found.seconds) <= 0:
        raise DataError(f"{path} has no picture, or no length; get it again")
    return found


def last_words(file: IO[bytes], lines: int = 2, most: int = 160) -> str:
    """The end of what a program wrote into ``file``, without line breaks."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    words = " ".join(file.read().decode(errors="replace").splitlines()[-lines:]).split()
    return " ".join(words)[-most:]


def read_video(
    path: Path, start: float, fps: float, count: int, side: int, end: float | None = None
) -> np.ndarray:
    """Frames at ``start + k / fps`` seconds, each the nearest that the file has before ``end``: the centre
    square, resized by averaging areas.

    Returns:
        ``(count, side, side, 3)`` uint8.

    Raises:
        DataError: damaged, or it ends before that.
    """
    own = facts(path).fps
    wanted = np.round(np.arange(count) * own / fps).astype(int)
    if end is not None:
        wanted = np.minimum(wanted, round((end - start) * own) - 1)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-threads", "1",
        "-ss", f"{max(0.0, start - 0.3 / own):.6f}", "-i", str(path), "-an",
        "-vf", f"crop='min(iw,ih)':'min(iw,ih)',scale={side}:{side}:flags=area+accurate_rnd+full_chroma_int",
        "-r", f"{own}", "-frames:v", str(int(wanted[-1]) + 1), "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1",
    ]  # fmt: skip
    size, out, filled, seen = side * side * 3, np.empty((count, side, side, 3), np.uint8), 0, 0
    with tempfile.TemporaryFile() as errors:  # a pipe that nobody reads meanwhile would fill, and stop ffmpeg
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout
            while filled < count and len(data := process.stdout.read(size)) == size:
                while filled < count and wanted[filled] == seen:
                    out[filled] = np.frombuffer(data, np.uint8).reshape(side, side, 3)
                    filled += 1
                seen += 1
            process.stdout.read()
        said = last_words(errors)
    if process.returncode or said:
        raise DataError(f"{path} is damaged ({said or 'ffmpeg failed'}); get it again")
    if count - filled > 0 and wanted[filled:].max() <= seen and filled:
        out[filled:] = out[filled - 1]  # its header promised a frame more than there are
        filled = count
    if filled < count:
        raise DataError(
            f"{path} ends after {start + seen / own:.2f} s, {start + count / fps:.2f} s are captioned; is it cut short?"
        )
    return out
