"""Letters for pictures and videos."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which every matplotlib carries."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def fitting(pen: ImageDraw.ImageDraw, text: str, room: float) -> ImageFont.FreeTypeFont:
    """The largest font from 20 down to 9 px in which a text fits."""
    return next((f for f in map(font, range(20, 9, -1)) if pen.textlength(text, f) <= room), font(9))


def wrapped(
    pen: ImageDraw.ImageDraw, text: str, letters: ImageFont.FreeTypeFont, room: float, lines: int
) -> list[str]:
    """A text in at most so many lines of ``room`` px, between words where it can; an ellipsis ends what is cut."""
    out: list[str] = []
    rest = text
    while rest and len(out) < lines:
        fits = next((n for n in range(len(rest), 1, -1) if pen.textlength(rest[:n], letters) <= room), 1)
        space = rest.rfind(" ", 0, fits + 1)
        at = fits if fits == len(rest) or space < 1 else space
        out.append(rest[:at])
        rest = rest[at:].lstrip()
    if rest:
        last = out[-1]
        while last and pen.textlength(last + "…", letters) > room:
            last = last[:-1]
        out[-1] = last + "…"
    return out
