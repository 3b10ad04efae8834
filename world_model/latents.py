"""Latents of episodes: encoded once, by all processes together, and kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tasks.files import atomic_path
from world_model.autoencoder import FrameAutoencoder
from world_model.data.footage import Footage
from world_model.launch import wait
from world_model.training import CheckpointError, read_safetensors

MADE_OF = "made_of"
PART = 2048  # frames from which on a file is full


def encoded(autoencoder: FrameAutoencoder, videos: Iterable[np.ndarray], size: int = 256) -> Tensor:
    """Latents of all frames as float16 on the CPU, encoded in batches of ``size``, or fewer where frames are large."""
    made: list[Tensor] = []
    waiting = np.empty((0, 0, 0, 3), np.uint8)
    for video in videos:
        waiting = np.concatenate([waiting, video]) if len(waiting) else video
        whole = len(waiting) // size * size
        if whole:
            made.append(autoencoder.encode(waiting[:whole]).half().cpu())
            waiting = waiting[whole:]
    if len(waiting):
        made.append(autoencoder.encode(waiting).half().cpu())
    return torch.cat(made).contiguous()


def parts_of(episodes: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The episodes in files of ``PART`` frames or a little more; ``lengths`` are those of all."""
    parts: list[list[int]] = []
    frames = PART
    for episode in episodes:
        if frames >= PART:
            parts.append([])
            frames = 0
        parts[-1].append(episode)
        frames += lengths[episode]
    return parts


class KeptLatents:
    """The latents of episodes, in a folder's files of some episodes each.

    Args:
        episodes: indices into the footage.
    """

    def __init__(
        self, footage: Footage, autoencoder: FrameAutoencoder, episodes: Sequence[int], folder: Path
    ):
        self.footage, self.autoencoder, self.folder = footage, autoencoder, folder
        self.lengths = [int(n) for n in footage.lengths]
        self.parts = parts_of(episodes, self.lengths)
        self._made_of = f"{footage.fingerprint()} {autoencoder.fingerprint()}"

    def encode(self, accelerator: Accelerator | None = None) -> None:
        """Encode what is not there; of several processes each does its share of the files, and waits for the others."""
        rank, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        share = range(rank, len(self.parts), count)
        todo = [part for part in share if not self._file(part).is_file()]
        for part in tqdm(todo, "encoding", unit="part", disable=not todo or rank > 0):
            made = encoded(self.autoencoder, (self.footage[i].frames for i in self.parts[part]))
            with atomic_path(self._file(part)) as temp:
                save_file({"latents": made}, temp, {MADE_OF: self._origin(part)})
        if accelerator:
            wait(accelerator)

    def read(self) -> list[Tensor]:
        """``(T, C, h, w)`` of each episode, in their order; views of the files, which the processes of a machine share.

        Raises:
            CheckpointError: a file is missing, damaged, or made of something else.
        """
        return [latents for part in range(len(self.parts)) for latents in self._read(part)]

    def _read(self, part: int) -> tuple[Tensor, ...]:
        file = self._file(part)
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: all machines need run_dir on a disk that they share")
        latents = read_safetensors(file).get("latents")
        with safe_open(file, "pt") as opened:
            origin = (opened.metadata() or {}).get(MADE_OF)
        if latents is None or origin != self._origin(part):
            raise CheckpointError(
                f"{file} is made of other data, or by another autoencoder, than those given; delete its folder "
                "to encode these, or give another run_dir"
            )
        return latents.split([self.lengths[i] for i in self.parts[part]])

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:05d}.safetensors"

    def _origin(self, part: int) -> str:
        return hashlib.sha256(f"{self._made_of} {self.parts[part]}".encode()).hexdigest()
