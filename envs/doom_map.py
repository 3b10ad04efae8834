"""Reads the floor plan out of a WAD: which lines of a Doom map stop a walker. Needs no game engine.

A plan for ``tasks/maps/`` from a WAD of one's own (UDMF maps only; ViZDoom's scenarios are)::

    python -c "from envs.doom_map import *; write_floor_plan('mine', 'mine.wad', 'MAP01')"
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np

from tasks.files import write_json
from tasks.floor_plan import MAPS, FloorPlan

UNITS_PER_BLOCK = 32.0
HEADROOM = 56.0  # map units: a passage lower than the walker is closed
BODY = 16.0  # map units: half the side of the walker, and of the other players' bodies
PLAYER_STARTS = {"1", "2", "3", "4"}  # thing types; the engine leaves a body on all but one


def read_floor_plan(name: str, wad: Path, lump: str) -> FloorPlan:
    """The floor plan of the map ``lump`` (such as ``MAP01``) of a WAD.

    A line is a wall if it has one side only. It is a ledge if it blocks, if the floors beside it differ in
    height, or if there is no headroom; bodies at player starts that the engine may leave are ledges too.

    Raises:
        ValueError: the file is no WAD, or has no such map in UDMF.
        FileNotFoundError: there is no such file.
    """
    found = _blocks(_textmap(wad, lump))
    at = np.array([[float(v["x"]), float(v["y"])] for v in found["vertex"]])
    heights = [
        (float(s.get("heightfloor", 0)), float(s.get("heightceiling", 0))) for s in found.get("sector", [])
    ]
    sector = [int(s["sector"]) for s in found["sidedef"]]
    walls, ledges = [], []
    for line in found["linedef"]:
        ends = np.concatenate([at[int(line["v1"])], at[int(line["v2"])]])
        if "sideback" not in line:
            walls.append(ends)
        else:
            (floor, ceiling), (other, lid) = (
                heights[sector[int(line[k])]] for k in ("sidefront", "sideback")
            )
            low = min(ceiling, lid) - max(floor, other) < HEADROOM
            if floor != other or low or line.get("blocking") == "true":
                ledges.append(ends)
    starts = [t for t in found.get("thing", []) if t["type"] in PLAYER_STARTS]
    for thing in starts if len(starts) > 1 else []:
        x, y = float(thing["x"]), float(thing["y"])
        corners = np.array([(x, y)]) + BODY * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        ledges += list(np.hstack([corners, np.roll(corners, -1, axis=0)]))
    blocks = (np.array(lines).reshape(-1, 4) / UNITS_PER_BLOCK for lines in (walls, ledges))
    return FloorPlan(name, *blocks)


def write_floor_plan(name: str, wad: Path | str, lump: str, folder: Path = MAPS) -> Path:
    """Write the floor plan of a map as ``NAME.json``, so that ``task.map=NAME`` finds it."""
    plan = read_floor_plan(name, Path(wad), lump)
    stored = {
        "source": f"{Path(wad).name}, {lump}: lines in blocks of {UNITS_PER_BLOCK:g} map units",
        "walls": plan.walls.tolist(),
        "ledges": plan.ledges.tolist(),
    }
    path = folder / f"{name}.json"
    write_json(path, stored)
    return path


def _textmap(wad: Path, lump: str) -> str:
    """The UDMF text of one map."""
    data = Path(wad).read_bytes()
    if data[:4] not in (b"IWAD", b"PWAD"):
        raise ValueError(f"{wad} is no WAD: it begins with {data[:4]!r}; expected IWAD or PWAD")
    count, directory = struct.unpack("<ii", data[4:12])
    if directory + 16 * count > len(data):
        raise ValueError(f"{wad} is cut off: its directory should end at byte {directory + 16 * count}")
    entries = [struct.unpack_from("<ii8s", data, directory + 16 * i) for i in range(count)]
    names = [name.rstrip(b"\0").decode("latin-1").upper() for _, _, name in entries]
    for i, name in enumerate(names[:-1]):
        if name == lump.upper() and names[i + 1] == "TEXTMAP":
            start, size, _ = entries[i + 1]
            return data[start : start + size].decode("utf-8", errors="replace")
    have = [n for n, following in pairwise(names) if following == "TEXTMAP"]
    raise ValueError(f"{wad} has no UDMF map {lump}; it has {', '.join(have) or 'none'}")


def _blocks(text: str) -> dict[str, list[dict[str, str]]]:
    """``{"vertex": [{"x": "1.0", …}, …], …}``"""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    out: dict[str, list[dict[str, str]]] = {}
    for kind, body in re.findall(r"(\w+)\s*\{([^}]*)\}", text):
        out.setdefault(kind, []).append(dict(re.findall(r'(\w+)\s*=\s*"?([^;"]*)"?\s*;', body)))
    return out
