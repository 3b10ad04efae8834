"""The runs of other commands, and which of their files may be looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.kept_rows import row_name
from planner.row_names import NAMES

RESULT = "result.json"  # written last
ROWS = "finished"  # folder of the rows of planner.evaluate that are done
DEPTH = 4  # folders below the runs folder in which a run may lie
SHOWN = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".json": "application/json",
}
MEDIA = (".png", ".gif", ".mp4")
MOST_MEDIA = 12  # of one run, listed


def all_runs(runs: Path) -> list[dict[str, Any]]:
    """The finished runs of ``planner.run`` and the tables of ``planner.evaluate``, the newest first.

    A table whose run directory holds finished rows alone is still in progress, or was given up: ``unfinished``.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    for folder, told in results(runs):
        found.append((_changed(folder / RESULT), _run(runs, folder, told)))
    tables: set[Path] = set()
    for folder, told in _results(runs):
        if isinstance(told.get("rows"), dict):
            tables.add(folder)
            found.append((_changed(folder / RESULT), _table(runs, folder, told, finished=True)))
    for depth in range(1, DEPTH + 1):
        for folder in runs.glob("*/" * depth + ROWS):
            paths = sorted(folder.glob("*.json"), key=_changed)
            rows = {row_name(p): row for p in paths if (row := _read(p))}
            if rows and folder.parent not in tables:
                found.append(
                    (_changed(paths[-1]), _table(runs, folder.parent, {"rows": rows}, finished=False))
                )
    return [told for _, told in sorted(found, key=lambda pair: -pair[0])]


def results(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of the finished runs of ``planner.run``, each with its ``result.json``."""
    for folder, told in _results(runs):
        if all(isinstance(told.get(part), dict) for part in ("summary", "parts")):
            yield folder, told


def _results(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for depth in range(1, DEPTH + 1):
        for path in sorted(runs.glob("*/" * depth + RESULT)):
            if told := _read(path):
                yield path.parent, told


def served(runs: Path, name: str) -> Path | None:
    """The file below ``runs`` that may be looked at under a name, or None."""
    parts = name.split("/")
    if any(p.startswith(".") or p == "" for p in parts) or "\\" in name or "\0" in name:
        return None
    root = runs.resolve()
    try:
        path = (root / name).resolve()
        there = path.is_file()
    except (OSError, RuntimeError):  # a name that no file can have, or a loop of links
        return None
    if not there or not path.is_relative_to(root) or path.suffix not in SHOWN:
        return None
    return path


def _changed(path: Path) -> float:
    """When a file was written; 0 for one that was deleted in the meantime."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(), parse_constant=lambda _: None)  # NaN is no json
    except (ValueError, OSError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _run(runs: Path, folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    name = folder.relative_to(runs).as_posix()
    media = sorted(p for p in (folder / "media").glob("*") if p.suffix in MEDIA)
    return {
        "kind": "planner.run",
        "finished": True,
        "name": name,
        "parts": {str(k): str(v) for k, v in told["parts"].items()},
        "unit": unit_of(told["parts"]),
        "rows": [row_of(str(told["parts"].get("memory", "")), told["summary"])],
        "report": f"{name}/report.html" if (folder / "report.html").is_file() else None,
        "figures": f"{name}/{RESULT}",
        "media": [p.relative_to(runs).as_posix() for p in media[:MOST_MEDIA]],
    }


def _table(runs: Path, folder: Path, told: dict[str, Any], finished: bool) -> dict[str, Any]:
    name = folder.relative_to(runs).as_posix()
    rows = {str(k): row for k, row in told["rows"].items() if isinstance(row, dict)}
    named = (row.get("parts") for row in rows.values())
    parts: dict[str, Any] = next((p for p in named if p and isinstance(p, dict)), {})
    order = [*(n for n in NAMES if n in rows), *(n for n in rows if n not in NAMES)]
    labels = {n: re.sub(r"[*`]", "", NAMES.get(n, n.replace("_", " "))) for n in order}
    return {
        "kind": "planner.evaluate",
        "finished": finished,
        "name": name,
        "parts": {str(k): str(v) for k, v in parts.items() if k not in ("memory", "weights")},
        "unit": str(told["unit"]) if "unit" in told else unit_of(parts),
        "rows": [row_of(labels[n], rows[n]) for n in order],
        "report": None,
        "figures": f"{name}/{RESULT}" if finished else None,
        "media": [],
    }


def unit_of(parts: dict[str, Any]) -> str | None:
    """Of distances, which a run's header names behind its task: ``cube_return (m)``."""
    return str(parts.get("task", "")).rpartition("(")[2].rstrip(")") or None


def row_of(label: str, told: dict[str, Any]) -> dict[str, Any]:
    """A row of a table: its distances and its share of successes, each with its interval."""
    figures = {k: told.get(k) for k in ("executed", "imagined", "success")}
    return {"label": label, **{k: v if isinstance(v, dict) else None for k, v in figures.items()}}
