"""What diffusers' ``UNet3DConditionModel`` needs to be this project's: a mask channel, no dropout, temporal
convolutions that a CPU computes fast, and gradient checkpointing that saves memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from world_model.training import CheckpointError


class TemporalConv(nn.Conv3d):
    """A ``(3, 1, 1)`` convolution, off CUDA as one Linear over each frame and its two neighbours.

    torch has no fast kernel for such a convolution on a CPU. The weights stay a ``Conv3d``'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, F, h, w)`` to ``(B, C', F, h, w)``."""
        if input.is_cuda:
            return super().forward(input)
        frames = input.shape[2]
        padded = functional.pad(input.permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, 1, 1))
        neighbours = torch.cat([padded[:, i : i + frames] for i in range(3)], -1)
        weight = self.weight[..., 0, 0].transpose(1, 2).flatten(1)
        return functional.linear(neighbours, weight, self.bias).permute(0, 4, 1, 2, 3)


def prepared(unet: UNet3DConditionModel) -> UNet3DConditionModel:
    """The same UNet without dropout, its temporal convolutions as :class:`TemporalConv`; in place."""
    for module in unet.modules():
        if type(module) is nn.Conv3d and module.kernel_size == (3, 1, 1) and module.padding == (1, 0, 0):
            module.__class__ = TemporalConv
    return no_dropout(unet)


def layer_names(unet: UNet3DConditionModel) -> list[str]:
    """Names of the layers that a UNet's blocks run one after the other, and of ``transformer_in``."""
    kinds = ("resnets", "temp_convs", "attentions", "temp_attentions")
    listed = [name for name, module in unet.named_modules() if name.rpartition(".")[2] in kinds]
    return [
        "transformer_in",
        *(f"{name}.{i}" for name in listed for i in range(len(unet.get_submodule(name)))),
    ]


def checkpoint_layers(unet: UNet3DConditionModel, on: bool = True) -> UNet3DConditionModel:
    """Keep only the inputs of a UNet's layers for the backward pass, and compute the rest again; in place.

    A layer is what a block runs one after the other: a resnet, a temporal convolution, a spatial or a temporal
    transformer. diffusers' own ``enable_gradient_checkpointing`` refuses this class. Outputs, gradients and the
    state dict's keys stay the same.
    """
    for name in layer_names(unet):
        layer = unet.get_submodule(name)
        plain: Any = getattr(type(layer), "plain", type(layer))
        layer.__class__ = _recomputed(plain) if on else plain  # a class, not a closure: deepcopy keeps it
    return unet


@cache
def _recomputed(plain: type[nn.Module]) -> type[nn.Module]:
    """A layer's class with a forward pass that is computed again for the backward one."""

    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        run = partial(plain.forward, self, **options)
        if not torch.is_grad_enabled():
            return run(*args)
        around = partial(_around, tuple(_open))
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, context_fn=around)

    return type(f"Recomputed{plain.__name__}", (plain,), {"forward": forward, "plain": plain})


_open: list[Callable[[], AbstractContextManager]] = []


@contextmanager
def recomputed_in(context: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """While open, what a layer computes is computed again in ``context()``, wherever the backward pass is called."""
    _open.append(context)
    try:
        yield
    finally:
        _open.pop()


def _around(
    contexts: tuple[Callable[[], AbstractContextManager], ...],
) -> tuple[AbstractContextManager, AbstractContextManager]:
    """What a layer's first and second computation run in."""
    return nullcontext(), _all(contexts)


@contextmanager
def _all(contexts: tuple[Callable[[], AbstractContextManager], ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield


def no_dropout(unet: UNet3DConditionModel) -> UNet3DConditionModel:
    """Switch off the dropout that diffusers' temporal convolutions carry in training."""
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return unet


def with_mask_channel(unet: UNet3DConditionModel, latent_channels: int) -> UNet3DConditionModel:
    """Extend ``conv_in`` of a checkpoint without a mask channel by zeros; its output stays the same."""
    old = unet.conv_in
    if old.in_channels == latent_channels + 1:
        return unet
    if old.in_channels != latent_channels:
        raise CheckpointError(
            f"the UNet takes {old.in_channels} channels; expected the latent's {latent_channels}, or one more"
        )
    new = nn.Conv2d(latent_channels + 1, old.out_channels, old.kernel_size, old.stride, old.padding)
    new = new.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :latent_channels] = old.weight
    new.bias = old.bias
    unet.conv_in = new.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=latent_channels + 1)
    return unet
