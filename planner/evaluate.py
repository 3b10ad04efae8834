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
from functools import cache, partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, open_dict
from tqdm import tqdm

from planner.action_following import ActionFollowing
from planner.aggregates import aggregate, details_of, executed, mean_of, share_of
from planner.baselines import (
    constant_guess,
    do_nothing,
    has_row,
    random_walk,
    rows_of,
    true_frames,
)
from planner.expert_episode import Experts, expert_episode
from planner.frechet_column import FrechetColumn
from planner.instruments import (
    autoencoded,
    imagined_reading_error,
    locating_error,
    next_chunk_error,
    next_chunks,
    reading_error,
)
from planner.kept_rows import KeptRow, Versions, finished_rows
from planner.loop import PlanResult
from planner.parts import Parts, assemble
from planner.records import left_out, load_result, summary_row
from planner.run import planned_by, run_batches
from tasks import Score
from tasks.commands import ROOT, CommandError, OptionError, RunDir, integer, main, plain
from tasks.files import kept_json, read_json, sha256_of, write_json
from tasks.following import said
from tasks.provenance import command_line, commit
from tasks.shipped import finetuned_folder, weights_folder
from tasks.task import held_out_seeds
from world_model.model import WorldModel, fingerprint
from world_model.sampling import open_world_model, sampling_options
from world_model.video_metrics.features import I3D

IGNORED = (  # options that change no episode, or whose weights' versions name a row's files; the locator is the task's
    "device", "rows", "results", "page", "chunks", "loop_weights", "locator", "i3d", "resamples", "features",
)  # fmt: skip
BASELINES = ("do_nothing", "constant_guess", "random_walk", "true_frames")


@dataclass(frozen=True)
class ModelRow:
    """A row with the world model.

    Attributes:
        memory: a name in the configuration's ``memories``.
        loop: the memory whose finetuned weights the row runs on; None is the base.
        condition_on: what the next chunk starts from.
        every_training: on each of the weights given for ``loop``; else on the first of them.
    """

    memory: str
    loop: str | None = None
    condition_on: str = "imagined"
    every_training: bool = True


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
    "full_observed": ModelRow("temp_lora", "temp_lora", "observed", False),
    "oracle": ModelRow("oracle", "oracle"),
    "shuffled": ModelRow("shuffled", "temp_lora", every_training=False),
    "theta_off": ModelRow("none", "temp_lora", every_training=False),
}


def row_weights(row: ModelRow, cfg: DictConfig, task: str) -> list[str]:
    """The folders of a row's world models, one for each training: given in ``loop_weights`` or shipped.

    Raises:
        CommandError: the row needs finetuned weights that are neither given nor shipped.
        OptionError: an empty list is given.
    """
    given = cfg.loop_weights.get(row.loop) if row.loop else None
    several = list(given) if isinstance(given, ListConfig) else [given]
    if not several:
        raise OptionError(f"loop_weights.{row.loop}=[]: expected the folders of one or more trainings")
    folders = [str(finetuned_folder(task, row.loop, cfg.weights, {row.loop or "": f})) for f in several]
    return folders if row.every_training else folders[:1]


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
    return {
        "executed": mean_of(rows, executed),
        "imagined": None,
        "displaced": share_of(rows, lambda r: r["displaced"].values()),
        "success": share_of(rows, lambda r: [r["success"]]),
        **details_of(rows),
        **(
            {"parts": {k: parts.header[k] for k in ("env", "inverse dynamics")}}
            if name == "true_frames"
            else {}
        ),
        "left_out": {str(seed): reason for seed, reason in lost.items()},
        "episodes": rows,
    }


def model_row(kept: KeptRow, cfg: DictConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """One row with the world model, on the weights of each training."""
    row = MODEL_ROWS[kept.name]
    folders = row_weights(row, cfg, cfg.task.name)
    headers, rows, lost = [], [], dict[str, str]()
    for training, folder in enumerate(folders):
        episodes = kept.episodes(training)
        header, found = run_training(row, folder, cfg, seeds, episodes)
        headers.append(header)
        of = {"training": training} if len(folders) > 1 else {}
        rows += [summary_row(result) | of for result in found]
        where = f" (training {training + 1})" if of else ""
        lost |= {f"{seed}{where}": reason for seed, reason in left_out(episodes, seeds).items()}
    named = {
        "condition_on": row.condition_on,
        "every_training": row.every_training,
        "parts": headers[0] | planned_by(rows, headers[0]["decomposer"]),
        "trainings": [header["weights"] for header in headers],
        "left_out": lost,
    }
    return {**aggregate(rows), **named, "episodes": rows}


def run_training(
    row: ModelRow, folder: str, cfg: DictConfig, seeds: Sequence[int], episodes: Path
) -> tuple[dict[str, str], list[PlanResult]]:
    """The header and the episodes of a row on the weights of one training, resumed after its last finished batch."""
    row_cfg = cfg.copy()
    with open_dict(row_cfg):
        row_cfg.memory, row_cfg.condition_on, row_cfg.instruction = (
            cfg.memories[row.memory],
            row.condition_on,
            None,
        )
        row_cfg.weights = folder
    parts = assemble(row_cfg, min(cfg.batch_size, len(seeds)))
    results = run_batches(parts, row_cfg, seeds, episodes)
    for env in parts.envs:
        env.close()
    return parts.header, results


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


def row_versions(name: str, cfg: DictConfig, reader: str, version: Callable[[str], str]) -> Versions:
    """The weights that a row is made with.

    Args:
        reader: fingerprint of the inverse dynamics model.
        version: of a world model's folder.

    Raises:
        CommandError: they are neither given nor shipped, or one training is given twice.
    """
    if name in BASELINES and name != "true_frames":
        return Versions()
    row = MODEL_ROWS.get(name)
    folders = row_weights(row, cfg, cfg.task.name) if row else []
    trainings = tuple(version(folder) for folder in folders)
    if row and len(set(trainings)) < len(trainings):
        raise OptionError(f"loop_weights.{row.loop}={folders}: expected the folders of different trainings")
    return Versions(reader, trainings)


def table_row(kept: KeptRow, cfg: DictConfig, parts: Parts, seeds: Sequence[int]) -> dict[str, Any]:
    """One row of the table."""
    print(f"row {kept.name}")
    of_baseline = kept.name in BASELINES
    figures = baseline_row(kept.name, parts, seeds) if of_baseline else model_row(kept, cfg, seeds)
    return {**figures, **kept.made_with}


def measured(
    column: Callable[[Sequence[PlanResult]], dict[str, Any]], row: KeptRow, seeds: Sequence[int]
) -> dict[str, Any]:
    """A column's figures of a finished row, of its first training."""
    found = [load_result(row.episodes(), s) for s in seeds]
    return column([r for r in found if r is not None])


def frechet_of_rows(
    rows: Sequence[KeptRow], cfg: DictConfig, parts: Parts, experts: Experts
) -> dict[str, dict[str, Any]]:
    """The Fréchet column of the rows with a world model, of the first training each, for as many videos in every row;
    empty for a single episode, which is no set."""
    if len(experts.seeds) < 2:
        return {}
    device = parts.world_model.device
    i3d = None if cfg.i3d is None else I3D(cfg.i3d, device)
    features = hydra.utils.instantiate(cfg.features, device=device)
    column = FrechetColumn(experts, features, i3d, cfg.resamples)
    options = sha256_of({"features": plain(cfg)["features"], "i3d": cfg.i3d, "resamples": cfg.resamples})
    kept = f"frechet/{options[:8]}"
    return {
        row.name: kept_json(row.column(kept), partial(measured, column, row, experts.seeds)) for row in rows
    }


def following_of_rows(
    rows: Sequence[KeptRow], parts: Parts, experts: Experts, run_dir: RunDir
) -> dict[str, dict[str, Any]]:
    """Whether the rows with a world model follow their actions, and under ``""`` what they stand between."""
    column = ActionFollowing(experts, parts.inverse_dynamics, partial(autoencoded, parts.world_model))
    used = [parts.header[part] for part in ("inverse dynamics", "weights")]
    kept = f"followed/{sha256_of(used)[:8]}"
    references = kept_json(run_dir / kept / "references.json", column.references)
    return {"": references} | {
        row.name: kept_json(row.column(kept), partial(measured, column, row, experts.seeds)) for row in rows
    }


def instruments(
    parts: Parts, models: Mapping[str, WorldModel], experts: Experts, chunks: int, batch_size: int
) -> dict[str, Any]:
    """The instruments' own errors on expert episodes of held-out layouts, true and autoencoded frames; and next chunks
    as each of some world models imagines them without memory."""
    first = experts.seeds[:50]
    shown_by_expert = [(layout, e) for layout, e in experts.episodes if layout.seed in first]
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


def kept_instruments(cfg: DictConfig, parts: Parts, experts: Experts, run_dir: RunDir) -> dict[str, Any]:
    """:func:`instruments` of the base and of the first weights behind the row ``full``, kept for those weights."""
    models = {"imagined": parts.world_model}
    if at_hand(full := MODEL_ROWS["full"], cfg):
        folder = Path(row_weights(full, cfg, cfg.task.name)[0])
        models["imagined after the loop"] = open_world_model(cfg, folder)
    used = [m.version for m in models.values()], parts.header["inverse dynamics"], cfg.chunks
    kept = run_dir / f"instruments-{sha256_of(used)[:8]}.json"
    return kept_json(kept, lambda: instruments(parts, models, experts, cfg.chunks, cfg.batch_size))


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
    version = cache(
        lambda folder: fingerprint(Path(folder))
    )  # rows share weights, which have gigabytes at full size
    versions = [row_versions(name, cfg, reader, version) for name in names]
    run_dir = RunDir.open("evaluate", cfg, IGNORED)
    asked = [KeptRow(run_dir.path, name, made) for name, made in zip(names, versions, strict=True)]
    with open_dict(cfg):
        cfg.memory, cfg.condition_on, cfg.instruction = cfg.memories.none, "imagined", None
    parts = assemble(cfg, 1)
    seeds = held_out_seeds(parts.task.heldout_seeds, cfg.seed, cfg.episodes)
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
