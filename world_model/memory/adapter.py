"""One episode's memory on disk: a PEFT adapter folder, with a readable ``memory.json`` beside it.

PEFT owns the format of ``adapter_config.json`` and ``adapter_model.safetensors``:
``PeftModel.from_pretrained(unet, folder)`` opens the folder. This module knows no memory's meaning.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.files import atomic_path
from world_model.memory.base import MemoryFileError
from world_model.memory.lora import LoraWeights

MANIFEST = "memory.json"
ADAPTER = "adapter_model.safetensors"
PREFIX = "base_model.model."  # without it PEFT only warns and gives the base output


def write_folder(
    folder: str | Path,
    files: Mapping[str, Mapping[str, Tensor]],
    manifest: Mapping[str, Any],
    config: LoraConfig | None = None,
) -> None:
    """Write tensors (file name -> tensors), the manifest and PEFT's config, all or nothing.

    An older memory in the folder is replaced; a folder that holds anything else is left alone.

    Raises:
        MemoryFileError: the folder exists and is not a saved memory.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise MemoryFileError(
            f"{folder} exists and is not a saved memory (no {MANIFEST}); choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, tensors in files.items():
            cpu = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            save_file(cpu, fresh / name, {"format": "pt"})
        if config is not None:
            config.save_pretrained(str(fresh))
        (fresh / MANIFEST).write_text(json.dumps(dict(manifest), indent=2) + "\n")
        fresh.chmod(0o755)
        _put(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def copy_folder(source: str | Path, folder: str | Path) -> None:
    """Copy a saved memory, all or nothing; an older memory in ``folder`` is replaced.

    Raises:
        MemoryFileError: the source is not a saved memory, or the folder exists and is not one.
    """
    source, folder = Path(source), Path(folder)
    read_manifest(source)
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise MemoryFileError(
            f"{folder} exists and is not a saved memory (no {MANIFEST}); choose another folder"
        )
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        shutil.copytree(source, fresh, dirs_exist_ok=True)
        _put(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put(fresh: Path, folder: Path) -> None:
    """Rename a finished folder into place."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old)
    else:
        os.replace(fresh, folder)


def read_manifest(folder: str | Path, memory: str | None = None) -> dict[str, Any]:
    """``memory.json`` of a folder that ``memory``, or any memory, saved. Raises MemoryFileError."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise MemoryFileError(f"{path} does not exist; give a folder that save_episode wrote") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MemoryFileError(f"{path} is not readable json; save the memory again") from error
    found = manifest.get("memory") if isinstance(manifest, dict) else None
    if found is None:
        raise MemoryFileError(f"{path} names no kind of memory; save the memory again")
    if memory is not None and found != memory:
        raise MemoryFileError(f"{folder} holds a memory of kind {found!r}, expected {memory!r}")
    return manifest


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises MemoryFileError for a missing or damaged one."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise MemoryFileError(f"{path} does not exist; the memory is incomplete, save it again") from error
    except SafetensorError as error:
        raise MemoryFileError(
            f"{path} is truncated or not a safetensors file; save the memory again"
        ) from error


def to_adapter(weights: LoraWeights) -> dict[str, Tensor]:
    """One episode's Θ ``(1, …)`` as PEFT names it: A ``(r, in)`` and B ``(out, r)`` under the prefix."""
    return {f"{PREFIX}{name}": tensor[0] for name, tensor in weights.state_dict().items()}


def from_adapter(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of :func:`to_adapter`: keys of ``LoraWeights.state_dict``, batch of 1."""
    return {key.removeprefix(PREFIX): tensor[None] for key, tensor in tensors.items()}


def save_theta0(path: str | Path, theta0: LoraWeights) -> None:
    """Write Θ₀ ``(1, …)`` as safetensors, atomically; it belongs to the model and is stored beside it. In
    half precision, if that loses nothing, as with :meth:`LoraInjector.initial`'s."""
    half = theta0.to(torch.float16)
    exact = all(torch.equal(x.to(y.dtype), y) for x, y in zip(half.tensors(), theta0.tensors(), strict=True))
    write_safetensors(path, (half if exact else theta0).state_dict())


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file of tensors, atomically."""
    cpu = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temp:
        save_file(cpu, temp, {"format": "pt"})


def load_theta0(path: str | Path) -> LoraWeights:
    """Inverse of :func:`save_theta0`, float32. Raises MemoryFileError."""
    try:
        return LoraWeights.from_state_dict(read_tensors(path)).to(torch.float32)
    except MemoryFileError:
        raise  # already names the file
    except ValueError as error:
        raise MemoryFileError(f"{path}: {error}") from error
