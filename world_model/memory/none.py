"""No memory: the world model knows the current context window and nothing before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from world_model.memory.adapter import read_manifest, write_folder
from world_model.memory.base import Denoiser, MemoryFileError, Sizes
from world_model.memory.lora import LoraInjector, LoraWeights


class NoMemory:
    """The paper's "wo Temp-LoRA". Its state is the number of episodes."""

    name = "none"
    spec = None
    module = None

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Nothing to bind: Θ is not read."""

    def reset(self, batch: int) -> int:
        """``batch``."""
        return batch

    def select(self, state: int, indices: Sequence[int]) -> int:
        """``len(indices)``."""
        return len(indices)

    def concat(self, states: Sequence[int]) -> int:
        """Their sum."""
        return sum(states)

    def past(self, state: int) -> None:
        """None: no extra past."""

    def tokens(self, state: int) -> None:
        """None: no extra tokens."""

    def weights(self, state: int) -> None:
        """None: Φ alone."""

    def update(
        self,
        state: int,
        denoiser: Denoiser,
        past: Tensor,
        new: Tensor,
        tokens: Tensor,
        generators: Sequence[torch.Generator],
    ) -> int:
        """The same state; draws nothing."""
        return state

    def state_dict(self, state: int) -> dict[str, Tensor]:
        """``{"batch": ()}`` int64."""
        return {"batch": torch.tensor(state)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> int:
        """Inverse of :meth:`state_dict`."""
        if set(tensors) != {"batch"}:
            raise MemoryFileError(f"the saved state holds {sorted(tensors)[:3]}, not a state of memory=none")
        return int(tensors["batch"])

    def save_episode(self, state: int, index: int, folder: str | Path) -> None:
        """A folder that says there is nothing to remember."""
        write_folder(folder, {}, {"memory": self.name})

    def load_episode(self, folder: str | Path) -> int:
        """One episode without memory."""
        read_manifest(folder, self.name)
        return 1
