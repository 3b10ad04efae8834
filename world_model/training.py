"""What the trainers share: checkpoints that resume bit for bit, an average of the weights, logs.

Every random draw of step ``s`` comes from a generator seeded by (seed, s), so that the data position
is the step itself and a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from tasks.files import atomic_path
from world_model.sharding import hollow, in_precision, part_like, parted, shard, wants_shards, whole

OTHERS = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class CheckpointError(ValueError):
    """A checkpoint that is missing, cut short or of another shape; names the file and what to do."""


class TrainingError(RuntimeError):
    """Training that can't go on, such as a loss that is not finite; names the step."""


def generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """The torch generator of one step."""
    words = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


def learning_rate_at(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to 2% of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file, or a CheckpointError in one line."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; expected a folder that the trainer or save_pretrained wrote"
        )
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type for a file cut short
        raise CheckpointError(
            f"{path} can't be read ({type(error).__name__}); is it cut short? Get it again"
        ) from None


class Learner:
    """One network in training: AdamW, an exponential average of the weights, checkpoints.

    Args:
        network: trained in place.
        folder: where ``last.safetensors`` goes.
        steps: in all; the learning rate's cosine ends there.
        ema: decay of the average.
        accelerator: shares each batch over processes and chooses the precision; None trains in this
            process alone, whatever others there are.
        units: names of the modules that FSDP gathers one at a time; None refuses FSDP.

    Attributes:
        sharded: whether each process holds but a part of the weights; saving and averaging then ask for all.
        wrapped: the network as accelerate prepared it; call this one in training.
    """

    def __init__(
        self,
        network: nn.Module,
        folder: Path,
        steps: int,
        learning_rate: float,
        warmup: int,
        ema: float,
        accelerator: Accelerator | None = None,
        units: Iterable[str] | None = None,
    ):
        self.sharded = accelerator is not None and wants_shards(accelerator)
        check_launch(accelerator, units is not None)
        self.network, self.folder, self.steps = network, Path(folder), steps
        self.accelerator = accelerator
        self.peak, self.warmup = learning_rate, warmup
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema))
        self.wrapped: nn.Module = network
        if self.sharded:
            self._hollow, names = hollow(network), list(units or ())
            for each in (network, self.average.module):
                shard(each, names, cast(Accelerator, accelerator))
            self.wrapped = in_precision(network, cast(Accelerator, accelerator))
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self._trained, lr=learning_rate, weight_decay=0.0
        )
        if accelerator is not None and not self.sharded:
            self.wrapped, self.optimizer = accelerator.prepare(self.wrapped, self.optimizer)
        self.step = 0

    def backward(self, loss: Tensor) -> None:
        """Gradients of a step's loss. Raises TrainingError if it is not finite."""
        if not torch.isfinite(loss):
            raise self._stuck(f"the loss is {float(loss.detach())}")
        if self.accelerator is None:
            loss.backward()
        else:
            self.accelerator.backward(loss)

    def apply(self, clip: float = 1.0) -> float:
        """One optimizer step on the gradients that are there; returns their norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.steps, self.peak, self.warmup)
        parameters = list(self.network.parameters())
        if self.accelerator is None or self.sharded:
            norm = whole(nn.utils.clip_grad_norm_(parameters, clip))
        else:
            norm = self.accelerator.clip_grad_norm_(parameters, clip)
        scaled = self.accelerator is not None and self.accelerator.scaler is not None
        if not torch.isfinite(norm) and not scaled:  # fp16's scaler itself skips such a step
            raise self._stuck("the gradient is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.network)
        self.step += 1
        return float(norm)

    def _stuck(self, what: str) -> TrainingError:
        kept = f"{self._last} is intact" if self._last.is_file() else "there is no checkpoint yet"
        return TrainingError(f"{what} at step {self.step}; {kept}. Lower the learning rate")

    @property
    def _last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def _writes(self) -> bool:
        return self.accelerator is None or self.accelerator.is_main_process

    def save(self) -> None:
        """Write weights, average, Adam's state and the step, atomically: the main process does, all must call it."""
        if not self._writes and not self.sharded:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors["step"] = torch.tensor(self.step)
        stored = self._gathered(tensors)
        if self._writes:
            with atomic_path(self._last) as temp:
                save_file({k: v.contiguous() for k, v in stored.items()}, temp)

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU in the process that writes, which is given one after the other; none elsewhere."""
        found = {}
        for key, value in tensors.items():
            gathered = whole(value.detach())
            if self._writes:
                found[key] = gathered.cpu()
        return found

    def resume(self) -> bool:
        """Go on from the last checkpoint, if there is one."""
        if not self._last.is_file():
            return False
        tensors = read_safetensors(self._last)
        parts: dict[str, dict[str, Any]] = {"network": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            if part in parts:
                parts[part][name] = value
        try:
            for name, module in (("network", self.network), ("average", self.average)):
                module.load_state_dict(parted(parts[name], module.state_dict()))
        except RuntimeError as error:
            raise CheckpointError(
                f"{self._last} is of another network: {str(error).splitlines()[-1].strip()}"
            ) from None
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, _, name = key.partition(".")
            states.setdefault(int(index), {})[name] = part_like(value, self._trained[int(index)])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.step = int(tensors["step"])
        return True

    @contextmanager
    def on_average(self) -> Iterator[None]:
        """While open, the network holds the averaged weights; no backward may be pending."""
        kept = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.network.load_state_dict(kept)

    def averaged(self) -> nn.Module:
        """The network with the averaged weights; with FSDP all must call it, and all but the main process get it
        without weights."""
        if not self.sharded:
            return self.average.module
        state = self._gathered(self.average.module.state_dict())
        if self._writes:
            self._hollow.load_state_dict(state, assign=True)
        return self._hollow


def check_launch(accelerator: Accelerator | None, shards: bool) -> None:
    """TrainingError for a way to share the work over processes that is not one of those here.

    Args:
        shards: whether FSDP is one of them.
    """
    if accelerator is None:
        return
    if accelerator.distributed_type in OTHERS:
        kind = accelerator.distributed_type.value
        raise TrainingError(f"{kind} is not supported; launch it with DDP, such as docs/accelerate/gpus.yaml")
    if not wants_shards(accelerator):
        return
    if not shards:
        raise TrainingError(
            "FSDP leaves a process a part of the weights, and this training needs all of them; launch it with DDP, "
            "such as docs/accelerate/gpus.yaml"
        )
    if accelerator.mixed_precision == "fp16":
        raise TrainingError(
            "precision=fp16 scales the gradients, which FSDP does not here; use precision=bf16"
        )
    for option in ("FSDP_OFFLOAD_PARAMS", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        if parse_flag_from_env(option):
            raise TrainingError(
                f"{option.lower()}: true is not supported; set false, as docs/accelerate/fsdp.yaml"
            )


class Log:
    """``metrics.jsonl`` and TensorBoard in one folder; rows after the resumed step are dropped. ``seconds`` in a row
    is all the training that led to it, before a resumption and after."""

    def __init__(self, folder: Path, step: int):
        self.path = Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [r for r in rows if r.endswith("}") and json.loads(r)["step"] <= step]
        with atomic_path(self.path) as temp:
            temp.write_text("".join(r + "\n" for r in kept))
        self.board = SummaryWriter(str(folder), purge_step=step + 1)
        before = json.loads(kept[-1]).get("seconds", 0.0) if kept else 0.0
        self.started = time.monotonic() - before

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, "seconds": round(time.monotonic() - self.started, 1)}
        with self.path.open("a") as file:
            file.write(json.dumps(row | {k: round(float(v), 6) for k, v in values.items()}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(key, value, step)

    def close(self) -> None:
        self.board.close()


def train(
    learner: Learner,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    log: Log | None,
    every: int,
    name: str = "training",
    shown: Sequence[str] = ("loss",),
) -> None:
    """Run a learner to its last step.

    Args:
        loss: the loss of a step's batch, and figures for the log.
        log: None in every process but the main one.
        every: steps between log lines and checkpoints.
        shown: figures beside the progress bar.
    """
    from tqdm import tqdm

    sums: dict[str, list[float]] = {}
    bar = tqdm(total=learner.steps, initial=learner.step, desc=name, unit="step", disable=log is None)
    started, first = time.monotonic(), learner.step
    with bar:  # an error is printed below it, not behind it
        while learner.step < learner.steps:
            value, figures = loss(learner.step)
            learner.backward(value)
            figures = {"loss": float(value.detach()), **figures, "gradient_norm": learner.apply()}
            for key, figure in figures.items():
                sums.setdefault(key, []).append(figure)
            bar.update()
            if learner.step % every == 0 or learner.step == learner.steps:
                if log is not None:
                    means = {k: float(np.mean(v)) for k, v in sums.items()}
                    means["steps_per_second"] = (learner.step - first) / (time.monotonic() - started)
                    log.write(learner.step, means)
                    bar.set_postfix({k: f"{means[k]:.4f}" for k in shown if k in means})
                learner.save()
                sums = {}
