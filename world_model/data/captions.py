"""Captions beside videos: one ``captions.csv`` for a folder, or a text file for each video."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from world_model.action_lines import ActionError, read_action
from world_model.data.takes import Caption, DataError

CSV = "captions.csv"
COLUMNS = ("video", "caption")  # start and end, in seconds, may be left out
REVISITS_CSV, REVISIT_COLUMNS = (
    "revisits.csv",
    ("video", "first", "later"),
)  # two times at which one view is seen
TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def seconds(text: str, where: str) -> float:
    """``12.5``, ``1:02.5`` or ``1:00:02.5``. Raises DataError."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise DataError(f"{where}: {text.strip()[:20]!r} is no time; give seconds, or h:mm:ss")
    hours, minutes, rest = match.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(rest)


def said(text: str, where: str) -> str:
    """A caption's words, under the rules of an action. Raises DataError."""
    try:
        return read_action(text.encode(), where)
    except ActionError as error:
        raise DataError(str(error)) from None


def decoded(path: Path) -> str:
    """A UTF-8 file. Raises DataError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def of_sidecar(path: Path, length: float) -> list[Caption]:
    """A video's own text file: ``START END CAPTION`` a line, or one caption alone for all of its ``length``.

    Raises:
        DataError: names file and line.
    """
    lines = [(n, line) for n, line in enumerate(decoded(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(
            f"{path} is empty; write START END CAPTION a line, or one caption for the whole video"
        )
    whole = len(lines) == 1 and not timed(lines[0][1])
    if whole:
        return [Caption(0.0, length, said(lines[0][1], f"{path}: line {lines[0][0]}"))]
    out = []
    for number, line in lines:
        where = f"{path}: line {number}"
        if not timed(line):
            raise DataError(f"{where}: expected START END CAPTION, such as: 0 2.5 pick up the red cube")
        begin, end, *rest = line.split(maxsplit=2)
        out.append(Caption(seconds(begin, where), seconds(end, where), said("".join(rest), where)))
    return sorted(out, key=lambda c: c.start)


def timed(line: str) -> bool:
    """Whether a line begins with two times."""
    words = line.split(maxsplit=2)
    return len(words) > 1 and all(TIME.fullmatch(w) for w in words[:2])


def rows_of(path: Path, needed: Sequence[str] = COLUMNS) -> Iterator[tuple[str, dict[str, str], str]]:
    """Video, row and place of each line of a csv. Raises DataError: no such columns, or no csv."""
    table, begun = csv.DictReader(io.StringIO(decoded(path), newline=None)), 1
    try:
        if missing := [name for name in needed if name not in (table.fieldnames or ())]:
            whole = "video,start,end,caption" if needed == COLUMNS else ",".join(needed)
            raise DataError(f"{path}: no column {', '.join(missing)}; the first line should read {whole}")
        begun = table.line_num + 1
        for row in table:
            cells = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
            if any(cells.values()):
                yield cells["video"], cells, f"{path}: line {table.line_num}"
            begun = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {begun} can't be read ({error}); is a quote left open?") from None


def of_row(row: dict[str, str], where: str, length: float) -> Caption:
    """A csv line's caption; without start and end it is of the whole video. Raises DataError."""
    begin, end = row.get("start", ""), row.get("end", "")
    return Caption(
        seconds(begin, f"{where}, start") if begin else 0.0,
        seconds(end, f"{where}, end") if end else length,
        said(row["caption"], where),
    )
