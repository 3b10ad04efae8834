"""Actions as text, one a line: from a file, from a pipe, or typed while chunks appear."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import BinaryIO, Protocol

LONGEST = 300  # characters of one action; the text encoders read little more
MOST_BYTES = 4 * LONGEST + 2  # of such a line in UTF-8, its end included


class ActionError(ValueError):
    """An action that can't be carried out; names the line and what to do."""


class Actions(Protocol):
    """Where actions come from."""

    def after(self, done: Sequence[str]) -> Iterator[str]:
        """The actions after those that were carried out already. Raises ActionError."""
        ...


class FileActions:
    """The lines of a file, all of them checked at once.

    Args:
        path: UTF-8 text, one action a line.
        repeat: begin again with the first line after the last.

    Raises:
        ActionError: no file, no action in it, or a line that is none.
    """

    def __init__(self, path: Path, repeat: bool = False):
        self.path, self.repeat = path, repeat
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ActionError(
                f"actions={path}: no such file; give a text file with one action a line, or - for standard input"
            ) from None
        lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
        self.lines = tuple(checked(lines, f"actions={path}"))
        if not self.lines:
            raise ActionError(
                f"actions={path} holds no action; write one a line, such as: pick up the red cube"
            )

    def after(self, done: Sequence[str]) -> Iterator[str]:
        """What follows ``done``, which has to be how the file begins."""
        lines = cycle(self.lines) if self.repeat else iter(self.lines)
        return following(lines, done, f"actions={self.path}")


class StreamActions:
    """Lines of standard input, read when they are needed.

    A pipe gives all actions, those of an interrupted run once more. What is typed at a terminal comes after
    what was done before, and a bad line is asked for again.
    """

    def __init__(self, stream: BinaryIO, terminal: bool):
        self.stream, self.terminal = stream, terminal

    def after(self, done: Sequence[str]) -> Iterator[str]:
        """What follows ``done``."""
        if self.terminal:
            return self._typed(len(done))
        return following(checked(bounded(self.stream), "standard input"), done, "standard input")

    def _typed(self, number: int) -> Iterator[str]:
        lines = bounded(self.stream)
        while True:
            print(f"action {number + 1}> ", end="", flush=True)
            raw = next(lines, None)
            if raw is None:
                print()
                return
            try:
                action = read_action(raw, "that")
            except ActionError as error:
                print(error, file=sys.stderr)
                continue
            number += 1
            yield action


def read_action(line: bytes, where: str) -> str:
    """One action without its line's end.

    Raises:
        ActionError: not UTF-8, empty, too long, or with a control character; its text begins with ``where``.
    """
    too_long = f"{where} is longer than {LONGEST} characters; divide it into several lines"
    if len(line) > MOST_BYTES:
        raise ActionError(too_long)
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        raise ActionError(f"{where} is not UTF-8 text; save it as UTF-8") from None
    if not text:
        raise ActionError(f"{where} is empty; say what should happen in the chunk")
    for column, letter in enumerate(text, 1):
        kind = unicodedata.category(letter)
        if kind[0] == "C" or kind in ("Zl", "Zp"):
            raise ActionError(f"{where} holds a control character ({letter!a}, number {column}); delete it")
    if len(text) > LONGEST:
        raise ActionError(too_long)
    return text


def checked(lines: Iterable[bytes], where: str) -> Iterator[str]:
    """The actions of some lines; only after the last action there may be empty ones. Raises ActionError."""
    empty = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            empty = empty or number
            continue
        if empty:
            read_action(b"", f"{where}: line {empty}")
        yield read_action(line, f"{where}: line {number}")


def bounded(stream: BinaryIO) -> Iterator[bytes]:
    """Lines as they come, each cut a little beyond what an action may have."""
    while line := stream.readline(MOST_BYTES + 1):
        part = line
        while part and len(part) > MOST_BYTES and not part.endswith(b"\n"):
            part = stream.readline(MOST_BYTES + 1)
        yield line


def following(lines: Iterator[str], done: Sequence[str], where: str) -> Iterator[str]:
    """The lines after the first ones, which must be ``done``. Raises ActionError."""
    for number, (old, line) in enumerate(zip(done, lines, strict=False), 1):
        if line != old:
            raise ActionError(
                f"{where}: action {number} is {line[:60]!r}, the video that is there was made with {old[:60]!r}; "
                "give fresh=true or another run_dir"
            )
    yield from lines
