"""What the memories that keep earlier frames share: their state, and their files.

A variant says which frames it keeps and which of them it shows as extra past. This module knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from world_model.memory.adapter import read_manifest, read_tensors, write_folder
from world_model.memory.base import Denoiser, MemoryFileError, Sizes
from world_model.memory.lora import LoraInjector, LoraWeights

FRAMES = "frames.safetensors"
NOTHING = torch.empty(0, 0, 0, 0)  # frames of an episode that has not begun


def extended(frames: Tensor, past: Tensor, new: Tensor) -> Tensor:
    """An episode's frames ``(n, C, h, w)`` with one more chunk; ``past`` is appended, too, unless they end in it."""
    sequence = new if len(frames) and torch.equal(frames[-len(past) :], past) else torch.cat([past, new])
    return torch.cat([frames, sequence]) if len(frames) else sequence.clone()


@dataclass(frozen=True)
class FrameState:
    """Clean latents that B episodes keep, a value.

    Args:
        frames: per episode ``(n, C, h, w)``, in time order; n is 0 before the first update.
    """

    frames: tuple[Tensor, ...]


class FrameMemory:
    """Keeps earlier frames and shows ``extra_past`` of them as clean past; see :class:`Memory`.

    Before the first update there is no extra past; afterwards always equally many frames, so that episodes
    at different chunks can share a batch.
    """

    name: str
    extra_past: int = 0
    spec = None
    module: nn.Module | None = None
    _sizes: Sizes | None = None

    @property
    def sizes(self) -> Sizes:
        """The model's. Raises ``RuntimeError`` before :meth:`bind`."""
        if self._sizes is None:
            raise RuntimeError(f"memory={self.name} is not bound to a model; call bind first")
        return self._sizes

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Meet the model's sizes; Θ is not read."""
        self._sizes = sizes

    def kept(self, frames: Tensor) -> Tensor:
        """Of one episode's frames ``(n, C, h, w)``, those that stay in the state."""
        return frames

    def shown(self, frames: Tensor) -> Tensor:
        """Of one episode's kept frames ``(n, C, h, w)``, n ≥ 1, the ``extra_past`` that are shown."""
        raise NotImplementedError(f"{type(self).__name__} shows no extra past")

    def reset(self, batch: int) -> FrameState:
        """Nothing kept."""
        return FrameState((NOTHING,) * batch)

    def select(self, state: FrameState, indices: Sequence[int]) -> FrameState:
        """Some of the episodes, in the given order."""
        return FrameState(tuple(state.frames[i] for i in indices))

    def concat(self, states: Sequence[FrameState]) -> FrameState:
        """Join batches.

        Raises:
            ValueError: some episodes have had their first update and some have not, and it matters.
        """
        frames = tuple(f for s in states for f in s.frames)
        self._same_length(frames)
        return FrameState(frames)

    def _same_length(self, frames: Sequence[Tensor]) -> None:
        begun = sum(len(f) > 0 for f in frames)
        if self.extra_past and begun not in (0, len(frames)):
            raise ValueError(
                f"memory={self.name}: {begun} of {len(frames)} episodes have {self.extra_past} extra past "
                "frames, the others none before their first chunk is remembered; batch those apart"
            )

    def past(self, state: FrameState) -> Tensor | None:
        """``(B, extra_past, C, h, w)``, or None before the first update."""
        self._same_length(state.frames)
        if not self.extra_past or not state.frames or not len(state.frames[0]):
            return None
        return torch.stack([self.shown(f) for f in state.frames])

    def tokens(self, state: FrameState) -> Tensor | None:
        """None: no extra tokens."""
        return None

    def weights(self, state: FrameState) -> None:
        """None: Φ alone."""

    def update(
        self,
        state: FrameState,
        denoiser: Denoiser,
        past: Tensor,
        new: Tensor,
        tokens: Tensor,
        generators: Sequence[torch.Generator],
    ) -> FrameState:
        """Append ``past`` (where it is new) and ``new``; draws nothing.

        Raises:
            ValueError: batches differ.
        """
        if not len(state.frames) == len(past) == len(new):
            sizes = {"state": len(state.frames), "past": len(past), "new": len(new)}
            raise ValueError(f"episodes differ in number: {sizes}")
        joined = (
            extended(f, p, n) for f, p, n in zip(state.frames, past.detach(), new.detach(), strict=True)
        )
        return FrameState(tuple(self.kept(f).clone() for f in joined))

    def state_dict(self, state: FrameState) -> dict[str, Tensor]:
        """``{"frames.0": (n, C, h, w), …}``, one per episode."""
        return {f"frames.{i}": f for i, f in enumerate(state.frames)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> FrameState:
        """Inverse of :meth:`state_dict`. Raises MemoryFileError."""
        names = [f"frames.{i}" for i in range(len(tensors))]
        if set(names) != set(tensors):
            raise MemoryFileError(
                f"the saved state holds {sorted(tensors)[:3]}, not a state of memory={self.name}"
            )
        return FrameState(tuple(self._fitting(tensors[n], "the saved state") for n in names))

    def _fitting(self, frames: Tensor, where: str) -> Tensor:
        if frames.ndim != 4 or (len(frames) and frames.shape[1] != self.sizes.channels):
            raise MemoryFileError(
                f"{where}: latents of shape {list(frames.shape)}, this model's have {self.sizes.channels} "
                "channels; load it with the model it was made with"
            )
        return frames

    def save_episode(self, state: FrameState, index: int, folder: str | Path) -> None:
        """Write one episode's frames. Raises MemoryFileError if the folder is not a saved memory."""
        frames = state.frames[index]
        write_folder(folder, {FRAMES: {"frames": frames}}, {"memory": self.name, "frames": len(frames)})

    def load_episode(self, folder: str | Path) -> FrameState:
        """Read such a folder as a state of one episode. Raises MemoryFileError."""
        read_manifest(folder, self.name)
        tensors = read_tensors(Path(folder) / FRAMES)
        if set(tensors) != {"frames"}:
            raise MemoryFileError(f"{folder}/{FRAMES} holds {sorted(tensors)[:3]}; expected frames")
        return FrameState((self._fitting(tensors["frames"], str(folder)),))
