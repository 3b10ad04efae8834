"""The planning table: every row on the same held-out layouts (the paper's Table 2), and its instruments.

    python -m planner.evaluate task=cube_return episodes=50

Each finished row lies in the run directory; interrupted, the same command goes on. Results go to
``benchmarks/results/planning_<task>.json`` and, generated from it, ``docs/results.md``; the finished table also to
``result.json`` in the run directory.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, open_dict
from tqdm import tqdm

from planner.baselines import (
    constant_guess,
    do_nothing,
    has_row,
    random_walk,
    rows_of,
    true_frames,
)
from planner.expert_episode import expert_episode, expert_episodes
from planner.frechet_column import FrechetColumn
from planner.instruments import (
    autoencoded,
    imagined_reading_error,
    locating_error,
    next_chunk_error,
    next_chunks,
    reading_error,
)
from planner.parts import Parts, assemble
from planner.records import aggregate, details_of, left_out, load_result, summary_row
from planner.run import run_batches
from tasks import Score
from tasks.commands import ROOT, CommandError, OptionError, RunDir, integer, main, plain
from tasks.files import kept_json, read_json, sha256_of, write_json
from tasks.provenance import command_line, commit
from tasks.shipped import finetuned_folder, weights_folder
from tasks.statistics import mean_interval, share_interval
from tasks.task import held_out_seeds
from world_model.model import WorldModel, fingerprint
from world_model.sampling import open_world_model, sampling_options
from world_model.video_metrics.features import I3D

BASELINES = ("do_nothing", "constant_guess", "random_walk", "true_frames")


@dataclass(frozen=True)
class ModelRow:
    """A row with the world model.

    Attributes:
        memory: a name in the configuration's ``memories``.
        loop: the memory whose finetuned weights the row runs on; None is the base.
        condition_on: what the next chunk starts from.
    """

    memory: str
    loop: str | None = None
    condition_on: str = "imagined"


MODEL_ROWS = {
    "no_memory": ModelRow("none"),
    "no_memory_observed": ModelRow("none", None, "observed"),
    "equal_steps": ModelRow("none", "none"),
    "first_frame": ModelRow("first_frame", "first_frame"),
    "anchor": ModelRow("anchor", "anchor"),
    "context": ModelRow("context", "context"),
    "retrieval": ModelRow("retrieval", "retrieval"),
    "temp_lora_no_loop": ModelRow("temp_lora"),
    "temp_lora_no_loop_observed": ModelRow("temp_lora", None, "observed"),
    "temp_lora_original": ModelRow("temp_lora_original", "temp_lora_original"),
    "temp_lora_sequence": ModelRow("temp_lora_sequence", "temp_lora_sequence"),
    "full": ModelRow("temp_lora", "temp_lora"),
    "full_observed": ModelRow("temp_lora", "temp_lora", "observed"),
    "oracle": ModelRow("oracle", "oracle"),
    "shuffled": ModelRow("shuffled", "temp_lora"),
    "theta_off": ModelRow("none", "temp_lora"),
}


def row_weights(row: ModelRow, cfg: DictConfig, task: str) -> str:
    """The folder of a row's world model: given in ``loop_weights`` or shipped.

    Raises:
        CommandError: the row needs finetuned weights that are neither given nor shipped.
    """
    return str(finetuned_folder(task, row.loop, cfg.weights, cfg.loop_weights))


def baseline_row(name: str, parts: Parts, seeds: Sequence[int]) -> dict[str, Any]:
    """One row without a world model."""
    layouts = [parts.task.layout(s) for s in seeds]
    env = parts.envs[0]
    ways: dict[str, Callable[[Any], Score]] = {
        "do_nothing": lambda layout: do_nothing(parts.task, layout),
        "constant_guess": lambda layout: constant_guess(parts.task, layout),
        "random_walk": lambda layout: random_walk(env, layout, layout.seed),
        "true_frames": lambda layout: true_frames(
            env, layout, expert_episode(env, layout), parts.inverse_dynamics
        ),
    }
    rows, lost = rows_of(ways[name], tqdm(layouts, desc=name, unit="episode"))
    if not rows:
        raise CommandError(
            f"row {name}: no episode of {len(seeds)} is left to score; the last: {lost[seeds[-1]]}"
        )
    displaced = [d for r in rows for d in r["displaced"].values()]
    return {
        "executed": mean_interval([r["executed_distance"] for r in rows]),
        "imagined": None,
        "displaced": share_interval(displaced) if displaced else None,
        "success": share_interval([r["success"] for r in rows]),
        **details_of(rows),
        **(
            {"parts": {k: parts.header[k] for k in ("env", "inverse dynamics")}}
            if name == "true_frames"
            else {}
        ),
        "left_out": {str(seed): reason for seed, reason in lost.items()},
        "episodes": rows,
    }


def model_row(name: str, cfg: DictConfig, seeds: Sequence[int], run_dir: RunDir) -> dict[str, Any]:
    """One row with the world model, resumed after its last finished batch."""
    row, row_cfg = MODEL_ROWS[name], cfg.copy()
    with open_dict(row_cfg):
        row_cfg.memory, row_cfg.condition_on, row_cfg.instruction = (
            cfg.memories[row.memory],
            row.condition_on,
            None,
        )
        row_cfg.weights = row_weights(row, cfg, cfg.task.name)
    parts = assemble(row_cfg, min(cfg.batch_size, len(seeds)))
    results = run_batches(parts, row_cfg, seeds, run_dir / "rows" / name)
    rows = [summary_row(r) for r in results]
    for env in parts.envs:
        env.close()
    lost = {str(s): reason for s, reason in left_out(run_dir / "rows" / name, seeds).items()}
    named = {"condition_on": row.condition_on, "parts": parts.header, "left_out": lost}
    return {**aggregate(rows), **named, "episodes": rows}


def at_hand(row: ModelRow, cfg: DictConfig) -> bool:
    """Whether a row's weights are given or shipped; the shipped loop's only beside the base that it began with.

    Raises:
        CommandError: given ones can't be had.
    """
    if row.loop and cfg.weights and not cfg.loop_weights.get(row.loop):
        return False
    try:
        return bool(row_weights(row, cfg, cfg.task.name))
    except CommandError:
        if cfg.loop_weights.get(row.loop) if row.loop else cfg.weights:
            raise
        return False


def rows_at_hand(cfg: DictConfig) -> list[str]:
    """Every row that can be measured with the weights at hand."""
    return [*BASELINES, *(name for name, row in MODEL_ROWS.items() if at_hand(row, cfg))]


def check_weights(name: str, cfg: DictConfig, run_dir: RunDir) -> None:
    """CommandError if a finished row ran on other weights than those it would run on now."""
    finished = run_dir / "finished" / f"{name}.json"
    if not finished.is_file():
        return
    used = read_json(finished).get("parts", {})
    reader = weights_folder(cfg.inverse_dynamics, cfg.task.name, "inverse_dynamics")
    now = {"inverse dynamics": fingerprint(reader)}
    if name in MODEL_ROWS:
        now["weights"] = fingerprint(Path(row_weights(MODEL_ROWS[name], cfg, cfg.task.name)))
    for part, version in now.items():
        if part in used and not used[part].endswith(f"({version})"):
            raise CommandError(
                f"{finished} ran with the {part} {used[part]}, now they are {version}; delete it and "
                f"{run_dir / 'rows' / name}, or give another run_dir"
            )


def table_row(
    name: str, cfg: DictConfig, parts: Parts, seeds: Sequence[int], run_dir: RunDir
) -> dict[str, Any]:
    """One row of the table."""
    print(f"row {name}")
    if name in BASELINES:
        return baseline_row(name, parts, seeds)
    return model_row(name, cfg, seeds, run_dir)


def frechet_of_rows(
    names: Sequence[str], cfg: DictConfig, parts: Parts, seeds: Sequence[int], run_dir: RunDir
) -> dict[str, dict[str, Any]]:
    """The Fréchet column of the rows with a world model; empty for a single episode, which is no set."""
    if len(seeds) < 2:
        return {}
    device = parts.world_model.device
    i3d = None if cfg.i3d is None else I3D(cfg.i3d, device)
    column = FrechetColumn(
        parts.envs[0], seeds, hydra.utils.instantiate(cfg.features, device=device), i3d, cfg.resamples
    )

    def measured(name: str) -> dict[str, Any]:
        found = [load_result(run_dir / "rows" / name, s) for s in seeds]
        return column([r for r in found if r is not None])

    options = sha256_of({"features": plain(cfg)["features"], "i3d": cfg.i3d, "resamples": cfg.resamples})
    kept = run_dir / "frechet" / options[:8]
    return {n: kept_json(kept / f"{n}.json", partial(measured, n)) for n in names}


def instruments(
    parts: Parts, models: Mapping[str, WorldModel], seeds: Sequence[int], chunks: int, batch_size: int
) -> dict[str, Any]:
    """The instruments' own errors on expert episodes of held-out layouts, true and autoencoded frames; and next chunks
    as each of some world models imagines them without memory."""
    layouts = [parts.task.layout(seed) for seed in seeds[:50]]
    shown_by_expert = expert_episodes(parts.envs[0], layouts, "instruments")
    plans, episodes = [layout.plan for layout, _ in shown_by_expert], [e for _, e in shown_by_expert]
    shown = {"true": [e.frames for e in episodes]}
    shown["autoencoded"] = [autoencoded(parts.world_model, f) for f in shown["true"]]
    reader = parts.inverse_dynamics
    read = {k: reading_error(reader, episodes, f) for k, f in shown.items()}
    after: dict[str, Any] = {}
    for name, model in models.items():
        imagined = next_chunks(model, episodes, plans, chunks, batch_size)
        read[name] = imagined_reading_error(reader, imagined)
        errors = next_chunk_error(parts.locator, imagined)
        after |= {name: errors["imagined"], "copied": errors["copied"]}
    found = {"inverse_dynamics": read, "next_chunk": after}
    if parts.locator is not None:
        found["locate"] = {k: locating_error(parts.locator, episodes, f) for k, f in shown.items()}
    return found


def kept_instruments(cfg: DictConfig, parts: Parts, seeds: Sequence[int], run_dir: RunDir) -> dict[str, Any]:
    """:func:`instruments` of the base and of the weights behind the row ``full``, kept for those weights."""
    models = {"imagined": parts.world_model}
    if at_hand(full := MODEL_ROWS["full"], cfg):
        folder = Path(row_weights(full, cfg, cfg.task.name))
        models["imagined after the loop"] = open_world_model(cfg, folder)
    used = [m.version for m in models.values()], parts.header["inverse dynamics"], cfg.chunks
    kept = run_dir / f"instruments-{sha256_of(used)[:8]}.json"
    return kept_json(kept, lambda: instruments(parts, models, seeds, cfg.chunks, cfg.batch_size))


def provenance(parts: Parts, cfg: DictConfig) -> dict[str, Any]:
    """What a figure needs beside it: commit, hardware, seeds, the command."""
    return {
        "commit": commit() or "unknown",
        "hardware": f"{platform.machine()}, {parts.header['device']}",
        "command": command_line("planner.evaluate"),
        "episodes": cfg.episodes,
        "seed": cfg.seed,
        "parts": parts.header,
    }


def run(cfg: DictConfig) -> None:
    episodes = integer(cfg, "episodes", 1)
    for key, minimum in (("batch_size", 1), ("chunks", 1), ("seed", 0), ("resamples", 1)):
        integer(cfg, key, minimum)
    sampling_options(cfg)
    rows = rows_at_hand(cfg) if cfg.rows is None else list(cfg.rows)
    unknown = [r for r in rows if r not in (*BASELINES, *MODEL_ROWS)]
    if unknown or not rows:
        raise OptionError(f"rows={rows}: have {', '.join((*BASELINES, *MODEL_ROWS))}")
    for name in rows:
        if name in MODEL_ROWS:
            row_weights(MODEL_ROWS[name], cfg, cfg.task.name)
    ignored = (
        "device",
        "rows",
        "results",
        "page",
        "chunks",
        "loop_weights",
        "locator",
        "i3d",
        "resamples",
        "features",
    )
    run_dir = RunDir.open("evaluate", cfg, ignored)  # the locator is the task's
    with open_dict(cfg):
        cfg.memory, cfg.condition_on, cfg.instruction = cfg.memories.none, "imagined", None
    parts = assemble(cfg, 1)
    seeds = held_out_seeds(parts.task.heldout_seeds, cfg.seed, episodes)
    for name in rows:
        if name in BASELINES and not has_row(parts.task, name):
            print(f"row {name} left out: task={parts.task.name} has none")
            continue
        check_weights(name, cfg, run_dir)
        kept_json(run_dir / "finished" / f"{name}.json", partial(table_row, name, cfg, parts, seeds, run_dir))
    measured = kept_instruments(cfg, parts, seeds, run_dir)
    found = {n: run_dir / "finished" / f"{n}.json" for n in (*BASELINES, *MODEL_ROWS)}
    table = {n: read_json(p) for n, p in found.items() if p.is_file()}
    done = [n for n in table if (run_dir / "rows" / n).is_dir()]
    for name, distances in frechet_of_rows(done, cfg, parts, seeds, run_dir).items():
        table[name]["frechet"] = distances
    result = {
        "task": parts.task.name,
        "unit": parts.task.unit,
        "figure": parts.task.figure,
        "measured": parts.task.measured,
        "provenance": provenance(parts, cfg),
        "instruments": measured,
        "rows": table,
    }
    target = ROOT / cfg.results / f"planning_{parts.task.name}.json"
    write_json(target, result)
    from planner.results import write_results

    page = write_results(ROOT / cfg.results, ROOT / cfg.page)
    write_json(run_dir / "result.json", result)  # last: it says that the table is finished
    print(page.read_text())
    print(f"{target}\n{page}")


if __name__ == "__main__":
    main("evaluate", run)
