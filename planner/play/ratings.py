"""What people see: two clips of the same start and actions, side by side and unnamed (paper, Appendix C.3)."""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.play.clips import data_url
from planner.play.pairs import Condition, Pair, clip_of, pairs_below
from planner.play.saved import SavedError
from tasks.commands import CommandError
from tasks.files import write_json
from tasks.statistics import mean_interval
from world_model.action_lines import read_action

RATINGS = "ratings"
CRITERIA = {
    "quality": "How sharp and undistorted are the pictures?",
    "coherence": "Does everything stay the same thing in the same place unless it is moved?",
    "adherence": "Does what happens follow the captions?",
}
DRAWN = 64  # pairs that are shown and not yet rated, at most
LONGEST_NAME = 60  # letters of a rater's


@dataclass(frozen=True)
class Rating:
    """What one person thought of one pair.

    Attributes:
        pair: its name.
        task: of the pair; empty in ratings from before it was recorded.
        rater: a name, or nothing.
        clips: of each, how it was made and what it got by criterion.
    """

    pair: str
    task: str
    rater: str
    clips: tuple[tuple[Condition, dict[str, float]], tuple[Condition, dict[str, float]]]


class Ratings:
    """Pairs to rate, the ratings given, and what they come to.

    Args:
        runs: pairs are drawn from the episodes saved there with a comparison, and from runs of
            ``planner.run`` that share a layout; ratings are written there.
    """

    def __init__(self, runs: Path):
        self.runs = runs
        self._drawn: OrderedDict[str, tuple[Pair, bool]] = OrderedDict()

    # --- one rating ----------------------------------------------------------------------------

    def draw(self) -> dict[str, Any]:
        """A pair that was rated least, in an order that chance decides and nothing shows. Raises CommandError."""
        given = [r.pair for r in self.given()]
        pairs = pairs_below(self.runs)
        secrets.SystemRandom().shuffle(pairs)
        for pair in sorted(pairs, key=lambda p: given.count(p.name)):
            try:
                (captions, a), (others, b) = (clip_of(*source) for source in pair.sources)
            except (SavedError, OSError, ValueError, KeyError, TypeError):
                continue  # damaged
            if captions != others or a.shape != b.shape or not np.array_equal(a[0], b[0]):
                continue  # of other instructions, or of another start
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

    def rate(self, token: str, scores: Any, rater: str = "") -> Path:
        """Write the ratings of a drawn pair; the file.

        Args:
            token: of the pair.
            scores: ``{"a": {criterion: 0 to 1}, "b": …}``.
            rater: a person's name, kept as it is; empty if they gave none.

        Raises:
            CommandError, ActionError: one of them is wrong; nothing is written.
        """
        rater = checked_name(rater)
        if token not in self._drawn:
            raise CommandError("This pair is not open any more; take the next one.")
        checked = {side: checked_scores(scores, side) for side in ("a", "b")}
        pair, swapped = self._drawn.pop(token)
        first, second = ("b", "a") if swapped else ("a", "b")
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.json"
        path = self.runs / RATINGS / name
        record = {
            "pair": pair.name,
            "task": pair.task,
            "rater": rater,
            "rated": time.strftime("%Y-%m-%d %H:%M:%S"),
            "shown_first": asdict(pair.conditions[int(swapped)]),
            "ratings": [
                {**asdict(condition), **checked[side]}
                for condition, side in zip(pair.conditions, (first, second), strict=True)
            ],
        }
        write_json(path, record)
        return path

    # --- all ratings ---------------------------------------------------------------------------

    def given(self) -> list[Rating]:
        """Every rating so far."""
        out = []
        for path in sorted((self.runs / RATINGS).glob("*.json")):
            try:
                told = json.loads(path.read_text())
                one, other = ((condition_of(row), checked_scores({"a": row}, "a")) for row in told["ratings"])
                task, rater = str(told.get("task", "")), str(told.get("rater", ""))
                out.append(Rating(str(told["pair"]), task, rater, (one, other)))
            except (ValueError, KeyError, TypeError, OSError, AttributeError, CommandError):
                continue  # not ours, or damaged
        return out

    def summary(self) -> dict[str, Any]:
        """Per task what the ratings come to; see :func:`of_task`."""
        given = self.given()
        tasks = {task: [r for r in given if r.task == task] for task in sorted({r.task for r in given})}
        return {
            "ratings": len(given),
            "raters": len({r.rater for r in given} - {""}),
            "tasks": [{"task": task, **of_task(ratings)} for task, ratings in tasks.items()],
        }


def of_task(ratings: list[Rating]) -> dict[str, Any]:
    """Means and paired differences with 95% intervals, over pairs: a pair that is rated again counts once, with its
    mean."""
    means: dict[Condition, dict[str, list[dict[str, float]]]] = {}
    less: dict[tuple[Condition, Condition], dict[str, list[dict[str, float]]]] = {}
    for rating in ratings:
        for condition, scores in rating.clips:
            means.setdefault(condition, {}).setdefault(rating.pair, []).append(scores)
        (first, a), (second, b) = sorted(rating.clips, key=lambda clip: _rank(clip[0]))
        gap = {c: a[c] - b[c] for c in CRITERIA}
        less.setdefault((first, second), {}).setdefault(rating.pair, []).append(gap)
    return {
        "ratings": len(ratings),
        "pairs": len({r.pair for r in ratings}),
        "conditions": [{**asdict(c), **over_pairs(means[c])} for c in sorted(means, key=_rank)],
        "differences": [
            {"first": asdict(first), "second": asdict(second), **over_pairs(less[first, second])}
            for first, second in sorted(less, key=lambda both: (_rank(both[0]), _rank(both[1])))
        ],
    }


def _rank(condition: Condition) -> tuple[bool, str, str]:
    """What has a memory comes first, so that a difference says what the memory adds."""
    return condition.memory == "none", condition.memory, condition.weights


def over_pairs(scores: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Each criterion's mean with its 95% interval over pairs, of each pair's mean."""
    of_pair = [{c: float(np.mean([s[c] for s in given])) for c in CRITERIA} for given in scores.values()]
    return {c: mean_interval([means[c] for means in of_pair]) for c in CRITERIA}


def condition_of(row: dict[str, Any]) -> Condition:
    """How a rated clip was made; without weights in ratings from before they were recorded. Raises KeyError."""
    if "memory" in row:
        return Condition(str(row["memory"]), str(row["weights"]))
    return Condition(str(row["condition"]), "")


def checked_name(rater: str) -> str:
    """A rater's name without blanks around it, or nothing. Raises CommandError, ActionError."""
    if not rater.strip():
        return ""
    if len(rater.strip()) > LONGEST_NAME:
        raise CommandError(f"Your name is longer than {LONGEST_NAME} characters; shorten it.")
    return read_action(rater.encode(errors="replace"), "Your name")


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
