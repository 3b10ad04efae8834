"""The planning table: every row on the same held-out layouts (the paper's Table 2), and its instruments.

    python -m planner.evaluate task=cube_return episodes=50

Each finished row lies in the run directory; interrupted, the same command goes on. Results go to
``benchmarks/results/planning_<task>.json`` and, generated from it, ``docs/results.md``; the finished table also to
``result.json`` in the run directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, open_dict

from planner.baselines import has_row
from planner.expert_episode import Experts
from planner.kept_rows import KeptRow, finished_rows
from planner.parts import Parts, assemble
from planner.table_columns import failures_of_row, following_of_rows, frechet_of_rows, kept_instruments
from planner.table_rows import BASELINES, MODEL_ROWS, row_versions, rows_at_hand, table_row
from tasks.commands import ROOT, OptionError, RunDir, integer, main
from tasks.files import kept_json, read_json, write_json
from tasks.following import said
from tasks.provenance import command_line, commit, processor
from tasks.shipped import weights_folder
from tasks.task import held_out_seeds
from world_model.model import fingerprint
from world_model.sampling import sampling_options

IGNORED = (  # options that change no episode, or whose weights' versions name a row's files; the locator is the task's
    "device", "rows", "results", "page", "chunks", "loop_weights", "locator", "i3d", "resamples", "features",
)  # fmt: skip


def provenance(parts: Parts, cfg: DictConfig) -> dict[str, Any]:
    """What a figure needs beside it: commit, hardware, seeds, the command."""
    return {
        "commit": commit() or "unknown",
        "hardware": f"{processor()}, {parts.header['device']}",
        "command": command_line("planner.evaluate"),
        "episodes": cfg.episodes,
        "seed": cfg.seed,
        "parts": parts.header,
    }


def checked_rows(cfg: DictConfig) -> list[str]:
    """The rows that the options ask for. OptionError for a value that one of them can't take."""
    for key, minimum in (("episodes", 1), ("batch_size", 1), ("chunks", 1), ("seed", 0), ("resamples", 1)):
        integer(cfg, key, minimum)
    sampling_options(cfg)
    rows = rows_at_hand(cfg) if cfg.rows is None else list(cfg.rows)
    unknown = [r for r in rows if r not in (*BASELINES, *MODEL_ROWS)]
    if unknown or not rows:
        raise OptionError(f"rows={rows}: have {', '.join((*BASELINES, *MODEL_ROWS))}")
    return rows


def planning_table(
    rows: Sequence[KeptRow], cfg: DictConfig, parts: Parts, experts: Experts, run_dir: RunDir
) -> dict[str, Any]:
    """What the page is made of: finished rows with their further columns, instruments, provenance."""
    errors = kept_instruments(cfg, parts, experts, run_dir)
    order = (*BASELINES, *MODEL_ROWS)
    table = {row.name: read_json(row.finished) for row in sorted(rows, key=lambda r: order.index(r.name))}
    imagined = [row for row in rows if row.name in MODEL_ROWS]
    for name, distances in frechet_of_rows(imagined, cfg, parts, experts).items():
        table[name]["frechet"] = distances
    followed = following_of_rows(imagined, parts, experts, run_dir)
    for row in imagined:
        table[row.name]["followed"] = followed[row.name]
        table[row.name]["failures"] = failures_of_row(row, parts, experts.seeds)
    return {
        "task": parts.task.name,
        "unit": parts.task.unit,
        "figure": parts.task.figure,
        "measured": parts.task.measured,
        "provenance": provenance(parts, cfg),
        "instruments": errors,
        "followed": {"means": said(parts.task.action_spec), "references": followed[""]},
        "rows": table,
    }


def run(cfg: DictConfig) -> None:
    names = checked_rows(cfg)
    reader = fingerprint(weights_folder(cfg.inverse_dynamics, cfg.task.name, "inverse_dynamics"))
    # Rows share weights, which have gigabytes at full size.
    version = cache(lambda folder: fingerprint(Path(folder)))
    versions = [row_versions(name, cfg, reader, version) for name in names]
    run_dir = RunDir.open("evaluate", cfg, IGNORED)
    asked = [KeptRow(run_dir.path, name, made) for name, made in zip(names, versions, strict=True)]
    with open_dict(cfg):
        cfg.memory, cfg.condition_on, cfg.instruction = cfg.memories.none, "imagined", None
    with run_dir.withdrawn_on_error():
        seeds = held_out_seeds(hydra.utils.instantiate(cfg.task).heldout_seeds, cfg.seed, cfg.episodes)
        parts = assemble(cfg, 1)
    for row in asked:
        if row.name in BASELINES and not has_row(parts.task, row.name):
            print(f"row {row.name} left out: task={parts.task.name} has none")
            continue
        kept_json(row.finished, partial(table_row, row, cfg, parts, seeds))
    rows = finished_rows(run_dir.path, asked, reader)
    result = planning_table(rows, cfg, parts, Experts(parts.envs[0], seeds), run_dir)
    target = ROOT / cfg.results / f"planning_{parts.task.name}.json"
    write_json(target, result)
    from planner.results import write_results

    page = write_results(ROOT / cfg.results, ROOT / cfg.page)
    write_json(run_dir / "result.json", result)  # last: it says that the table is finished
    print(page.read_text())
    print(f"{target}\n{page}")


if __name__ == "__main__":
    main("evaluate", run)
