"""Training chunks: encoded episodes, and the draw of one step's batch (Section 3.1.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks import Episode, Segment
from tasks.files import atomic_path
from world_model.autoencoder import FrameAutoencoder
from world_model.training import read_safetensors


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


class LatentEpisodes:
    """The latents ``(T, C, h, w)`` of episodes, and their segments.

    Args:
        episodes: indices into the dataset.
        cache: a file that keeps the latents, so that a resumed run need not encode again.

    Raises:
        ValueError: no episodes, or one too short to train on.
    """

    def __init__(
        self,
        dataset: Sequence[Episode],
        autoencoder: FrameAutoencoder,
        episodes: Sequence[int],
        cache: Path | None = None,
    ):
        if not len(episodes):
            raise ValueError("the dataset holds no episodes; collect some with python -m envs.collect")
        frames, self.segments, lengths = [], [], []
        for i in episodes:
            episode = dataset[i]
            frames.append(torch.from_numpy(episode.frames))
            self.segments.append(episode.segments)
            lengths.append(len(episode))
        if cache is not None and cache.is_file():
            latents = read_safetensors(cache)["latents"]
        else:
            latents = autoencoder.encode(torch.cat(frames)).half().cpu().contiguous()
            if cache is not None:
                with atomic_path(cache) as temp:
                    save_file({"latents": latents}, temp)
        if len(latents) != sum(lengths):
            raise ValueError(
                f"{cache} holds {len(latents)} latents, the data {sum(lengths)} frames; delete that file"
            )
        self.latents = list(latents.split(lengths))
        self.places = [(e, s) for e, segments in enumerate(self.segments) for s in range(len(segments))]

    def __len__(self) -> int:
        return len(self.latents)

    def captions(self) -> list[str]:
        return sorted({s.caption for segments in self.segments for s in segments})

    def _starts(self, place: tuple[int, int], past: int, new: int) -> list[int]:
        """Frames j of a segment such that f_p frames up to j and f_g after it exist; whole chunks begin
        with the segment, shorter ones anywhere in it."""
        segment: Segment = self.segments[place[0]][place[1]]
        last = segment.stop - new
        return [j for j in range(segment.start, last + 1) if j + 1 >= past]

    def allowed(self, past: int, new: int) -> list[tuple[int, int]]:
        """The (episode, segment) pairs that hold f_p = past and f_g = new frames; ValueError if none does."""
        places = [p for p in self.places if self._starts(p, past, new)]
        if not places:
            raise ValueError(
                f"no episode has {past} past and {new} new frames; collect longer episodes or change pairs"
            )
        return places

    def draw(self, size: int, past: int, new: int, rng: torch.Generator, focus: Focus | None = None) -> Batch:
        """``size`` chunks with f_p = past and f_g = new, uniform over the segments that allow it, but for
        the focus's share of them, which its pattern must find."""
        allowed = self.allowed(past, new)
        pools = [allowed] * size
        if focus is not None:
            wanted = [(e, s) for e, s in allowed if focus.pattern.search(self.segments[e][s].caption)]
            focused = torch.rand(size, generator=rng) < focus.share
            pools = [wanted if f and wanted else allowed for f in focused.tolist()]
        clean, captions = [], []
        for pool in pools:
            episode, s = pool[int(torch.randint(len(pool), (1,), generator=rng))]
            starts = self._starts((episode, s), past, new)
            j = starts[int(torch.randint(len(starts), (1,), generator=rng))]
            clean.append(self.latents[episode][j + 1 - past : j + 1 + new])
            captions.append(self.segments[episode][s].caption)
        return Batch(torch.stack(clean).float(), tuple(captions), past)


def change_weight(clean: Tensor, past_frames: int, strength: float) -> Tensor:
    """``(B, f_g, 1, h, w)``, mean 1: more where a new frame differs from the last past one."""
    change = (clean[:, past_frames:] - clean[:, past_frames - 1 : past_frames]).pow(2).mean(2, keepdim=True)
    weight = 1 + strength * (change / change.mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)).clamp_max(4.0)
    return weight / weight.mean((1, 2, 3, 4), keepdim=True)
