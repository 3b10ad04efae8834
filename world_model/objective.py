"""What one training step minimises: Eq. 2 on chunks, with dropped conditions and a share of Eq. 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from world_model.chunks import change_weight
from world_model.diffusion import Diffusion
from world_model.text import TextEncoder


class ObjectiveOptions(Protocol):
    """The options that both trainers have; see ``configs/pretrain.yaml``."""

    drop_past: float
    drop_text: float
    sequence_share: float
    high_noise: float
    high_from: float
    change_weight: float
    past_noise: float


SHARES = ("drop_past", "drop_text", "sequence_share", "high_noise", "high_from")


@dataclass(frozen=True)
class Draws:
    """A batch's random numbers, drawn for all B samples whichever process trains on which.

    Attributes:
        timesteps: ``(B,)``.
        noise: ``(B, F, C, h, w)``.
        with_text, with_past: ``(B,)`` bool; False drops the condition (Appendix C.1).
        sequence: Eq. 3's objective for this batch: all frames noised, no text.
        past_noise: ``(B,)`` standard deviation of what is added to the past; None adds nothing.
    """

    timesteps: Tensor
    noise: Tensor
    with_text: Tensor
    with_past: Tensor
    sequence: bool
    past_noise: Tensor | None = None

    def part(self, chosen: slice | Sequence[int], frames: int | None = None) -> Draws:
        """The numbers of some of the samples; noise for the first ``frames`` alone where they have fewer."""
        fields = ("timesteps", "noise", "with_text", "with_past")
        part = replace(self, **{name: getattr(self, name)[chosen] for name in fields})
        levels = None if self.past_noise is None else self.past_noise[chosen]
        return replace(part, noise=part.noise[:, :frames], past_noise=levels)

    def spoiled(self, clean: Tensor, past_frames: int) -> Tensor:
        """``(B, F, C, h, w)`` latents with the past as a rollout's own may be: what is imagined is never quite true."""
        if self.past_noise is None:
            return clean
        added = self.past_noise.view(-1, 1, 1, 1, 1) * self.noise[:, :past_frames]
        return torch.cat([clean[:, :past_frames] + added.to(clean), clean[:, past_frames:]], 1)


def draw_timesteps(
    count: int, total: int, high_share: float, high_from: float, rng: torch.Generator
) -> Tensor:
    """``(count,)`` uniform timesteps, a share of them from ``high_from · total`` on."""
    low = torch.where(torch.rand(count, generator=rng) < high_share, int(high_from * total), 0)
    return (low + torch.rand(count, generator=rng) * (total - low)).long()


class Objective:
    """Eq. 2, and for a share of the batches Eq. 3, so that fast learning's objective is in distribution.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    def __init__(self, diffusion: Diffusion, text: TextEncoder, options: ObjectiveOptions):
        shares = {n: getattr(options, n) for n in SHARES}
        if wrong := [f"{n}={v}" for n, v in shares.items() if not 0 <= v <= 1]:
            raise ValueError(f"{', '.join(wrong)}: expected a share from 0 to 1")
        self.diffusion, self.text, self.options = diffusion, text, options

    def draw(self, shape: Sequence[int], rng: torch.Generator) -> Draws:
        """The random numbers of a batch of ``(B, F, C, h, w)`` latents."""
        options, count = self.options, shape[0]
        total = self.diffusion.num_train_timesteps
        t = draw_timesteps(count, total, options.high_noise, options.high_from, rng)
        noise = torch.randn(tuple(shape), generator=rng)
        with_text = torch.rand(count, generator=rng) >= options.drop_text
        with_past = torch.rand(count, generator=rng) >= options.drop_past
        sequence = bool(torch.rand((), generator=rng) < options.sequence_share)
        levels = options.past_noise * torch.rand(count, generator=rng) if options.past_noise else None
        return Draws(t, noise, with_text, with_past, sequence, levels)

    def losses(
        self,
        clean: Tensor,
        past_frames: int,
        captions: Sequence[str],
        draws: Draws,
        extra_past: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """``(B,)`` losses, and figures for the log.

        Args:
            clean: ``(B, f_p + f_g, C, h, w)`` on the model's device.
            captions: B of them.
            extra_past: ``(B, f, C, h, w)`` clean frames that a memory puts before the past; not in Eq. 3.
            extra_tokens: ``(B, n, D)`` tokens that a memory adds to the text's.
        """
        diffusion, device = self.diffusion, clean.device
        t, noise = draws.timesteps.to(device), draws.noise.to(device)
        if draws.sequence:
            losses = diffusion.sequence_loss(clean, t, noise)
            return losses, {"loss/sequence": float(losses.detach().mean())}
        tokens = self.text.encode(captions).to(clean)
        keep = draws.with_text.to(device).view(-1, 1, 1)
        tokens = torch.where(keep, tokens, diffusion.null_tokens.to(tokens))
        if extra_tokens is not None:
            tokens = torch.cat([tokens, extra_tokens.to(tokens)], 1)
        new_frames, kind = clean.shape[1] - past_frames, f"{past_frames}+{clean.shape[1] - past_frames}"
        weight = change_weight(clean, past_frames, self.options.change_weight)
        clean = draws.spoiled(clean, past_frames)
        if extra_past is not None:
            clean = torch.cat([extra_past.to(clean), clean], 1)
            noise = torch.cat([torch.zeros_like(extra_past).to(noise), noise], 1)  # a past's noise is unused
            past_frames = clean.shape[1] - new_frames
        losses = diffusion.conditional_loss(
            clean, past_frames, t, noise, tokens, draws.with_past.to(device), weight
        )
        figures = {f"loss/{kind}": float(losses.detach().mean())}
        high = t >= diffusion.num_train_timesteps // 2
        for name, chosen in (("t_low", ~high), ("t_high", high)):
            if bool(chosen.any()):
                figures[f"loss/{name}"] = float(losses.detach()[chosen].mean())
        return losses, figures
