"""Generates ``docs/results.md`` from ``benchmarks/results/*.json``; nothing in it is typed by hand.

python -m planner.results
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planner import benchmark_sections as benchmarks
from planner.action_following import BARS, LOW, REFERENCES, Figures, doubts
from planner.aggregates import cells, executed
from planner.figures import interval, signed
from tasks.commands import ROOT
from tasks.files import write_text
from tasks.statistics import paired_intervals
from world_model.video_tables.page import section as video_section

NAMES = {
    "do_nothing": "do nothing (computed)",
    "constant_guess": "constant guess, flawless hands (computed)",
    "random_walk": "random walk",
    "true_frames": "ceiling: true frames → inverse dynamics → env",
    "no_memory": "no memory, base",
    "no_memory_observed": "no memory, base, `condition_on=observed`",
    "equal_steps": "no memory, as many more training steps as the loop",
    "first_frame": "`memory=first_frame`, finetuned with it",
    "anchor": "`memory=anchor`, finetuned with it",
    "context": "`memory=context`, finetuned with it",
    "retrieval": "`memory=retrieval`, finetuned with it",
    "temp_lora_no_loop": "Temp-LoRA without the loop",
    "temp_lora_no_loop_observed": "Temp-LoRA without the loop, `condition_on=observed`",
    "temp_lora_original": "Temp-LoRA on input → output with text, its own loop",
    "temp_lora_sequence": "Temp-LoRA on the whole sequence, its own loop",
    "full": "**Temp-LoRA + slow-fast loop**",
    "full_observed": "Temp-LoRA + slow-fast loop, `condition_on=observed`",
    "oracle": "ceiling: the true end of each chunk as one more past frame, finetuned with it",
    "shuffled": "control: loop weights, another episode's Θ",
    "theta_off": "diagnostic: loop weights, Θ off",
}

DIGITS = {"px": 1, "mm": 0, "blocks": 2}  # of where a thing landed
MEASURED = (  # of results older than the key
    "Distances are the mean over the cubes that the plan returns; a cube that never was 5 cm away and let go counts "
    "with the outward way it was told to go."
)


def _effect(per_update: list[float] | None) -> str:
    """Effect after the first and after the last update."""
    return f"{per_update[0]:.1%} → {per_update[-1]:.1%}" if per_update else "–"


def _figure(result: dict[str, Any]) -> str:
    """What a task's episodes are measured by; results older than the key: distances."""
    return result.get("figure", "distance")


def planning_table(result: dict[str, Any]) -> str:
    unit, figure = result["unit"], _figure(result)
    details = list(dict.fromkeys(d for row in result["rows"].values() for d in row.get("details", {})))
    heads = "".join(f" {d.replace('_', ' ')} |" for d in details)
    lines = [
        f"| row | executed {figure}, {unit} | over displaced, {unit} | displaced | success "
        f"| imagined {figure}, {unit} | lost in the imagined end | effect of Θ | n |{heads}",
        "|---|---|---|---|---|---|---|---|---|" + "---|" * len(details),
    ]
    for name in (n for n in NAMES if n in result["rows"]):
        row = result["rows"][name]
        lost = row.get("imagined_lost")
        lines.append(
            f"| {NAMES[name]} | {interval(row['executed'])} | {interval(row.get('executed_over_displaced'))} "
            f"| {interval(row['displaced'], 'share', '.0%')} | {interval(row['success'], 'share', '.0%')} "
            f"| {interval(row['imagined'])} | {interval(lost, 'share', '.0%')} "
            f"| {_effect(row.get('effect'))} | {row['executed']['n']} |"
            + "".join(f" {interval(row.get('details', {}).get(d))} |" for d in details)
        )
    return "\n".join(lines)


def left_out_line(result: dict[str, Any]) -> str:
    """Which layouts are in no figure of which row; empty where all are in all."""
    lost = {
        NAMES[n]: row["left_out"] for n, row in result["rows"].items() if n in NAMES and row.get("left_out")
    }
    if not lost:
        return ""
    named = "; ".join(f"{name}: {', '.join(seeds)}" for name, seeds in lost.items())
    return f"\nLeft out of a row, since the simulator or its expert failed there (n counts the others): {named}.\n"


def ends_on(row: dict[str, Any], seeds: Sequence[int], first: bool = False) -> np.ndarray:
    """Executed distance on some layouts, ``(trainings, layouts)``; ``first`` takes the first training alone."""
    there = set(seeds)
    totals, counts = cells([e for e in row["episodes"] if e["seed"] in there], executed)
    ends = totals / counts
    return ends[:1] if first else ends


def layouts_of(row: dict[str, Any]) -> set[int]:
    """The layouts whose episodes every training of a row finished."""
    _, counts = cells(row["episodes"], executed)
    seeds = sorted({e["seed"] for e in row["episodes"]})
    return {seed for seed, whole in zip(seeds, counts.min(0) > 0, strict=True) if whole}


def paired_table(result: dict[str, Any]) -> str:
    """The other rows against the full method on the same layouts: how much farther they end, how many times as far,
    and, where the oracle was measured, how many times as far beyond it; empty without the full method's row."""
    rows = {n: result["rows"][n] for n in NAMES if n in result["rows"]}
    if "full" not in rows:
        return ""
    beyond = "oracle" in rows
    heads = " times as far beyond the oracle |" if beyond else ""
    lines = [
        f"| row, paired with the full method | farther by, {result['unit']} | times as far |{heads} layouts |",
        "|---|---|---|---|" + "---|" * beyond,
    ]
    shared = layouts_of(rows["full"])
    if beyond:
        shared &= layouts_of(rows["oracle"])
    for name in (n for n in rows if n != "full"):
        seeds = sorted(shared & layouts_of(rows[name]))
        if not seeds:
            continue
        there = ends_on(rows[name], seeds)
        full = ends_on(rows["full"], seeds, first=not rows[name].get("every_training", True))
        by, times = paired_intervals(there, full)
        cell = f"| {NAMES[name]} | {signed(by, '.3f')} | {interval(times, form='.2f')} |"
        if beyond:
            floor = ends_on(rows["oracle"], seeds)
            more = None if name == "oracle" else paired_intervals(there, full, floor)[1]
            cell += f" {interval(more, form='.2f')} |"
        lines.append(f"{cell} {len(seeds)} |")
    return "\n".join(lines) + "\n" + without_memory(rows)


def without_memory(rows: Mapping[str, Any]) -> str:
    """Which row counts as no memory: the better of the base and of as many more steps; empty unless both are there."""
    if not {"no_memory", "equal_steps"} <= set(rows):
        return ""
    seeds = sorted(layouts_of(rows["no_memory"]) & layouts_of(rows["equal_steps"]))
    if not seeds:
        return ""
    better = min(("no_memory", "equal_steps"), key=lambda n: ends_on(rows[n], seeds).mean())
    return f"\nWithout memory, the better of the base and its equal steps: {NAMES[better]}.\n"


def trainings_line(result: dict[str, Any]) -> str:
    """Of how many trainings the rows are."""
    several = {n: len(result["rows"][n].get("trainings", [0])) for n in NAMES if n in result["rows"]}
    if max(several.values(), default=1) == 1:
        return "one training seed"
    named = ", ".join(f"{NAMES[n]} {count}" for n, count in several.items() if count > 1)
    return (
        f"training seeds: {named}, the other rows 1; intervals of several cover trainings and layouts, both drawn "
        "anew; what stands beside distances and shares is of the first, and with it the controls are paired"
    )


def weights_line(result: dict[str, Any]) -> str:
    """Which rows ran on which weights."""
    rows: dict[str, list[str]] = {}
    for name in (n for n in NAMES if n in result["rows"]):
        row = result["rows"][name]
        alone = row.get("parts", {}).get("weights")  # of results older than the key
        if used := row.get("trainings", [alone] if alone else []):
            rows.setdefault(", ".join(used), []).append(name)
    return "; ".join(f"{folder}: {', '.join(names)}" for folder, names in rows.items())


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


def lengths_table(result: dict[str, Any]) -> str:
    """Each row's figures apart for short and long episodes."""
    unit, figure = result["unit"], _figure(result)
    lines = [
        f"| row | chunks | executed {figure}, {unit} | imagined {figure}, {unit} | success | n |",
        "|---|---|---|---|---|---|",
    ]
    for name in (n for n in NAMES if n in result["rows"]):
        for chunks, m in result["rows"][name].get("by_chunks", {}).items():
            lines.append(
                f"| {NAMES[name]} | {chunks} | {interval(m['executed'])} | {interval(m['imagined'])} "
                f"| {interval(m['success'], 'share', '.0%')} | {m['executed']['n']} |"
            )
    return "\n".join(lines)


def seconds_table(result: dict[str, Any]) -> str:
    rows = {n: r["seconds_per_episode"] for n, r in result["rows"].items() if "seconds_per_episode" in r}
    parts = sorted({p for r in rows.values() for p in r})
    lines = ["| row | " + " | ".join(parts) + " | all |", "|---" * (len(parts) + 2) + "|"]
    for name, seconds in rows.items():
        cells = " | ".join(f"{seconds.get(p, 0.0):.2f}" for p in parts)
        lines.append(f"| {NAMES[name]} | {cells} | {sum(seconds.values()):.2f} |")
    return "\n".join(lines)


def instruments_table(result: dict[str, Any]) -> str:
    measured = result["instruments"]
    lines = ["| instrument | frames | median | mean | 90% | else | n |", "|---|---|---|---|---|---|---|"]
    for name, label in (("inverse_dynamics", "inverse dynamics"), ("locate", "locator")):
        for frames, m in measured.get(name, {}).items():
            unit = next(k.removeprefix("median_") for k in m if k.startswith("median_"))
            said = {"gripper": "gripper", "keys": "all keys", "lost": "not found"}
            other = ", ".join(f"{text} {m[k]:.2%}" for k, text in said.items() if k in m)
            digits = 1 if unit == "mm" else 2
            figures = " | ".join(f"{m[f'{k}_{unit}']:.{digits}f} {unit}" for k in ("median", "mean", "p90"))
            lines.append(f"| {label} | {frames} | {figures} | {other} | {m['n']} |")
    return "\n".join(lines)


def next_chunk_table(result: dict[str, Any]) -> str:
    measured = result["instruments"]["next_chunk"]
    kinds = list(
        dict.fromkeys(k.removesuffix("_n") for m in measured.values() for k in m if k.endswith("_n"))
    )
    heads = "".join(f" {kind}: median | not found |" for kind in kinds)
    lines = [
        f"| next chunk from true past frames | PSNR, dB |{heads} chunks |",
        "|---|---|" + "---|" * (2 * len(kinds) + 1),
    ]
    for name, m in measured.items():
        cells = []
        for kind in kinds:
            units = [k.removeprefix(f"{kind}_median_") for k in m if k.startswith(f"{kind}_median_")]
            figures = [f"{m[f'{kind}_median_{u}']:.{DIGITS[u]}f} {u}" for u in units]
            cells.append(", ".join(figures) or "–")
            cells.append(f"{m[f'{kind}_lost']:.0%} of {m[f'{kind}_n']}" if figures else "–")
        label = "the last frame copied" if name == "copied" else name
        lines.append(f"| {label} | {m['psnr']:.1f} | {''.join(f'{c} | ' for c in cells)}{m['chunks']} |")
    return "\n".join(lines)


def section(result: dict[str, Any]) -> str:
    p = result["provenance"]
    parts = "; ".join(f"{k}: {v}" for k, v in p["parts"].items() if k not in ("memory", "weights"))
    return f"""## {result["task"]}

`{p["command"]}`; commit {p["commit"]}; {p["hardware"]}; {p["episodes"]} held-out layouts, seed {p["seed"]}, the
same in every row; {trainings_line(result)}. {parts}. Weights: {weights_line(result)}.

{result.get("measured", MEASURED)} Intervals: 95%, bootstrap over episodes for means, Clopper-Pearson for shares.
Effect of Θ: how much it changes the predicted noise of the newest chunk, ‖ε with − ε without‖ / ‖ε without‖, after
the first and after the last chunk.

{planning_table(result)}
{left_out_line(result)}
{paired_table(result)}
{frechet_table(result)}{following_table(result)}
By length of plan, in chunks:

{lengths_table(result)}

The instruments, on expert episodes of held-out layouts:

{instruments_table(result)}

{next_chunk_table(result)}

Seconds per episode and part, episodes in lock-step, model loading left out:

{seconds_table(result)}
"""


BENCHMARKS = {
    "guidance_*.json": benchmarks.guidance_section,
    "one_episode.json": benchmarks.one_episode_section,
    "sim_speed.json": benchmarks.simulator_section,
    "fast_learning.json": benchmarks.fast_learning_section,
    "long_stream_*.json": benchmarks.long_stream_section,
    "chunk_speed*.json": benchmarks.chunk_speed_section,
    "first_chunk*.json": benchmarks.first_chunk_section,
}


def write_results(results: Path, page: Path) -> Path:
    """Write the page from the json files in a folder; returns the page."""

    def found(pattern: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(results.glob(pattern))]

    texts = [section(r) for r in found("planning_*.json")]
    texts += [video_section(r) for r in found("video_*_table*.json")]
    for pattern, of_benchmark in BENCHMARKS.items():
        texts += [of_benchmark(r) for r in found(pattern)]
    if where := found("where_*.json"):
        texts.append(benchmarks.where_section(where))
    head = (
        "# Results\n\nGenerated by `python -m planner.results` from `benchmarks/results/`; do not edit.\n\n"
    )
    write_text(page, head + "\n".join(texts))
    return page


if __name__ == "__main__":
    print(write_results(ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md"))
