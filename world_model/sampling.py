"""How a command wants a world model to be held and to sample: its options checked, the model opened."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from tasks.commands import OptionError, integer
from world_model.device import pick_device, pick_dtype
from world_model.diffusion import PASSES
from world_model.memory.base import AnyMemory
from world_model.model import WorldModel


def sampling_options(cfg: DictConfig) -> dict[str, Any]:
    """``sampling_steps``, ``guidance`` and ``theta_in`` of a command's options, for ``WorldModel.from_pretrained``;
    None is the model's own.

    Raises:
        OptionError: a value that one of them can't take.
    """
    if cfg.sampling_steps is not None:
        integer(cfg, "sampling_steps", 1)
    scales, seen = _listed(cfg.guidance), _listed(cfg.theta_in)
    if scales is not None and (len(scales) != 2 or not all(_number(x) for x in scales)):
        raise OptionError(f"guidance={cfg.guidance}: expected two numbers, [past scale, text scale]")
    if seen is not None and not set(seen) <= set(PASSES):
        raise OptionError(f"theta_in={cfg.theta_in}: expected a list of {', '.join(PASSES)}")
    return {
        "sampling_steps": cfg.sampling_steps,
        "guidance": None if scales is None else tuple(float(x) for x in scales),
        "theta_in": None if seen is None else tuple(seen),
    }


def open_world_model(
    cfg: DictConfig, folder: Path, memory: AnyMemory | None = None, context_frames: int | None = None
) -> WorldModel:
    """The world model of a folder, with the device, precision and sampling that ``cfg`` names; None is the model's own
    context."""
    device = pick_device(cfg.device)
    return WorldModel.from_pretrained(
        folder,
        memory,
        device,
        pick_dtype(cfg.precision, device),
        **sampling_options(cfg),
        context_frames=context_frames,
    )


def _listed(value: Any) -> Sequence[Any] | None:
    """An option's list; what is none becomes a list of one, which no check takes for two."""
    if value is None:
        return None
    return list(value) if isinstance(value, ListConfig) else [value]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
