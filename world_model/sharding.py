"""FSDP2: a network's weights, their average, gradients and Adam's moments in parts, one on each process.

Files hold whole tensors, the same with and without it, so that training goes on with another number of processes.
torch shards; of accelerate come the processes and the wish, ``distributed_type: FSDP`` in its file. The variable that
its launcher sets asks for the same on CPUs, where accelerate itself has no FSDP.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, convert_outputs_to_fp32, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def wants_shards(accelerator: Accelerator) -> bool:
    """Whether the processes were launched with FSDP."""
    on_cpus = accelerator.distributed_type == DistributedType.MULTI_CPU
    return accelerator.distributed_type == DistributedType.FSDP or (
        on_cpus and parse_flag_from_env("ACCELERATE_USE_FSDP")
    )


def shard(network: nn.Module, units: Iterable[str], accelerator: Accelerator) -> None:
    """Leave each process its part of every parameter, in place; an optimizer is made afterwards.

    Args:
        units: names of the modules that are whole for as long as they compute; what is left is one more unit.
    """
    warnings.filterwarnings(
        "ignore", "FSDP2-wrapped module .* returned a view"
    )  # nobody writes into an output
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for name in units:
        fully_shard(network.get_submodule(name), mesh=mesh)
    fully_shard(network, mesh=mesh)


def in_precision(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The network with a forward pass in the accelerator's precision, as its ``prepare`` gives it; in place."""
    if accelerator.mixed_precision == "bf16":
        autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
        network.forward = convert_outputs_to_fp32(autocast(network.forward))
    return network


def hollow(network: nn.Module) -> nn.Module:
    """A copy without weights, on torch's ``meta`` device."""
    memo = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in network.parameters()}
    return copy.deepcopy(network, memo)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which all must ask for; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def parted(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, each laid out as the tensor of its name in ``own``."""
    return {key: part_like(value, own.get(key)) for key, value in state.items()}


def part_like(value: Tensor, own: Tensor | None) -> Tensor:
    """This process's part of a whole tensor, which all must ask for, if ``own`` is one in parts; else the tensor."""
    if not isinstance(own, DTensor) or not value.dim():
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
