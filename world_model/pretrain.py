"""Slow learning: trains the world model's core weights Φ (Section 3.1, Eq. 1-2).

    python -m world_model.pretrain task=cube_return
    torchrun --nproc-per-node 2 -m world_model.pretrain task=cube_return

First trains the autoencoder unless ``autoencoder.path`` names one, then the diffusion UNet on the
encoded episodes. The same command resumes; the finished model lies in ``RUN_DIR/model``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import hydra
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import DPMSolverMultistepScheduler, UNet3DConditionModel
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from tasks.commands import OptionError, RunDir, integer, main, number, task_words
from tasks.files import read_json, write_json
from tasks.hub import HubError, located
from tasks.provenance import record_origin
from world_model.autoencoder import FrameAutoencoder
from world_model.chunks import Batch, Focus, LatentEpisodes, check_lengths
from world_model.data.footage import Footage, inlined, open_data
from world_model.device import device_name, pick_device
from world_model.diffusion import Diffusion
from world_model.launch import accelerator_on, main_first, wait
from world_model.model import Settings, WorldModel
from world_model.objective import SHARES, Objective
from world_model.text import TextEncoder
from world_model.train_autoencoder import (
    build_autoencoder,
    check_autoencoder_options,
    held_out_split,
    train_autoencoder,
)
from world_model.training import (
    CheckpointError,
    Learner,
    Log,
    check_launch,
    generator,
    train,
)
from world_model.unet import layer_names, prepared


def options_of(cfg: DictConfig) -> dict[str, Any]:
    """A node as plain keyword arguments."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def build_unet(cfg: DictConfig, latent_channels: int) -> UNet3DConditionModel:
    """The UNet of a ``model.unet`` node, untrained, with the mask channel; attention at every level
    unless the node names other block types."""
    levels = len(cfg.block_out_channels)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock3D",) * levels,
        "up_block_types": ("CrossAttnUpBlock3D",) * levels,
    }
    unet = UNet3DConditionModel(
        in_channels=latent_channels + 1, out_channels=latent_channels, **{**blocks, **options_of(cfg)}
    )
    return prepared(unet)


def pairs_of(pairs: Sequence[Sequence[Any]], settings: Settings) -> list[tuple[int, int, float]]:
    """``diffusion.pairs`` in numbers: past frames, new frames, share.

    ``chunk`` stands for a chunk's frames; ``later`` for every number of past frames that an episode has from its
    second chunk on, until the context window is full: these share their share.

    Raises:
        OptionError: there are none, an entry is neither a whole number nor one of these words, or a share is none.
    """
    listed = isinstance(pairs, (Sequence, ListConfig)) and not isinstance(pairs, str)
    if not (listed and pairs and all(isinstance(p, (Sequence, ListConfig)) and len(p) == 3 for p in pairs)):
        raise OptionError(f"diffusion.pairs={pairs}: expected a list of [past frames, new frames, share]")
    chunk, full = settings.chunk_frames, settings.context_frames - settings.chunk_frames
    words = {"chunk": [chunk], "later": [*range(1 + chunk, full, chunk), full]}

    def frames(given: Any) -> list[int]:
        if isinstance(given, str) and given in words:
            return words[given]
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise OptionError(f"diffusion.pairs: {given} frames; expected a whole number, later or chunk")
        return [given]

    found = []
    for past, new, share in pairs:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < math.inf:
            raise OptionError(f"diffusion.pairs: a share of {share}; expected a number above 0")
        both = [(p, n) for p in frames(past) for n in frames(new)]
        found += [(p, n, float(share) / len(both)) for p, n in both]
    return found


class ChunkLoss:
    """The objective on each step's batch of chunks, drawn from the data."""

    def __init__(
        self,
        diffusion: Diffusion,
        text: TextEncoder,
        data: LatentEpisodes,
        cfg: DictConfig,
        device: torch.device,
    ):
        self.objective = Objective(diffusion, text, cfg.diffusion)
        self.data, self.options, self.device = data, cfg.diffusion, device
        drawn = pairs_of(cfg.diffusion.pairs, settings_of(cfg))
        self.pairs = [(past, new) for past, new, _ in drawn]
        for past, new in self.pairs:
            data.allowed(past, new)
        self.focus = Focus.of(cfg.diffusion.focus, cfg.diffusion.focus_share)
        self.shares = torch.tensor([share for *_, share in drawn])

    def batch(self, step: int, seed: int) -> tuple[Batch, torch.Generator]:
        rng = generator(seed, step)
        past, new = self.pairs[int(torch.multinomial(self.shares, 1, generator=rng))]
        return self.data.draw(self.options.batch_size, past, new, rng, self.focus), rng

    def __call__(self, step: int, seed: int, part: slice = slice(None)) -> tuple[Tensor, dict[str, float]]:
        """The loss of ``part`` of step ``step``'s batch; every process draws the whole batch."""
        batch, rng = self.batch(step, seed)
        draws = self.objective.draw(batch.clean.shape, rng).part(part)
        clean = batch.clean[part].to(self.device)
        losses, figures = self.objective.losses(clean, batch.past_frames, batch.captions[part], draws)
        return losses.mean(), figures


def measured_pairs(settings: Settings) -> list[tuple[int, int]]:
    """Past and new frames of the chunks that :func:`next_chunk_metrics` draws from the held-out episodes."""
    full = settings.context_frames - settings.chunk_frames
    return [(past, settings.chunk_frames) for past in sorted({1, full})]


def next_chunk_metrics(
    model: WorldModel, data: LatentEpisodes, chunks: int, seed: int = 0, at_once: int = 16
) -> dict[str, float]:
    """PSNR (dB) of imagined next chunks against the decoded truth, beside copying the last frame; ``at_once`` in a
    batch, no more than 16."""
    errors: dict[str, list[float]] = {"imagined": [], "copied": []}
    pairs, size = measured_pairs(model.settings), min(16, at_once)
    for past, new in pairs:
        for at in range(0, chunks, size):
            batch = data.draw(min(size, chunks - at), past, new, generator(seed, at, past))
            clean = batch.clean.to(model.device)
            truth = model.decode(clean[:, past - 1 :]).astype(np.float64)
            noise = torch.randn(clean[:, past:].shape, generator=generator(seed, at, 99)).to(clean)
            tokens = model.text.encode(batch.captions).to(clean)
            settings = model.settings
            made = model.diffusion.sample(
                clean[:, :past], noise, tokens, settings.sampling_steps, settings.guidance
            )
            errors["imagined"].append(((model.decode(made) - truth[:, 1:]) ** 2).mean())
            errors["copied"].append(((truth[:, :1] - truth[:, 1:]) ** 2).mean())
    psnr = {f"psnr_{k}": float(10 * np.log10(255**2 / np.mean(v))) for k, v in errors.items()}
    return {**psnr, "chunks": len(pairs) * chunks}


def untrained(cfg: DictConfig, autoencoder: FrameAutoencoder, captions: list[str]) -> WorldModel:
    """The world model of a configuration, its UNet drawn from ``cfg.seed``."""
    text = hydra.utils.instantiate(cfg.model.text).fit(captions)
    scheduler = DPMSolverMultistepScheduler(**options_of(cfg.model.scheduler))
    torch.manual_seed(cfg.seed)
    unet = build_unet(cfg.model.unet, autoencoder.channels)
    return WorldModel(autoencoder, text, unet, scheduler, settings_of(cfg))


def settings_of(cfg: DictConfig) -> Settings:
    """How the finished model is to be used."""
    return Settings(
        cfg.model.name,
        hydra.utils.instantiate(cfg.task).chunk_frames,
        cfg.model.context_frames,
        cfg.model.sampling_steps,
        tuple(cfg.model.guidance),
        tuple(cfg.model.theta_in),
        bool(cfg.model.gradient_checkpointing),
    )


def published(cfg: DictConfig, accelerator: Accelerator) -> WorldModel | None:
    """The model at ``model.pretrained``, to train on; None if the configuration names none.

    Raises:
        CheckpointError: it can't be opened, or its UNet is not the one that ``model.unet`` describes.
        HubError: it is neither a folder nor on the Hub.
    """
    name = cfg.model.get("pretrained")
    if not name:
        return None
    with main_first(accelerator):
        try:
            folder = located(name)
        except HubError as error:
            raise HubError(f"model.pretrained: {error}") from None
    model = WorldModel.from_pretrained(folder, device=accelerator.device)
    for key, value in options_of(cfg.model.unet).items():
        found = model.unet.config[key]
        if (list(found) if isinstance(found, (list, tuple)) else found) != value:
            raise CheckpointError(
                f"model.pretrained={name}: {key}={found}, model.unet.{key}={value}; make them equal"
            )
    model.settings = settings_of(cfg)
    model.unet.requires_grad_(True)
    return model


def train_core(
    cfg: DictConfig, model: WorldModel, data: LatentEpisodes, folder: Path, accelerator: Accelerator
) -> UNet3DConditionModel:
    """Train the model's UNet, or go on training it, in ``folder``; returns the averaged one."""
    options = cfg.diffusion
    rates = (options.learning_rate, options.warmup, options.ema)
    unet = model.unet.to(accelerator.device).train()
    learner = Learner(unet, folder, options.steps, *rates, accelerator, layer_names(unet))
    resumed = learner.resume()
    if resumed:
        accelerator.print(f"going on at step {learner.step} of {options.steps}")
    diffusion = Diffusion(learner.wrapped, model.diffusion.scheduler, model.text.null)
    loss = ChunkLoss(diffusion, model.text, data, cfg, accelerator.device)
    share = options.batch_size // accelerator.num_processes
    part = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    log = Log(folder, learner.step) if accelerator.is_main_process else None
    train(learner, lambda step: loss(step, cfg.seed, part), log, options.every, "pretraining")
    return learner.averaged().eval().requires_grad_(False)


def trains_autoencoder(cfg: DictConfig) -> bool:
    """Whether the run trains an autoencoder, for want of a given one."""
    return not (cfg.model.get("pretrained") or cfg.autoencoder.path)


def model_to_train(cfg: DictConfig, accelerator: Accelerator, footage: Footage) -> WorldModel:
    """The model at ``model.pretrained``; without one an untrained one around ``autoencoder.path``, or around an
    autoencoder that :func:`pretrain` puts a trained one in place of."""
    model = published(cfg, accelerator)
    if model is not None:
        return model
    if trains_autoencoder(cfg):
        autoencoder = build_autoencoder(cfg.model.autoencoder)
    else:
        with main_first(accelerator):
            autoencoder = FrameAutoencoder.from_pretrained(cfg.autoencoder.path)
    training, _ = held_out_split(footage)
    captions = sorted({s.caption for i in training for s in footage.segments(i)})
    return untrained(cfg, autoencoder.to(accelerator.device), captions)


def pretrain(
    cfg: DictConfig, model: WorldModel, run_dir: RunDir, accelerator: Accelerator, footage: Footage
) -> Path:
    """Train, or go on training, ``model`` in ``run_dir``; returns the folder of the finished one."""
    if trains_autoencoder(cfg):
        with main_first(accelerator):
            path = train_autoencoder(cfg, run_dir / "autoencoder_training", footage)
            model.autoencoder = FrameAutoencoder.from_pretrained(path).to(accelerator.device)
    training, held = held_out_split(footage)
    autoencoder = model.autoencoder
    data, held_out = (
        LatentEpisodes(footage, autoencoder, episodes, run_dir / "latents" / name, accelerator)
        for name, episodes in (("training", training), ("held_out", held))
    )
    begin = time.monotonic()
    averaged = train_core(cfg, model, data, run_dir / "training", accelerator)
    folder = run_dir / "model"
    if accelerator.is_main_process:
        scheduler = model.diffusion.scheduler
        WorldModel(autoencoder, model.text, averaged, scheduler, model.settings).save_pretrained(folder)
        opened = WorldModel.from_pretrained(folder, device=accelerator.device)
        options = cfg.diffusion
        metrics = next_chunk_metrics(opened, held_out, options.held_out_chunks, at_once=options.batch_size)
        seconds, device = round(time.monotonic() - begin), accelerator.device.type
        extra = {"steps": cfg.diffusion.steps, "seconds_this_run": seconds, "device": device}
        write_json(folder / "metrics.json", {**metrics, **extra})
    wait(accelerator)
    return folder


def opened(cfg: DictConfig, accelerator: Accelerator) -> Footage:
    """The data of ``cfg.data``; what is done to them is said."""
    footage = open_data(cfg.data, hydra.utils.instantiate(cfg.task).chunk_frames)
    for line in footage.told:
        accelerator.print(f"data: {line}")
    return footage


def check_footage(cfg: DictConfig, footage: Footage) -> None:
    """Whether there are episodes to train on and to hold out, long enough for what is drawn from them.

    Raises:
        ValueError: there are not.
    """
    training, held = held_out_split(footage)
    settings = settings_of(cfg)
    drawn = pairs_of(cfg.diffusion.pairs, settings)
    check_lengths(footage, training, [(past, new) for past, new, _ in drawn], "training")
    check_lengths(footage, held, measured_pairs(settings), "held-out")


def check_options(cfg: DictConfig) -> None:
    """OptionError for a value outside its range, ValueError for a focus that is no regular expression; the
    autoencoder's options count where one is trained."""
    for key in ("steps", "batch_size", "every", "held_out_chunks"):
        integer(cfg, f"diffusion.{key}", 1)
    integer(cfg, "diffusion.warmup", 0)
    for key in ("learning_rate", "change_weight", "past_noise"):
        number(cfg, f"diffusion.{key}")
    for key in ("ema", "focus_share", *SHARES):
        number(cfg, f"diffusion.{key}", maximum=1.0)
    integer(cfg, "seed", 0)
    pairs_of(cfg.diffusion.pairs, settings_of(cfg))
    Focus.of(cfg.diffusion.focus, cfg.diffusion.focus_share)
    if cfg.model.get("pretrained") and cfg.autoencoder.path:
        raise OptionError("give autoencoder.path or model.pretrained, which brings its own autoencoder")
    if trains_autoencoder(cfg):
        check_autoencoder_options(cfg)


def run(cfg: DictConfig) -> None:
    check_options(cfg)
    device = pick_device(cfg.device)
    accelerator = accelerator_on(device, cfg.precision, cfg.products)
    check_launch(accelerator, shards=True)
    if cfg.diffusion.batch_size % accelerator.num_processes:
        raise OptionError(
            f"diffusion.batch_size={cfg.diffusion.batch_size}: expected a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    cfg.data = inlined(cfg.data)
    shared = [RunDir.open("pretrain", cfg, ignore=("device",)) if accelerator.is_main_process else None]
    run_dir = cast(RunDir, broadcast_object_list(shared)[0])
    folder = run_dir / "model"
    if (folder / "metrics.json").is_file():
        accelerator.print("finished already")
    else:
        with run_dir.withdrawn_on_error() if accelerator.is_main_process else nullcontext():
            footage = opened(cfg, accelerator)
            check_footage(cfg, footage)
            model = model_to_train(cfg, accelerator, footage)
        if accelerator.is_main_process:
            name, count = device_name(accelerator.device), accelerator.num_processes
            record_origin(run_dir.path, "world_model.pretrain", name, count)
        folder = pretrain(cfg, model, run_dir, accelerator, footage)
    accelerator.print(json.dumps(read_json(folder / "metrics.json")))
    accelerator.print(f"{folder}\nplan with it: python -m planner.run {task_words(cfg)} weights={folder}")
    accelerator.end_training()


if __name__ == "__main__":
    main("pretrain", run)
