"""What is in a folder of own data, in words and as a contact sheet, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tasks import Episode
from tasks.files import atomic_path
from tasks.lettering import font, wrapped
from world_model.data.footage import TakeEpisodes, line_of
from world_model.data.takes import DataError, Source

SHOWN, ROWS, THUMB, GAP, WORDS = 6, 24, 96, 4, 260  # frames a row, rows, px
MOST_SAID, SHORT = 8, 0.5  # captions named; seconds of a chunk in which little happens
PAPER, INK, FAINT = (255, 255, 255), (24, 28, 36), (96, 104, 118)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        lines: of text, for people.
        wrong: a line for each thing that training would stop at.
        sheet: frames of clips with their captions; None where no clip could be read.
    """

    lines: tuple[str, ...]
    wrong: tuple[str, ...]
    sheet: Image.Image | None


def inspect(source: Source, part: TakeEpisodes) -> Inspection:
    """Read every clip of a source once; a damaged one is among what is wrong."""
    said: Counter[str] = Counter()
    wrong, rows, alike = list(source.wrong), [], 0
    shown = set(np.linspace(0, len(part) - 1, min(ROWS, len(part))).round().astype(int).tolist())
    for i in range(len(part)):
        said.update(s.caption for s in part.segments(i))
        try:
            episode = part[i]
        except DataError as error:
            wrong.append(str(error))
            continue
        alike += bool((episode.frames == episode.frames[:1]).all())
        if i in shown:
            rows.append(row_of(episode))
    sheet = Image.fromarray(np.concatenate(rows)) if rows else None
    return Inspection(tuple(report(source, part, said, alike)), tuple(wrong), sheet)


def report(source: Source, part: TakeEpisodes, said: Counter[str], alike: int) -> list[str]:
    """The text."""
    chunks, seconds = sum(said.values()), part.chunk_frames / part.fps
    lines = [
        f"holds     {source.recordings} recordings, {source.seconds / 60:.1f} minutes; {source.kind}",
        f"frames    {line_of(source, part.fps, part.side)}",
        f"clips     {len(part)}, {chunks} chunks of {part.chunk_frames} frames ({seconds:.2f} s); "
        f"{part.short} too short for a chunk, left out",
        f"captions  {len(said)} different",
        *(f"          {n:5d}  {text}" for text, n in said.most_common(MOST_SAID)),
    ]
    notes = list(source.notes)
    if seconds < SHORT:
        notes.append(f"a chunk lasts {seconds:.2f} s: little happens in it; lower fps")
    if alike:
        notes.append(f"{alike} clips show one picture throughout")
    if part.fps > source.fps > 0:
        notes.append(f"fps={part.fps:.4g} is above the recordings' {source.fps:.4g}: frames are shown twice")
    if len(part) == 1:
        notes.append("a single clip: training holds some out, so cut it with clip_chunks=N")
    elif (longer := sum(n > 1 + part.chunk_frames for n in part.lengths)) < 2:
        notes.append(
            f"clips that hold two chunks or more: {longer}; training needs one, and holds another out"
        )
    return lines + [f"note      {note}" for note in notes]


def row_of(episode: Episode) -> np.ndarray:
    """``(THUMB + GAP, W, 3)`` uint8: a name, captions, and frames at equal steps."""
    page = Image.new("RGB", (WORDS + SHOWN * (THUMB + GAP), THUMB + GAP), PAPER)
    pen, small = ImageDraw.Draw(page), font(11)
    name, start = episode.provenance["recording"], episode.provenance["start"]
    pen.text((GAP, 2), wrapped(pen, f"{name}, {start:.4g} s", small, WORDS - 2 * GAP, 1)[0], FAINT, small)
    told = list(dict.fromkeys(s.caption for s in episode.segments))
    texts = [line for text in told for line in wrapped(pen, text, small, WORDS - 2 * GAP, 2)]
    for k, line in enumerate(texts[:5]):
        pen.text((GAP, 18 + 15 * k), line, INK, small)
    for k, i in enumerate(np.linspace(0, len(episode) - 1, SHOWN).round().astype(int)):
        picture = Image.fromarray(episode.frames[i]).resize((THUMB, THUMB), Image.Resampling.BILINEAR)
        page.paste(picture, (WORDS + k * (THUMB + GAP), 0))
    return np.asarray(page)


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """As PNG, all or nothing."""
    with atomic_path(path) as temp:
        sheet.save(temp, "PNG")
