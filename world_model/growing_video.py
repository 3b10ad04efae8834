"""An mp4 that can be played at any moment while it grows, and be gone on with later.

It is a fragmented mp4 (ISO/IEC 14496-12, movie fragments): a header, then one self-contained fragment a
chunk. A fragment's bytes follow from its pictures and its place alone, so that a video that was gone on with
is the same file as one that was never interrupted. A killed process leaves at most a last fragment cut short,
which players pass over.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from tasks.lettering import font, wrapped

PAPER, INK, FAINT = (255, 255, 255), (24, 28, 36), (96, 104, 118)
MARGIN, BAR = 12, 64  # px
TICKS = 256  # of the track's clock, one frame


class VideoError(RuntimeError):
    """A video that can't be gone on with, or that ffmpeg does not make; says why."""


def captioned(frames: np.ndarray, caption: str, first: int) -> np.ndarray:
    """Frames under their caption.

    Args:
        frames: ``(T, H, W, 3)`` uint8.
        caption: shown in two lines at most.
        first: number of the first frame in the video.

    Returns:
        ``(T, H', W', 3)`` uint8 with even sides, about 384 px wide.
    """
    scale = max(1, round(360 / frames.shape[2]))
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    size = width + 2 * MARGIN, BAR + height + MARGIN
    blank = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAPER)
    pen = ImageDraw.Draw(blank)
    letters, small = font(16), font(11)
    room = width - pen.textlength("frame 00000", small)
    for i, line in enumerate(wrapped(pen, caption, letters, room, 2)):
        pen.text((MARGIN, 24 + 22 * i), line, INK, letters, anchor="lm")
    pages = []
    for t, frame in enumerate(frames, first):
        page = blank.copy()
        corner = (page.width - MARGIN, 24)
        ImageDraw.Draw(page).text(corner, f"frame {t}", FAINT, small, anchor="rm")
        picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
        page.paste(picture, (MARGIN, BAR))
        pages.append(np.array(page))
    return np.stack(pages)


class GrowingVideo:
    """H.264 (yuv420p) in a fragmented mp4.

    Args:
        path: made or gone on with.
        fps: frames a second.
        frames, size: how many frames and bytes of the file to keep; what is behind them is cut off.

    Raises:
        VideoError: the file is shorter than that.
    """

    def __init__(self, path: Path, fps: int, frames: int = 0, size: int = 0):
        self.path, self.fps, self.frames, self.size = path, fps, frames, size
        found = path.stat().st_size if path.is_file() else 0
        if found < size:
            raise VideoError(
                f"{path} has {found} bytes of {size}; put back the file that was there, or give fresh=true"
            )
        if found > size:
            os.truncate(path, size)

    def append(self, pages: np.ndarray) -> None:
        """Add ``(T, H, W, 3)`` uint8 with even sides. Raises VideoError."""
        data = encode(pages, self.fps)
        header = b"".join(box for kind, box in boxes(data) if kind in (b"ftyp", b"moov"))
        fragment = b"".join(
            placed(box, self.frames) for kind, box in boxes(data) if kind in (b"moof", b"mdat")
        )
        with open(self.path, "a+b") as file:
            if self.size:
                file.seek(0)
                if file.read(len(header)) != header:
                    raise VideoError(
                        f"{self.path} was begun with another ffmpeg or picture size; give fresh=true"
                    )
                file.seek(0, os.SEEK_END)
            file.write(fragment if self.size else header + fragment)
            file.flush()
            os.fsync(file.fileno())
            self.size = file.tell()
        self.frames += len(pages)


def encode(pages: np.ndarray, fps: int) -> bytes:
    """``(T, H, W, 3)`` uint8 as an mp4 of one fragment that begins at time 0. Raises VideoError."""
    _, height, width, _ = pages.shape
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", "-c:v", "libx264", "-preset", "veryfast",
        "-crf", "18", "-bf", "0", "-g", "100000", "-sc_threshold", "0", "-threads", "1", "-pix_fmt", "yuv420p",
        "-fflags", "+bitexact", "-video_track_timescale", str(TICKS * fps), "-f", "mp4",
        "-movflags", "frag_keyframe+empty_moov+default_base_moof+skip_trailer", "pipe:1",
    ]  # fmt: skip
    done = subprocess.run(command, input=np.ascontiguousarray(pages).tobytes(), capture_output=True)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise VideoError(f"ffmpeg failed on {width} × {height} pictures ({reason})")
    return done.stdout


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each box of an mp4, or of the boxes in one."""
    while len(data) >= 8:
        length, kind = struct.unpack(">I4s", data[:8])
        yield kind, data[:length]
        data = data[length:]


def placed(box: bytes, frame: int) -> bytes:
    """A fragment's box moved to where frame number ``frame`` begins: its time and its sequence number."""
    kind, payload = box[4:8], box[8:]
    if kind in (b"moof", b"traf"):
        return box[:8] + b"".join(placed(child, frame) for _, child in boxes(payload))
    if kind == b"tfdt":  # version 1: 64 bits
        return box[:12] + struct.pack(">Q", frame * TICKS)
    if kind == b"mfhd":
        return box[:12] + struct.pack(">I", frame + 1)
    return box
