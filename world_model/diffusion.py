"""Masked conditional video diffusion: noise, loss and sampling (paper, Section 3.1.1, Eq. 1-2).

Latents are ``(B, F, C, h, w)``. The UNet sees them as ``(B, C + 1, F, h, w)``: ``UNet3DConditionModel``
has one timestep for all frames, so an extra channel says what each frame is: 1 a clean past frame,
0 a noised frame, -1 a past frame that is withheld (its latent is 0). A four-channel checkpoint gets
this channel with weights 0 and starts out as the model it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet3DConditionModel
from torch import Tensor

CLEAN, NOISED, WITHHELD = 1.0, 0.0, -1.0
PASSES = ("uncond", "past", "text")  # of guidance


class Diffusion:
    """One UNet with one noise schedule.

    Args:
        unet: ``in_channels`` is the latent's channels plus one.
        scheduler: its config names the schedule and the prediction type (ε for the paper and
            ModelScope, v allowed).
        null_tokens: ``(1, n, D)`` text tokens that mean no text.
    """

    def __init__(
        self, unet: UNet3DConditionModel, scheduler: DPMSolverMultistepScheduler, null_tokens: Tensor
    ):
        self.unet, self.scheduler, self.null_tokens = unet, scheduler, null_tokens
        self.num_train_timesteps: int = scheduler.config.num_train_timesteps
        self.prediction_type: str = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type={self.prediction_type}; expected epsilon or v_prediction")

    # --- the forward process -------------------------------------------------------------------

    def _alpha_sigma(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.scheduler.alphas_cumprod.to(like.device)[timesteps]
        shape = (-1,) + (1,) * (like.ndim - 1)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()  # 1 - ᾱ is lost in half precision
        return alpha.to(like.dtype).view(shape), sigma.to(like.dtype).view(shape)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε (Eq. 8); one t per episode."""
        alpha, sigma = self._alpha_sigma(timesteps, clean)
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is trained to say: ε, or v = √ᾱ ε - √(1-ᾱ) z_0."""
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self._alpha_sigma(timesteps, clean)
        return alpha * noise - sigma * clean

    def _forward(self, latents: Tensor, roles: Tensor, timesteps: Tensor, tokens: Tensor | None) -> Tensor:
        """The UNet on ``(B, F, C, h, w)`` with ``(B, F)`` roles; ``(B, F, C, h, w)`` out."""
        B, F, _, h, w = latents.shape
        mask = roles.to(latents.dtype).view(B, F, 1, 1, 1).expand(B, F, 1, h, w)
        if tokens is None:
            tokens = self.null_tokens.to(latents.device, latents.dtype).expand(B, -1, -1)
        sample = torch.cat([latents, mask], 2).transpose(1, 2)
        return self.unet(sample, timesteps, encoder_hidden_states=tokens).sample.transpose(1, 2)

    # --- slow learning -------------------------------------------------------------------------

    def conditional_loss(
        self,
        clean: Tensor,
        past_frames: int,
        timesteps: Tensor,
        noise: Tensor,
        tokens: Tensor | None = None,
        keep_past: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Eq. 2: the past stays clean (Eq. 1) and has no part in the loss.

        Args:
            clean: ``(B, f_p + f_g, C, h, w)``.
            past_frames: f_p.
            timesteps: ``(B,)``.
            noise: like ``clean``; its past part is not used.
            tokens: ``(B, n, D)`` text; None for none.
            keep_past: ``(B,)`` bool; False withholds an episode's past, for the unconditional branch.
            weight: ``(B, f_g, 1, h, w)`` with mean 1, or None.

        Returns:
            ``(B,)`` mean over the new frames.
        """
        past, new = clean[:, :past_frames], clean[:, past_frames:]
        eps = noise[:, past_frames:]
        roles = clean.new_full(clean.shape[:2], NOISED)
        roles[:, :past_frames] = CLEAN
        if keep_past is not None:
            past = past * keep_past.to(past.dtype).view(-1, 1, 1, 1, 1)
            roles[:, :past_frames] = torch.where(keep_past, CLEAN, WITHHELD).to(roles.dtype)[:, None]
        latents = torch.cat([past, self.add_noise(new, eps, timesteps)], 1)
        error = self._forward(latents, roles, timesteps, tokens)[:, past_frames:] - self.target(
            new, eps, timesteps
        )
        error = error.float().pow(2)
        return (error if weight is None else error * weight).mean((1, 2, 3, 4))

    # --- fast learning -------------------------------------------------------------------------

    def sequence_loss(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Eq. 3: every frame of ``(B, F, C, h, w)`` noised, no text, all frames in the loss; ``(B,)``."""
        prediction = self._sequence_prediction(clean, timesteps, noise)
        return (prediction - self.target(clean, noise, timesteps)).float().pow(2).mean((1, 2, 3, 4))

    def _sequence_prediction(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        roles = clean.new_full(clean.shape[:2], NOISED)
        return self._forward(self.add_noise(clean, noise, timesteps), roles, timesteps, None)

    def predicted_noise(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """ε that the model reads off the sequence of :meth:`sequence_loss`; like ``clean``."""
        prediction = self._sequence_prediction(clean, timesteps, noise)
        if self.prediction_type == "epsilon":
            return prediction
        alpha, sigma = self._alpha_sigma(timesteps, clean)
        return alpha * prediction + sigma * self.add_noise(clean, noise, timesteps)

    # --- sampling ------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        past: Tensor,
        noise: Tensor,
        tokens: Tensor,
        steps: int,
        guidance: tuple[float, float] = (1.0, 1.0),
        applied: Callable[[Sequence[str]], AbstractContextManager[Any]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Denoise new frames after clean past ones with three-way guidance (Appendix C.1):
        ``uncond + s_past (past - uncond) + s_text (text - past)``, its passes in one batch.

        Args:
            past: ``(B, f_p, C, h, w)``, clean, never changed.
            noise: ``(B, f_g, C, h, w)``.
            tokens: ``(B, n, D)``.
            steps: of DPM-Solver++.
            guidance: (s_past, s_text); 2 and 5 in the paper. A pass whose factor is 0 is left out.
            applied: context manager for the given passes (``uncond``, ``past``, ``text``, outermost in
                the batch): where Θ enters.
            progress: called with (steps done, steps); what it raises ends the sampling.

        Returns:
            ``(B, f_g, C, h, w)``.
        """
        factors = guidance_factors(guidance)
        passes = list(factors)
        B, n_past = past.shape[:2]
        roles, pasts, texts = [], [], []
        for name in passes:
            role = past.new_full((B, n_past + noise.shape[1]), NOISED)
            role[:, :n_past] = WITHHELD if name == "uncond" else CLEAN
            roles.append(role)
            pasts.append(torch.zeros_like(past) if name == "uncond" else past)
            null = self.null_tokens.to(tokens).expand(B, -1, -1)
            if null.shape[1] < tokens.shape[1]:
                null = torch.cat([null, tokens[:, null.shape[1] :]], 1)
            texts.append(tokens if name == "text" else null)
        all_roles, all_past, all_text = torch.cat(roles), torch.cat(pasts), torch.cat(texts)
        scheduler = DPMSolverMultistepScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=past.device)
        z = noise
        with applied(passes) if applied else torch.no_grad():
            for k, t in enumerate(scheduler.timesteps):
                latents = torch.cat([all_past, z.repeat(len(passes), 1, 1, 1, 1)], 1)
                time = torch.full((len(latents),), int(t), device=z.device)
                out = self._forward(latents, all_roles, time, all_text)[:, n_past:].chunk(len(passes))
                prediction = sum(factors[name] * o for name, o in zip(passes, out, strict=True))
                z = scheduler.step(prediction, t, z).prev_sample
                if progress:
                    progress(k + 1, steps)
        return z


def guidance_factors(guidance: tuple[float, float]) -> dict[str, float]:
    """Each pass's factor in the sum of :meth:`Diffusion.sample`; only passes that count."""
    s_past, s_text = guidance
    factors = dict(zip(PASSES, (1 - s_past, s_past - s_text, s_text), strict=True))
    return {name: factor for name, factor in factors.items() if abs(factor) > 1e-9}


class Announced:
    """A diffusion model whose passes in fast learning are announced.

    Args:
        diffusion: makes the passes.
        announce: called before each of them; what it raises ends the learning.
    """

    def __init__(self, diffusion: Diffusion, announce: Callable[[], None]):
        self.diffusion, self.announce = diffusion, announce
        self.num_train_timesteps = diffusion.num_train_timesteps

    def sequence_loss(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`Diffusion.sequence_loss`."""
        self.announce()
        return self.diffusion.sequence_loss(clean, timesteps, noise)

    def conditional_loss(
        self, clean: Tensor, past_frames: int, timesteps: Tensor, noise: Tensor, tokens: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Diffusion.conditional_loss`."""
        self.announce()
        return self.diffusion.conditional_loss(clean, past_frames, timesteps, noise, tokens)

    def predicted_noise(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`Diffusion.predicted_noise`."""
        self.announce()
        return self.diffusion.predicted_noise(clean, timesteps, noise)
