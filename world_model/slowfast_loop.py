"""Finetunes the core weights Φ with the slow-fast loop (paper, Section 3.3, Algorithm 1b).

    python -m world_model.slowfast_loop task=cube_return
    torchrun --nproc-per-node 2 -m world_model.slowfast_loop task=cube_return

Starts from the shipped base or from ``weights=FOLDER`` (or a Hub id). The same command resumes; the finished model
lies in ``RUN_DIR/model``. ``memory=none`` is the control with equal gradient steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import hydra
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import DictConfig
from torch import Tensor

from tasks.commands import OptionError, RunDir, integer, main, number, task_words
from tasks.files import read_json, write_json
from tasks.provenance import record_origin
from tasks.shipped import weights_folder
from world_model.chunks import LatentEpisodes, check_lengths
from world_model.data.footage import Footage, inlined
from world_model.device import device_name, pick_device
from world_model.diffusion import Diffusion
from world_model.launch import accelerator_on, main_first, wait
from world_model.memory.keys import content_keys, place_keys
from world_model.memory.temp_lora import TempLora
from world_model.model import THETA0, WorldModel, fingerprint
from world_model.objective import Objective
from world_model.pretrain import measured_pairs, next_chunk_metrics, opened
from world_model.slowfast import (
    ChunkChooser,
    EpisodeBatches,
    SlowFastLoss,
    SlowWeights,
    inner_loop,
    memory_use,
)
from world_model.train_autoencoder import held_out_split
from world_model.training import Learner, Log, check_launch, generator, train

MANY = 16  # inner loops that D_s holds where nothing is said


def share_of(count: int, accelerator: Accelerator) -> slice:
    """This process's part of ``count`` samples; OptionError unless it divides evenly."""
    if count % accelerator.num_processes:
        raise OptionError(f"{count} episodes can't be shared evenly by {accelerator.num_processes} processes")
    size = count // accelerator.num_processes
    return slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)


class Probe:
    """Losses on held-out episodes that show whether Φ reads the memory: with the episode's own, with
    another episode's, with an empty one. Of an episode's chunks in focus the middle one is taken: a path's first
    steps back continue what the context shows, its last ones have few ways left.

    Where episodes differ in length, each length is watched by itself as well (``probe/own_8``, of eight chunks):
    a mean hides that one is learned at the other's cost.

    Args:
        count: episodes in all at most, shared by the lengths, at least two a process of each; the most frequent
            lengths where that is too few for all.
        lengths: numbers of chunks to take, as in training; None takes any.
    """

    def __init__(
        self,
        data: LatentEpisodes,
        chooser: ChunkChooser,
        count: int,
        seed: int,
        accelerator: Accelerator,
        lengths: Sequence[int] | None = None,
    ):
        self.data, self.chooser, self.seed, self.accelerator = data, chooser, seed, accelerator
        groups: dict[int, list[int]] = {}
        for episode, segments in enumerate(data.segments):
            if lengths is None or len(segments) in lengths:
                groups.setdefault(len(segments), []).append(episode)
        processes = accelerator.num_processes
        least = 2 * processes  # of a length: another episode's memory is one of the same process
        enough = [n for n, group in groups.items() if len(group) >= least]
        watched = sorted(enough, key=lambda n: len(groups[n]), reverse=True)[: count // least]
        self.episodes: dict[int, list[int]] = {}
        for n in sorted(watched):
            taken = groups[n][: min(count // len(watched), len(groups[n])) // processes * processes]
            self.episodes[n] = taken[share_of(len(taken), accelerator)]
        if count and not self.episodes:
            accelerator.print(f"no probe: {len(data)} episodes are held out, too few; collect more")

    def middle(self, episode: int) -> int:
        """The chunk that is watched."""
        segments = self.data.segments[episode]
        found = [k for k, s in enumerate(segments) if k and self.chooser.in_focus(s.caption)]
        return found[len(found) // 2] if found else len(segments) - 1

    def __call__(self, model: WorldModel, objective: Objective) -> dict[str, float]:
        figures: dict[str, list[float]] = {}
        for length, episodes in self.episodes.items():
            experience = inner_loop(model, self.data, episodes, "ground_truth", self.seed, 0)
            chunks = [self.middle(e) for e in episodes]
            losses = memory_use(model, objective, experience, chunks, self.seed)
            for name, values in losses.items():
                mean = float(cast(Tensor, self.accelerator.gather(values)).mean())
                figures.setdefault(f"probe/{name}", []).append(mean)
                if len(self.episodes) > 1:
                    figures[f"probe/{name}_{length}"] = [mean]
        return {name: sum(values) / len(values) for name, values in figures.items()}


def train_loop(
    cfg: DictConfig,
    model: WorldModel,
    data: LatentEpisodes,
    held_out: LatentEpisodes,
    batches: EpisodeBatches,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Train the model's slow weights, or go on training them; leaves the averaged ones in the model."""
    chooser = ChunkChooser(cfg.focus, cfg.focus_share, cfg.first_share)
    probe = Probe(held_out, chooser, cfg.probe_episodes, cfg.seed, accelerator, lengths_of(cfg))
    slow = SlowWeights(model.unet.requires_grad_(True), model.memory.module).train()
    steps = cfg.iterations * cfg.outer.steps
    rates = (cfg.outer.learning_rate, cfg.outer.warmup, cfg.outer.ema)
    learner = Learner(slow, folder, steps, *rates, accelerator)
    if learner.resume():
        done = learner.step // cfg.outer.steps
        accelerator.print(f"going on at iteration {done} of {cfg.iterations}")
    outer = Diffusion(cast(Any, learner.wrapped), model.diffusion.scheduler, model.text.null)
    objective = Objective(outer, model.text, cfg.outer)
    loss = SlowFastLoss(
        model,
        objective,
        data,
        batches,
        chooser,
        cfg.inner,
        cfg.outer.steps,
        cfg.seed,
        share_of(cfg.batch_size, accelerator),
        pool_of(cfg),
    )
    every = cfg.every * cfg.outer.steps
    quiet = Objective(model.diffusion, model.text, cfg.outer)

    def with_probe(step: int) -> tuple[Tensor, dict[str, float]]:
        probed = {}
        if (step + 1) % every == 0:
            with learner.on_average():
                probed = probe(model, quiet)
        value, figures = loss(step)
        return value, figures | probed

    log = Log(folder, learner.step) if accelerator.is_main_process else None
    shown = ("loss", "probe/own", "probe/other", "probe/empty")
    train(learner, with_probe, log, every, "slow-fast loop", shown)
    averaged = cast(SlowWeights, learner.averaged())
    slow.load_state_dict(averaged.state_dict())
    slow.eval().requires_grad_(False)


def opened_run(cfg: DictConfig, base: Path) -> RunDir:
    """The run's directory; with other weights at the same place it is another run."""
    versions = {"world_model": fingerprint(base)}
    return RunDir.open("slowfast_loop", cfg, ignore=("device",), versions=versions)


def model_to_train(cfg: DictConfig, base: Path, device: torch.device) -> WorldModel:
    """The model in ``base`` with the memory of ``cfg``, and what writes Θ."""
    memory = hydra.utils.instantiate(cfg.memory)
    model = WorldModel.from_pretrained(base, memory, device, untrained_memory=True)
    if memory.spec and cfg.writer == "base":
        model.keep_writing()
    elif memory.spec:
        model.write_with_core()
    return model


def write_under_telling_keys(model: WorldModel, data: LatentEpisodes, chunks: int = 64) -> None:
    """Give the model a Θ₀ whose A tell apart places or, with ``objective=backward``, what is seen in chunks drawn from
    the data. One without Temp-LoRA stays, and one whose steps change A as well."""
    memory, settings = model.memory, model.settings
    if not isinstance(memory, TempLora) or memory.learning.optimizer != "normalized":
        return
    timesteps = memory.learning.timesteps
    if memory.learning.objective == "backward":
        new = settings.chunk_frames
        drawn = data.draw(chunks, settings.context_frames - new, new, generator(0, 0))
        keys = content_keys(memory.injector, model.writing, drawn.clean.flip(1), new, timesteps)
    else:
        shape = (settings.context_frames, *data.latents[0].shape[1:])
        keys = place_keys(memory.injector, model.writing, shape, timesteps)
    model.use_memory(memory, keys)


def pool_of(cfg: DictConfig) -> int:
    """How many inner loops D_s holds; null takes many where an earlier one stays what it was."""
    return cfg.pool or (MANY if (cfg.inner, cfg.writer) == ("ground_truth", "base") else 1)


def lengths_of(cfg: DictConfig) -> list[int] | None:
    """The numbers of chunks that are taken; None: any."""
    return None if cfg.chunks is None else list(cfg.chunks)


def planned_batches(cfg: DictConfig, model: WorldModel, footage: Footage) -> EpisodeBatches:
    """Which episodes each iteration takes.

    Raises:
        ValueError: there are too few to train on or to hold out, too short ones, or of other chunks.
    """
    training, held = held_out_split(footage)
    check_lengths(footage, held, measured_pairs(model.settings), "held-out")
    segments = [footage.segments(i) for i in training]
    return EpisodeBatches(segments, cfg.batch_size, model.settings.chunk_frames, cfg.seed, lengths_of(cfg))


def slowfast_loop(
    cfg: DictConfig,
    base: Path,
    model: WorldModel,
    run_dir: RunDir,
    accelerator: Accelerator,
    footage: Footage,
    batches: EpisodeBatches,
) -> Path:
    """Run, or go on with, the loop from ``model``, opened from ``base``, in ``run_dir``; returns the finished one's
    folder."""
    for chunks, count in batches.left_out.items():
        accelerator.print(
            f"left out: {count} episodes of {chunks} chunks, fewer than batch_size={cfg.batch_size}"
        )
    data, held_out = (
        LatentEpisodes(footage, model.autoencoder, episodes, run_dir / "latents" / name, accelerator)
        for name, episodes in zip(("training", "held_out"), held_out_split(footage), strict=True)
    )
    if cfg.theta0_keys == "discriminant" and not (base / THETA0).is_file():
        write_under_telling_keys(model, data)
    begin = time.monotonic()
    train_loop(cfg, model, data, held_out, batches, run_dir / "training", accelerator)
    folder = run_dir / "model"
    if accelerator.is_main_process:
        model.save_pretrained(folder)
        metrics = next_chunk_metrics(model, held_out, cfg.held_out_chunks, at_once=cfg.batch_size)
        extra = {
            "iterations": cfg.iterations,
            "memory": model.memory.name,
            "base": model.version,
            "seconds_this_run": round(time.monotonic() - begin),
            "device": accelerator.device.type,
        }
        write_json(folder / "metrics.json", {**metrics, **extra})
    wait(accelerator)
    return folder


def check_options(cfg: DictConfig) -> None:
    """OptionError for a value outside its range."""
    for key in ("iterations", "every", "batch_size", "outer.steps", "held_out_chunks"):
        integer(cfg, key, 1)
    for key in ("probe_episodes", "seed"):
        integer(cfg, key, 0)
    number(cfg, "outer.past_noise")
    if cfg.inner not in ("ground_truth", "generated", "mixed"):
        raise OptionError(f"inner={cfg.inner}: expected ground_truth, generated or mixed")
    if cfg.theta0_keys not in ("random", "discriminant"):
        raise OptionError(f"theta0_keys={cfg.theta0_keys}: expected random or discriminant")
    if cfg.writer not in ("base", "self"):
        raise OptionError(f"writer={cfg.writer}: expected base or self")
    if cfg.pool is not None:
        integer(cfg, "pool", 1)
    if pool_of(cfg) > 1 and (cfg.inner, cfg.writer) != ("ground_truth", "base"):
        raise OptionError(
            f"pool={cfg.pool}, inner={cfg.inner}, writer={cfg.writer}: earlier inner loops stay what they were only "
            "with inner=ground_truth and writer=base; expected pool=1 without"
        )


def run(cfg: DictConfig) -> None:
    device = pick_device(cfg.device)
    accelerator = accelerator_on(device, cfg.precision, cfg.products)
    check_launch(accelerator, shards=False)
    check_options(cfg)
    share_of(cfg.batch_size, accelerator)
    cfg.data = inlined(cfg.data)
    with main_first(accelerator):  # where it is on the Hub, one process fetches it
        base = weights_folder(cfg.weights, cfg.task.name, "world_model")
    shared = [opened_run(cfg, base) if accelerator.is_main_process else None]
    run_dir = cast(RunDir, broadcast_object_list(shared)[0])
    folder = run_dir / "model"
    if (folder / "metrics.json").is_file():
        accelerator.print("finished already")
    else:
        with run_dir.withdrawn_on_error() if accelerator.is_main_process else nullcontext():
            footage = opened(cfg, accelerator)
            model = model_to_train(cfg, base, accelerator.device)
            batches = planned_batches(cfg, model, footage)
        if accelerator.is_main_process:
            name, count = device_name(accelerator.device), accelerator.num_processes
            record_origin(run_dir.path, "world_model.slowfast_loop", name, count)
        folder = slowfast_loop(cfg, base, model, run_dir, accelerator, footage, batches)
    accelerator.print(json.dumps(read_json(folder / "metrics.json")))
    memory = hydra.utils.instantiate(cfg.memory).name
    accelerator.print(
        f"{folder}\nplan with it: python -m planner.run {task_words(cfg)} memory={memory} weights={folder}"
    )
    accelerator.end_training()


if __name__ == "__main__":
    main("slowfast_loop", run)
