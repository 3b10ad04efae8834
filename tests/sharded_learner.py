"""One of several processes that train a small network with FSDP: ``sharded_learner.py FOLDER STEPS PRECISION``.

Goes on from a checkpoint in the folder, leaves one there and ``averaged.safetensors``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from world_model.training import Learner, generator

STEPS, BATCH = 5, 4


class Small(nn.Module):
    """Two layers of odd sizes, so that no part is as large as another, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 3)])
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.layers[1](nn.functional.gelu(self.layers[0](x))) * self.scale


def learner_in(folder: Path, accelerator: Accelerator | None) -> Learner:
    return Learner(Small(), folder, STEPS, 1e-2, 1, 0.9, accelerator, ["layers.0", "layers.1"])


def go_on(learner: Learner, steps: int, part: slice = slice(None)) -> None:
    """Train to ``steps`` on this part of each batch."""
    while learner.step < steps:
        batch = torch.randn(BATCH, 5, generator=generator(1, learner.step))[part]
        out = learner.wrapped(batch)
        assert out.dtype == torch.float32
        learner.backward((out - batch[:, :3]).square().mean())
        learner.apply(clip=0.1)
    learner.save()


def held(learner: Learner) -> tuple[int, int]:
    """Numbers of weights, average and Adam's moments that this process holds, and those of all processes."""
    states = [v for state in learner.optimizer.state.values() for v in state.values()]
    tensors = [*learner.network.parameters(), *learner.average.module.parameters(), *states]
    parts = [t for t in tensors if isinstance(t, DTensor)]
    return sum(t.to_local().numel() for t in parts), sum(t.numel() for t in parts)


def main() -> None:
    folder, steps, precision = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    learner = learner_in(folder, accelerator)
    learner.resume()
    share = BATCH // accelerator.num_processes
    first = accelerator.process_index * share
    go_on(learner, steps, slice(first, first + share))
    here, everywhere = held(learner)
    assert 4 * sum(p.numel() for p in Small().parameters()) == everywhere and here < 0.7 * everywhere
    averaged = learner.averaged()
    if accelerator.is_main_process:
        save_file(dict(averaged.state_dict()), folder / "averaged.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
