"""Writes that are there in full or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what stands there at the end replaces ``path`` at once.

    An exception, or a process killed inside, leaves ``path`` as it was. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temp
        with open(temp, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Write json atomically: indented, keys in the order given, a newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """What a json file that a command wrote holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, the same command makes it again") from None


def sha256_of(value: object) -> str:
    """Hash of a json-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def kept_json(path: str | Path, make: Callable[[], Any]) -> Any:
    """What a json file holds; where there is none yet, what ``make`` gives, written first.

    So a long command that is interrupted makes nothing twice.
    """
    path = Path(path)
    if not path.is_file():
        write_json(path, make())
    return read_json(path)
