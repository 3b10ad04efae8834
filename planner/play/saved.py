"""Episodes on disk: a folder each, from which the episode opens again exactly as it was.

runs/play/20260131-120000-1f2e3d/
    episode.json          what was asked, with which parts, and the figures of each chunk
    frames.safetensors    the pictures and the simulator's actions
    rollouts/, without/   the state after every chunk, with the memory and without
    memory/               the memory as planner.run save_memory=true writes it: a PEFT adapter
    video.mp4, video.gif
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from planner.play.clips import write_clip
from planner.play.simulation import Executed, Simulation
from planner.play.studio import Stage, Studio
from planner.play.take import Branch, Step, Take, facts
from tasks.commands import CommandError, differences, plain
from tasks.files import write_json
from world_model.memory.adapter import write_safetensors
from world_model.model import Rollout, WorldModel
from world_model.rollout_file import load_rollout, save_rollout
from world_model.training import CheckpointError

FOLDER, RECORD, FRAMES = "play", "episode.json", "frames.safetensors"
NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
FIELDS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "memory": str,
    "choice": str,
    "weights_version": str,
    "options": dict,
    "source": str,
    "saved": str,
    "seed": int,
    "compare": bool,
    "simulator": (str, type(None)),
    "chunks": list,
}
NEWER_FIELDS: dict[str, type | tuple[type, ...]] = {  # that an episode may lack which was saved before them
    "precision": str,
    "inverse_dynamics": (str, type(None)),
}
CHOSEN = ("task", "memory", "weights_version", "source", "seed", "compare", "saved")  # that a list tells
CHUNK_FIELDS: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "seconds": dict,
    "note": str,
    "effect": (float, int, type(None)),
    "distance": (float, int, type(None)),
}


class SavedError(ValueError):
    """A saved episode that is missing, damaged or of other weights; says which."""


def save(take: Take, runs: Path, fps: int) -> str:
    """Write an episode below ``runs``; the name that was chosen for it. Raises CommandError."""
    if not take.steps:
        raise CommandError("There is nothing to save yet; imagine a chunk first.")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    above = runs / FOLDER
    above.mkdir(parents=True, exist_ok=True)
    folder = above / f".{name}"  # renamed once it is complete
    try:
        _write(take, folder, fps)
        folder.rename(above / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return name


def _write(take: Take, folder: Path, fps: int) -> None:
    tensors = {"first": take.first}
    model, plain = take.stage.model, take.stage.plain
    branches = [("rollouts", model, [s.imagined.rollout for s in take.steps])]
    for i, step in enumerate(take.steps):
        tensors[f"imagined.{i}"] = step.imagined.frames
        if step.without:
            tensors[f"without.{i}"] = step.without.frames
        if step.executed:
            tensors |= {f"executed.{i}": step.executed.frames, f"actions.{i}": step.executed.actions}
    if others := [s.without.rollout for s in take.steps if s.without]:
        branches.append(("without", plain, others))
    for part, owner, rollouts in branches:
        for i, rollout in enumerate(rollouts, 1):
            save_rollout(_rollout(folder / part, i), owner, rollout)
    write_safetensors(
        folder / FRAMES, {k: torch.from_numpy(np.array(v, copy=True)) for k, v in tensors.items()}
    )
    model.save_memory(take.rollout, folder / "memory")
    for kind in ("mp4", "gif"):
        write_clip(folder / f"video.{kind}", take, fps)
    record: dict[str, Any] = {
        **take.origin(),
        "weights_version": model.version,
        "options": options_of(take.stage),
        "precision": str(take.stage.cfg.precision),
        "inverse_dynamics": take.simulation.reader.version if take.simulation else None,
        "saved": time.strftime("%Y-%m-%d %H:%M:%S"),
        "chunks": [facts(step) for step in take.steps],
    }
    write_json(folder / RECORD, record)


def options_of(stage: Stage) -> dict[str, Any]:
    """What the next chunk depends on beside the weights and their precision; json-able."""
    parts = {k: v for k, v in plain(stage.cfg).items() if k in ("task", "env", "memory")}
    parts["memory"] = {k: v for k, v in parts["memory"].items() if k != "measure_effect"}
    return json.loads(json.dumps({"model": asdict(stage.model.settings), **parts}))


def _rollout(folder: Path, index: int) -> Path:
    return folder / f"chunk_{index:05d}.safetensors"


def listed(runs: Path) -> list[dict[str, Any]]:
    """The saved episodes, the newest first."""
    out = []
    for path in sorted((runs / FOLDER).glob(f"*/{RECORD}"), reverse=True):
        if NAME.fullmatch(path.parent.name):
            try:
                record = read_record(path.parent)
            except SavedError:
                continue
            chosen = {k: record[k] for k in CHOSEN}
            captions = [c["text"] for c in record["chunks"]]
            out.append({"name": path.parent.name, **chosen, "captions": captions})
    return out


def folder_of(runs: Path, name: str) -> Path:
    """The folder of a saved episode. Raises SavedError."""
    folder = runs / FOLDER / name
    if not NAME.fullmatch(name) or not (folder / RECORD).is_file():
        raise SavedError("There is no such saved episode.")
    return folder


def read_frames(folder: Path) -> dict[str, np.ndarray]:
    """The pictures of a saved episode. Raises SavedError."""
    try:
        return {k: v.numpy() for k, v in load_file(folder / FRAMES).items()}
    except (SafetensorError, OSError, ValueError):
        raise SavedError(f"The saved episode {folder.name} is damaged; its pictures can't be read.") from None


def read_record(folder: Path) -> dict[str, Any]:
    """``episode.json``. Raises SavedError."""
    damaged = f"The saved episode {folder.name} is damaged;"
    try:
        record = json.loads((folder / RECORD).read_text())
    except (ValueError, OSError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("chunks", []), list):
        raise SavedError(f"{damaged} its {RECORD} can't be read.")
    for told, fields in ((record, FIELDS), *((chunk, CHUNK_FIELDS) for chunk in record.get("chunks", []))):
        for field, kind in fields.items():
            if not isinstance(told, dict) or field not in told:
                raise SavedError(f"{damaged} it lacks {field!r}.")
            if not isinstance(told[field], kind):
                raise SavedError(f"{damaged} its {field!r} can't be read.")
    for field, kind in NEWER_FIELDS.items():
        if field in record and not isinstance(record[field], kind):
            raise SavedError(f"{damaged} its {field!r} can't be read.")
    return record


def opened(name: str, studio: Studio, check: Callable[[], None] = lambda: None) -> Take:
    """The episode as it was when it was saved.

    Args:
        name: of its folder.
        studio: gives the parts.
        check: called now and then; what it raises ends the opening.

    Raises:
        SavedError, MemoryFileError: missing, damaged, or of other weights.
    """
    folder = folder_of(studio.runs, name)
    record, tensors = read_record(folder), read_frames(folder)
    try:
        stage = studio.stage(record["task"], record["memory"], record["choice"])
        _require_same(record, stage)
        check()
        by = record["simulator"]
        simulation = studio.simulation(stage, by) if by else None
        try:
            _require_reader(record, simulation)
            check()
            take = Take(
                stage, tensors["first"], record["seed"], record["source"], simulation, record["compare"]
            )
            take.steps = [_step(i, told, tensors, folder, take) for i, told in enumerate(record["chunks"])]
        except BaseException:
            if simulation is not None:
                simulation.close()
            raise
    except KeyError as error:
        raise SavedError(f"The saved episode {name} is damaged; it lacks {error}.") from None
    return take


def _require_same(record: dict[str, Any], stage: Stage) -> None:
    """SavedError unless the next chunk would be the one that it would have been."""
    if stage.model.version != record["weights_version"]:
        raise SavedError(
            f"The saved episode was made with the weights {record['weights_version']}, this page has "
            f"{stage.model.version}; start it with the ones it was made with."
        )
    now = str(stage.cfg.precision)
    if (then := record.get("precision", now)) != now:
        raise SavedError(
            f"The saved episode was made with precision={then}, this page has {now}; start it with precision={then}."
        )
    if told := differences(record["options"], options_of(stage)):
        raise SavedError(
            f"The saved episode was made with other options ({told}); start the page with those."
        )


def _require_reader(record: dict[str, Any], simulation: Simulation | None) -> None:
    """SavedError unless the simulator goes on by the inverse dynamics weights that it went by, if by any."""
    now = simulation.reader.version if simulation else None
    if (then := record.get("inverse_dynamics")) not in (None, now):
        raise SavedError(
            f"The saved episode was executed and measured with the inverse dynamics weights {then}, this page has "
            f"{now or 'none'}; start it with inverse_dynamics= the ones it was made with."
        )


def _step(i: int, told: dict[str, Any], tensors: dict[str, np.ndarray], folder: Path, take: Take) -> Step:
    def branch(part: str, pictures: str, model: WorldModel) -> Branch:
        try:
            rollout: Rollout = load_rollout(_rollout(folder / part, i + 1), model)[0]
        except CheckpointError:
            raise SavedError(
                f"The saved episode {folder.name} is damaged; its state after chunk {i + 1} can't be read."
            ) from None
        return Branch(rollout, tensors[f"{pictures}.{i}"])

    executed = None
    if f"executed.{i}" in tensors:
        executed = Executed(tensors[f"actions.{i}"], tensors[f"executed.{i}"], told["distance"], told["note"])
    return Step(
        told["text"],
        branch("rollouts", "imagined", take.stage.model),
        told["seconds"],
        told["effect"],
        branch("without", "without", take.stage.plain) if f"without.{i}" in tensors else None,
        executed,
        told["note"],
    )
