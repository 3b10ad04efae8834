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
from world_model.training import CheckpointError, read_safetensors

MADE_OF = "made_of"
PART = 32  # episodes in a file


def encoded(autoencoder: FrameAutoencoder, videos: Iterable[np.ndarray], size: int = 256) -> Tensor:
    """Latents of all frames as float16 on the CPU, encoded ``size`` by ``size`` as the videos come."""
    made: list[Tensor] = []
    waiting = np.empty((0, 0, 0, 3), np.uint8)
    for video in videos:
        waiting = np.concatenate([waiting, video]) if len(waiting) else video
        whole = len(waiting) // size * size
        if whole:
            made.append(autoencoder.encode(waiting[:whole], size).half().cpu())
            waiting = waiting[whole:]
    if len(waiting):
        made.append(autoencoder.encode(waiting, size).half().cpu())
    return torch.cat(made).contiguous()


class KeptLatents:
    """The latents of episodes in a folder, ``PART`` episodes a file; what is not there is encoded when it is read.

    Args:
        episodes: indices into the footage.
    """

    def __init__(
        self, footage: Footage, autoencoder: FrameAutoencoder, episodes: Sequence[int], folder: Path
    ):
        self.footage, self.autoencoder, self.folder = footage, autoencoder, folder
        self.parts = [list(episodes[i : i + PART]) for i in range(0, len(episodes), PART)]
        self._made_of = f"{footage.fingerprint()} {autoencoder.fingerprint()}"

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:05d}.safetensors"

    def read(self, part: int) -> Tensor:
        """``(F, C, h, w)``, the frames of one file's episodes one after the other.

        Raises:
            CheckpointError: the file is damaged, or made of something else.
        """
        file, episodes = self._file(part), self.parts[part]
        made_of = hashlib.sha256(f"{self._made_of} {episodes}".encode()).hexdigest()
        if file.is_file():
            latents = read_safetensors(file).get("latents")
            with safe_open(file, "pt") as opened:
                stored = (opened.metadata() or {}).get(MADE_OF)
            if latents is None or stored != made_of:
                raise CheckpointError(
                    f"{file} is made of other data, or by another autoencoder, than those given; delete its folder "
                    "to encode these, or give another run_dir"
                )
            return latents
        made = encoded(self.autoencoder, (self.footage[i].frames for i in episodes))
        with atomic_path(file) as temp:
            save_file({"latents": made}, temp, {MADE_OF: made_of})
        return made

    def encode(self, accelerator: Accelerator) -> None:
        """Encode what is not there, each process its share of the files; returns when every process has."""
        share = range(accelerator.process_index, len(self.parts), accelerator.num_processes)
        todo = [part for part in share if not self._file(part).is_file()]
        for part in tqdm(todo, "encoding", unit="part", disable=not (todo and accelerator.is_main_process)):
            self.read(part)
        accelerator.wait_for_everyone()
