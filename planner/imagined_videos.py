"""What the planning section says of the imagined videos: Fréchet distances, actions followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.action_following import BARS, LOW, REFERENCES, Figures, doubts
from planner.figures import interval
from planner.row_names import NAMES


def frechet_table(result: dict[str, Any]) -> str:
    """Fréchet distances of the imagined videos from the expert's; empty where none was measured."""
    rows = {n: result["rows"][n]["frechet"] for n in NAMES if result["rows"].get(n, {}).get("frechet")}
    if not rows:
        return ""
    kinds = {kind: d["metric"] for distances in rows.values() for kind, d in distances.items()}
    lines = [
        "| row | " + " | ".join(f"{metric} | floor" for metric in kinds.values()) + " | videos |",
        "|---|" + "---|---|" * len(kinds) + "---|",
    ]
    for name, distances in rows.items():
        cells = [
            f"{interval(distances[k], 'value', '.2f')} | {distances[k]['floor']:.2f}"
            if k in distances
            else "– | –"
            for k in kinds
        ]
        n = next(iter(distances.values()))["videos"][0]
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} | {n} |")
    table = "\n".join(lines)
    return f"""
Imagined videos against the expert's of the same layouts; floor: the expert's halves against each other. Comparable
within this table only.

{table}
"""


FOLLOWED = {
    "followed": ("actions followed", ".0%"),
    "told": ("where the caption tells", ".0%"),
    "returns": ("on the way back", ".0%"),
    "position_mm": ("position, mm off", ".1f"),
    "gripper": ("gripper as commanded", ".0%"),
}


def following_table(result: dict[str, Any]) -> str:
    """Whether the imagined videos follow their actions, beside ceiling, floor and what must not pass; empty in results
    older than that."""
    if not (measured := result.get("followed")):
        return ""
    rows = {n: r["followed"] for n in NAMES if (r := result["rows"].get(n, {})).get("followed")}
    references = measured["references"]
    lines_of = {REFERENCES[n]: figures for n, figures in references.items()}
    lines_of |= {NAMES[n]: figures for n, figures in rows.items()}
    columns = [c for c in FOLLOWED if any(c in figures for figures in lines_of.values())]
    lines = [
        "| video | " + " | ".join(FOLLOWED[c][0] for c in columns) + " | videos |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, figures in lines_of.items():
        shown = [interval(figures.get(c), form=FOLLOWED[c][1]) for c in columns]
        lines.append(f"| {name} | {' | '.join(shown)} | {figures['followed']['n']} |")
    table = "\n".join(lines)
    return f"""
Whether imagined videos follow their actions: what inverse dynamics reads off them, against what the expert does in the
same layout; share of steps ({measured["means"]}). A row near the floor shows
something else than what it was told:

{table}

{doubt_lines(references, rows)}
"""


def doubt_lines(references: Mapping[str, Figures], rows: Mapping[str, Figures]) -> str:
    """Which rows don't follow their actions more than what must not pass, and whether the reader can tell at all."""
    lines = []
    for d in doubts(references, rows):
        form = FOLLOWED[d.share][1]
        what = (
            f"**The reader can't be trusted here**: {REFERENCES[d.video]}"
            if d.video in BARS
            else NAMES[d.video]
        )
        lines.append(
            f"- {what}: by {FOLLOWED[d.share][0]} not above *{REFERENCES[d.beside]}*, the intervals apart "
            f"({interval(d.figure, form=form)} against {interval(d.bar, form=form)})"
        )
    if lines:
        return "\n".join(lines)
    low = "; ".join(f"*{REFERENCES[n]}*" for n in LOW if n in references)
    return (
        f"The ceilings and every row are above what must not pass ({low}), the intervals apart."
        if low
        else ""
    )
