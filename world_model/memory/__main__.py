"""Saved memories: what they hold, how two of them differ, and an episode back to an earlier chunk.

    python -m world_model.memory action=show folder=FOLDER
    python -m world_model.memory action=compare a=FOLDER b=FOLDER
    python -m world_model.memory action=undo folder=EPISODE chunk=2

``planner.run save_memory=true`` writes such folders, ``planner.run load_memory=FOLDER`` starts from one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig

from tasks.commands import OptionError, integer, main
from tasks.shipped import weights_folder
from world_model.device import pick_device
from world_model.memory.adapter import ADAPTER, MANIFEST, from_adapter, read_manifest, read_tensors
from world_model.memory.base import AnyMemory, MemoryFileError
from world_model.memory.fast_learning import NAMES
from world_model.memory.history import LAST, saved_chunks, undo
from world_model.memory.lora import LoraWeights
from world_model.memory.temp_lora import IDENTITY, TempLora
from world_model.model import WorldModel

SEQUENCES, SIDE = 4, 8  # of the fixed batch: standard normal latents of SIDE × SIDE


def theta(folder: Path) -> tuple[dict[str, Any], LoraWeights]:
    """Manifest and Θ ``(1, …)`` of a saved Temp-LoRA. Raises MemoryFileError."""
    manifest = read_manifest(folder)
    if manifest["memory"] not in NAMES.values():
        raise MemoryFileError(f"{folder}: memory={manifest['memory']} has no low-rank weights to compare")
    if missing := {*IDENTITY, "updates", "objective", "timesteps"} - set(manifest):
        raise MemoryFileError(f"{folder}/{MANIFEST} lacks {sorted(missing)}; save the memory again")
    try:
        return manifest, LoraWeights.from_state_dict(from_adapter(read_tensors(folder / ADAPTER)))
    except MemoryFileError:
        raise  # already names the file
    except ValueError as error:
        raise MemoryFileError(f"{folder / ADAPTER}: {error}") from None


def line(folder: Path) -> str:
    """One saved memory: its kind, chunks remembered, ‖Θ‖ as it is added to the weights, effect."""
    manifest = read_manifest(folder)
    if manifest["memory"] not in NAMES.values():
        kept = f", {manifest['frames']} frames kept" if "frames" in manifest else ""
        return f"{folder}  {manifest['memory']}{kept}"
    manifest, weights = theta(folder)
    norm = float(weights.norm()) * manifest["alpha"] / manifest["rank"]
    effect = manifest.get("effect") or []
    measured = f", effect {effect[-1]:.4f}" if effect else ", effect not measured"
    return (
        f"{folder}  {manifest['memory']}, {manifest['updates']} chunks remembered, ‖Θ‖ {norm:.4f}{measured}"
    )


def show(folder: Path) -> list[str]:
    """The lines of one saved memory, or of every chunk of an episode."""
    if (folder / MANIFEST).is_file():
        return [line(folder)]
    if not (chunks := saved_chunks(folder)):
        raise MemoryFileError(
            f"{folder} is no saved memory and no episode's folder of them; planner.run save_memory=true "
            "writes them"
        )
    last = folder / LAST
    return [line(p) for p in (*chunks.values(), *([last] if last.is_dir() else []))]


def compare(a: Path, b: Path, cfg: DictConfig) -> list[str]:
    """‖Θ_a − Θ_b‖, and how much each changes the predicted noise on a fixed batch, relatively."""
    (of_a, theta_a), (of_b, theta_b) = theta(a), theta(b)
    for key in IDENTITY:
        if of_a[key] != of_b[key]:
            raise MemoryFileError(
                f"{a} has {key}={of_a[key]}, {b} has {key}={of_b[key]}; only memories of one model and one "
                "size can be compared"
            )
    objective = of_a["objective"]
    memory = TempLora(
        timesteps=tuple(of_a["timesteps"]),
        rank=of_a["rank"],
        alpha=of_a["alpha"],
        targets=of_a["targets"],
        objective=objective,
    )
    folder = weights_folder(cfg.weights, cfg.task.name, "world_model", memory.name)
    model = WorldModel.from_pretrained(folder, cast(AnyMemory, memory), pick_device(cfg.device))
    memory = cast(TempLora, model.memory)
    memory.require({key: of_a[key] for key in IDENTITY}, f"{a} against weights={folder}")
    weights = [w.to(model.device) for w in (theta_a, theta_b)]
    memory.injector.check(weights[0])
    shape = (SEQUENCES, model.settings.chunk_frames, model.autoencoder.channels, SIDE, SIDE)
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    against: list[LoraWeights | None] = [None, None, weights[1]]
    effects = [
        float(memory.effect(w, model.writing, batch, against=other).mean())
        for w, other in zip([*weights, weights[0]], against, strict=True)
    ]
    distance = float(theta_a.distance(theta_b)) * of_a["alpha"] / of_a["rank"]
    return [
        f"a  {line(a)}",
        f"b  {line(b)}",
        f"‖Θ_a − Θ_b‖ {distance:.4f}",
        f"change of the predicted noise  a {effects[0]:.4f}   b {effects[1]:.4f}   a against b {effects[2]:.4f}",
    ]


def given(cfg: DictConfig, key: str) -> Path:
    """A folder that the action needs. Raises OptionError."""
    if cfg[key] is None:
        raise OptionError(f"{key}=null: action={cfg.action} needs {key}=FOLDER, a saved memory")
    return Path(cfg[key])


def run(cfg: DictConfig) -> None:
    if cfg.action == "show":
        print("\n".join(show(given(cfg, "folder"))))
    elif cfg.action == "compare":
        print("\n".join(compare(given(cfg, "a"), given(cfg, "b"), cfg)))
    elif cfg.action == "undo":
        last = undo(given(cfg, "folder"), integer(cfg, "chunk", 0))
        print(f"{line(last)}\nstart from it: python -m planner.run load_memory={last}")
    else:
        raise OptionError(f"action={cfg.action}: have show, compare, undo")


if __name__ == "__main__":
    main("memories", run)
