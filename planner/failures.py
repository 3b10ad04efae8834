"""Where the way back of what a plan returns fails first: what was imagined, the grasp, the place, or the hands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.row_names import NAMES

if TYPE_CHECKING:  # the page of results needs neither weights nor simulators
    from planner.loop import PlanResult
    from tasks import Task

ENDS = {
    "returned": "returned",
    "imagined_elsewhere": "not in the gripper: imagined elsewhere, or nowhere, before the grasp",
    "not_grasped": "not in the gripper: imagined where it stood",
    "place_unknown": "imagined at another place at the end",
    "put_elsewhere": "imagined where it belongs, but put elsewhere",
}


def failures(task: Task, results: Sequence[PlanResult]) -> dict[str, int]:
    """How many of the returned things come to each of ``ENDS``; empty where no plan picks anything up, or nothing is
    located in what was imagined."""
    ends = [
        _end(task, result, name)
        for result in results
        if result.located is not None and any(s.kind == "pick" for s in result.plan)
        for name in result.score.reached
    ]
    return {end: ends.count(end) for end in ENDS} if ends else {}


def _end(task: Task, result: PlanResult, name: str) -> str:
    """Which of ``ENDS`` a thing comes to: the first that goes wrong. Right is what is within the task's tolerance."""
    if result.score.reached[name]:
        return "returned"
    assert result.located is not None
    executed, free = result.executed.position(name), task.released(result.executed)
    column = list(result.executed.names).index(name)
    imagined = result.located[:, result.layout.names.index(name)]
    chunk = (len(executed) - 1) // len(result.plan)
    for k, subgoal in enumerate(result.plan):
        begin, end = k * chunk, (k + 1) * chunk
        if subgoal.kind == "pick" and subgoal.object == name and free[end, column]:
            off = np.linalg.norm(imagined[begin] - executed[begin])  # NaN where it is not found
            return "not_grasped" if off <= task.tolerance else "imagined_elsewhere"
    known = result.imagined_score is not None and result.imagined_score.reached[name]
    return "put_elsewhere" if known else "place_unknown"


def failures_table(result: Mapping[str, Any]) -> str:
    """Each row's things by their end; empty where no row has any."""
    rows = {n: result["rows"][n]["failures"] for n in NAMES if result["rows"].get(n, {}).get("failures")}
    if not rows:
        return ""
    lines = ["| row | " + " | ".join(ENDS.values()) + " |", "|---" * (len(ENDS) + 1) + "|"]
    lines += [
        f"| {NAMES[name]} | {' | '.join(str(row[end]) for end in ENDS)} |" for name, row in rows.items()
    ]
    table = "\n".join(lines)
    return f"""
What comes first in the way of each thing that is returned, in things; right is what is within the tolerance:

{table}
"""
