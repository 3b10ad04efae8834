"""The finished runs of other commands, and which of their files may be looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULT = "result.json"  # of planner.run
DEPTH = 4  # folders below the runs folder in which a run may lie
SHOWN = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".yaml": "text/plain; charset=utf-8",
}
MEDIA = (".png", ".gif", ".mp4")
MOST_MEDIA = 12  # of one run, listed


def finished(runs: Path) -> list[dict[str, Any]]:
    """The finished runs of ``planner.run`` and ``planner.evaluate``, the newest first."""
    found: list[tuple[float, dict[str, Any]]] = []
    for folder, told in results(runs):
        found.append((_changed(folder / RESULT), _run(runs, folder, told)))
    for depth in range(1, DEPTH):
        for folder in runs.glob("*/" * depth + "finished"):
            if rows := {p.stem: row for p in sorted(folder.glob("*.json")) if (row := _read(p))}:
                newest = max(_changed(folder / f"{name}.json") for name in rows)
                found.append((newest, _table(runs, folder.parent, rows)))
    return [told for _, told in sorted(found, key=lambda pair: -pair[0])]


def results(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of the finished runs of ``planner.run``, each with its ``result.json``."""
    for depth in range(1, DEPTH):
        for path in sorted(runs.glob("*/" * depth + RESULT)):
            told = _read(path)
            if told and all(isinstance(told.get(part), dict) for part in ("summary", "parts")):
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
    name, summary = folder.relative_to(runs).as_posix(), told["summary"]
    media = sorted(p for p in (folder / "media").glob("*") if p.suffix in MEDIA)
    return {
        "kind": "run",
        "name": name,
        "parts": {str(k): str(v) for k, v in told["parts"].items()},
        "unit": unit_of(told["parts"]),
        "rows": [row_of("executed", summary), row_of("imagined", summary | {"success": None})],
        "report": f"{name}/report.html" if (folder / "report.html").is_file() else None,
        "media": [p.relative_to(runs).as_posix() for p in media[:MOST_MEDIA]],
    }


def _table(runs: Path, folder: Path, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    name = folder.relative_to(runs).as_posix()
    named = (row.get("parts") for row in rows.values())
    parts: dict[str, Any] = next((p for p in named if p and isinstance(p, dict)), {})
    return {
        "kind": "evaluate",
        "name": name,
        "parts": {str(k): str(v) for k, v in parts.items() if k != "memory"},
        "unit": unit_of(parts),
        "rows": [row_of("executed", row, label.replace("_", " ")) for label, row in rows.items()],
        "report": None,
        "media": [],
    }


def unit_of(parts: dict[str, Any]) -> str | None:
    """Of distances, which a run's header names behind its task: ``cube_return (m)``."""
    return str(parts.get("task", "")).rpartition("(")[2].rstrip(")") or None


def row_of(figure: str, told: dict[str, Any], label: str | None = None) -> dict[str, Any]:
    """A row of a run's table: a distance and a success share, each with its interval."""
    shown = {k: told.get(k) if isinstance(told.get(k), dict) else None for k in (figure, "success")}
    return {"label": label or figure, "distance": shown[figure], "success": shown["success"]}
