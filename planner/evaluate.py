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
from planner.loop import PlanResult
from planner.parts import Parts, assemble
from planner.records import left_out, load_result, summary_row
from planner.run import run_batches
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
        OptionError: one training is given twice.
    """
    given = cfg.loop_weights.get(row.loop) if row.loop else None
    several = list(given) if isinstance(given, ListConfig) else [given]
    if len(set(several)) < len(several) or not several:
        raise OptionError(f"loop_weights.{row.loop}={several}: expected the folders of different trainings")
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


def model_row(name: str, cfg: DictConfig, seeds: Sequence[int], run_dir: RunDir) -> dict[str, Any]:
    """One row with the world model, on the weights of each training."""
    row = MODEL_ROWS[name]
    folders = row_weights(row, cfg, cfg.task.name)
    headers, rows, lost = [], [], dict[str, str]()
    for training, folder in enumerate(folders):
        episodes = rows_folder(run_dir, name, training)
        header, found = run_training(row, folder, cfg, seeds, episodes)
        headers.append(header)
        of = {"training": training} if len(folders) > 1 else {}
        rows += [summary_row(result) | of for result in found]
        lost |= {str(seed): reason for seed, reason in left_out(episodes, seeds).items()}
    named = {
        "condition_on": row.condition_on,
        "parts": headers[0],
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


def rows_folder(run_dir: RunDir | Path, name: str, training: int = 0) -> Path:
    """Where a row's episodes of one training are kept."""
    return run_dir / "rows" / (f"{name}.{training + 1}" if training else name)


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


def check_weights(name: str, cfg: DictConfig, run_dir: RunDir | Path) -> None:
    """Delete a finished row that has got further trainings, so that it is made again of the episodes that are kept.

    Raises:
        CommandError: a finished row ran on other weights than those it would run on now.
    """
    finished = run_dir / "finished" / f"{name}.json"
    if not finished.is_file():
        return
    row = read_json(finished)
    reader = weights_folder(cfg.inverse_dynamics, cfg.task.name, "inverse_dynamics")
    used = {"inverse dynamics": [row["parts"]["inverse dynamics"]]} if "parts" in row else {}
    now = {"inverse dynamics": [fingerprint(reader)]}
    if name in MODEL_ROWS:
        used["weights"] = row.get("trainings") or [row["parts"]["weights"]]
        now["weights"] = [fingerprint(Path(f)) for f in row_weights(MODEL_ROWS[name], cfg, cfg.task.name)]
    for part, versions in used.items():
        if not all(u.endswith(f"({v})") for u, v in zip(versions, now[part], strict=False)):
            raise CommandError(
                f"{finished} ran with the {part} {', '.join(versions)}, now they are {', '.join(now[part])}; delete "
                f"it and {rows_folder(run_dir, name)}, or give another run_dir"
            )
        if len(versions) < len(now[part]):
            finished.unlink()


def table_row(
    name: str, cfg: DictConfig, parts: Parts, seeds: Sequence[int], run_dir: RunDir
) -> dict[str, Any]:
    """One row of the table."""
    print(f"row {name}")
    if name in BASELINES:
        return baseline_row(name, parts, seeds)
    return model_row(name, cfg, seeds, run_dir)


def measured(
    column: Callable[[Sequence[PlanResult]], dict[str, Any]], name: str, experts: Experts, run_dir: RunDir
) -> dict[str, Any]:
    """A column's figures of a finished row, of its first training."""
    found = [load_result(rows_folder(run_dir, name), s) for s in experts.seeds]
    return column([r for r in found if r is not None])


def frechet_of_rows(
    names: Sequence[str], cfg: DictConfig, parts: Parts, experts: Experts, run_dir: RunDir
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
    kept = run_dir / "frechet" / options[:8]
    return {n: kept_json(kept / f"{n}.json", partial(measured, column, n, experts, run_dir)) for n in names}


def following_of_rows(
    names: Sequence[str], parts: Parts, experts: Experts, run_dir: RunDir
) -> dict[str, dict[str, Any]]:
    """Whether the rows with a world model follow their actions, and under ``""`` what they stand between."""
    column = ActionFollowing(experts, parts.inverse_dynamics, partial(autoencoded, parts.world_model))
    used = [parts.header[part] for part in ("inverse dynamics", "weights")]
    kept = run_dir / "followed" / sha256_of(used)[:8]
    rows = {n: kept_json(kept / f"{n}.json", partial(measured, column, n, experts, run_dir)) for n in names}
    return {"": kept_json(kept / "references.json", column.references), **rows}


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
    experts = Experts(parts.envs[0], seeds)
    errors = kept_instruments(cfg, parts, experts, run_dir)
    found = {n: run_dir / "finished" / f"{n}.json" for n in (*BASELINES, *MODEL_ROWS)}
    table = {n: read_json(p) for n, p in found.items() if p.is_file()}
    done = [n for n in table if rows_folder(run_dir, n).is_dir()]
    for name, distances in frechet_of_rows(done, cfg, parts, experts, run_dir).items():
        table[name]["frechet"] = distances
    followed = following_of_rows(done, parts, experts, run_dir)
    for name in done:
        table[name]["followed"] = followed[name]
    result = {
        "task": parts.task.name,
        "unit": parts.task.unit,
        "figure": parts.task.figure,
        "measured": parts.task.measured,
        "provenance": provenance(parts, cfg),
        "instruments": errors,
        "followed": {"means": said(parts.task.action_spec), "references": followed[""]},
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
