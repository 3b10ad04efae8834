"""Where a body can walk: the walls of one map, as plain data. Knows no simulator.

The plans in ``tasks/maps/`` are json: walls and ledges as ``[x1, y1, x2, y2]`` in blocks, seen from above
with x to the east and y to the north. ``envs.doom_map`` makes one from a WAD.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAPS = Path(__file__).resolve().parent / "maps"


@dataclass(frozen=True, eq=False)
class FloorPlan:
    """The lines of one map that nobody walks through.

    Attributes:
        name: of its file in ``tasks/maps/``.
        walls: ``(M, 4)`` float64 blocks, lines with nothing behind them; they bound the map.
        ledges: ``(K, 4)`` float64 blocks, what else stops or trips: steps, fences, solid things.
    """

    name: str
    walls: np.ndarray
    ledges: np.ndarray

    @classmethod
    def load(cls, name: str) -> FloorPlan:
        """The plan of a map. Raises ValueError, with the names there are, for any other."""
        path = MAPS / f"{name}.json"
        known = sorted(p.stem for p in MAPS.glob("*.json"))
        if name not in known:
            raise ValueError(f"map={name}: no floor plan {path.name}; have {', '.join(known)}")
        stored = json.loads(path.read_text("utf-8"))
        walls, ledges = (np.array(stored[k], np.float64).reshape(-1, 4) for k in ("walls", "ledges"))
        return cls(name, walls, ledges)

    @property
    def lines(self) -> np.ndarray:
        """``(M + K, 4)`` walls and ledges."""
        return np.concatenate([self.walls, self.ledges])

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """``(2,)`` lowest and highest x, y."""
        ends = self.walls.reshape(-1, 2)
        return ends.min(0), ends.max(0)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """``(P, 2)`` to ``(P,)`` bool: whether each point has floor under it (odd number of walls eastward)."""
        x, y = np.asarray(points, np.float64).T[..., None]
        x1, y1, x2, y2 = self.walls.T
        spans = (y1 > y) != (y2 > y)
        height = np.where(y2 == y1, 1.0, y2 - y1)
        crossed = spans & (x < x1 + (y - y1) * (x2 - x1) / height)
        return crossed.sum(-1) % 2 == 1

    def free(self, a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
        """``(P,)`` bool: whether the ``P`` straight ways from ``a`` to ``b`` (``(P, 2)`` each) keep ``reach``
        blocks from every wall and ledge."""
        a, b, lines = np.asarray(a, np.float64), np.asarray(b, np.float64), self.lines
        c, d = lines[:, :2], lines[:, 2:]
        low, high = np.minimum(a, b)[:, None] - reach, np.maximum(a, b)[:, None] + reach
        near = ((np.maximum(c, d) >= low) & (np.minimum(c, d) <= high)).all(-1)
        way, line = np.nonzero(near)
        a, b, c, d = a[way], b[way], c[line], d[line]
        apart = np.stack([_to_line(a, c, d), _to_line(b, c, d), _to_line(c, a, b), _to_line(d, a, b)]).min(0)
        crossing = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
        out = np.ones(len(near), bool)
        out[way[crossing | (apart < reach)]] = False
        return out


def _to_line(p: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of points from line segments."""
    along = b - a
    t = ((p - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    return np.linalg.norm(p - a - np.clip(t, 0, 1)[..., None] * along, axis=-1)


def _side(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
    return (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
        p[..., 0] - a[..., 0]
    )
