"""What a memory is: B episodes' state as a value, and what the world model asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from world_model.memory.lora import LoraInjector, LoraSpec, LoraWeights


class MemoryFileError(ValueError):
    """A saved memory that is missing, damaged, or belongs to another model; says which and what to do."""


@dataclass(frozen=True)
class Sizes:
    """What a memory must fit.

    Args:
        channels: C of latents ``(B, F, C, h, w)``.
        width: D of cross-attention tokens ``(B, n, D)``.
        past_frames: f_p, frames of the ordinary past once enough were seen.
    """

    channels: int
    width: int
    past_frames: int


class Denoiser(Protocol):
    """What fast learning needs of the diffusion model."""

    num_train_timesteps: int

    def sequence_loss(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Denoising loss ``(B,)`` over all frames of ``clean`` ``(B, F, C, h, w)``, each episode noised
        with ``noise`` (same shape) at its one timestep ``(B,)``; no text (null tokens), no clean past
        (mask all 0). Mean over frames, channels, pixels."""
        ...

    def conditional_loss(
        self, clean: Tensor, past_frames: int, timesteps: Tensor, noise: Tensor, tokens: Tensor | None = None
    ) -> Tensor:
        """Denoising loss ``(B,)`` over the frames of ``clean`` after the first ``past_frames``, which stay
        clean; with text ``tokens`` ``(B, n, D)``."""
        ...

    def predicted_noise(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """ε ``(B, F, C, h, w)`` that the model reads off the sequence of :meth:`sequence_loss`."""
        ...


State = TypeVar("State")


class Memory(Protocol[State]):
    """Remembers B episodes at once; batch-first; ``update`` returns a new state and changes no old one.

    A state holds no autograd graph. ``spec`` says which low-rank weights the model must carry for it, or
    None. ``module`` holds the memory's own slow weights, trained with Φ and stored beside it, or None;
    :meth:`bind` makes it, and :meth:`tokens` carries gradients to it.
    """

    name: str
    spec: LoraSpec | None
    module: nn.Module | None

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Meet the model: the injector (made with :attr:`spec`) of the UNet that fast learning takes its
        gradients from, Θ₀ ``(1, …)`` and the sizes."""
        ...

    def reset(self, batch: int) -> State:
        """The state at the start of ``batch`` episodes."""
        ...

    def select(self, state: State, indices: Sequence[int]) -> State:
        """Some of the episodes, in the given order."""
        ...

    def concat(self, states: Sequence[State]) -> State:
        """Join batches, the inverse of :meth:`select`; chunk indices may differ.

        Raises:
            ValueError: the episodes' extra past would differ in length.
        """
        ...

    def past(self, state: State) -> Tensor | None:
        """Extra clean past latents ``(B, f, C, h, w)``, which go before the ordinary past, or None."""
        ...

    def tokens(self, state: State) -> Tensor | None:
        """Extra cross-attention tokens ``(B, n, D)``, or None."""
        ...

    def weights(self, state: State) -> LoraWeights | None:
        """Each episode's Θ, or None."""
        ...

    def update(
        self,
        state: State,
        denoiser: Denoiser,
        past: Tensor,
        new: Tensor,
        tokens: Tensor,
        generators: Sequence[torch.Generator],
    ) -> State:
        """Remember a chunk: clean latents ``past`` ``(B, f_p, C, h, w)`` and ``new`` ``(B, f_g, C, h, w)``.

        ``tokens`` ``(B, n, D)``: text of what the chunk was asked for. ``generators``: one per episode, so
        that an episode draws the same alone and in a batch.
        """
        ...

    def state_dict(self, state: State) -> dict[str, Tensor]:
        """The state as flat tensors, for safetensors."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> State:
        """Inverse of :meth:`state_dict`. Raises MemoryFileError if it belongs to another model."""
        ...

    def save_episode(self, state: State, index: int, folder: str | Path) -> None:
        """Write one episode's memory as a folder."""
        ...

    def load_episode(self, folder: str | Path) -> State:
        """Read such a folder as a state of one episode. Raises MemoryFileError."""
        ...


AnyMemory = Memory[Any]


@runtime_checkable
class WritesItsWay(Protocol):
    """A memory whose options belong to the weights: these learned to read what was written with them."""

    def kept(self) -> dict[str, Any]:
        """Those options, json-able."""
        ...

    def as_trained(self, kept: Mapping[str, Any]) -> AnyMemory:
        """The same memory with :meth:`kept` options of another, where it was given none itself.

        Raises:
            ValueError, TypeError: they are none of its options, or out of range.
        """
        ...
