"""Eq. 1-3 and three-way guidance on a tiny real UNet3DConditionModel, checked against the paper's formulas."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UNet3DConditionModel
from tiny import CHANNELS, LATENT, WIDTH, latents, make_scheduler, make_unet
from torch import Tensor

from world_model.diffusion import CLEAN, NOISED, WITHHELD, Diffusion
from world_model.training import Learner, train

KINDS = ["epsilon", "v_prediction"]
FRAMES = [(1, 1), (1, 4), (3, 2), (5, 1)]


@pytest.fixture(scope="module")
def unet() -> UNet3DConditionModel:
    return make_unet()


def make_diffusion(unet: UNet3DConditionModel, kind: str = "v_prediction") -> Diffusion:
    null = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(9))
    return Diffusion(unet, make_scheduler(kind), null)


def tokens(batch: int, count: int = 1, seed: int = 5) -> Tensor:
    return torch.randn(batch, count, WIDTH, generator=torch.Generator().manual_seed(seed))


@contextmanager
def inputs_of(unet: UNet3DConditionModel):
    """Collects (latents (B, F, C, h, w), mask (B, F), timesteps, text) of every forward pass."""
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def look(_, args, kwargs):
        sample = args[0].transpose(1, 2)
        mask = sample[:, :, CHANNELS]
        assert bool((mask == mask[..., :1, :1]).all())
        seen.append(
            (sample[:, :, :CHANNELS], mask[..., 0, 0], args[1].clone(), kwargs["encoder_hidden_states"])
        )

    handle = unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# --- the forward process -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_add_noise_and_target_are_the_formulas(unet, kind):
    diffusion = make_diffusion(unet, kind)
    clean, noise, t = latents(3, 2), latents(3, 2, seed=1), torch.tensor([0, 500, 999])
    alpha_bar = diffusion.scheduler.alphas_cumprod[t].view(3, 1, 1, 1, 1)
    z = diffusion.add_noise(clean, noise, t)
    torch.testing.assert_close(z, alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise)
    target = diffusion.target(clean, noise, t)
    if kind == "epsilon":
        assert target is noise
    else:
        torch.testing.assert_close(target, alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean)
        torch.testing.assert_close(alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * target, clean)


def test_add_noise_keeps_small_noise_in_half_precision(unet):
    diffusion = make_diffusion(unet)
    clean, noise, t = latents(1, 1), latents(1, 1, seed=1), torch.tensor([3])
    sigma = (1 - diffusion.scheduler.alphas_cumprod[3]).sqrt()
    half = diffusion.add_noise(torch.zeros_like(clean).bfloat16(), noise.bfloat16(), t).float()
    torch.testing.assert_close(half, sigma * noise, rtol=0.02, atol=0)


def test_only_the_known_prediction_types(unet):
    with pytest.raises(ValueError, match="prediction_type=sample; expected epsilon or v_prediction"):
        make_diffusion(unet, "sample")


# --- slow learning, Eq. 1-2 ----------------------------------------------------------------------


@pytest.mark.parametrize(("past", "new"), FRAMES)
def test_training_shows_a_clean_past_and_noised_new_frames(unet, past, new):
    diffusion = make_diffusion(unet)
    clean, noise, t = latents(2, past + new), latents(2, past + new, seed=1), torch.tensor([900, 100])
    with inputs_of(unet) as seen:
        losses = diffusion.conditional_loss(clean, past, t, noise, tokens(2))
    assert losses.shape == (2,)
    (z, mask, times, text), *more = seen
    assert not more and torch.equal(times, t) and torch.equal(text, tokens(2))
    assert torch.equal(z[:, :past], clean[:, :past])
    assert torch.equal(z[:, past:], diffusion.add_noise(clean[:, past:], noise[:, past:], t))
    assert bool((mask[:, :past] == CLEAN).all() and (mask[:, past:] == NOISED).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_error_on_the_new_frames(unet, kind):
    diffusion = make_diffusion(unet, kind)
    clean, noise, t = latents(2, 5), latents(2, 5, seed=1), torch.tensor([900, 100])
    z = torch.cat([clean[:, :3], diffusion.add_noise(clean[:, 3:], noise[:, 3:], t)], 1)
    mask = torch.tensor([1.0, 1, 1, 0, 0]).view(1, 5, 1, 1, 1).expand(2, 5, 1, LATENT, LATENT)
    said = unet(torch.cat([z, mask], 2).transpose(1, 2), t, tokens(2)).sample.transpose(1, 2)[:, 3:]
    by_hand = (said - diffusion.target(clean[:, 3:], noise[:, 3:], t)).square().flatten(1).mean(1)
    torch.testing.assert_close(diffusion.conditional_loss(clean, 3, t, noise, tokens(2)), by_hand)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_ignores_the_past(unet, kind):
    """Neither the past's noise, nor its target, nor what the network says of it has a part in the loss."""
    diffusion, past = make_diffusion(unet, kind), 3
    clean, t = latents(2, 5), torch.tensor([900, 100])
    noise = latents(2, 5, seed=1).requires_grad_(True)
    said: list[Tensor] = []

    def keep(_, args, output):
        output.sample.requires_grad_(True).retain_grad()
        said.append(output.sample)

    handle = unet.register_forward_hook(keep)
    loss = diffusion.conditional_loss(clean, past, t, noise, tokens(2))
    handle.remove()
    loss.sum().backward()
    assert noise.grad is not None and said[0].grad is not None
    assert not noise.grad[:, :past].any() and bool((noise.grad[:, past:] != 0).all())
    assert not said[0].grad[:, :, :past].any() and bool((said[0].grad[:, :, past:] != 0).all())

    other = noise.detach().clone()
    other[:, :past] = latents(2, past, seed=7) * 1e3
    assert torch.equal(diffusion.conditional_loss(clean, past, t, other, tokens(2)), loss.detach())

    def spoil(_, args, output):
        output.sample[:, :, :past] += 1e3

    handle = unet.register_forward_hook(spoil)
    spoiled = diffusion.conditional_loss(clean, past, t, other, tokens(2))
    handle.remove()
    assert torch.equal(spoiled, loss.detach())


def test_the_past_still_matters_as_input(unet):
    diffusion = make_diffusion(unet)
    clean, noise, t = latents(2, 5), latents(2, 5, seed=1), torch.tensor([900, 100])
    other = clean.clone()
    other[:, :3] = latents(2, 3, seed=8)
    a, b = (diffusion.conditional_loss(c, 3, t, noise, tokens(2)) for c in (clean, other))
    assert bool(((a - b).abs() > 1e-5).all())


def test_a_withheld_past_is_zero_and_marked(unet):
    diffusion = make_diffusion(unet)
    clean, noise, t = latents(2, 5), latents(2, 5, seed=1), torch.tensor([900, 100])
    with inputs_of(unet) as seen:
        diffusion.conditional_loss(clean, 3, t, noise, keep_past=torch.tensor([True, False]))
    z, mask, _, text = seen[0]
    assert torch.equal(z[0, :3], clean[0, :3]) and not z[1, :3].any()
    assert mask[:, :3].tolist() == [[CLEAN] * 3, [WITHHELD] * 3] and not mask[:, 3:].any()
    assert torch.equal(text, diffusion.null_tokens.expand(2, -1, -1))


def test_weights_of_the_loss(unet):
    diffusion = make_diffusion(unet)
    clean, noise, t = latents(1, 3), latents(1, 3, seed=1), torch.tensor([500])
    plain = diffusion.conditional_loss(clean, 1, t, noise)
    ones = torch.ones(1, 2, 1, LATENT, LATENT)
    torch.testing.assert_close(diffusion.conditional_loss(clean, 1, t, noise, weight=ones), plain)
    halves = [ones.clone(), ones.clone()]
    halves[0][:, 0], halves[1][:, 1] = 0, 0
    parts = [diffusion.conditional_loss(clean, 1, t, noise, weight=w) for w in halves]
    torch.testing.assert_close(parts[0] + parts[1], plain)


# --- fast learning, Eq. 3 ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_sequence_loss_noises_and_counts_every_frame(unet, kind):
    diffusion = make_diffusion(unet, kind)
    clean, noise, t = latents(2, 4), latents(2, 4, seed=1), torch.tensor([700, 900])
    with inputs_of(unet) as seen:
        losses = diffusion.sequence_loss(clean, t, noise)
    z, mask, _, text = seen[0]
    assert torch.equal(z, diffusion.add_noise(clean, noise, t)) and not mask.any()
    assert torch.equal(text, diffusion.null_tokens.expand(2, -1, -1))
    said = unet(torch.cat([z, mask.view(2, 4, 1, 1, 1).expand_as(z[:, :, :1])], 2).transpose(1, 2), t, text)
    said = said.sample.transpose(1, 2)
    by_hand = (said - diffusion.target(clean, noise, t)).square().flatten(1).mean(1)
    torch.testing.assert_close(losses, by_hand)
    expected = said
    if kind == "v_prediction":
        alpha_bar = diffusion.scheduler.alphas_cumprod[t].view(2, 1, 1, 1, 1)
        expected = alpha_bar.sqrt() * said + (1 - alpha_bar).sqrt() * z
    torch.testing.assert_close(diffusion.predicted_noise(clean, t, noise), expected)


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("past", "new"), FRAMES)
def test_past_frames_stay_clean_through_sampling(unet, past, new):
    diffusion, B, steps = make_diffusion(unet), 2, 4
    given, noise = latents(B, past), latents(B, new, seed=1)
    before = given.clone()
    done: list[tuple[int, int]] = []
    with inputs_of(unet) as seen:
        out = diffusion.sample(
            given, noise, tokens(B), steps, (2.0, 5.0), progress=lambda *at: done.append(at)
        )
    assert out.shape == (B, new, CHANNELS, LATENT, LATENT) and bool(out.isfinite().all())
    assert torch.equal(given, before) and len(seen) == steps
    assert done == [(k + 1, steps) for k in range(steps)]
    previous = noise
    for k, (z, mask, times, _) in enumerate(seen):
        uncond, *conditioned = z.chunk(3)
        assert not uncond[:, :past].any() and bool((mask[:B, :past] == WITHHELD).all())
        for part in conditioned:
            assert torch.equal(part[:, :past], before)
        assert bool((mask[B:, :past] == CLEAN).all()) and not mask[:, past:].any()
        new_parts = z[:, past:].chunk(3)
        assert all(torch.equal(part, new_parts[0]) for part in new_parts)
        assert torch.equal(new_parts[0], previous) == (k == 0)
        previous = new_parts[0]
        assert len(times.unique()) == 1


def sampled_by_hand(
    diffusion: Diffusion, past: Tensor, noise: Tensor, text: Tensor, steps: int, scales
) -> Tensor:
    """Appendix C.1 with three separate forward passes a step."""
    scheduler = DPMSolverMultistepScheduler.from_config(diffusion.scheduler.config)
    scheduler.set_timesteps(steps)
    null, z = diffusion.null_tokens.expand(len(past), -1, -1), noise

    def forward(clean: Tensor, role: float, words: Tensor) -> Tensor:
        latent = torch.cat([clean, z], 1)
        mask = torch.cat([torch.full_like(clean[:, :, :1], role), torch.zeros_like(z[:, :, :1])], 1)
        sample = torch.cat([latent, mask], 2).transpose(1, 2)
        return diffusion.unet(sample, t, words).sample.transpose(1, 2)[:, past.shape[1] :]

    with torch.no_grad():
        for t in scheduler.timesteps:
            uncond = forward(torch.zeros_like(past), WITHHELD, null)
            image, words = forward(past, CLEAN, null), forward(past, CLEAN, text)
            guided = uncond + scales[0] * (image - uncond) + scales[1] * (words - image)
            z = scheduler.step(guided, t, z).prev_sample
    return z


# The scales, and how many of the three passes have a factor other than 0.
SCALES = [((2.0, 5.0), 3), ((0.5, 1.5), 3), ((1.0, 1.5), 2), ((2.0, 2.0), 2), ((2.0, 0.0), 2), ((1.0, 1.0), 1),
          ((1.0, 0.0), 1), ((0.0, 0.0), 1)]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "scales", "passes"),
    [("epsilon", (2.0, 5.0), 3), *[("v_prediction", *case) for case in SCALES]],
)
def test_guidance_is_the_papers_formula_and_skips_what_has_no_share(unet, kind, scales, passes):
    diffusion = make_diffusion(unet, kind)
    past, noise = latents(2, 2), latents(2, 2, seed=1)
    names: list[str] = []

    @contextmanager
    def applied(given):
        names.extend(given)
        yield

    with inputs_of(unet) as seen:
        out = diffusion.sample(past, noise, tokens(2), 3, scales, applied)
    assert {len(z) for z, *_ in seen} == {2 * passes} and len(names) == passes
    by_hand = sampled_by_hand(diffusion, past, noise, tokens(2), 3, scales)
    torch.testing.assert_close(out, by_hand, rtol=1e-4, atol=1e-4 * float(by_hand.abs().max()))


def test_each_pass_sees_its_own_text(unet):
    """A memory's tokens, which follow the text's, stay in every pass; the text itself only in the last."""
    diffusion = make_diffusion(unet)
    both = tokens(2, count=3)
    with inputs_of(unet) as seen:
        diffusion.sample(latents(2, 2), latents(2, 2, seed=1), both, 2, (2.0, 5.0))
    uncond, past, text = seen[0][3].chunk(3)
    null = torch.cat([diffusion.null_tokens.expand(2, -1, -1), both[:, 1:]], 1)
    assert torch.equal(uncond, null) and torch.equal(past, null) and torch.equal(text, both)


# --- learning ------------------------------------------------------------------------------------


def test_one_batch_is_overfitted(tmp_path: Path):
    """50 steps bring the loss of one batch from above 0.9 to below 0.02."""
    unet = make_unet().requires_grad_(True)
    learner = Learner(unet, tmp_path, 50, 2e-2, 5, 0.9)
    diffusion = make_diffusion(unet)
    clean, noise, t = latents(2, 3), latents(2, 3, seed=1), torch.tensor([600, 300])
    history: list[float] = []

    def loss(step: int):
        value = diffusion.conditional_loss(clean, 1, t, noise, tokens(2)).mean()
        history.append(float(value.detach()))
        return value, {}

    train(learner, loss, None, 1000)
    assert history[0] > 0.9 and history[-1] < 0.02, (history[0], history[-1])
