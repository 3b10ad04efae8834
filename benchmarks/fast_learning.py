"""What fast learning costs: the paper's Table 3, and batched against sequential inner loops.

    python -m benchmarks.fast_learning --weights weights/cube_return --json benchmarks/results/fast_learning.json

One chunk is imagined, decoded and remembered with and without Temp-LoRA by turns in one process. Peak
memory is CUDA's allocator's, or on a CPU the process's resident set.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import hydra
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from tasks.commands import compose
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor
from tasks.shipped import weights_folder
from world_model.device import pick_device
from world_model.memory.base import AnyMemory
from world_model.memory.none import NoMemory
from world_model.memory.temp_lora import TempLora
from world_model.model import Rollout, WorldModel
from world_model.peak_memory import PeakMemory
from world_model.training import generator


def paper_memory() -> TempLora:
    """Fast learning as in the paper: one step of Adam on the attention (``configs/memory/temp_lora_paper.yaml``)."""
    memory: TempLora = hydra.utils.instantiate(compose("run", ["memory=temp_lora_paper"]).memory)
    return memory


def one_chunk(model: WorldModel, past: torch.Tensor, caption: str) -> None:
    """Imagine, decode and remember one chunk after ``(1, f_p, C, h, w)``."""
    start = Rollout((0,), 1, past, np.empty((1, 0, 0, 3), np.uint8), model.memory.reset(1))
    rollout, chunk = model.imagine(start, [caption])
    model.remember(rollout, chunk)


def compare_chunks(model: WorldModel, memory: TempLora, rounds: int, side: int = 64) -> dict[str, Any]:
    """Table 3 on frames of ``side`` px: medians over ``rounds``, the two ways by turns, a warm-up first."""
    shape = (1, model.past_frames, model.autoencoder.channels, *latent_side(model, side))
    past = torch.randn(shape, generator=generator(0, 0)).to(model.device, model.unet.dtype)
    ways: dict[str, AnyMemory] = {"without": cast(AnyMemory, NoMemory()), "with": memory}
    seconds: dict[str, list[float]] = {k: [] for k in ways}
    peaks: dict[str, list[float]] = {k: [] for k in ways}
    for index in range(rounds + 1):
        for name, way in ways.items():
            model.use_memory(way)
            with PeakMemory(model.device) as peak:
                begin = time.perf_counter()
                one_chunk(model, past, "pick up the red cube")
                if model.device.type == "cuda":
                    torch.cuda.synchronize(model.device)
                passed = time.perf_counter() - begin
            if index:
                seconds[name].append(passed)
                peaks[name].append(peak.megabytes)
    median = {k: statistics.median(v) for k, v in seconds.items()}
    memory_mb = {k: statistics.median(v) for k, v in peaks.items()}
    return {
        "seconds": {k: round(v, 4) for k, v in median.items()},
        "time_ratio": round(median["with"] / median["without"], 4),
        "peak_mb": {k: round(v, 1) for k, v in memory_mb.items()},
        "memory_ratio": round(memory_mb["with"] / memory_mb["without"], 4),
        "rounds": rounds,
        "paper": {"time_ratio": 1.068, "memory_ratio": 1.037},
    }


def latent_side(model: WorldModel, side: int = 64) -> tuple[int, int]:
    """Height and width of the latents of a ``side`` × ``side`` frame."""
    return side // model.autoencoder.factor, side // model.autoencoder.factor


def compare_batching(model: WorldModel, memory: TempLora, batch: int, rounds: int) -> dict[str, Any]:
    """The inner loop of ``batch`` episodes at once against one after the other, by turns."""
    model.use_memory(memory)
    channels, side = model.autoencoder.channels, latent_side(model)
    rng = generator(0, 1)
    past = torch.randn((batch, model.past_frames, channels, *side), generator=rng).to(model.device)
    new = torch.randn((batch, model.settings.chunk_frames, channels, *side), generator=rng).to(model.device)
    tokens = model.text.encode(["pick up the red cube"] * batch).to(past)

    def learn(chosen: list[int]) -> Any:
        generators = [generator(0, i, 2) for i in chosen]
        state = memory.reset(len(chosen))
        return memory.update(
            state, model.writing, past[chosen], new[chosen], tokens[chosen], generators
        ).weights

    seconds: dict[str, list[float]] = {"batched": [], "sequential": []}
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        together = learn(list(range(batch)))
        middle = time.perf_counter()
        apart = [learn([i]) for i in range(batch)]
        seconds["batched"].append(middle - begin)
        seconds["sequential"].append(time.perf_counter() - middle)
    median = {k: statistics.median(v[1:]) for k, v in seconds.items()}
    worst = max(
        float((together.select([i]).distance(alone) / alone.norm()).max()) for i, alone in enumerate(apart)
    )
    return {
        "batch": batch,
        "seconds": {k: round(v, 4) for k, v in median.items()},
        "rate_ratio": round(median["sequential"] / median["batched"], 3),
        "theta_relative_difference": worst,
        "rounds": rounds,
        "limits": {
            str(n): slowest_operators(lambda n=n: learn(list(range(n))), model.device) for n in (1, batch)
        },
    }


def slowest_operators(work: Callable[[], Any], device: torch.device, count: int = 6) -> dict[str, float]:
    """The operators that ``work`` spends most time in, with their shares of it."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as trace:
        work()
    spent = {
        event.key: float(event.self_device_time_total if cuda else event.self_cpu_time_total)
        for event in trace.key_averages()
    }
    total = sum(spent.values())
    slowest = sorted(spent, key=spent.__getitem__, reverse=True)[:count]
    return {name: round(spent[name] / total, 4) for name in slowest}


def measure(weights: str, rounds: int, batch: int, threads: int, device: str) -> dict[str, Any]:
    """Both comparisons, beside what they were measured on; json-able."""
    torch.set_num_threads(threads)
    folder = weights_folder(weights, "", "world_model")
    model = WorldModel.from_pretrained(folder, device=pick_device(device))
    memory = TempLora()
    table = compare_chunks(model, memory, rounds)
    paper = paper_memory()
    return {
        "one_chunk": {
            "the default": table,
            "one Adam step on the attention, as in the paper": compare_chunks(model, paper, rounds),
        },
        "inner_loop": compare_batching(model, memory, batch, rounds),
        "model": f"{model.settings.name} ({model.version})",
        "threads": threads,
        "device": str(model.device),
        "hardware": processor(),
        "commit": commit(),
        "command": command_line("benchmarks.fast_learning"),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="What fast learning costs.")
    parser.add_argument("--weights", default="weights/cube_return", help="a world model's folder")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each way (default 5)")
    parser.add_argument("--batch", type=int, default=8, help="episodes of the inner loop (default 8)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(args.rounds, args.batch, args.threads) < 1:
        parser.error("--rounds, --batch and --threads must be at least 1")
    figures = measure(args.weights, args.rounds, args.batch, args.threads, args.device)
    for key, value in figures.items():
        print(f"{key:12} {value}")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
