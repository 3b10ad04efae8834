"""The picture that a video begins with."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MODES = ("RGB", "RGBA", "L", "LA", "P", "1")  # of pictures that RGB can show
MOST_PIXELS = 50_000_000  # of a picture that came from elsewhere; decoded it takes a few bytes a pixel
SCAN, MOST_SCANS = b"\xff\xda", 100  # of a JPEG; each goes through all pixels, a progressive one has about 10
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


class PictureError(ValueError):
    """A picture that can't be used; names it and what to do."""


def read_picture(path: Path, size: int) -> tuple[np.ndarray, str]:
    """The start of a video.

    Returns:
        ``(size, size, 3)`` uint8, and what was done to it, empty if nothing: the centre square is taken and
        resized, other modes become RGB.

    Raises:
        PictureError: no file, no picture, or of a mode that RGB can't show.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except FileNotFoundError:
        raise PictureError(f"image={path}: no such file; give a PNG or JPEG") from None
    except UNREADABLE as error:
        raise _unread(f"image={path}", error) from None
    return fitted(picture, size, f"image={path}")


def uploaded_picture(data: bytes, size: int) -> tuple[np.ndarray, str]:
    """As :func:`read_picture`, of a file that came from elsewhere: a PNG or JPEG of bounded size.

    Raises:
        PictureError: another format, too many pixels, damaged, or of a mode that RGB can't show.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise PictureError(
                    f"The picture has {opened.width} × {opened.height} px, more than {MOST_PIXELS:,}; "
                    "make it smaller"
                )
            if opened.format != "PNG" and data.count(SCAN) > MOST_SCANS:
                raise PictureError(f"The picture has more than {MOST_SCANS} scans; save it again")
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("The file is no PNG or JPEG; give a PNG or JPEG") from None
    except UNREADABLE as error:
        raise _unread("The picture", error) from None
    return fitted(picture, size, "The picture")


def _unread(name: str, error: BaseException) -> PictureError:
    reason = " ".join(str(error).split())[:120]
    return PictureError(f"{name} can't be read ({reason}); give a PNG or JPEG")


def fitted(picture: Image.Image, size: int, name: str) -> tuple[np.ndarray, str]:
    """``(size, size, 3)`` uint8 RGB, and what was done to it. Raises PictureError."""
    if picture.mode not in MODES:
        raise PictureError(f"{name} is of mode {picture.mode}; expected 8-bit {', '.join(MODES)}")
    done = []
    if picture.mode != "RGB":
        done.append(f"{picture.mode} became RGB")
        picture = over_white(picture)
    if picture.size != (size, size):
        done.append(f"{picture.width} × {picture.height} px became {size} × {size}")
        if picture.width != picture.height:
            done[-1] += (
                ", the sides cut off" if picture.width > picture.height else ", top and bottom cut off"
            )
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.array(picture), "; ".join(done)


def over_white(picture: Image.Image) -> Image.Image:
    """As RGB; what is transparent becomes white."""
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
