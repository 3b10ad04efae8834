"""An appearance anchor: the first frame through a pooled image encoder, as further cross-attention tokens.

Source: the appearance preservation module of StreamingT2V (Henschel et al., 2024), the memory that the
paper compares with (Tables 1 and 2). That one encodes with CLIP; here a small convolutional network on the
frame's latents is trained together with Φ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world_model.memory.base import Sizes
from world_model.memory.frames import FrameMemory, FrameState
from world_model.memory.lora import LoraInjector, LoraWeights


class FrameEncoder(nn.Module):
    """Latents of single frames ``(B, C, h, w)`` to tokens ``(B, n, D)``, which are zero at first.

    Args:
        channels: C.
        width: D.
        tokens: n.
        hidden: channels of the convolutions.
        grid: features are pooled to grid × grid cells; 1 forgets where anything was.
    """

    def __init__(self, channels: int, width: int, tokens: int, hidden: int, grid: int) -> None:
        super().__init__()
        self.shape = tokens, width
        self.features = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.AdaptiveAvgPool2d(grid),
        )
        last = nn.Linear(width, tokens * width)
        self.project = nn.Sequential(nn.Flatten(), nn.Linear(hidden * grid**2, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, frames: Tensor) -> Tensor:
        return self.project(self.features(frames)).unflatten(1, self.shape)


class Anchor(FrameMemory):
    """Keeps the frame that the episode began with and shows it as tokens.

    An untrained encoder gives zero tokens. They still take their share of the attention's softmax, so the
    output is near Φ's but not equal to it until Φ was trained with them; n text tokens keep n / (n + tokens)
    of the attention where all logits are equal.

    Args:
        tokens: n; before the first update they are zero.
        hidden, grid: see :class:`FrameEncoder`.
    """

    name = "anchor"
    module: FrameEncoder | None = None

    def __init__(self, tokens: int = 1, hidden: int = 64, grid: int = 4) -> None:
        if min(tokens, hidden, grid) < 1:
            raise ValueError(f"tokens={tokens}, hidden={hidden}, grid={grid}: expected at least 1 each")
        self.count, self.hidden, self.grid = tokens, hidden, grid

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Make the encoder, from seed 0; one that is there already and fits stays as it is."""
        if self.module is None or sizes != self._sizes:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.module = FrameEncoder(sizes.channels, sizes.width, self.count, self.hidden, self.grid)
        super().bind(injector, theta0, sizes)

    def kept(self, frames: Tensor) -> Tensor:
        """``(1, C, h, w)``."""
        return frames[:1]

    def tokens(self, state: FrameState) -> Tensor:
        """``(B, n, D)``, with gradients to the module; zero for episodes before their first update."""
        if self.module is None:
            raise RuntimeError("memory=anchor is not bound to a model; call bind first")
        weight = next(self.module.parameters())
        out = weight.new_zeros(len(state.frames), self.count, self.sizes.width)
        begun = [i for i, f in enumerate(state.frames) if len(f)]
        if begun:
            first = torch.cat([state.frames[i] for i in begun]).to(weight)
            out = out.index_copy(0, torch.tensor(begun, device=weight.device), self.module(first))
        return out
