"""How long one step of slow learning takes on the CPU, and what makes it quicker.

    python -m benchmarks.training_step --json benchmarks/results/training_step.json

Forward and backward pass of the task's UNet on a batch of noise, without optimizer. Each way is a process of its own,
by turns: how freed memory is treated (``tasks/heap.py``) holds for a whole process. Beside its seconds stands how far
its gradient is from that of exact products.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.commands import ROOT
from tasks.files import write_json
from tasks.heap import keep_freed_memory
from tasks.provenance import command_line, commit, processor
from tasks.shipped import weights_folder
from world_model.device import PRODUCTS, pick_products
from world_model.model import WorldModel

SIDE = 64  # of the frames, px
WAYS = {"plain": ("highest", False), "freed memory kept": ("highest", True)} | {
    f"products={name}": (name, True) for name in PRODUCTS[1:]
}


class Step:
    """Forward and backward pass of a world model's UNet on a batch of noise."""

    def __init__(self, model: WorldModel, batch: int):
        self.unet = model.unet.requires_grad_(True).train()
        rng, settings = torch.Generator().manual_seed(0), model.settings
        side = SIDE // model.autoencoder.factor
        channels = self.unet.config.in_channels
        self.sample = torch.randn(batch, channels, settings.context_frames, side, side, generator=rng)
        self.target = torch.randn(self.sample.shape, generator=rng)[:, :-1]
        self.timesteps = torch.randint(model.diffusion.num_train_timesteps, (batch,), generator=rng)
        self.text = model.text.null.expand(batch, -1, -1)

    def __call__(self) -> Tensor:
        """The gradient of all weights, in one row."""
        self.unet.zero_grad()
        out = self.unet(self.sample, self.timesteps, encoder_hidden_states=self.text).sample
        (out - self.target).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in self.unet.parameters() if p.grad is not None])


def measure(weights: str, batch: int, steps: int, way: str) -> dict[str, Any]:
    """Seconds of ``steps`` steps after two that are not counted, in this process, and the gradient's distance from that
    of exact products, as a share of its norm."""
    products, keeps = WAYS[way]
    if keeps:
        keep_freed_memory()
    step = Step(WorldModel.from_pretrained(weights_folder(weights, "", "world_model")), batch)
    exact = step()
    pick_products(products, torch.device("cpu"))
    gradient = step()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds, "gradient_difference": float((gradient - exact).norm() / exact.norm())}


def in_a_process(way: str, options: list[str]) -> dict[str, Any]:
    """:func:`measure` in a new process. Raises RuntimeError with its last line if it fails."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--way", way, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"{way} failed"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="Seconds of one step of slow learning on the CPU.")
    parser.add_argument("--weights", default="weights/cube_return", help="a world model's folder")
    parser.add_argument("--batch", type=int, default=16, help="chunks in a step (default 16)")
    parser.add_argument("--steps", type=int, default=3, help="steps counted in each process (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default 1)")
    parser.add_argument("--way", choices=WAYS, help="measure this one, here, and print its json")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(args.batch, args.steps, args.rounds, args.threads) < 1:
        parser.error("--batch, --steps, --rounds and --threads must be at least 1")
    if args.way:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.weights, args.batch, args.steps, args.way)))
        return
    given = {"weights": args.weights, "batch": args.batch, "steps": args.steps, "threads": args.threads}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, of_way in runs.items():
            of_way.append(in_a_process(way, options))
    rows = {}
    for way, of_way in runs.items():
        seconds = [statistics.median(r["seconds"]) for r in of_way]
        rows[way] = {
            "seconds": statistics.median(seconds),
            "each": seconds,
            "gradient_difference": of_way[0]["gradient_difference"],
        }
        print(
            f"{way:20} {rows[way]['seconds']:.3f} s, gradient off by {rows[way]['gradient_difference']:.1e}"
        )
    if args.json:
        origin = {
            "hardware": processor(),
            "commit": commit(),
            "command": command_line("benchmarks.training_step"),
        }
        write_json(args.json, {"rows": rows, **given, **origin})


if __name__ == "__main__":
    main()
