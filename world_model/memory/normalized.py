"""Gradient descent whose steps have one length, whatever the layer and the episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class NormalizedDescent(torch.optim.Optimizer):
    """x ← x − lr · √n · g / ‖g‖ for each episode's n numbers of a tensor ``(B, …)``.

    The step's root mean square is ``lr``, as Adam's first one has it, but its direction is the gradient's:
    what is written stays linear in what was seen, where Adam would keep little more than signs.

    Args:
        params: tensors with the episodes outermost.
        lr: root mean square of a step.
    """

    def __init__(self, params: Iterable[Tensor], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; an episode whose gradient is 0 stays where it is. ``closure`` is not used."""
        for group in self.param_groups:
            for x in group["params"]:
                flat = x.grad.flatten(1)
                norm = flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
                x.sub_((flat / norm).view_as(x), alpha=group["lr"] * x[0].numel() ** 0.5)
