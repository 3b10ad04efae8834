"""A folder of videos with captions beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from world_model.data.captions import (
    COLUMNS,
    CSV,
    REVISIT_COLUMNS,
    REVISITS_CSV,
    of_row,
    of_sidecar,
    rows_of,
    seconds,
)
from world_model.data.takes import Caption, DataError, Source, Take, check_captions, unbroken
from world_model.data.video_file import SUFFIXES, VideoFacts, facts, read_video


def videos_in(path: Path) -> list[Path]:
    """The folder's video files, those in folders below it too, by name."""
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def listed(
    path: Path, file: Path, needed: Sequence[str]
) -> tuple[dict[str, list[tuple[dict[str, str], str]]], list[str]]:
    """The rows of a csv by video of the folder, and what is wrong with the file."""
    rows: dict[str, list[tuple[dict[str, str], str]]] = {}
    if not file.is_file():
        return rows, []
    try:
        for video, row, where in rows_of(file, needed):
            rows.setdefault(Path(video).as_posix(), []).append((row, where))
    except DataError as error:
        return {}, [str(error)]
    return rows, [
        f"{of[0][1]}: no video {name!r} in the folder"
        for name, of in rows.items()
        if not (path / name).is_file()
    ]


def captions_of(video: Path, rows: Sequence[tuple[dict[str, str], str]], length: float) -> list[Caption]:
    """A video's captions in order. Raises DataError: none, or two places that give them."""
    sidecar = video.with_suffix(".txt")
    if rows and sidecar.is_file():
        raise DataError(f"{video}: captions in {CSV} and in {sidecar.name}; keep one of them")
    if rows:
        return sorted((of_row(row, where, length) for row, where in rows), key=lambda c: c.start)
    if sidecar.is_file():
        return of_sidecar(sidecar, length)
    raise DataError(f"{video}: no caption; write {sidecar.name} beside it, or a line in {CSV}")


def open_videos(path: Path) -> Source:
    """A folder of videos as takes; what can't be used is told in ``wrong``. Raises DataError: no video."""
    videos = videos_in(path)
    if not videos:
        raise DataError(
            f"{path} holds no {', '.join(SUFFIXES)} and no meta/info.json; expected videos with captions or a "
            "LeRobotDataset v3.0"
        )
    rows, wrong = listed(path, path / CSV, COLUMNS)
    visits, more = listed(path, path / REVISITS_CSV, REVISIT_COLUMNS)
    wrong += more
    takes: list[Take] = []
    known: list[VideoFacts] = []
    for video in videos:
        name = video.relative_to(path).as_posix()
        try:
            told = facts(video)
            known.append(told)
            captions = captions_of(video, rows.get(name, ()), told.seconds)
            pairs = [
                tuple(seconds(row[k], where) for k in REVISIT_COLUMNS[1:])
                for row, where in visits.get(name, ())
            ]
        except DataError as error:
            wrong.append(str(error))
            continue
        if found := check_captions(captions, told.seconds, told.fps):
            wrong += [f"{video}: {line}" for line in found]
            continue
        read = partial(read_video, video)
        seen = tuple((min(p), max(p)) for p in pairs)
        takes += [Take(name, run, read, {}, seen) for run in unbroken(captions, told.fps)]
    size, fps = ((known[0].width, known[0].height), known[0].fps) if known else ((0, 0), 0.0)
    others = {(k.width, k.height, k.fps) for k in known[1:]} - {(*size, fps)}
    notes = [f"{len(others)} other sizes or rates among the videos"] if others else []
    return Source(
        path, "videos with captions", len(videos), size, fps, sum(k.seconds for k in known), tuple(takes),
        tuple(wrong), tuple(notes),
    )  # fmt: skip
