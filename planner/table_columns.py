"""What the planning table measures beside distances: the Fréchet column, actions followed, where things fail, the
instruments' errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from planner.action_following import ActionFollowing
from planner.expert_episode import Experts
from planner.failures import failures
from planner.frechet_column import FrechetColumn
from planner.instruments import (
    autoencoded,
    imagined_reading_error,
    locating_error,
    next_chunk_error,
    next_chunks,
    reading_error,
)
from planner.kept_rows import KeptRow
from planner.loop import PlanResult
from planner.parts import Parts
from planner.records import load_result
from planner.table_rows import MODEL_ROWS, at_hand, row_weights
from tasks.commands import RunDir, plain
from tasks.files import kept_json, sha256_of
from world_model.model import WorldModel
from world_model.sampling import open_world_model
from world_model.video_metrics.features import I3D


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


def failures_of_row(row: KeptRow, parts: Parts, seeds: Sequence[int]) -> dict[str, int]:
    """What a row's returned things come to, of its first training."""
    return measured(partial(failures, parts.task), row, seeds)


def kept_instruments(cfg: DictConfig, parts: Parts, experts: Experts, run_dir: RunDir) -> dict[str, Any]:
    """:func:`instruments` of the base and of the first weights behind the row ``full``, kept for those weights."""
    models = {"imagined": parts.world_model}
    if at_hand(full := MODEL_ROWS["full"], cfg):
        folder = Path(row_weights(full, cfg, cfg.task.name)[0])
        models["imagined after the loop"] = open_world_model(cfg, folder)
    used = [m.version for m in models.values()], parts.header["inverse dynamics"], cfg.chunks
    kept = run_dir / f"instruments-{sha256_of(used)[:8]}.json"
    return kept_json(kept, lambda: instruments(parts, models, experts, cfg.chunks, cfg.batch_size))


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
