"""The planning table's section of ``docs/results.md``."""

from __future__ import annotations

from typing import Any

from planner.failures import failures_table
from planner.figures import interval
from planner.imagined_videos import following_table, frechet_table
from planner.paired_rows import paired_table
from planner.row_names import NAMES

DIGITS = {"px": 1, "mm": 0, "blocks": 2}  # of where a thing landed
MEASURED = (  # of results older than the key
    "Distances are the mean over the cubes that the plan returns; a cube that never was 5 cm away and let go counts "
    "with the outward way it was told to go."
)


def plot_of(task: str) -> str:
    """Where a task's plot lies, seen from the page."""
    return f"media/planning_{task}.png"


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

![Executed and imagined {_figure(result)} of each row with 95% intervals]({plot_of(result["task"])})
{left_out_line(result)}
{paired_table(result)}
{frechet_table(result)}{following_table(result)}
By length of plan, in chunks:

{lengths_table(result)}
{failures_table(result)}
The instruments, on expert episodes of held-out layouts:

{instruments_table(result)}

{next_chunk_table(result)}

Seconds per episode and part, episodes in lock-step, model loading left out; *a chunk* is what the model takes of them
for one, to imagine and to remember it.{effect_line(result)}{peak_line(result)}

{seconds_table(result)}
"""


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
    peaks = peaks_of(result)
    heads = [*parts, "all", "a chunk", *(["peak memory, MB"] if peaks else [])]
    lines = ["| row | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, seconds in rows.items():
        lengths = [(int(c), m["executed"]["n"]) for c, m in result["rows"][name].get("by_chunks", {}).items()]
        chunks = sum(c * n for c, n in lengths) / max(1, sum(n for _, n in lengths))
        model = sum(seconds.get(p, 0.0) for p in ("imagine", "remember"))
        cells = [f"{s:.2f}" for s in (*(seconds.get(p, 0.0) for p in parts), sum(seconds.values()))]
        cells.append(f"{model / chunks:.2f}" if chunks else "–")
        if peaks:
            cells.append(f"{peaks[name]:.0f}" if name in peaks else "–")
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def peaks_of(result: dict[str, Any]) -> dict[str, float]:
    """The rows' peaks of memory, MB; results older than the key have none."""
    return {name: row["peak_mb"] for name, row in result["rows"].items() if row.get("peak_mb")}


def peak_line(result: dict[str, Any]) -> str:
    """What the peak of memory is of; empty where no row has one."""
    if not peaks_of(result):
        return ""
    on_gpu = str(result["provenance"]["parts"].get("device", "")).startswith("cuda")
    whose = "torch's allocator gave out on the GPU" if on_gpu else "the process held"
    return (
        f" *Peak memory* is the most that {whose} while a batch of episodes ran, the base and inverse dynamics, which "
        "all rows share a process with, counted."
    )


def effect_line(result: dict[str, Any]) -> str:
    """What is in the seconds beside the work itself."""
    measured = any(row.get("effect") for row in result["rows"].values())
    return (
        " Where Θ's effect stands above, remembering includes the two passes that measure it."
        if measured
        else ""
    )


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


def _effect(per_update: list[float] | None) -> str:
    """Effect after the first and after the last update."""
    return f"{per_update[0]:.1%} → {per_update[-1]:.1%}" if per_update else "–"


def _figure(result: dict[str, Any]) -> str:
    """What a task's episodes are measured by; results older than the key: distances."""
    return result.get("figure", "distance")
