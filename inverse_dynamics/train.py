"""Trains the inverse dynamics model on collected episodes.

    python -m inverse_dynamics.train task=cube_return

The same command resumes: every draw of a step comes from a generator seeded by (seed, step). Kept are the
last step (``last.safetensors``, to go on from) and the best one by held-out error (``best``), which becomes
``model``. The model reads *generated* frames later, so a share of the frames it is trained on go through
``corruption`` (the world model's autoencoder, wired by configuration), blur and noise; never through a
shift, which would change the action.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from inverse_dynamics.model import CheckpointError, InverseDynamics, InverseDynamicsConfig, to_unit
from tasks import ActionSpec, Episode
from tasks.commands import ROOT, CommandError, OptionError, RunDir, integer, main, number, task_words
from tasks.dataset import join_episodes
from tasks.files import atomic_path, read_json, write_json, write_text
from tasks.provenance import record_origin

Corruption = Callable[[np.ndarray], np.ndarray]
HELD_OUT = 0.05


class Pairs:
    """Frame pairs and their actions.

    Args:
        episodes: indices into the dataset.
        corruption: applied once to the frames of the first ``corrupted`` episodes.
        cache: a file that keeps what it made of them, so that a resumed run need not corrupt them again.

    Attributes:
        frames: ``(N, H, W, 3)`` uint8; corrupted: the same for the first frames; firsts: ``(P,)`` index
            of each pair's first frame; actions ``(P, A)``.
    """

    def __init__(
        self,
        dataset: Sequence[Episode],
        episodes: range,
        corruption: Corruption | None,
        corrupted: int,
        cache: Path | None = None,
    ):
        if not len(episodes):
            raise ValueError("no episodes; collect some with python -m envs.collect")
        frames, actions, firsts, at, reached = [], [], [], 0, 0
        for k, i in enumerate(episodes):
            episode = dataset[i]
            frames.append(episode.frames)
            actions.append(episode.actions)
            firsts.append(at + np.arange(len(episode) - 1))
            at += len(episode)
            reached = at if k < corrupted else reached
        self.frames = torch.from_numpy(np.concatenate(frames))
        self.actions = torch.from_numpy(np.concatenate(actions))
        self.firsts = torch.from_numpy(np.concatenate(firsts))
        self.corrupted: Tensor | None = None
        if corruption is not None and reached:
            self.corrupted = corrupt(self.frames[:reached], corruption, cache)

    def __len__(self) -> int:
        return len(self.firsts)

    def draw(self, size: int, corrupted_share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``size`` pair indices, and ``(size, 2)`` which of their frames to take corrupted: a share of the
        pairs, both frames or (a fifth of them, as at an episode's start) only the second."""
        flags = torch.zeros(size, 2, dtype=torch.bool)
        index = torch.randint(len(self), (size,), generator=rng)
        if self.corrupted is not None:
            count = round(size * corrupted_share)
            available = int((self.firsts + 1 < len(self.corrupted)).sum())
            index[:count] = torch.randint(available, (count,), generator=rng)
            flags[:count, 0] = torch.rand(count, generator=rng) < 0.8
            flags[:count, 1] = True
        return index, flags

    def pair(self, index: Tensor, corrupted: Tensor) -> Tensor:
        """``(B, 2, H, W, 3)`` uint8; ``corrupted`` ``(B, 2)`` says which frames to take corrupted, where
        there is a corrupted one."""
        at = self.firsts[index][:, None] + torch.arange(2)
        out = self.frames[at]
        if self.corrupted is not None:
            chosen = corrupted & (at < len(self.corrupted))
            out[chosen] = self.corrupted[at[chosen]]
        return out


def corrupt(frames: Tensor, corruption: Corruption, cache: Path | None) -> Tensor:
    """``(N, H, W, 3)`` uint8 frames, corrupted; taken from ``cache`` if that holds these very frames.

    Raises:
        ValueError: the corruption changes shape or dtype.
        CheckpointError: the cache is damaged, of other frames, or of another corruption where it tells which it is.
    """
    made_of = hashlib.sha256(frames.numpy().tobytes()).hexdigest()
    if tell := getattr(corruption, "fingerprint", None):
        made_of += f" {tell()}"
    if cache is not None and cache.is_file():
        try:
            with safe_open(cache, "pt") as file:
                stored, same = file.get_tensor("frames"), (file.metadata() or {}).get("made_of") == made_of
        except SafetensorError as error:
            raise CheckpointError(f"{cache} can't be read ({error}); delete it") from None
        if not same:
            raise CheckpointError(
                f"{cache} is made of other frames than the data's, or by another corruption; delete it"
            )
        return stored
    parts = np.array_split(frames.numpy(), math.ceil(len(frames) / 500))
    done = [corruption(p) for p in tqdm(parts, desc="corrupted frames", unit="part")]
    for part, out in zip(parts, done, strict=True):
        if out.shape != part.shape or out.dtype != np.uint8:
            raise ValueError(
                f"corruption gave {out.shape} {out.dtype} for frames {part.shape} uint8; "
                "it must keep shape and dtype"
            )
    made = torch.from_numpy(np.concatenate(done))
    if cache is not None:
        with atomic_path(cache) as temp:
            save_file({"frames": made}, temp, {"made_of": made_of})
    return made


def augment(pairs: Tensor, rng: torch.Generator) -> Tensor:
    """Blur, lower resolution, colour and noise on ``(B, 2, 3, H, W)`` floats, each on a share of the pairs."""
    B, device = len(pairs), pairs.device

    def share(p: float) -> Tensor:
        return (torch.rand(B, generator=rng) < p).to(device)

    flat = pairs.flatten(0, 1)
    blurred = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1).view_as(pairs)
    coarse = F.interpolate(F.avg_pool2d(flat, 2), scale_factor=2, mode="bilinear").view_as(pairs)
    mix = torch.rand(B, 1, 1, 1, 1, generator=rng).to(device)
    for p, other in ((0.3, blurred), (0.1, coarse)):
        pairs = torch.where(share(p).view(-1, 1, 1, 1, 1), pairs + mix * (other - pairs), pairs)
    gain = 1 + 0.1 * (torch.rand(B, 1, 3, 1, 1, generator=rng) - 0.5).to(device)
    offset = 0.06 * (torch.rand(B, 1, 3, 1, 1, generator=rng) - 0.5).to(device)
    noise = (
        torch.randn(pairs.shape, generator=rng).to(device)
        * 0.04
        * torch.rand(B, 1, 1, 1, 1, generator=rng).to(device)
    )
    return (pairs * gain + offset + noise).clamp(0, 1)


class Trainer:
    """AdamW with a cosine learning rate, an average of the weights, and one checkpoint file."""

    def __init__(self, cfg: DictConfig, config: InverseDynamicsConfig, folder: Path, device: torch.device):
        self.cfg, self.folder, self.device = cfg, folder, device
        torch.manual_seed(cfg.seed)
        self.model = InverseDynamics(config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.learning_rate, weight_decay=1e-4)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema))
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
        self.step = 0

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors |= {f"scaler.{k}": torch.tensor(v) for k, v in self.scaler.state_dict().items()}
        tensors["step"] = torch.tensor(self.step)
        with atomic_path(self.last) as temp:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temp)

    def resume(self) -> None:
        if not self.last.is_file():
            return
        try:
            tensors = load_file(self.last)
            parts: dict[str, dict] = {"model": {}, "average": {}, "optimizer": {}}
            for key, value in tensors.items():
                part, _, name = key.partition(".")
                parts.setdefault(part, {})[name] = value
            self.model.load_state_dict(parts["model"])
            self.average.load_state_dict(parts["average"])
            states: dict[int, dict] = {}
            for key, value in parts["optimizer"].items():
                index, _, name = key.partition(".")
                states.setdefault(int(index), {})[name] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
            if "scaler" in parts:
                self.scaler.load_state_dict({k: v.item() for k, v in parts["scaler"].items()})
            self.step = int(tensors["step"])
        except Exception as error:  # safetensors and torch raise many types for a damaged file
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{self.last} can't be resumed ({reason}); delete it to start over"
            ) from None

    def learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / 100)
        return (
            self.cfg.learning_rate
            * warm
            * (0.02 + 0.49 * (1 + math.cos(math.pi * self.step / self.cfg.steps)))
        )

    def train_step(self, data: Pairs) -> dict[str, float]:
        rng = torch.Generator().manual_seed(self.cfg.seed * 1_000_003 + self.step)
        index, corrupted = data.draw(self.cfg.batch_size, self.cfg.corrupted_share, rng)
        pairs = augment(to_unit(data.pair(index, corrupted).to(self.device)), rng)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.cfg.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            raw = self.model(pairs)
        loss, parts = self.model.loss(raw, data.actions[index].to(self.device))
        if not torch.isfinite(loss):
            raise CommandError(
                f"the loss is {float(loss.detach())} at step {self.step}; "
                f"{self.last} is intact, lower the learning rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.model)
        self.step += 1
        return {"loss": float(loss.detach()), "gradient_norm": float(norm), **parts}


def evaluate(model: InverseDynamics, data: Pairs, limit: int = 4000) -> dict[str, dict[str, float]]:
    """Errors on true and, where there are any, corrupted frames: position mm (or the spec's unit × 1000),
    quaternion degrees, camera degrees, the share of right binaries and, where an action has several, of
    frames whose binaries are all right."""
    chosen = torch.linspace(0, len(data) - 1, min(limit, len(data))).long()
    out = {}
    for name, flag in (("true", False), ("corrupted", True)):
        if flag and data.corrupted is None:
            continue
        parts = [model.actions(data.pair(c, torch.full((len(c), 2), flag)))[:, 0] for c in chosen.split(256)]
        out[name] = action_errors(model, np.concatenate(parts), data.actions[chosen].numpy())
    return out


def action_errors(model: InverseDynamics, read: np.ndarray, told: np.ndarray) -> dict[str, float]:
    """Figures of ``(N, A)`` actions read against those told."""
    spec = model.spec
    figures: dict[str, float] = {"n": len(read)}
    if at := spec.indices("position"):
        error = 1000 * np.linalg.norm(read[:, at] - told[:, at], axis=1)
        figures |= {"position_median_mm": float(np.median(error)), "position_mean_mm": float(error.mean())}
        figures["position_p90_mm"] = float(np.quantile(error, 0.9))
    if at := spec.indices("quaternion"):
        cosine = np.abs((read[:, at] * told[:, at]).sum(1) / np.linalg.norm(told[:, at], axis=1)).clip(0, 1)
        figures["quaternion_mean_deg"] = float(np.rad2deg(2 * np.arccos(cosine)).mean())
    if at := spec.indices("degrees"):
        error = np.abs(read[:, at] - told[:, at])
        figures |= {"degrees_median": float(np.median(error)), "degrees_mean": float(error.mean())}
        figures["degrees_p90"] = float(np.quantile(error, 0.9))
    if at := spec.indices("binary"):
        right = (read[:, at] > 0.5) == (told[:, at] > 0.5)
        figures["binary_accuracy"] = float(np.mean(right))
        if len(at) > 1:
            figures["binaries_all_right"] = float(np.mean(right.all(1)))
    return figures


def score(metrics: dict[str, dict[str, float]]) -> float:
    """What "best" means: the sum of the median (or mean) errors and of the wrong binaries."""
    return sum(
        m.get("position_median_mm", 0.0)
        + m.get("degrees_mean", 0.0)
        + 1000 * (1 - m.get("binary_accuracy", 1.0))
        for m in metrics.values()
    )


def fit(trainer: Trainer, training: Pairs, held: Pairs, cfg: DictConfig) -> int:
    """Train to the last step; every ``every`` steps log, evaluate, checkpoint, keep the best.

    Returns:
        The step of the best, whose model is in the folder ``best``.
    """
    log = trainer.folder / "metrics.jsonl"
    rows = log.read_text().splitlines() if log.is_file() else []
    whole = [r for r in rows if r.endswith("}")]  # kill -9 may have cut the last one
    kept = [r for r in whole if json.loads(r)["step"] <= trainer.step]
    write_text(log, "".join(r + "\n" for r in kept))
    scores = {int(r["step"]): float(r["score"]) for r in map(json.loads, kept)}
    board = SummaryWriter(str(trainer.folder), purge_step=trainer.step + 1)
    begin, first, sums = time.monotonic(), trainer.step, []
    before = json.loads(kept[-1]).get("seconds", 0.0) if kept else 0.0  # of training, until it was stopped
    bar = tqdm(total=cfg.steps, initial=trainer.step, desc="inverse dynamics", unit="step")
    while trainer.step < cfg.steps:
        sums.append(trainer.train_step(training))
        bar.update()
        if trainer.step % cfg.every and trainer.step < cfg.steps:
            continue
        model = trainer.average.module.eval()
        metrics = evaluate(model, held, 1000)
        row = {k: float(np.mean([s[k] for s in sums])) for k in sums[0]}
        row |= {
            "score": round(score(metrics), 5),  # as the log has it
            "seconds": before + time.monotonic() - begin,
            "samples_per_second": cfg.batch_size * (trainer.step - first) / (time.monotonic() - begin),
        }
        row |= {f"{n}/{k}": v for n, m in metrics.items() for k, v in m.items()}
        for key, value in row.items():
            board.add_scalar(key, value, trainer.step)
        if row["score"] < min(scores.values(), default=math.inf):
            model.save_pretrained(trainer.folder / "best")
        scores[trainer.step] = row["score"]
        with log.open("a") as file:
            file.write(json.dumps({"step": trainer.step, **{k: round(v, 5) for k, v in row.items()}}) + "\n")
        trainer.save()
        model.train()
        bar.set_postfix(loss=f"{row['loss']:.4f}")
        sums = []
    bar.close()
    board.close()
    return min(scores, key=lambda step: scores[step])


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; anything else as torch names it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CommandError(f"device={name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CommandError(f"device={name}: this torch sees no CUDA device; use device=cpu")
    return device


def check_options(cfg: DictConfig) -> torch.device:
    """The device, once every number is known to be usable; nothing is written before."""
    for key in ("steps", "batch_size", "every"):
        integer(cfg, key, 1)
    for key in ("seed", "corrupted_episodes"):
        integer(cfg, key, 0)
    for key, top in (("learning_rate", math.inf), ("ema", 1.0), ("corrupted_share", 1.0)):
        number(cfg, key, maximum=top)
    if cfg.precision not in ("fp32", "bf16", "fp16"):
        raise OptionError(f"precision={cfg.precision}: expected fp32, bf16 or fp16")
    return pick_device(cfg.device)


def make_corruption(cfg: DictConfig) -> Corruption | None:
    """The corruption that the options name; a shipped autoencoder is found wherever the command is started.

    Raises:
        CommandError: the task has none.
    """
    if not cfg.corruption:
        return None
    shipped, options = f"weights/{cfg.task.name}/world_model/vae", {}
    if cfg.corruption.get("folder") == shipped:
        if not (ROOT / shipped).is_dir():
            raise CommandError(
                f"corruption.folder={shipped}: none is shipped for task={cfg.task.name}; give an autoencoder's folder, "
                "or corruption=null to train on true frames alone"
            )
        options = {"folder": str(ROOT / shipped)}
    return hydra.utils.instantiate(cfg.corruption, **options)


def training_pairs(cfg: DictConfig, run_dir: RunDir) -> tuple[Pairs, Pairs, ActionSpec]:
    """Pairs of frames to train on and held out, and how their actions are told.

    Raises:
        CommandError: too few episodes, or another task's.
    """
    dataset = join_episodes(cfg.data)
    held_count = max(1, round(HELD_OUT * len(dataset)))
    if held_count >= len(dataset):
        raise CommandError(f"{cfg.data} holds {len(dataset)} episodes; collect at least 2")
    spec = hydra.utils.instantiate(cfg.task).action_spec
    if (size := dataset[0].actions.shape[1]) != len(spec):
        raise CommandError(
            f"{cfg.data} holds actions of {size} numbers, task={cfg.task.name} has {len(spec)}; give the data of this "
            "task"
        )
    corruption, cut = make_corruption(cfg), len(dataset) - held_count
    parts = (
        (range(cut), cfg.corrupted_episodes, "corrupted"),
        (range(cut, len(dataset)), held_count, "corrupted_held"),
    )
    training, held = (
        Pairs(dataset, episodes, corruption, count, run_dir / f"{name}.safetensors")
        for episodes, count, name in parts
    )
    return training, held, spec


def run(cfg: DictConfig) -> None:
    device = check_options(cfg)
    run_dir = RunDir.open("inverse_dynamics", cfg, ignore=("device",))
    done, folder = run_dir / "metrics.json", run_dir / "model"
    if not done.is_file():
        with run_dir.withdrawn_on_error():
            training, held, spec = training_pairs(cfg, run_dir)
        height, width = training.frames.shape[1:3]
        trainer = Trainer(cfg, InverseDynamicsConfig(spec, (height, width)), run_dir.path, device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        record_origin(run_dir.path, "inverse_dynamics.train", name)
        trainer.resume()
        if trainer.step:
            print(f"going on at step {trainer.step} of {cfg.steps}")
        step = fit(trainer, training, held, cfg)
        best = InverseDynamics.from_pretrained(run_dir / "best")
        best.save_pretrained(folder)
        write_json(done, {**evaluate(best, held), "step": step})
    print(json.dumps(read_json(done)))
    print(f"{folder}\nplan with it: python -m planner.run {task_words(cfg)} inverse_dynamics={folder}")


if __name__ == "__main__":
    main("inverse_dynamics", run)
