"""A control: every episode learns its own memory and reads another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from world_model.memory.base import AnyMemory, Denoiser, Sizes, WritesItsWay
from world_model.memory.lora import LoraInjector, LoraSpec, LoraWeights


class Shuffled:
    """Episode b of a batch reads what episode b + 1 remembers; nothing else differs.

    If this scores as well as the memory itself, then what helps is not memory of the episode.

    Args:
        memory: whose episodes are exchanged.
    """

    def __init__(self, memory: AnyMemory) -> None:
        self.memory = memory
        self.name = f"shuffled {memory.name}"

    def kept(self) -> dict[str, Any]:
        """The memory's."""
        return self.memory.kept() if isinstance(self.memory, WritesItsWay) else {}

    def as_trained(self, kept: Mapping[str, Any]) -> Shuffled:
        """Of the memory as the weights were trained with it."""
        return Shuffled(self.memory.as_trained(kept)) if isinstance(self.memory, WritesItsWay) else self

    @property
    def spec(self) -> LoraSpec | None:
        """The memory's."""
        return self.memory.spec

    @property
    def module(self) -> nn.Module | None:
        """The memory's."""
        return self.memory.module

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Bind the memory."""
        self.memory.bind(injector, theta0, sizes)

    def reset(self, batch: int) -> Any:
        """The memory's state. Raises ``ValueError`` for a single episode."""
        if batch < 2:
            raise ValueError(
                "memory=shuffled needs at least 2 episodes of one length in a batch; raise episodes or batch_size"
            )
        return self.memory.reset(batch)

    def select(self, state: Any, indices: Sequence[int]) -> Any:
        """Some of the episodes; they read each other from then on."""
        return self.memory.select(state, indices)

    def concat(self, states: Sequence[Any]) -> Any:
        """Join batches."""
        return self.memory.concat(states)

    def past(self, state: Any) -> Tensor | None:
        """The next episode's."""
        return self._rolled(self.memory.past(state))

    def tokens(self, state: Any) -> Tensor | None:
        """The next episode's."""
        return self._rolled(self.memory.tokens(state))

    def weights(self, state: Any) -> LoraWeights | None:
        """The next episode's Θ."""
        own = self.memory.weights(state)
        return None if own is None else own.map(lambda x: x.roll(-1, 0))

    def _rolled(self, own: Tensor | None) -> Tensor | None:
        return None if own is None else own.roll(-1, 0)

    def update(
        self,
        state: Any,
        denoiser: Denoiser,
        past: Tensor,
        new: Tensor,
        tokens: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Any:
        """Each episode remembers its own chunk."""
        return self.memory.update(state, denoiser, past, new, tokens, generators)

    def state_dict(self, state: Any) -> dict[str, Tensor]:
        """The memory's."""
        return self.memory.state_dict(state)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> Any:
        """The memory's."""
        return self.memory.load_state_dict(tensors)

    def save_episode(self, state: Any, index: int, folder: str | Path) -> None:
        """The episode's own memory, as the memory writes it."""
        self.memory.save_episode(state, index, folder)

    def load_episode(self, folder: str | Path) -> Any:
        """Read such a folder."""
        return self.memory.load_episode(folder)
