"""The planning table's rows (the paper's Table 2): which there are, the weights behind each, how one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, open_dict
from tqdm import tqdm

from planner.aggregates import aggregate, details_of, executed, mean_of, share_of
from planner.baselines import constant_guess, do_nothing, random_walk, rows_of, true_frames
from planner.expert_episode import expert_episode
from planner.kept_rows import KeptRow
from planner.loop import PlanResult
from planner.parts import Parts, assemble
from planner.records import left_out, summary_row
from planner.run import planned_by, run_batches
from tasks import Score
from tasks.commands import CommandError, OptionError
from tasks.shipped import finetuned_folder
from tasks.versions import Versions

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
    "temp_lora_paper_no_loop": ModelRow("temp_lora_paper"),
    "temp_lora_paper": ModelRow("temp_lora_paper", "temp_lora_paper"),
    "temp_lora_original": ModelRow("temp_lora_original", "temp_lora_original"),
    "temp_lora_sequence": ModelRow("temp_lora_sequence", "temp_lora_sequence"),
    "full": ModelRow("temp_lora", "temp_lora"),
    "full_observed": ModelRow("temp_lora", "temp_lora", "observed", False),
    "oracle": ModelRow("oracle", "oracle"),
    "shuffled": ModelRow("shuffled", "temp_lora", every_training=False),
    "theta_off": ModelRow("none", "temp_lora", every_training=False),
}


def row_weights(row: ModelRow, cfg: DictConfig, task: str) -> list[str]:
    """The folders of a row's world models, one for each training: given in ``loop_weights``, or beside the base.

    Raises:
        CommandError: the row needs finetuned weights that are neither given nor beside the base.
        OptionError: an empty list is given.
    """
    given = cfg.loop_weights.get(row.loop) if row.loop else None
    several = list(given) if isinstance(given, ListConfig) else [given]
    if not several:
        raise OptionError(f"loop_weights.{row.loop}=[]: expected the folders of one or more trainings")
    folders = [str(finetuned_folder(task, row.loop, cfg.weights, {row.loop or "": f})) for f in several]
    return folders if row.every_training else folders[:1]


def at_hand(row: ModelRow, cfg: DictConfig) -> bool:
    """Whether a row's weights are given, or lie beside the base.

    Raises:
        CommandError: given ones can't be had.
    """
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
