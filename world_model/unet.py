"""What diffusers' ``UNet3DConditionModel`` needs to be this project's: a mask channel, no dropout, and
temporal convolutions that a CPU computes fast."""

from __future__ import annotations

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor, nn
from torch.nn import functional

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
