"""Processes of one launch, and where they wait for each other longer than a step of training takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
from accelerate import Accelerator
from torch import distributed

from world_model.device import pick_precision, pick_products

WAIT = timedelta(days=1)


def accelerator_on(device: torch.device, precision: str, products: str = "highest") -> Accelerator:
    """accelerate's view of this launch; ValueError for a precision that the device has not, or unknown products."""
    pick_products(products, device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=pick_precision(precision, device))
    if accelerator.num_processes > 1:
        patient_group()  # made by all at once, here where they are
    return accelerator


@cache
def patient_group() -> distributed.ProcessGroup:
    """All processes, for waiting alone. In training they are given up after torch's own minutes (gloo 30, NCCL 10), so
    that one that hangs does not keep the others' GPUs."""
    group = distributed.new_group(backend="gloo", timeout=WAIT)
    assert isinstance(group, distributed.ProcessGroup)
    return group


def wait(accelerator: Accelerator) -> None:
    """Until every process has come here, for a day if need be."""
    if accelerator.num_processes > 1:
        distributed.barrier(patient_group())


@contextmanager
def main_first(accelerator: Accelerator) -> Iterator[None]:
    """The main process runs the block while the others wait, then they do: what it trains, fetches or writes is there
    for them."""
    if not accelerator.is_main_process:
        wait(accelerator)
    yield
    if accelerator.is_main_process:
        wait(accelerator)
