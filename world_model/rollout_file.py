"""A rollout on disk, in one file that is there in full or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tasks.files import atomic_path
from world_model.model import Rollout, WorldModel
from world_model.training import CheckpointError

KEY, MEMORY = "rollout", "memory."


def save_rollout(path: Path, model: WorldModel, rollout: Rollout, **more: Any) -> None:
    """Write a rollout, its memory's state included, as safetensors; ``more`` must be json."""
    tensors = {"past": rollout.past, "frames": torch.from_numpy(rollout.frames.copy())}
    tensors |= {f"{MEMORY}{k}": v for k, v in model.memory.state_dict(rollout.memory).items()}
    facts = {"seeds": rollout.seeds, "index": rollout.index, "more": more}
    cpu = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temp:
        save_file(cpu, temp, {KEY: json.dumps(facts)})


def load_rollout(path: Path, model: WorldModel) -> tuple[Rollout, dict[str, Any]]:
    """Read what :func:`save_rollout` wrote, and its ``more``.

    Raises:
        CheckpointError: damaged.
        MemoryFileError: its memory is another model's.
    """
    try:
        with safe_open(path, "pt", str(model.device)) as file:
            facts = json.loads((file.metadata() or {})[KEY])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        past, frames = tensors.pop("past"), tensors.pop("frames").cpu().numpy()
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}); start anew with fresh=true"
        ) from None
    memory = model.memory.load_state_dict({k.removeprefix(MEMORY): v for k, v in tensors.items()})
    return Rollout(tuple(facts["seeds"]), facts["index"], past, frames, memory), facts["more"]
