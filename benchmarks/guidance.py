"""What guidance and the passes that see Θ do to the distance: the choice behind a tiny model's defaults.

    python -m benchmarks.guidance --episodes 20 --json benchmarks/results/guidance_cube_return.json

One cell a combination of scales (past, text), without memory on the base and with Temp-LoRA on the loop's
weights, and of guidance passes that see Θ, on the same held-out layouts. A scale of 1 is no guidance: with both
at 1 only the text pass runs, with one at 1 two of the three; equal scales leave out the past's. The loop trained
without dropping past or text, so only the base knows the pass without either. Further options go to planner.run
as they are. Finished episodes lie in ``runs/guidance/``: interrupted, the same command goes on after them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.aggregates import aggregate
from planner.parts import assemble, versions
from planner.records import summary_row
from planner.run import run_batches
from tasks.commands import RunDir, compose
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor
from tasks.task import held_out_seeds
from world_model.diffusion import guidance_factors

ALL = ("uncond", "past", "text")


@dataclass(frozen=True)
class Cell:
    """One combination: two scales, a memory on its shipped weights, and the passes that see Θ."""

    past: float
    text: float
    memory: str = "none"
    theta_in: tuple[str, ...] = ALL

    @property
    def options(self) -> list[str]:
        scales, theta = (
            f"guidance=[{float(self.past)},{float(self.text)}]",
            f"theta_in=[{','.join(self.theta_in)}]",
        )
        return [f"memory={self.memory}", scales, theta]

    @property
    def name(self) -> str:
        where = "" if self.memory == "none" else f", Θ in {' + '.join(self.theta_in)}"
        return f"{self.memory}: past {self.past:g}, text {self.text:g}{where}"


SCALES = ((1, 1), (1, 1.5), (1.5, 1), (1.5, 1.5), (1.5, 2.5), (2, 5))
THREE = (1.5, 2.5)  # scales that take all three passes
CELLS = (  # those that answer both questions first: --cells 9 leaves out Temp-LoRA at the other scales
    *(Cell(*scales) for scales in SCALES),
    *(Cell(*THREE, "temp_lora", seen) for seen in (("text",), ("past", "text"), ALL)),
    *(Cell(*scales, "temp_lora") for scales in SCALES if scales != THREE),
)


def measure(cell: Cell, options: Sequence[str]) -> dict[str, Any]:
    """Plan and execute the episodes under one cell; the figures of ``result.json``'s summary."""
    cfg = compose("run", [*options, *cell.options])
    run_dir = RunDir.open("guidance", cfg, versions=versions(cfg))
    parts = assemble(cfg, min(cfg.batch_size, cfg.episodes))
    seeds = held_out_seeds(parts.task.heldout_seeds, cfg.seed, cfg.episodes)
    results = run_batches(parts, cfg, seeds, run_dir / "episodes")
    for env in parts.envs:
        env.close()
    total = aggregate([summary_row(r) for r in results])
    kept = ("executed", "imagined", "success", "imagined_lost", "seconds_per_episode")
    passes = len(guidance_factors((cell.past, cell.text)))
    return {k: total[k] for k in kept} | {"passes": passes, "parts": parts.header}


def main(argv: list[str] | None = None) -> None:
    """Measure every cell, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="Guidance scales, and the passes that see Θ.")
    parser.add_argument("options", nargs="*", help="of planner.run, such as sampling_steps=10")
    parser.add_argument("--episodes", type=int, default=20, help="held-out layouts (default 20)")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="only the first cells (default all)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.episodes < 1 or not 1 <= args.cells <= len(CELLS):
        parser.error(f"--episodes must be at least 1, --cells from 1 to {len(CELLS)}")
    options = [f"episodes={args.episodes}", "batch_size=10", *args.options]
    rows: dict[str, Any] = {}
    for cell in CELLS[: args.cells]:
        print(cell.name, flush=True)
        rows[cell.name] = measure(cell, options)
        print(rows[cell.name]["executed"], rows[cell.name]["imagined"], flush=True)
    if args.json:
        command = command_line("benchmarks.guidance")
        write_json(args.json, {"rows": rows, "hardware": processor(), "commit": commit(), "command": command})


if __name__ == "__main__":
    main()
