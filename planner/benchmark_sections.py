"""The benchmarks' sections of ``docs/results.md``, one function a benchmark."""

from __future__ import annotations

from typing import Any

from planner.figures import interval, signed


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
{inner["theta_relative_difference"]:.1e} of its norm.{limits_text(inner)}
"""


def limits_text(inner: dict[str, Any]) -> str:
    """Where the inner loop's time goes."""
    told = [
        f"{episodes} at once: " + ", ".join(f"`{name}` {share:.0%}" for name, share in shares.items())
        for episodes, shares in inner.get("limits", {}).items()
    ]
    return f" Where its time goes, by operator: {'; '.join(told)}." if told else ""


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

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}. Medians over the last
column's number of processes of `python -m planner.run episodes=1`, report and clips included. Stages: *start* is the
interpreter and all imports, *load* the weights and the simulator, *episodes* the loop, whose parts follow.

{table}
"""


def training_step_section(result: dict[str, Any]) -> str:
    """Slow learning's step on the CPU, way by way."""
    rows = result["rows"]
    plain = rows["plain"]["seconds"]
    lines = [
        "| each way on top of the second | s a step | times as fast | gradient off by |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {way} | {m['seconds']:.2f} | {plain / m['seconds']:.2f} | {m['gradient_difference']:.1%} |"
        for way, m in rows.items()
    ]
    table, threads = "\n".join(lines), result["threads"]
    return f"""## How quick slow learning is on the CPU

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}, {threads} thread{"s" if threads > 1 else ""};
{result["weights"]}, {result["batch"]} chunks. Forward and backward pass; medians over {len(rows["plain"]["each"])}
processes of each way, by turns. *Freed memory kept* is what every command does, *products* an option of the trainers.

{table}
"""


def guidance_section(result: dict[str, Any]) -> str:
    """Distances under each combination of scales and of passes that see Θ."""
    lines = [
        "| guidance scales, and the passes that see Θ | executed distance, m | imagined distance, m | success "
        "| lost in the imagined end | passes a denoising step | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in result["rows"].items():
        lines.append(
            f"| {name} | {interval(m['executed'])} | {interval(m['imagined'])} "
            f"| {interval(m['success'], 'share', '.0%')} | {interval(m['imagined_lost'], 'share', '.0%')} "
            f"| {m['passes']} | {m['executed']['n']} |"
        )
    table = "\n".join(lines)
    weights = {row["parts"]["memory"]: row["parts"]["weights"] for row in result["rows"].values()}
    ran_on = "; ".join(f"{memory} on {folder}" for memory, folder in weights.items())
    return f"""## Guidance, and who sees Θ

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}; {ran_on}. Paired held-out layouts; a scale of 1
is no guidance. ModelScope's scales are 2 and 5. Only the base was trained with the past and the text left out at times,
so that scales above 1 are outside what the loop's weights know.

{table}
"""


def _rate(value: float | None) -> str:
    if value is None:
        return "not told apart"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def simulator_section(result: dict[str, Any]) -> str:
    """How quick the embedded simulators are."""
    parts = [f"`{result['command']}`; commit {result['commit']}; {result['hardware']}.\n"]
    if "tabletop" in result:
        parts.append(_tabletop(result["tabletop"]))
    if "doom" in result:
        parts.append(_doom(result["doom"]))
    return "## How quick the simulators are\n\n" + "\n".join(parts)


def _tabletop(figures: dict[str, Any]) -> str:
    names = {
        "physics_steps_per_second_idle": "physics steps/s, arm still",
        "physics_steps_per_second_moving": "physics steps/s, expert at work",
        "frames_per_second": "frames/s",
        "actions_per_second": "actions/s, with their frame",
    }
    return f"""The tabletop: MuJoCo {figures["mujoco"]}, OpenGL {figures["opengl"]}, frames of
{figures["image_size"]} px, {figures["timestep"]} s a physics step.

{_rates(names, figures)}"""


def _doom(figures: dict[str, Any]) -> str:
    names = {
        "frames_per_second": "actions/s, with their frame",
        "frames_per_core_second": "the same to a second of one core",
    }
    return f"""The game: {figures["simulator"]}, frames of {figures["image_size"]} px, {figures["n"]["frames"]}
steps of the explorer. The second figure counts the processor time of Python and of the engine together.

{_rates(names, figures)}"""


def _rates(names: dict[str, str], figures: dict[str, Any]) -> str:
    heads, cells = " | ".join(names.values()), " | ".join(_rate(figures[k]) for k in names)
    return f"| {heads} |\n|{'---|' * len(names)}\n| {cells} |\n"


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
            cells = [interval(values[k], form=form) for values in rows.values()] + [signed(less, form)]
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
            f"| {name} | {interval(row['seconds'])} | {interval(row['times_as_fast'], form='.2f')} "
            f"| {row['gflop']:.2f} | {row['share_of_matrix_rate']:.0%} |"
        )
    plain = result["steps"]["plain"]
    steps = [f"| steps | PSNR of the next chunk, dB | less than {plain} steps | n |", "|---|---|---|---|"]
    for n, q in result["steps"]["psnr"].items():
        steps.append(
            f"| {n} | {interval(q['psnr'], form='.2f')} | {signed(q['less'], '.3f')} | {q['psnr']['n']} |"
        )
    c = result["compile"]
    if "left_out" in c:
        told = f"{c['left_out']}."
    else:
        pays = "never" if c["pays_after_chunks"] is None else f"after {c['pays_after_chunks']:.0f} chunks"
        told = (
            f"`torch.compile` makes the last way {interval(c['times_as_fast'], form='.2f')} times as fast; its first "
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
        "| fast learning | keys | chunks | decoded from Θ, m | from activations, m | a guess, m | recall | found "
        "| effect of Θ | model |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r["chunks"], r["read_m"])):
        options = ", ".join(f"{k}={v}" for k, v in r["options"].items()) or "defaults"
        lines.append(
            f"| {options} | {r['keys']} | {r['chunks']} | {r['error_m']:.3f} | {r['read_m']:.3f} | {r['guess_m']:.3f} "
            f"| {r['recall']:.2f} | {r['found']:.0%} | {r['effect']:.1%} | {r['model']} |"
        )
    table, r = "\n".join(lines), results[0]
    return f"""## What Θ holds

The start of the cube that moves first, decoded by a linear map, one of {r["episodes"]} episodes left out at a time:
from Θ after so many chunks (what fast learning wrote), and from the UNet's middle activations at one fixed input
under each Θ (what Φ can read of it). *Recall* needs no map: the cosine between what Θ changes in the frame that Φ
predicts from noise alone and the episode's first frame, both less their mean over the episodes; *found* is the share
of episodes whose own is the nearest of all. `{r["command"]}` and the like; commit {r["commit"]}; {r["hardware"]}.

{table}
"""


def first_chunk_section(result: dict[str, Any]) -> str:
    """How long a person waits on the page."""
    names = {"begin": "the episode begins"}
    for number, of_chunk in ((1, "first chunk"), (2, "second chunk")):
        names |= {
            f"chunk_{number}_first_frame": f"{of_chunk}: first frame",
            f"chunk_{number}_imagined": f"{of_chunk}: last frame",
            f"chunk_{number}_whole": f"{of_chunk}: whole",
        }
    lines = ["| seconds after the button | very first episode | median |", "|---|---|---|"]
    for key, label in names.items():
        if key in result["seconds"]:
            lines.append(f"| {label} | {result['very_first'][key]:.2f} | {result['seconds'][key]:.2f} |")
    table, said = "\n".join(lines), "within" if result["within_5_s"] else "not within"
    beside = result["compare"]
    whole = f"{'imagined without memory, ' if beside else ''}learned{' and executed' if result['simulator'] else ''}"
    return f"""## How long one waits on the page{", side by side with the same without memory" if beside else ""}

`{result["command"]}`; commit {result["commit"]}; {result["hardware"]}, {result["threads"]} threads, load
{result["load_before"]} before; memory {result["memory"]}, simulator {result["simulator"] or "none"}; {result["rounds"]}
episodes after the very first one. Timed: *Begin*, *Side by side* {"ticked" if beside else "not ticked"}, then a press
of a usual action, to the first frame with memory, to the last one, and to the whole chunk, {whole}. The very first
episode's first chunk is whole {said} 5 s.

{table}
"""
