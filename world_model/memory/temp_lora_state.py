"""What B episodes with Temp-LoRA remember, and the same as flat tensors; how Θ is learned is not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.memory.lora import LoraWeights

Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class TempLoraState:
    """What B episodes remember; a value.

    Args:
        weights: Θ, batch B.
        moments: Adam's first and second moments, shaped as Θ; None unless the optimizer's state is kept.
        updates: per episode, chunks remembered so far.
        effect: per update ``(B,)``, ‖ε_with − ε_without‖ / ‖ε_without‖; empty unless measured, NaN where
            an episode has had fewer updates than another of its batch.
        frames: per episode the latents so far ``(n, C, h, w)``; empty unless learning looks back at them.
    """

    weights: LoraWeights
    moments: tuple[LoraWeights, LoraWeights] | None
    updates: tuple[int, ...]
    effect: tuple[Tensor, ...] = ()
    frames: tuple[Tensor, ...] = ()

    def select(self, indices: Sequence[int]) -> TempLoraState:
        """Some of the episodes, in the given order."""
        first, second = self.moments or (None, None)
        return TempLoraState(
            self.weights.select(indices),
            (first.select(indices), second.select(indices)) if first and second else None,
            tuple(self.updates[i] for i in indices),
            tuple(e[torch.as_tensor(indices, device=e.device)] for e in self.effect),
            tuple(self.frames[i] for i in indices) if self.frames else (),
        )

    @staticmethod
    def concat(states: Sequence[TempLoraState]) -> TempLoraState:
        """Join batches. Adam's moments, if kept, are zero for episodes that have none yet."""
        moments = None
        if any(s.moments is not None for s in states):
            zeros = [s.weights.map(torch.zeros_like) for s in states]
            pairs = [s.moments or (z, z) for s, z in zip(states, zeros, strict=True)]
            moments = LoraWeights.cat([p[0] for p in pairs]), LoraWeights.cat([p[1] for p in pairs])
        measured = range(max(len(s.effect) for s in states))
        return TempLoraState(
            LoraWeights.cat([s.weights for s in states]),
            moments,
            tuple(u for s in states for u in s.updates),
            tuple(torch.cat([s._effect_of(k) for s in states]) for k in measured),
            tuple(f for s in states for f in s.frames),
        )

    def _effect_of(self, update: int) -> Tensor:
        if update < len(self.effect):
            return self.effect[update]
        return torch.full((self.weights.batch,), float("nan"), device=self.weights.tensors()[0].device)

    def tensors(self) -> dict[str, Tensor]:
        """Flat: ``theta.…``, ``first.…`` and ``second.…`` (Adam, if kept), ``frames.0…``, updates, effect."""
        groups = {"theta": self.weights}
        if self.moments is not None:
            groups |= {"first": self.moments[0], "second": self.moments[1]}
        flat = {f"{g}.{k}": v for g, weights in groups.items() for k, v in weights.state_dict().items()}
        flat |= {f"frames.{i}": f for i, f in enumerate(self.frames)}
        flat["updates"] = torch.tensor(self.updates)
        flat["effect"] = torch.stack(self.effect) if self.effect else torch.zeros(0, self.weights.batch)
        return flat


def grouped(tensors: Mapping[str, Tensor]) -> Groups:
    """``{"first.x": …}`` to ``{"first": {"x": …}}``; names without a dot are left out."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, rest = key.partition(".")
        if rest:
            groups.setdefault(group, {})[rest] = value
    return groups
