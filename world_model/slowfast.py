"""The slow-fast loop (paper, Section 3.3, Algorithm 1b).

The inner loop walks through B episodes with fast learning and keeps, before each update, the chunk and the
memory as it stood, {X_i, X_{i+1}, Θ_i}: those of the last inner loops are D_s. The outer loop trains Φ on D_s
at Φ + Θ_i, with Θ_i frozen. Any memory will do: with ``none`` it is the control with equal gradient steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tasks import Segment
from world_model.chunks import LatentEpisodes
from world_model.memory.base import AnyMemory
from world_model.memory.lora import LoraWeights
from world_model.model import Rollout, WorldModel
from world_model.objective import Draws, Objective
from world_model.training import TrainingError, generator

Inner = Literal["ground_truth", "generated", "mixed"]
ORDER, INNER, OUTER = 11, 12, 13  # streams of random numbers


class SlowWeights(nn.Module):
    """What slow learning trains: Φ, and a memory's own module if it has one. Called, it is the UNet."""

    def __init__(self, unet: nn.Module, memory: nn.Module | None):
        super().__init__()
        self.unet = unet
        self.memory = memory if memory is None else memory.requires_grad_(True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.unet(*args, **kwargs)


def applied(model: WorldModel, weights: LoraWeights | None) -> AbstractContextManager:
    """Φ + Θ while open; Φ for a memory without weights."""
    if weights is None or model.injector is None:
        return nullcontext()
    return model.injector.applied(weights)


class EpisodeBatches:
    """Which episodes each iteration takes: batches of equally many chunks, each episode once an epoch.

    Args:
        segments: the training episodes', so that all can be checked before any is encoded.
        size: B.
        chunk_frames: new frames of a chunk.
        lengths: numbers of chunks to take; None takes all episodes.

    Attributes:
        left_out: numbers of chunks that fewer than B episodes have, and how many; no batch has these.

    Raises:
        ValueError: an episode of a single chunk, which leaves nothing to remember, a chunk of another
            length, or too few episodes of a kind.
    """

    def __init__(
        self,
        segments: Sequence[Sequence[Segment]],
        size: int,
        chunk_frames: int,
        seed: int,
        lengths: Sequence[int] | None = None,
    ):
        self.size, self.seed = size, seed
        self.groups: dict[int, list[int]] = {}
        for episode, parts in enumerate(segments):
            if lengths is None or len(parts) in lengths:
                self.groups.setdefault(len(parts), []).append(episode)
        if not self.groups:
            raise ValueError(
                f"chunks={list(lengths or ())}: no episode has so many; collect some, or change it"
            )
        if short := [e for n in self.groups if n < 2 for e in self.groups[n]]:
            raise ValueError(
                f"{len(short)} of {len(segments)} episodes hold a single chunk, which leaves nothing to remember; "
                "collect episodes of at least 2 chunks"
            )
        frames = {s.stop - s.start for parts in segments for s in parts}
        if frames != {chunk_frames}:
            raise ValueError(
                f"the data has chunks of {sorted(frames)} frames, the world model makes {chunk_frames}; "
                "collect data for this model, or train a model on this data"
            )
        self.left_out = {n: len(g) for n, g in self.groups.items() if len(g) < size}
        self.per_epoch = sum(len(g) // size for g in self.groups.values())
        if not self.per_epoch:
            largest = max(len(g) for g in self.groups.values())
            raise ValueError(
                f"batch_size={size}, but at most {largest} of the {len(segments)} episodes have equally many "
                "chunks; lower it or collect more"
            )

    def __getitem__(self, iteration: int) -> list[int]:
        """The B episodes of an iteration."""
        epoch, index = divmod(iteration, self.per_epoch)
        rng = generator(self.seed, epoch, ORDER)
        batches = []
        for count in sorted(self.groups):
            group = self.groups[count]
            order = torch.randperm(len(group), generator=rng).tolist()
            batches += [
                [group[i] for i in order[at : at + self.size]]
                for at in range(0, len(group) - self.size + 1, self.size)
            ]
        return batches[int(torch.randperm(len(batches), generator=rng)[index])]


@dataclass(frozen=True)
class Sample:
    """One chunk that the outer loop trains on.

    Attributes:
        past: ``(f_p, C, h, w)``, as the inner loop saw it.
        new: ``(f_g, C, h, w)``, the truth.
        caption: what the chunk was asked for.
        state: the memory of this one episode before it remembers the chunk.
    """

    past: Tensor
    new: Tensor
    caption: str
    state: Any


@dataclass(frozen=True)
class Experience:
    """What an inner loop collects of B episodes: per chunk i, what to train on, and the memory before its update.

    Attributes:
        pasts: per chunk ``(B, f_p, C, h, w)``, as the inner loop saw it.
        news: per chunk ``(B, f_g, C, h, w)``, the truth.
        captions: per chunk B of them.
        states: per chunk, the memory's state before it remembers this chunk.
    """

    pasts: tuple[Tensor, ...]
    news: tuple[Tensor, ...]
    captions: tuple[tuple[str, ...], ...]
    states: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.states)

    def sample(self, memory: AnyMemory, episode: int, chunk: int) -> Sample:
        """Chunk ``chunk`` of the ``episode``-th of the B episodes."""
        state = memory.select(self.states[chunk], [episode])
        caption = self.captions[chunk][episode]
        return Sample(self.pasts[chunk][episode], self.news[chunk][episode], caption, state)


def inner_loop(
    model: WorldModel, data: LatentEpisodes, episodes: Sequence[int], inner: Inner, seed: int, iteration: int
) -> Experience:
    """Fast learning through whole episodes (Algorithm 1b, inner loop).

    Args:
        inner: what is remembered and continued from: the data's chunks, the model's own, or by turns
            (every other iteration).
        seed, iteration: fix every random draw of an episode, whatever batch it is in.
    """
    generated = inner == "generated" or (inner == "mixed" and iteration % 2 == 1)
    segments = [data.segments[e] for e in episodes]
    device = model.device
    first = torch.stack([data.latents[e][s[0].start] for e, s in zip(episodes, segments, strict=True)])
    seeds = tuple(_episode_seed(seed, iteration, e) for e in episodes)
    unseen = np.empty((len(seeds), 0, 0, 3), np.uint8)
    past = first.float().to(device)[:, None]
    rollout = Rollout(seeds, 0, past, unseen, model.memory.reset(len(seeds)))
    if model.foresees:
        ends = [data.latents[e][[c.stop for c in s]] for e, s in zip(episodes, segments, strict=True)]
        rollout = model.foresee_latents(rollout, torch.stack(ends).float().to(device))
    pasts, news, captions, states = [], [], [], []
    for k in range(len(segments[0])):
        chunks = [s[k] for s in segments]
        true = torch.stack(
            [data.latents[e][c.start + 1 : c.stop + 1] for e, c in zip(episodes, chunks, strict=True)]
        )
        true = true.float().to(device)
        texts = tuple(c.caption for c in chunks)
        pasts.append(rollout.past)
        news.append(true)
        captions.append(texts)
        states.append(rollout.memory)
        if k + 1 < len(segments[0]):
            new = model.imagine_latents(rollout, texts) if generated else true
            rollout = model.remember_latents(rollout, texts, new)
    return Experience(tuple(pasts), tuple(news), tuple(captions), tuple(states))


def _episode_seed(seed: int, iteration: int, episode: int) -> int:
    return int(torch.randint(2**31, (), generator=generator(seed * 1_000_003 + iteration, episode, INNER)))


class ChunkChooser:
    """Which chunk of each episode an outer step trains on.

    Args:
        focus: regular expression; chunks whose caption it finds need the memory. Null: none.
        focus_share: share of the draws that take such a chunk, where an episode has one.
        first_share: share of the steps that train on first chunks, from a single past frame.
    """

    def __init__(self, focus: str | None, focus_share: float, first_share: float):
        self.focus = re.compile(focus) if focus else None
        self.focus_share, self.first_share = focus_share, first_share

    def in_focus(self, caption: str) -> bool:
        return self.focus is not None and self.focus.search(caption) is not None

    def __call__(self, captions: Sequence[Sequence[str]], rng: torch.Generator) -> list[int]:
        """One chunk index an episode, from each episode's captions; all 0, or none is."""
        count = len(captions)
        first = bool(torch.rand((), generator=rng) < self.first_share)
        focused = torch.rand(count, generator=rng) < self.focus_share
        where = torch.rand(count, generator=rng)
        if first:
            return [0] * count
        chosen = []
        for b, told in enumerate(captions):
            later = list(range(1, len(told)))
            wanted = [k for k in later if self.in_focus(told[k])]
            others = [k for k in later if k not in wanted]
            pool = (wanted if focused[b] else others) or later
            chosen.append(pool[int(where[b] * len(pool))])
        return chosen


class SlowFastLoss:
    """The outer loop's loss; at each iteration's first step it walks the inner loop.

    Args:
        model: its UNet is the one in training.
        objective: Eq. 2 through the wrapped network.
        part: which of the B episodes of an iteration, and of the B samples of a step, this process takes.
        outer_steps: gradient steps after each inner loop.
        pool: inner loops whose episodes are D_s. Each sample of a step comes from one of them, drawn by itself,
            always at the same place among the B, so that a process needs no other's episodes.
    """

    def __init__(
        self,
        model: WorldModel,
        objective: Objective,
        data: LatentEpisodes,
        batches: EpisodeBatches,
        chooser: ChunkChooser,
        inner: Inner,
        outer_steps: int,
        seed: int,
        part: slice,
        pool: int = 1,
    ):
        self.model, self.objective, self.data, self.batches = model, objective, data, batches
        self.chooser, self.inner, self.outer_steps = chooser, inner, outer_steps
        self.seed, self.part, self.pool = seed, part, pool
        self._collected: dict[int, Experience] = {}

    def _kept(self, iteration: int) -> range:
        """The inner loops that D_s holds at an iteration."""
        return range(max(0, iteration - self.pool + 1), iteration + 1)

    def collected(self, iteration: int) -> dict[int, Experience]:
        """D_s at an iteration, by the inner loop that it comes from: this process's episodes. What is missing,
        as after a restart, is walked again."""
        kept = self._kept(iteration)
        self._collected = {i: e for i, e in self._collected.items() if i in kept}
        for i in kept:
            if i not in self._collected:
                episodes = self.batches[i][self.part]
                self._collected[i] = inner_loop(self.model, self.data, episodes, self.inner, self.seed, i)
        return self._collected

    def draw(self, step: int) -> tuple[list[int], list[int], list[int], torch.Generator]:
        """What the B samples of a step are: the inner loop, the episode and the chunk of each, whichever process
        trains on it; and the generator for what else is drawn."""
        kept, rng = self._kept(step // self.outer_steps), generator(self.seed, step, OUTER)
        loops = torch.randint(kept.start, kept.stop, (self.batches.size,), generator=rng).tolist()
        episodes = [self.batches[i][place] for place, i in enumerate(loops)]
        captions = [[s.caption for s in self.data.segments[e]] for e in episodes]
        return loops, episodes, self.chooser(captions, rng), rng

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of step ``step`` on this process's part of the batch."""
        iteration = step // self.outer_steps
        collected = self.collected(iteration)
        loops, episodes, chunks, rng = self.draw(step)
        samples = [
            collected[i].sample(self.model.memory, place, k)
            for place, (i, k) in enumerate(zip(loops[self.part], chunks[self.part], strict=True))
        ]
        new = samples[0].new
        past = min(1 + max(chunks) * len(new), self.model.past_frames)  # of the longest
        draws = self.objective.draw((len(loops), past + len(new), *new.shape[1:]), rng).part(self.part)
        losses, figures = chunk_losses(self.model, self.objective, samples, draws)
        if not torch.isfinite(losses).all():
            bad = [episodes[self.part][i] for i in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
            raise TrainingError(
                f"the loss is not finite at step {step} (iteration {iteration}, episodes {bad}); the last checkpoint, "
                "if there is one, is intact. Lower outer.learning_rate or memory.learning_rate"
            )
        focused = [self.chooser.in_focus(s.caption) for s in samples]
        if any(focused) and not draws.sequence:
            figures["loss/focus"] = float(losses.detach()[torch.tensor(focused)].mean())
        return losses.mean() + untouched(self.model.memory.module), figures


def untouched(module: nn.Module | None) -> Tensor | float:
    """Zero, with a gradient of zero for each of the module's weights: a step that has no use for a memory's own module,
    as one on first chunks, would otherwise leave processes waiting for its gradients."""
    return 0.0 if module is None else 0.0 * sum((p.sum() for p in module.parameters()), torch.zeros(()))


def chunk_losses(
    model: WorldModel,
    objective: Objective,
    samples: Sequence[Sample],
    draws: Draws,
    states: Any | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Losses ``(B,)`` of B chunks at Φ + Θ_i, Θ_i frozen; those with equally many past frames in one pass.

    Args:
        draws: of B samples, with noise for as many frames as the longest has.
        states: a memory state of B episodes to use instead of the samples' own.
    """
    memory = model.memory
    losses, figures = list[Tensor](), dict[str, float]()
    pasts = [len(s.past) for s in samples]
    groups = [[i for i, n in enumerate(pasts) if n == past] for past in sorted(set(pasts))]
    for group in groups:
        clean = torch.stack([torch.cat([samples[i].past, samples[i].new]) for i in group])
        captions, past = [samples[i].caption for i in group], pasts[group[0]]
        own = states is None
        state = memory.concat([samples[i].state for i in group]) if own else memory.select(states, group)
        drawn = draws.part(group, clean.shape[1])
        with applied(model, memory.weights(state)):
            loss, told = objective.losses(
                clean, past, captions, drawn, memory.past(state), memory.tokens(state)
            )
        losses.append(loss)
        figures |= told
    order = torch.tensor([i for group in groups for i in group]).argsort()
    return torch.cat(losses)[order], figures


@torch.no_grad()
def memory_use(
    model: WorldModel, objective: Objective, experience: Experience, chunks: Sequence[int], seed: int
) -> dict[str, Tensor]:
    """Does Φ read the memory? Losses ``(B,)`` of one chunk an episode with the episode's own memory,
    with the next episode's, and with an empty one (which the oracle has not); the same noise each time."""
    memory, count = model.memory, len(chunks)
    samples = [experience.sample(memory, b, k) for b, k in enumerate(chunks)]
    new, past = samples[0].new, max(len(s.past) for s in samples)
    noise = torch.randn((count, past + len(new), *new.shape[1:]), generator=generator(seed, 0, OUTER))
    total = model.diffusion.num_train_timesteps
    spread = torch.linspace(total / 2, total - 1, count).long()
    true = torch.ones(count, dtype=torch.bool)
    draws = Draws(spread, noise, true, true, sequence=False)
    own = memory.concat([s.state for s in samples])
    other = memory.select(own, [*range(1, count), 0])
    states = {"own": own, "other": other} | ({} if model.foresees else {"empty": memory.reset(count)})
    return {name: chunk_losses(model, objective, samples, draws, state)[0] for name, state in states.items()}
