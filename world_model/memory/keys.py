"""Which A Θ₀ begins with: rows that tell places apart, instead of random ones.

From B = 0 a gradient step writes ΔW = -η Σ δ (A x)ᵀ A: a linear associative memory whose keys are A x (paper, Eq. 4-6).
Next to pure noise, where fast learning writes, a random A takes most of its keys from what x is everywhere and from
the noise that was drawn: what was seen at one place is then found at all of them, and under another noise hardly.
Fisher's linear discriminant asks for the opposite: directions in which x differs from place to place, not from draw to
draw. It needs no data, only the network: there is nothing but noise in these x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from world_model.memory.base import Denoiser
from world_model.memory.lora import LoraInjector, LoraWeights

RIDGE = 0.1  # of the mean variance: how small a spread between draws is believed
CONSTANT = 1e3  # how much more than noise the part counts that is the same everywhere
LARGEST = 200.0  # length of a row of A; a trained network's are below 50
FAINT = 1e-4  # share of x's square below which places do not differ, as where x is the text


class Moments:
    """First and second moments of a layer's inputs, by place: where in a sample's ``(N, in)`` a vector stands."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in ``(B, N, in)``."""
        x = x.double().cpu()
        self.count += len(x)
        self.sum = self.sum + x.sum(0)
        flat = x.flatten(0, 1)
        self.square = self.square + flat.T @ flat / x.shape[1]

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean ``(in,)``, and the covariances ``(in, in)`` between the places' means and within the places."""
        means, second = self.sum / self.count, self.square / self.count
        mean = means.mean(0)
        apart = means - mean
        return mean, apart.T @ apart / len(means), second - means.T @ means / len(means)


@contextmanager
def recorded(injector: LoraInjector, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hands ``take`` the inputs of each of the injector's layers, by their names."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, inputs: take(name, inputs[0])

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in injector.layers.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@torch.no_grad()
def place_keys(
    injector: LoraInjector,
    denoiser: Denoiser,
    shape: Sequence[int],
    timesteps: tuple[int, int],
    draws: int = 32,
    at_once: int = 8,
    seed: int = 0,
) -> LoraWeights:
    """Θ₀ ``(1, …)`` whose A tell places apart; B is zero. Its values are half-precision numbers, as
    :meth:`LoraInjector.initial`'s, whose A stay where the inputs do not differ from place to place.

    Args:
        injector: of the network that fast learning takes its gradients at.
        denoiser: that network.
        shape: ``(F, C, h, w)`` of the sequences that fast learning learns.
        timesteps: ``[low, high)`` of fast learning.
        draws: of noise.
    """
    nothing = torch.zeros(draws, *shape).split(at_once)
    moments = _moments(injector, denoiser.sequence_loss, nothing, timesteps, by_place=True, seed=seed)
    return _theta0(injector, {name: of.parts() for name, of in moments.items()}, seed)


@torch.no_grad()
def content_keys(
    injector: LoraInjector,
    denoiser: Denoiser,
    clean: Tensor,
    past_frames: int,
    timesteps: tuple[int, int],
    at_once: int = 8,
    seed: int = 0,
) -> LoraWeights:
    """Θ₀ ``(1, …)`` whose A tell apart what is seen; B is zero. As :func:`place_keys`, for an objective with a clean
    past.

    Args:
        clean: ``(N, F, C, h, w)`` latents of the data, in the order in which fast learning learns them.
        past_frames: how many of them stay clean.
    """

    def loss(some: Tensor, t: Tensor, noise: Tensor) -> None:
        denoiser.conditional_loss(some, past_frames, t, noise)

    moments = _moments(injector, loss, clean.split(at_once), timesteps, by_place=False, seed=seed)
    parts = {}
    for name, of in moments.items():
        mean, _, apart = of.parts()  # each vector stands alone: all that differs is told
        parts[name] = (mean, apart, torch.zeros_like(apart))
    return _theta0(injector, parts, seed)


def _moments(
    injector: LoraInjector,
    loss: Callable[[Tensor, Tensor, Tensor], object],
    batches: Iterable[Tensor],
    timesteps: tuple[int, int],
    by_place: bool,
    seed: int,
) -> dict[str, Moments]:
    """Moments of each layer's inputs over a forward pass of ``loss(clean, t, noise)`` per batch of clean latents
    ``(B, F, C, h, w)``; where not by place, each vector stands alone."""
    like = next(injector.unet.parameters())
    moments = {name: Moments() for name in injector.layers}
    generator = torch.Generator().manual_seed(seed)

    def take(name: str, x: Tensor) -> None:
        moments[name].add(x.reshape(*((len(clean), -1) if by_place else (-1, 1)), x.shape[-1]))

    with recorded(injector, take):
        for clean in batches:
            t = torch.randint(*timesteps, (len(clean),), generator=generator).to(like.device)
            loss(clean.to(like), t, torch.randn(clean.shape, generator=generator).to(like))
    return moments


def _theta0(
    injector: LoraInjector, parts: Mapping[str, tuple[Tensor, Tensor, Tensor]], seed: int
) -> LoraWeights:
    """Θ₀ whose A tell apart what differs, from each layer's mean and covariances between and within."""
    initial = injector.initial(seed).factors.items()
    return LoraWeights({name: (_telling(*parts[name], a), b) for name, (a, b) in initial})


def _telling(mean: Tensor, between: Tensor, within: Tensor, random: Tensor) -> Tensor:
    """A ``(1, r, in)``: the directions with the largest ratio of the variance between places to that within them, each
    scaled so that its keys have variance 1, the largest first; ``random`` where places do not differ, or where x is so
    small, as in a network that has hardly been trained, that such keys would blow up once it grows."""
    if between.trace() <= FAINT * (between.trace() + within.trace() + mean.square().sum()):
        return random
    variance = (between + within).diag().mean()
    noise = within + CONSTANT * torch.outer(mean, mean) + RIDGE * variance * torch.eye(len(mean)).double()
    whiten = torch.linalg.inv(torch.linalg.cholesky(noise))
    directions = torch.linalg.eigh(whiten @ between @ whiten.T).eigenvectors.flip(1).T @ whiten
    rows = directions[: random.shape[1]]
    rows = rows / ((rows @ (between + within)) * rows).sum(1, keepdim=True).sqrt()
    if rows.norm(dim=1).max() > LARGEST:
        return random
    keys = torch.zeros_like(random)
    keys[0, : len(rows)] = rows.half().to(random)
    return keys
