"""What people see: two clips of the same start and actions, side by side and unnamed (paper, Appendix C.3)."""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from planner.play.clips import data_url
from planner.play.runs import results
from planner.play.saved import FOLDER, RECORD, SavedError, listed, read_frames, read_record
from planner.records import load_result
from tasks.commands import CommandError
from tasks.files import write_json
from tasks.statistics import mean_interval

RATINGS = "ratings"
CRITERIA = {
    "quality": "How sharp and undistorted are the pictures?",
    "coherence": "Does everything stay the same thing in the same place unless it is moved?",
    "adherence": "Does what happens follow the captions?",
}
DRAWN = 64  # pairs that are shown and not yet rated, at most


@dataclass(frozen=True)
class Pair:
    """Two clips of one episode.

    Attributes:
        name: of the pair, the same whenever it is listed.
        conditions: how each was made.
        sources: where each lies: a saved episode and its side, or a run's episode.
    """

    name: str
    conditions: tuple[str, str]
    sources: tuple[tuple[Path, str], tuple[Path, str]]


class Ratings:
    """Pairs to rate, the ratings given, and what they come to.

    Args:
        runs: pairs are drawn from the episodes saved there with a comparison, and from runs of
            ``planner.run`` that share a layout; ratings are written there.
    """

    def __init__(self, runs: Path):
        self.runs = runs
        self._drawn: OrderedDict[str, tuple[Pair, bool]] = OrderedDict()

    def pairs(self) -> list[Pair]:
        """Everything that could be compared."""
        return [*self._saved(), *self._runs()]

    def _saved(self) -> Iterator[Pair]:
        for told in listed(self.runs):
            folder = self.runs / FOLDER / told["name"]
            chunks = len(told["captions"])
            if told["compare"] and told["memory"] != "none" and chunks:
                sources = (folder, "imagined"), (folder, "without")
                yield Pair(told["name"], (told["memory"], "none"), sources)

    def _runs(self) -> Iterator[Pair]:
        found: list[tuple[str, str, Path, set[str]]] = []
        for folder, told in results(self.runs):
            memory, task = (str(told["parts"].get(part)) for part in ("memory", "task"))
            seeds = {p.stem for p in (folder / "episodes").glob("*.json") if p.stem.isdecimal()}
            found.append((task, memory, folder, seeds))
        for (task, a, first, ours), (other, b, second, theirs) in combinations(found, 2):
            if task == other and a != b:
                for seed in sorted(ours & theirs):
                    sources = (first / "episodes", seed), (second / "episodes", seed)
                    names = (f.relative_to(self.runs).as_posix() for f in (first, second))
                    yield Pair("|".join((*names, seed)), (a, b), sources)

    # --- one rating ----------------------------------------------------------------------------

    def draw(self) -> dict[str, Any]:
        """A pair that was rated least, in an order that chance decides and nothing shows. Raises CommandError."""
        given = [r["pair"] for r in self.given()]
        pairs = self.pairs()
        secrets.SystemRandom().shuffle(pairs)
        for pair in sorted(pairs, key=lambda p: given.count(p.name)):
            try:
                (captions, a), (others, b) = (clip_of(*source) for source in pair.sources)
            except (SavedError, OSError, ValueError, KeyError, TypeError):
                continue  # damaged
            if captions != others or a.shape != b.shape:
                continue  # of other instructions
            token, swapped = secrets.token_urlsafe(12), bool(secrets.randbits(1))
            self._drawn[token] = pair, swapped
            while len(self._drawn) > DRAWN:
                self._drawn.popitem(last=False)
            clips = (b, a) if swapped else (a, b)
            shown = [[data_url(f) for f in clip] for clip in clips]
            return {
                "token": token,
                "captions": captions,
                "a": shown[0],
                "b": shown[1],
                "criteria": CRITERIA,
                "left": sum(p.name not in given for p in pairs),
            }
        raise CommandError(
            "There is nothing to compare yet: save an episode that was compared with itself without memory, "
            "or finish two runs of planner.run with other memories on the same layouts."
        )

    def rate(self, token: str, scores: Any) -> Path:
        """Write the ratings of a drawn pair; the file. Raises CommandError."""
        if token not in self._drawn:
            raise CommandError("This pair is not open any more; take the next one.")
        checked = {side: checked_scores(scores, side) for side in ("a", "b")}
        pair, swapped = self._drawn.pop(token)
        first, second = ("b", "a") if swapped else ("a", "b")
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.json"
        path = self.runs / RATINGS / name
        record = {
            "pair": pair.name,
            "rated": time.strftime("%Y-%m-%d %H:%M:%S"),
            "shown_first": pair.conditions[int(swapped)],
            "ratings": [
                {"condition": condition, **checked[side]}
                for condition, side in zip(pair.conditions, (first, second), strict=True)
            ],
        }
        write_json(path, record)
        return path

    # --- all ratings ---------------------------------------------------------------------------

    def given(self) -> list[dict[str, Any]]:
        """Every rating so far."""
        out = []
        for path in sorted((self.runs / RATINGS).glob("*.json")):
            try:
                told = json.loads(path.read_text())
                rows = [
                    {"condition": str(row["condition"]), **checked_scores({"a": row}, "a")}
                    for row in told["ratings"]
                ]
                out.append({"pair": str(told["pair"]), "ratings": rows})
            except (ValueError, KeyError, TypeError, OSError, CommandError):
                continue  # not ours, or damaged
        return out

    def summary(self) -> dict[str, Any]:
        """Per condition and criterion the mean with its 95% interval, over ratings."""
        given = self.given()
        values: dict[str, dict[str, list[float]]] = {}
        for rating in given:
            for row in rating["ratings"]:
                kept = values.setdefault(row["condition"], {c: [] for c in CRITERIA})
                for criterion in CRITERIA:
                    kept[criterion].append(float(row[criterion]))
        rows = {k: {c: mean_interval(x) for c, x in row.items()} for k, row in sorted(values.items())}
        return {"ratings": len(given), "conditions": rows}


def clip_of(folder: Path, which: str) -> tuple[list[str], np.ndarray]:
    """A caption per frame and ``(T, H, W, 3)`` uint8 of one source of a pair."""
    if (folder / RECORD).is_file():
        tensors, told = read_frames(folder), read_record(folder)
        chunks = [tensors[f"{which}.{i}"] for i in range(len(told["chunks"]))]
        captions = ["start", *(c["text"] for c, f in zip(told["chunks"], chunks, strict=True) for _ in f)]
        return captions, np.concatenate([tensors["first"][None], *chunks])
    result = load_result(folder, int(which))
    if result is None or not result.plan:
        raise SavedError("The episode is not there.")
    frames = (len(result.imagined) - 1) // len(result.plan)
    return ["start", *(s.text for s in result.plan for _ in range(frames))], result.imagined


def checked_scores(scores: Any, side: str) -> dict[str, float]:
    """The ratings of one clip. Raises CommandError."""
    given = scores.get(side) if isinstance(scores, dict) else None
    out = {}
    for criterion in CRITERIA:
        value = given.get(criterion) if isinstance(given, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise CommandError(f"Rate the {criterion} of clip {side.upper()} from 0 to 1.")
        out[criterion] = float(value)
    return out
