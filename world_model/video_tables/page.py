"""A video table as markdown, from its json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from world_model.video_tables.metrics import FRECHET, METRICS

PARTS = {
    "next_chunk": "Slow learning: each next chunk, from the true frames before it",
    "long": "Long videos: from the first frame and the actions alone",
}
COSTS = {"seconds": ("s a video", ".2f"), "per_chunk": ("s a chunk", ".3f"), "peak_mb": ("peak MB", ".0f")}
NOTES = """\
Intervals: 95%, bootstrap over videos. Fréchet distances depend on the number of videos and fall with it: rows are \
comparable, other tables are not, and only one over the I3D is an FVD. Their floor is what two sets of true videos \
differ by. PSNR is the mean over frames, of which one equal to the truth counts 60 dB. SCuts of a frozen video are \
none and its SRC is 100: SRC contrast, (SRC − the same video's unrelated places) / (ceiling − floor), is 1 for the \
truth and 0 for a frozen video. A video that walks another path can be as consistent as the truth, so SRC says \
nothing of whether actions are followed."""

FOLLOWED_NOTE = """\
Actions followed: the share of a video's steps whose action, read off its frames, is the one that was carried out in \
the true video. The truth's is the ceiling, the other true videos' the floor: a row near the floor shows something \
else than what it was told, however consistent."""

SETS_NOTE = """\
Three sets of equal size, by complexity: the number of actions, then how much there is in the first picture (bits a \
pixel, as PNG packs it). The last two rows are made of the cells' clips: rank and rate chosen by what is known of a \
scene beforehand, and one choice for all; each clip's own figures are left out of its choice."""


def interval(value: Mapping[str, Any] | None, form: str) -> str:
    """``1.00 [0.90, 1.10]``, or a dash."""
    if value is None:
        return "–"
    return f"{value['value']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def columns_of(rows: Mapping[str, Mapping[str, Any]], key: str = "figures") -> list[str]:
    """The metrics that any row has, in order."""
    return [m for m in METRICS if any(m in row[key] for row in rows.values())]


def part_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a row: references, adversaries, then the model's."""
    metrics = columns_of(rows)
    effect = any(row.get("effect") for row in rows.values())
    rank = any(row.get("rank") for row in rows.values())
    arrows = {1: "↑", -1: "↓"}
    heads = [f"{METRICS[m].name} {arrows[METRICS[m].better]}" for m in metrics]
    heads += ["effect of Θ"] * effect + ["rank / full rank"] * rank + ["s a video", "n"]
    lines = ["| row | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows.values():
        cells = [interval(row["figures"].get(m), METRICS[m].form) for m in metrics]
        if effect:
            e = row.get("effect")
            cells.append(f"{e[0]:.1%} → {e[-1]:.1%}" if e else "–")
        if rank:
            cells.append(_rank(row.get("rank")))
        seconds = row.get("seconds_per_clip")
        cells += ["–" if seconds is None else f"{seconds:.1f}", str(len(row["clips"]))]
        name = f"**{row['label']}**" if row["kind"] == "model" else row["label"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def times_elsewhere(rows: Mapping[str, Mapping[str, Any]], hardware: str) -> list[str]:
    """Which rows' seconds are of other hardware than the table's, as those of kept videos may be."""
    told = {row["label"]: row.get("hardware", hardware) for row in rows.values()}
    return [f"s a video of {label}: measured on {on}." for label, on in told.items() if on != hardware]


def _rank(rank: Mapping[str, Any] | None) -> str:
    if not rank:
        return "–"
    least, most = rank["full"]
    return f"{rank['rank']} / {least}" + (f" to {most}" if most != least else "")


def lengths_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The same apart for each number of actions; Fréchet distances are over all videos only."""
    metrics = [m for m in columns_of(rows) if m not in FRECHET]
    lines = [
        "| row | actions | " + " | ".join(METRICS[m].name for m in metrics) + " | n |",
        "|---" * (len(metrics) + 3) + "|",
    ]
    for row in rows.values():
        for chunks, figures in row["by_chunks"].items():
            cells = [interval(figures.get(m), METRICS[m].form) for m in metrics]
            lines.append(f"| {row['label']} | {chunks} | {' | '.join(cells)} | {figures['scuts']['n']} |")
    return "\n".join(lines)


def sets_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The same apart for scenes that are simple, medium and complex."""
    metrics = [m for m in columns_of(rows) if m not in FRECHET]
    lines = [
        "| row | scenes | " + " | ".join(METRICS[m].name for m in metrics) + " | n |",
        "|---" * (len(metrics) + 3) + "|",
    ]
    for row in rows.values():
        for name, figures in row.get("by_set", {}).items():
            cells = [interval(figures.get(m), METRICS[m].form) for m in metrics]
            lines.append(f"| {row['label']} | {name} | {' | '.join(cells)} | {figures['scuts']['n']} |")
    return "\n".join(lines)


def costs_table(costs: Mapping[str, Any]) -> str:
    """Table 3, with the paper's ratios beside ours."""
    heads = [name for name, _ in COSTS.values()]
    lines = ["| fast learning | " + " | ".join(heads) + " | n |", "|---" * (len(heads) + 2) + "|"]
    for name, row in costs["rows"].items():
        cells = [interval(row["figures"][k], form) for k, (_, form) in COSTS.items()]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(row['clips'])} |")
    ratios = [interval(costs["ratios"][k], ".3f") for k in COSTS]
    lines.append(f"| with / without | {' | '.join(ratios)} | |")
    paper = [f"{costs['paper'][k]:.3f}" if k in costs["paper"] else "–" for k in COSTS]
    lines.append(f"| the paper's ratio, V100 | {' | '.join(paper)} | |")
    return "\n".join(lines)


def doubt_lines(rows: Mapping[str, Mapping[str, Any]], doubts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where an adversary does not rank last."""
    if not doubts:
        judged = sorted({r["label"].partition(":")[0] for r in rows.values() if r["kind"] == "adversary"})
        return [
            f"Every adversary ({', '.join(judged)}) ranks below the autoencoded truth and every row of a model by each "
            "metric that can see it; by actions followed cut-injected videos, mostly right, have to rank below the "
            "former alone."
        ]
    lines = []
    for d in doubts:
        metric, row = METRICS[d["metric"]], rows[d["row"]]
        figures = f"{d['value']:{metric.form}} against {d['beside']:{metric.form}}"
        said = (
            f"**{metric.name} cannot be trusted here**: the autoencoded truth is no better than"
            if d["row"] == "autoencoded"
            else f"{row['label']} is no better by {metric.name} than"
        )
        lines.append(f"- {said} {rows[d['adversary']]['label'].partition(':')[0]} videos ({figures})")
    return lines


def section(result: Mapping[str, Any]) -> str:
    """A whole table."""
    p = result["provenance"]
    texts = [
        f"## Table {result['table']}: {result['title']} ({result['task']})",
        f"`{p['command']}`; commit {p['commit']}; {p['hardware']}; {p['clips']} videos of {p['source']}, seed "
        f"{p['seed']}, {p['frames']} new frames each, the same in every row; one training seed.",
    ]
    for part, measured in result["parts"].items():
        rows = measured["rows"]
        texts += [f"### {PARTS[part]}", part_table(rows), *times_elsewhere(rows, p["hardware"])]
        if result["by_length"]:
            texts += [lengths_table(rows), SETS_NOTE, sets_table(rows)]
        injected = rows.get("cut_injected", {}).get("injected")
        if injected:
            texts.append(
                f"SCuts found {injected['found']} of {injected['of']} injected cuts, and {injected['others']} others."
            )
        texts.append("\n".join(doubt_lines(rows, measured["doubts"])))
    if result.get("costs"):
        texts.append(costs_table(result["costs"]))
    if result["parts"]:
        rows = [row for part in result["parts"].values() for row in part["rows"].values()]
        texts += [NOTES, *[FOLLOWED_NOTE] * any("followed" in row["figures"] for row in rows)]
        texts += ["; ".join(f"{k}: {v}" for k, v in result["instruments"].items()) + "."]
    if result["left_out"]:
        texts.append("Left out:\n\n" + "\n".join(f"- {line}" for line in result["left_out"]))
    return "\n\n".join(texts) + "\n"
