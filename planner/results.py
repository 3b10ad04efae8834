"""Generates ``docs/results.md`` from ``benchmarks/results/*.json``; nothing in it is typed by hand.

python -m planner.results
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.commands import ROOT
from tasks.files import write_text
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


def _interval(value: dict[str, float] | None, key: str = "mean", form: str = ".3f") -> str:
    if value is None:
        return "–"
    return f"{value[key]:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _effect(per_update: list[float] | None) -> str:
    """Effect after the first and after the last update."""
    return f"{per_update[0]:.1%} → {per_update[-1]:.1%}" if per_update else "–"


def planning_table(result: dict[str, Any]) -> str:
    unit = result["unit"]
    details = list(dict.fromkeys(d for row in result["rows"].values() for d in row.get("details", {})))
    heads = "".join(f" {d.replace('_', ' ')} |" for d in details)
    lines = [
        f"| row | executed distance, {unit} | over displaced, {unit} | displaced | success "
        f"| imagined distance, {unit} | lost in the imagined end | effect of Θ | n |{heads}",
        "|---|---|---|---|---|---|---|---|---|" + "---|" * len(details),
    ]
    for name in (n for n in NAMES if n in result["rows"]):
        row = result["rows"][name]
        lost = row.get("imagined_lost")
        lines.append(
            f"| {NAMES[name]} | {_interval(row['executed'])} | {_interval(row.get('executed_over_displaced'))} "
            f"| {_interval(row['displaced'], 'share', '.0%')} | {_interval(row['success'], 'share', '.0%')} "
            f"| {_interval(row['imagined'])} | {_interval(lost, 'share', '.0%')} "
            f"| {_effect(row.get('effect'))} | {row['executed']['n']} |"
            + "".join(f" {_interval(row.get('details', {}).get(d))} |" for d in details)
        )
    return "\n".join(lines)


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
            f"{_interval(distances[k], 'value', '.2f')} | {distances[k]['floor']:.2f}"
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


def lengths_table(result: dict[str, Any]) -> str:
    """Each row's figures apart for short and long episodes."""
    unit = result["unit"]
    lines = [
        f"| row | chunks | executed distance, {unit} | imagined distance, {unit} | success | n |",
        "|---|---|---|---|---|---|",
    ]
    for name in (n for n in NAMES if n in result["rows"]):
        for chunks, m in result["rows"][name].get("by_chunks", {}).items():
            lines.append(
                f"| {NAMES[name]} | {chunks} | {_interval(m['executed'])} | {_interval(m['imagined'])} "
                f"| {_interval(m['success'], 'share', '.0%')} | {m['executed']['n']} |"
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
        for frames, m in measured[name].items():
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
        label = {"imagined": "imagined", "copied": "the last frame copied"}[name]
        lines.append(f"| {label} | {m['psnr']:.1f} | {''.join(f'{c} | ' for c in cells)}{m['chunks']} |")
    return "\n".join(lines)


def section(result: dict[str, Any]) -> str:
    p = result["provenance"]
    parts = "; ".join(f"{k}: {v}" for k, v in p["parts"].items() if k not in ("memory",))
    return f"""## {result["task"]}

`{p["command"]}`; commit {p["commit"]}; {p["hardware"]}; {p["episodes"]} held-out layouts, seed {p["seed"]}, the
same in every row; one training seed. {parts}.

{result.get("measured", MEASURED)} Intervals: 95%, bootstrap over episodes for means, Clopper-Pearson for shares.
Effect of Θ: how much it changes the predicted noise of the newest chunk, ‖ε with − ε without‖ / ‖ε without‖, after
the first and after the last chunk.

{planning_table(result)}
{frechet_table(result)}
By length of plan, in chunks:

{lengths_table(result)}

The instruments, on expert episodes of held-out layouts:

{instruments_table(result)}

{next_chunk_table(result)}

Seconds per episode and part, episodes in lock-step, model loading left out:

{seconds_table(result)}
"""


def fast_learning_section(result: dict[str, Any]) -> str:
    """Table 3: a chunk with and without fast learning, and B episodes at once."""
    lines = [
        "| fast learning | s without | s with | time ratio | peak MB without | peak MB with | memory ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in result["one_chunk"].items():
        s, mb = m["seconds"], m["peak_mb"]
        lines.append(
            f"| {name} | {s['without']:.2f} | {s['with']:.2f} | {m['time_ratio']:.3f} "
            f"| {mb['without']:.0f} | {mb['with']:.0f} | {m['memory_ratio']:.3f} |"
        )
    paper, inner = next(iter(result["one_chunk"].values()))["paper"], result["inner_loop"]
    lines.append(f"| the paper, V100 | – | – | {paper['time_ratio']} | – | – | {paper['memory_ratio']} |")
    table = "\n".join(lines)
    return f"""## What fast learning costs

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}, {result["threads"]} threads; {result["model"]}.
Medians over {next(iter(result["one_chunk"].values()))["rounds"]} rounds, with and without by turns.

{table}

{inner["batch"]} episodes' inner loops at once take {inner["seconds"]["batched"]:.2f} s, one after the other
{inner["seconds"]["sequential"]:.2f} s: {inner["rate_ratio"]:.2f} times the rate; Θ differs by
{inner["theta_relative_difference"]:.1e} of its norm.
"""


def one_episode_section(result: dict[str, Any]) -> str:
    """Wall-clock of one episode from the start of its process, and its memory."""
    rows = result["rows"]
    stages = list(dict.fromkeys(s for m in rows.values() for s in m["stages_s"]))
    parts = list(dict.fromkeys(p for m in rows.values() for p in m["episode_s"]))
    heads = [*stages, *(f"of it {p.replace('_', ' ')}" for p in parts)]
    lines = [
        f"| one episode | wall-clock, s | slowest, s | {' | '.join(heads)} | peak memory, MB | processes |",
        "|---|" + "---|" * (len(heads) + 4),
    ]
    for name, m in rows.items():
        cells = [f"{m['stages_s'].get(s, 0.0):.1f}" for s in stages]
        cells += [f"{m['episode_s'].get(p, 0.0):.1f}" for p in parts]
        lines.append(
            f"| {name} | {m['wall_s']:.1f} | {m['slowest_wall_s']:.1f} | {' | '.join(cells)} "
            f"| {m['peak_mb']:.0f} | {m['rounds']} |"
        )
    table = "\n".join(lines)
    return f"""## What one episode costs

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}. Medians, each from a process of its own:
`python -m planner.run episodes=1`, report and clips included. Stages: *start* is the interpreter and all imports,
*load* the weights and the simulator, *episodes* the loop, whose parts follow.

{table}
"""


def guidance_section(result: dict[str, Any]) -> str:
    """Distances under each combination of scales and of passes that see Θ."""
    lines = [
        "| guidance scales, and the passes that see Θ | executed distance, m | imagined distance, m | success "
        "| lost in the imagined end | s an episode | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in result["rows"].items():
        lines.append(
            f"| {name} | {_interval(m['executed'])} | {_interval(m['imagined'])} "
            f"| {_interval(m['success'], 'share', '.0%')} | {_interval(m['imagined_lost'], 'share', '.0%')} "
            f"| {sum(m['seconds_per_episode'].values()):.1f} | {m['executed']['n']} |"
        )
    table, parts = "\n".join(lines), next(iter(result["rows"].values()))["parts"]
    return f"""## Guidance, and who sees Θ

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}; weights {parts["weights"]}, memory
{parts["memory"]}. Paired held-out layouts; a scale of 1 is no guidance. ModelScope's scales are 2 and 5.

{table}
"""


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def simulator_section(result: dict[str, Any]) -> str:
    """How quick the embedded simulator is."""
    names = {
        "physics_steps_per_second_idle": "physics steps/s, arm still",
        "physics_steps_per_second_moving": "physics steps/s, expert at work",
        "frames_per_second": "frames/s",
        "actions_per_second": "actions/s, with their frame",
    }
    heads, cells = " | ".join(names.values()), " | ".join(_rate(result[k]) for k in names)
    return f"""## How quick the tabletop is

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}; MuJoCo {result["mujoco"]}, OpenGL
{result["opengl"]}, frames of {result["image_size"]} px, {result["timestep"]} s a physics step.

| {heads} |
|{"---|" * len(names)}
| {cells} |
"""


def signed(value: dict[str, float], form: str) -> str:
    """A difference with its interval."""
    return f"{value['mean']:+{form}} [{value['low']:+{form}}, {value['high']:+{form}}]"


def long_stream_section(result: dict[str, Any]) -> str:
    """A thousand frames in one stream: how flat time and memory are, and drift with and without Temp-LoRA."""
    flat = [
        "| stream | s a chunk | time, late / early | peak memory, late / early | at most 1.05 |",
        "|---|---|---|---|---|",
    ]
    for row, m in result["flat"].items():
        flat.append(
            f"| {row} | {m['seconds_late']:.2f} | {m['seconds_ratio']:.3f} | {m['peak_gib_ratio']:.3f} "
            f"| {'yes' if m['holds'] else 'no'} |"
        )
    texts = []
    for metric, rows in result["drift"].items():
        form, heads = (".2f" if metric == "psnr" else ".3f"), [*rows, "temp_lora less none"]
        lines = [f"| {metric}, frames | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for k, less in enumerate(result["difference"][metric]):
            cells = [_interval(values[k], form=form) for values in rows.values()] + [signed(less, form)]
            first = 1 + k * result["block"]
            lines.append(
                f"| {first} to {min(first + result['block'] - 1, result['frames'])} | {' | '.join(cells)} |"
            )
        texts.append("\n".join(lines))
    left_out = "".join(f"\n\nLeft out: {line}." for line in result["left_out"])
    drifts = "\n\n".join(texts)
    return f"""## {result["frames"]} frames in one stream ({result["task"]})

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}; {len(result["streams"]["none"])} streams, each
its own process. Late: the last 10 chunks; early: chunks 5 to 15; of the worst stream. Drift against the true video,
means of {result["block"]} frames with 95% intervals over streams.

{chr(10).join(flat)}

{drifts}{left_out}
"""


def chunk_speed_section(result: dict[str, Any]) -> str:
    """What makes a chunk fast."""
    lines = [
        "| way, each on top of the one before | s a chunk | times as fast | GFLOP | share of the matrix rate |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        lines.append(
            f"| {name} | {_interval(row['seconds'])} | {_interval(row['times_as_fast'], form='.2f')} "
            f"| {row['gflop']:.2f} | {row['share_of_matrix_rate']:.0%} |"
        )
    steps = ["| steps | PSNR of the next chunk, dB | less than 20 steps | n |", "|---|---|---|---|"]
    for n, q in result["steps"]["psnr"].items():
        steps.append(
            f"| {n} | {_interval(q['psnr'], form='.2f')} | {signed(q['less'], '.3f')} | {q['psnr']['n']} |"
        )
    c = result["compile"]
    if "left_out" in c:
        told = f"{c['left_out']}."
    else:
        pays = "never" if c["pays_after_chunks"] is None else f"after {c['pays_after_chunks']:.0f} chunks"
        told = (
            f"`torch.compile` makes the last way {_interval(c['times_as_fast'], form='.2f')} times as fast; its first "
            f"chunk takes {c['first_seconds']:.0f} s, so it pays {pays}."
        )
    return f"""## How fast a chunk is made

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}, {result["threads"]} threads; {result["model"]};
all ways by turns, {result["rounds"]} rounds, guidance {result["guidance"]}. Measured matrix rate
{result["matrix_gflop_per_second"]:.0f} GFLOP/s (float32 product of 1024 × 1024).

{chr(10).join(lines)}

Equal quality: at most {result["steps"]["allowed_loss_db"]} dB less at the low end of the interval, which
{result["steps"]["chosen"]} steps keep.

{chr(10).join(steps)}

{told}
"""


def where_section(results: list[dict[str, Any]]) -> str:
    """What a linear map reads off Θ."""
    lines = [
        "| fast learning | chunks | decoded from Θ, m | from activations, m | a guess, m | effect of Θ | model |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r["chunks"], r["read_m"])):
        options = ", ".join(f"{k}={v}" for k, v in r["options"].items()) or "defaults"
        lines.append(
            f"| {options} | {r['chunks']} | {r['error_m']:.3f} | {r['read_m']:.3f} | {r['guess_m']:.3f} | "
            f"{r['effect']:.1%} | {r['model']} |"
        )
    table, r = "\n".join(lines), results[0]
    return f"""## What Θ holds

The start of the cube that moves first, decoded by a linear map, one of {r["episodes"]} episodes left out at a time:
from Θ after so many chunks (what fast learning wrote), and from the UNet's middle activations at one fixed input
under each Θ (what Φ can read of it). `{r["command"]}` and the like; commit {r["commit"]}; {r["hardware"]}.

{table}
"""


def write_results(results: Path, page: Path) -> Path:
    """Write the page from the json files in a folder; returns the page."""

    def found(pattern: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(results.glob(pattern))]

    texts = [section(r) for r in found("planning_*.json")]
    texts += [video_section(r) for r in found("video_*_table*.json")]
    texts += [guidance_section(r) for r in found("guidance_*.json")]
    texts += [one_episode_section(r) for r in found("one_episode.json")]
    texts += [simulator_section(r) for r in found("sim_speed.json")]
    texts += [fast_learning_section(r) for r in found("fast_learning.json")]
    texts += [long_stream_section(r) for r in found("long_stream_*.json")]
    texts += [chunk_speed_section(r) for r in found("chunk_speed*.json")]
    if where := found("where_*.json"):
        texts.append(where_section(where))
    head = (
        "# Results\n\nGenerated by `python -m planner.results` from `benchmarks/results/`; do not edit.\n\n"
    )
    write_text(page, head + "\n".join(texts))
    return page


if __name__ == "__main__":
    print(write_results(ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md"))
