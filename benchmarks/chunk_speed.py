"""What makes a chunk fast: each way against the plain loop, by turns, in one run.

    python -m benchmarks.chunk_speed --data data/cube_return --json benchmarks/results/chunk_speed.json

The plain loop encodes the text and the past frames anew for each chunk and makes the three guidance passes one after
the other, in ``--steps`` steps. Then, one on top of the other: text and past latents kept; the passes in one batch;
fewer steps at equal measured quality; ``torch.compile``. Features of the past *inside* the UNet can't be kept: its
temporal layers mix them with the new frames, which change in every step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tasks.commands import CommandError, one_line
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor
from tasks.shipped import weights_folder
from tasks.statistics import mean_interval, ratio_interval
from world_model.chunks import LatentEpisodes
from world_model.data.footage import open_data
from world_model.device import pick_device
from world_model.diffusion import CLEAN, NOISED, WITHHELD, Diffusion
from world_model.model import WorldModel
from world_model.train_autoencoder import held_out_split
from world_model.training import generator

FEWER = (15, 10, 8, 6, 5, 4, 3, 2)
CAPTION = "pick up the red cube"
WORSE = 0.1  # dB that fewer steps may lose at most, at the low end of the interval, to count as equal


class Scene:
    """A chunk to imagine: past frames, their latents, noise, a caption."""

    def __init__(self, model: WorldModel, side: int):
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (model.past_frames, side, side, 3), np.uint8)
        self.past = model.autoencoder.encode(self.frames)[None]
        shape = (1, model.settings.chunk_frames, *self.past.shape[2:])
        self.noise = torch.randn(shape, generator=generator(0, 0)).to(self.past)
        self.tokens = model.text.encode([CAPTION]).to(self.past)


def one_pass(
    diffusion: Diffusion, past: Tensor, z: Tensor, t: Tensor, tokens: Tensor | None, role: float
) -> Tensor:
    """The prediction for the new frames; the past's role is clean, or withheld as zeros."""
    roles = torch.cat([past.new_full(past.shape[:2], role), z.new_full(z.shape[:2], NOISED)], 1)
    shown = past if role == CLEAN else torch.zeros_like(past)
    time = torch.full((len(z),), int(t), device=z.device)
    return diffusion._forward(torch.cat([shown, z], 1), roles, time, tokens)[:, past.shape[1] :]


def passes_in_turn(
    diffusion: Diffusion,
    past: Tensor,
    noise: Tensor,
    tokens: Tensor,
    steps: int,
    guidance: tuple[float, float],
) -> Tensor:
    """:meth:`Diffusion.sample` as it is usually written: a forward pass for each condition."""
    scheduler = DPMSolverMultistepScheduler.from_config(diffusion.scheduler.config)
    scheduler.set_timesteps(steps, device=past.device)
    z, past_scale, text_scale = noise, *guidance
    with torch.no_grad():
        for t in scheduler.timesteps:
            blind = one_pass(diffusion, past, z, t, None, WITHHELD)
            seen = one_pass(diffusion, past, z, t, None, CLEAN)
            told = one_pass(diffusion, past, z, t, tokens, CLEAN)
            guided = blind + past_scale * (seen - blind) + text_scale * (told - seen)
            z = scheduler.step(guided, t, z).prev_sample
    return z


def ways(
    model: WorldModel, scene: Scene, guidance: tuple[float, float], steps: int, fewer: int
) -> dict[str, Callable[[], Tensor]]:
    """Each way to make and decode the same chunk, without its frames' decoding told apart."""

    def anew(sample: Callable[..., Tensor]) -> Tensor:
        getattr(model.text, "_cache", {}).clear()
        past = model.autoencoder.encode(scene.frames)[None]
        tokens = model.text.encode([CAPTION]).to(past)
        return sample(model.diffusion, past, scene.noise, tokens, steps, guidance)

    def kept(sample: Callable[..., Tensor], taken: int, scales: tuple[float, float]) -> Tensor:
        tokens = model.text.encode([CAPTION]).to(scene.past)
        return sample(model.diffusion, scene.past, scene.noise, tokens, taken, scales)

    batched = Diffusion.sample
    made: dict[str, Callable[[], Tensor]] = {
        "plain": partial(anew, passes_in_turn),
        "text and past kept": partial(kept, passes_in_turn, steps, guidance),
        "and guidance in one batch": partial(kept, batched, steps, guidance),
        f"and {fewer} steps": partial(kept, batched, fewer, guidance),
    }
    if model.settings.guidance == (1.0, 1.0):
        made["and no guidance, as shipped"] = partial(kept, batched, fewer, (1.0, 1.0))
    return {name: lambda make=make: torch.from_numpy(model.decode(make())) for name, make in made.items()}


# --- time --------------------------------------------------------------------------------------


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Of one call, the device's work included."""
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def matrix_rate(device: torch.device, size: int = 1024, rounds: int = 7) -> float:
    """Measured float32 operations a second of a square matrix product, the best of some rounds."""
    a, b = (torch.randn(size, size, generator=generator(k, 0)).to(device) for k in (0, 1))
    return max(2 * size**3 / seconds_of(partial(torch.mm, a, b), device) for _ in range(rounds + 1))


def flops_of(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products and convolutions in one call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def by_turns(runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way, a warm-up first."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            passed = seconds_of(run, device)
            if index:
                seconds[name].append(passed)
    return seconds


def compiled(model: WorldModel, run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """The last way with and without ``torch.compile`` by turns; why not, where it can't be had."""
    plain, device = model.diffusion.unet, model.device
    torch._dynamo.reset()
    fast = cast(Any, torch.compile(plain, dynamic=False))

    def with_compile() -> None:
        model.diffusion.unet = fast
        try:
            run()
        finally:
            model.diffusion.unet = plain

    try:
        first = seconds_of(with_compile, device)
    except Exception as error:  # no compiler, or a graph that it can't take: many types
        return {"left_out": f"torch.compile: {one_line(error)[:200]}"}
    found = by_turns({"eager": run, "compiled": with_compile}, rounds, device)
    saved = statistics.median(found["eager"]) - statistics.median(found["compiled"])
    return {
        "first_seconds": first,
        "seconds": {k: statistics.median(v) for k, v in found.items()},
        "times_as_fast": ratio_interval(found["eager"], found["compiled"], 1000),
        "pays_after_chunks": first / saved if saved > 0 else None,
    }


# --- quality -----------------------------------------------------------------------------------


def psnr_of_steps(
    model: WorldModel, data: LatentEpisodes, steps: Sequence[int], chunks: int, guidance: tuple[float, float]
) -> dict[int, list[float]]:
    """PSNR in dB of each of the same held-out next chunks, by number of steps."""
    found: dict[int, list[float]] = {n: [] for n in steps}
    past, new = model.past_frames, model.settings.chunk_frames
    for at in range(0, chunks, 8):
        batch = data.draw(min(8, chunks - at), past, new, generator(0, at, 5))
        clean, truth = batch.clean.to(model.device), model.decode(batch.clean[:, past:].to(model.device))
        noise = torch.randn(clean[:, past:].shape, generator=generator(0, at, 6)).to(clean)
        tokens = model.text.encode(batch.captions).to(clean)
        for n in steps:
            made = model.decode(model.diffusion.sample(clean[:, :past], noise, tokens, n, guidance))
            error = ((made.astype(np.float64) - truth) ** 2).mean((1, 2, 3, 4))
            found[n] += (10 * np.log10(255**2 / np.maximum(error, 1e-3))).tolist()
    return found


def fewest(found: dict[int, list[float]], steps: int) -> tuple[int, dict[str, Any]]:
    """The fewest steps whose loss against ``steps`` is within ``WORSE`` for sure, and all the losses."""
    plain = np.array(found[steps])
    losses = {n: mean_interval(list(np.array(v) - plain), 1000) for n, v in found.items()}
    equal = [n for n, d in losses.items() if d["low"] >= -WORSE]
    figures = {str(n): {"psnr": mean_interval(found[n], 1000), "less": losses[n]} for n in found}
    return min([steps, *equal]), figures


# --- the command -------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All ways, beside what they were measured on; json-able."""
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    model = WorldModel.from_pretrained(weights_folder(args.weights, args.task, "world_model"), device=device)
    guidance = (args.guidance[0], args.guidance[1])
    footage = open_data(args.data, model.settings.chunk_frames)
    held = held_out_split(footage)[1][: args.chunks]
    data = LatentEpisodes(footage, model.autoencoder, held)
    used = model.settings.guidance
    tried = [args.steps, *(n for n in FEWER if n < args.steps)]
    quality = psnr_of_steps(model, data, tried, args.chunks, used)
    fewer, losses = fewest(quality, args.steps)
    side = footage[held[0]].frames.shape[1]
    runs = ways(model, Scene(model, side), guidance, args.steps, fewer)
    rate, flops = matrix_rate(device), {name: flops_of(run) for name, run in runs.items()}
    seconds = by_turns(runs, args.rounds, device)
    plain, last = seconds["plain"], list(runs)[-1]
    rows = {
        name: {
            "seconds": mean_interval(values, 1000), "times_as_fast": ratio_interval(plain, values, 1000),
            "gflop": flops[name] / 1e9, "share_of_matrix_rate": flops[name] / statistics.median(values) / rate,
        }
        for name, values in seconds.items()
    }  # fmt: skip
    return {
        "rows": rows,
        "steps": {
            "plain": args.steps, "chosen": fewer, "allowed_loss_db": WORSE, "chunks": args.chunks, "psnr": losses,
        },
        "compile": compiled(model, runs[last], args.rounds) if args.compile else {"left_out": "not asked for"},
        "matrix_gflop_per_second": rate / 1e9, "guidance": list(guidance), "guidance_of_quality": list(used),
        "model": f"{model.settings.name} ({model.version})", "rounds": args.rounds, "threads": args.threads,
        "hardware": f"{processor()}, {device}", "commit": commit(),
        "command": command_line("benchmarks.chunk_speed"),
    }  # fmt: skip


def lines(figures: dict[str, Any]) -> list[str]:
    """The table, for people."""
    out = [f"matrix rate {figures['matrix_gflop_per_second']:.1f} GFLOP/s; {figures['hardware']}"]
    for name, row in figures["rows"].items():
        s, x = row["seconds"], row["times_as_fast"]
        out.append(
            f"{name:28} {s['mean']:.3f} s [{s['low']:.3f}, {s['high']:.3f}]  {x['mean']:.2f}x [{x['low']:.2f}, "
            f"{x['high']:.2f}]  {row['gflop']:.2f} GFLOP, {row['share_of_matrix_rate']:.0%} of the matrix rate"
        )
    steps = figures["steps"]
    for n, q in steps["psnr"].items():
        d = q["less"]
        out.append(
            f"{n:>3} steps: {q['psnr']['mean']:.2f} dB, {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
        )
    out.append(f"equal to {steps['plain']} steps within {WORSE} dB: {steps['chosen']} steps")
    c = figures["compile"]
    out.append(
        c.get("left_out")
        or f"torch.compile: {c['times_as_fast']['mean']:.2f}x, first chunk {c['first_seconds']:.0f} s"
    )
    return out


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="What makes a chunk fast.")
    parser.add_argument("--task", default="cube_return")
    parser.add_argument("--weights", help="a world model's folder; by default the task's shipped one")
    parser.add_argument("--data", default="data/cube_return", help="its held-out episodes measure quality")
    parser.add_argument("--chunks", type=int, default=64, help="next chunks for quality (default 64)")
    parser.add_argument("--steps", type=int, default=20, help="of the plain loop (default 20)")
    parser.add_argument("--rounds", type=int, default=10, help="repetitions of each way (default 10)")
    parser.add_argument(
        "--guidance", type=float, nargs=2, default=[2.0, 5.0], help="past and text scale (2 5)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(args.rounds, args.chunks, args.threads, args.steps) < 1:
        parser.error("--rounds, --chunks, --threads and --steps must be at least 1")
    try:
        figures = measure(args)
    except (CommandError, ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
    print("\n".join(lines(figures)))
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
