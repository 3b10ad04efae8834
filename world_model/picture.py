"""The picture that a video begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MODES = ("RGB", "RGBA", "L", "LA", "P", "1")  # of pictures that RGB can show


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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120]
        raise PictureError(f"image={path} can't be read ({reason}); give a PNG or JPEG") from None
    if picture.mode not in MODES:
        raise PictureError(f"image={path} is of mode {picture.mode}; expected 8-bit {', '.join(MODES)}")
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
