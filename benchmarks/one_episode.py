"""How long one episode takes from the start of its process, where the time goes, and how much memory it takes.

    python -m benchmarks.one_episode --json benchmarks/results/one_episode.json

Each round is a process of its own, ``python -m planner.run episodes=1`` with a report, for a plan with one
cube and for one with two, with and without memory. Further options go to planner.run as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.commands import ROOT
from tasks.cube_return import CubeReturn
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor

Run = dict[str, Any]


def instructions() -> dict[int, str]:
    """Of the first held-out layouts, one instruction for each length of plan, in chunks."""
    task = CubeReturn()
    layouts = [task.layout(seed) for seed in task.heldout_seeds[:20]]
    return {len(layout.plan): layout.instruction for layout in reversed(layouts)}


def one_run(memory: str, instruction: str, options: Sequence[str]) -> Run:
    """Plan one episode in a new process: its wall-clock as seen from outside, and its ``result.json``.

    Raises:
        RuntimeError: the command failed; with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [
            sys.executable, "-m", "planner.run", "episodes=1", "batch_size=1", f"memory={memory}",
            f"instruction='{instruction}'", f"run_dir={run_dir}", *options,
        ]  # fmt: skip
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        wall = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return {"wall": wall, **json.loads((run_dir / "result.json").read_text())}


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians over rounds of one command, and the highest peak of memory."""

    def medians(parts: Sequence[dict[str, float]]) -> dict[str, float]:
        return {name: round(statistics.median(p[name] for p in parts), 2) for name in parts[0]}

    return {
        "wall_s": round(statistics.median(r["wall"] for r in runs), 2),
        "slowest_wall_s": round(max(r["wall"] for r in runs), 2),
        "stages_s": medians([r["cost"]["seconds"] for r in runs]),
        "episode_s": medians([r["episodes"][0]["seconds"] for r in runs]),
        "peak_mb": max(r["cost"]["peak_mb"] for r in runs),
        "rounds": len(runs),
        "each": [{"wall_s": round(r["wall"], 2), "seed": r["episodes"][0]["seed"]} for r in runs],
        "parts": runs[0]["parts"],
    }


def measure(rounds: int, memories: Sequence[str], options: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each memory and length of plan in turn; every round of one before the next."""
    for memory in memories:
        for chunks, instruction in sorted(instructions().items()):
            runs = [one_run(memory, instruction, options) for _ in range(rounds)]
            yield f"memory={memory}, {chunks} chunks", summarize(runs)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="Wall-clock and memory of one episode.")
    parser.add_argument("options", nargs="*", help="of planner.run, such as weights=FOLDER")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (default 3)")
    parser.add_argument("--memories", nargs="+", default=["none", "temp_lora"], help="memories to compare")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    rows: dict[str, Any] = {}
    for name, figures in measure(args.rounds, args.memories, args.options):
        rows[name] = figures
        print(
            f"{name}: {figures['wall_s']} s {figures['stages_s']}, peak {figures['peak_mb']} MB", flush=True
        )
    if args.json:
        command = command_line("benchmarks.one_episode")
        write_json(args.json, {"rows": rows, "hardware": processor(), "commit": commit(), "command": command})


if __name__ == "__main__":
    main()
