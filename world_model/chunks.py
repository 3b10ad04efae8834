"""Training chunks: encoded episodes, and the draw of one step's batch (Section 3.1.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from tasks import Segment
from tasks.dataset import EpisodeDataset
from world_model.autoencoder import FrameAutoencoder
from world_model.data.footage import Footage, as_footage
from world_model.latents import KeptLatents, encoded


@dataclass(frozen=True)
class Batch:
    """``clean`` ``(B, f_p + f_g, C, h, w)``; B captions; f_p."""

    clean: Tensor
    captions: tuple[str, ...]
    past_frames: int


@dataclass(frozen=True)
class Focus:
    """Captions to draw more often: a share of the draws takes chunks whose caption the pattern finds."""

    pattern: re.Pattern[str]
    share: float

    @classmethod
    def of(cls, pattern: str | None, share: float) -> Focus | None:
        """None without a pattern. Raises ValueError for one that is no regular expression."""
        if pattern is None:
            return None
        try:
            return cls(re.compile(pattern), share)
        except re.error as error:
            raise ValueError(f"focus={pattern!r} is no regular expression: {error}") from None


def chunk_starts(segment: Segment, past: int, new: int) -> list[int]:
    """Frames j of a segment such that f_p frames up to j and f_g after it exist; whole chunks begin with the
    segment, shorter ones anywhere in it."""
    return [j for j in range(segment.start, segment.stop - new + 1) if j + 1 >= past]


def check_lengths(
    footage: Footage | EpisodeDataset,
    episodes: Sequence[int],
    pairs: Iterable[tuple[int, int]],
    kind: str = "training",
) -> None:
    """Whether chunks can be drawn, before anything is encoded.

    Args:
        episodes: indices into the footage, at least one.
        pairs: f_p and f_g of the chunks.
        kind: what the episodes are called in the message.

    Raises:
        ValueError: none of the episodes holds a chunk of one of the pairs.
    """
    footage = as_footage(footage)
    segments = [s for i in episodes for s in footage.segments(i)]
    for past, new in pairs:
        if not any(chunk_starts(s, past, new) for s in segments):
            longest = max(int(footage.lengths[i]) for i in episodes)
            chunk = max(s.stop - s.start for s in segments)
            raise ValueError(
                f"no {kind} episode has {past} past and {new} new frames: of {len(episodes)} the longest has "
                f"{longest} frames, in chunks of {chunk}; give more and longer recordings or clips "
                "(data.clip_chunks), captions without gaps, or train on fewer frames at once (context_frames, pairs)"
            )


class LatentEpisodes:
    """The latents ``(T, C, h, w)`` of episodes, and their segments.

    Args:
        episodes: indices into the dataset.
        cache: a folder that keeps the latents, so that a resumed run need not encode again.
        accelerator: of a launch whose processes all make the same episodes, to encode them together into ``cache``.

    Raises:
        ValueError: no episodes.
        CheckpointError: the cache is damaged, or made of other data or by another autoencoder.
    """

    def __init__(
        self,
        dataset: Footage | EpisodeDataset,
        autoencoder: FrameAutoencoder,
        episodes: Sequence[int],
        cache: Path | None = None,
        accelerator: Accelerator | None = None,
    ):
        if not len(episodes):
            raise ValueError(
                "the dataset holds no episodes; collect some with python -m envs.collect, or give your own"
            )
        footage = as_footage(dataset)
        self.segments = [footage.segments(i) for i in episodes]
        self.sources = [footage.source_of(i) for i in episodes]
        self.weights = torch.tensor(footage.weights, dtype=torch.float64)
        if cache is None:
            latents = encoded(autoencoder, (footage[i].frames for i in episodes))
            self.latents = list(latents.split([int(footage.lengths[i]) for i in episodes]))
        else:
            kept = KeptLatents(footage, autoencoder, episodes, cache)
            kept.encode(accelerator)
            self.latents = kept.read()
        self.places = [(e, s) for e, segments in enumerate(self.segments) for s in range(len(segments))]

    def __len__(self) -> int:
        return len(self.latents)

    def _starts(self, place: tuple[int, int], past: int, new: int) -> list[int]:
        return chunk_starts(self.segments[place[0]][place[1]], past, new)

    def allowed(self, past: int, new: int) -> list[tuple[int, int]]:
        """The (episode, segment) pairs that hold f_p = past and f_g = new frames; ValueError if none does."""
        places = [p for p in self.places if self._starts(p, past, new)]
        if not places:
            raise ValueError(
                f"no episode has {past} past and {new} new frames; collect longer episodes or change pairs"
            )
        return places

    def _caption(self, place: tuple[int, int]) -> str:
        return self.segments[place[0]][place[1]].caption

    def _pools(self, size: int, past: int, new: int, rng: torch.Generator) -> list[list[tuple[int, int]]]:
        """For each of ``size`` chunks the places that it may come from."""
        allowed = self.allowed(past, new)
        if len(set(self.sources)) == 1:
            return [allowed] * size
        apart = [[x for x in allowed if self.sources[x[0]] == k] for k in range(len(self.weights))]
        weights = self.weights * torch.tensor([bool(places) for places in apart])
        chosen = torch.multinomial(weights, size, replacement=True, generator=rng)
        return [apart[k] for k in chosen.tolist()]

    def draw(self, size: int, past: int, new: int, rng: torch.Generator, focus: Focus | None = None) -> Batch:
        """``size`` chunks with f_p = past and f_g = new: by the sources' weights, then uniform over the
        segments that allow it, but for the focus's share of them, which its pattern must find."""
        pools = self._pools(size, past, new, rng)
        if focus is not None:
            focused = torch.rand(size, generator=rng) < focus.share
            found = {id(p): [x for x in p if focus.pattern.search(self._caption(x))] for p in pools}
            pools = [
                found[id(p)] if f and found[id(p)] else p
                for p, f in zip(pools, focused.tolist(), strict=True)
            ]
        clean, captions = [], []
        for pool in pools:
            episode, s = pool[int(torch.randint(len(pool), (1,), generator=rng))]
            starts = self._starts((episode, s), past, new)
            j = starts[int(torch.randint(len(starts), (1,), generator=rng))]
            clean.append(self.latents[episode][j + 1 - past : j + 1 + new])
            captions.append(self._caption((episode, s)))
        return Batch(torch.stack(clean).float(), tuple(captions), past)


def change_weight(clean: Tensor, past_frames: int, strength: float) -> Tensor:
    """``(B, f_g, 1, h, w)``, mean 1: more where a new frame differs from the last past one."""
    change = (clean[:, past_frames:] - clean[:, past_frames - 1 : past_frames]).pow(2).mean(2, keepdim=True)
    weight = 1 + strength * (change / change.mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)).clamp_max(4.0)
    return weight / weight.mean((1, 2, 3, 4), keepdim=True)
