"""Slow learning: trains the world model's core weights Φ (Section 3.1, Eq. 1-2).

    python -m world_model.pretrain task=cube_return
    torchrun --nproc-per-node 2 -m world_model.pretrain task=cube_return

First trains the autoencoder unless ``autoencoder.path`` names one, then the diffusion UNet on the
encoded episodes. The same command resumes; the finished model lies in ``RUN_DIR/model``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import hydra
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler, UNet3DConditionModel
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tasks.commands import RunDir, integer, main
from tasks.dataset import load_episodes
from tasks.files import write_json
from world_model.autoencoder import FrameAutoencoder
from world_model.chunks import Batch, LatentEpisodes, change_weight
from world_model.device import pick_device
from world_model.diffusion import Diffusion
from world_model.model import Settings, WorldModel, no_dropout
from world_model.text import TextEncoder
from world_model.train_autoencoder import held_out_split, train_autoencoder
from world_model.training import Learner, Log, generator, train


def build_unet(cfg: DictConfig, latent_channels: int) -> UNet3DConditionModel:
    """The UNet of a ``model.unet`` node, untrained, with the mask channel."""
    levels = len(cfg.block_out_channels)
    unet = UNet3DConditionModel(
        in_channels=latent_channels + 1,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock3D",) * levels,
        up_block_types=("CrossAttnUpBlock3D",) * levels,
        **OmegaConf.to_container(cfg),
    )
    return no_dropout(unet)


def draw_timesteps(count: int, total: int, high_share: float, rng: torch.Generator) -> Tensor:
    """``(count,)`` uniform timesteps, a share of them from the noisier half."""
    low = torch.where(torch.rand(count, generator=rng) < high_share, total // 2, 0)
    return (low + torch.rand(count, generator=rng) * (total - low)).long()


class ChunkLoss:
    """Eq. 2 on a step's batch, and a share of Eq. 3's whole noised sequences, so that fast learning's
    objective is in the training distribution. Past and text are dropped independently (Appendix C.1)."""

    def __init__(
        self,
        diffusion: Diffusion,
        text: TextEncoder,
        data: LatentEpisodes,
        cfg: DictConfig,
        device: torch.device,
    ):
        self.diffusion, self.text, self.data, self.options, self.device = (
            diffusion,
            text,
            data,
            cfg.diffusion,
            device,
        )
        self.pairs = [(int(p), int(n)) for p, n, _ in cfg.diffusion.pairs]
        self.shares = torch.tensor([float(w) for *_, w in cfg.diffusion.pairs])

    def batch(self, step: int, seed: int) -> tuple[Batch, torch.Generator]:
        rng = generator(seed, step)
        past, new = self.pairs[int(torch.multinomial(self.shares, 1, generator=rng))]
        return self.data.draw(self.options.batch_size, past, new, rng), rng

    def __call__(self, step: int, seed: int, part: slice = slice(None)) -> tuple[Tensor, dict[str, float]]:
        """The loss of ``part`` of step ``step``'s batch; every process draws the whole batch."""
        batch, rng = self.batch(step, seed)
        options, B = self.options, len(batch.captions)
        t = draw_timesteps(B, self.diffusion.num_train_timesteps, options.high_noise, rng)
        noise = torch.randn(batch.clean.shape, generator=rng)
        with_text = torch.rand(B, generator=rng) >= options.drop_text
        with_past = torch.rand(B, generator=rng) >= options.drop_past
        sequence = bool(torch.rand((), generator=rng) < options.sequence_share)
        clean, noise, t = (x[part].to(self.device) for x in (batch.clean, noise, t))
        if sequence:
            losses = self.diffusion.sequence_loss(clean, t, noise)
            kind = "sequence"
        else:
            tokens = self.text.encode(batch.captions)[part].to(self.device)
            tokens = torch.where(
                with_text[part].to(self.device).view(-1, 1, 1), tokens, self.diffusion.null_tokens.to(tokens)
            )
            weight = change_weight(clean, batch.past_frames, options.change_weight)
            losses = self.diffusion.conditional_loss(
                clean, batch.past_frames, t, noise, tokens, with_past[part].to(self.device), weight
            )
            kind = f"{batch.past_frames}+{clean.shape[1] - batch.past_frames}"
        high = t >= self.diffusion.num_train_timesteps // 2
        figures = {f"loss/{kind}": float(losses.detach().mean())}
        for name, chosen in (("t_low", ~high), ("t_high", high)):
            if not sequence and bool(chosen.any()):
                figures[f"loss/{name}"] = float(losses.detach()[chosen].mean())
        return losses.mean(), figures


def next_chunk_metrics(
    model: WorldModel, data: LatentEpisodes, chunks: int, seed: int = 0
) -> dict[str, float]:
    """PSNR (dB) of imagined next chunks against the decoded truth, beside copying the last frame."""
    errors: dict[str, list[float]] = {"imagined": [], "copied": []}
    new = model.settings.chunk_frames
    for past in sorted({1, model.past_frames}):
        for at in range(0, chunks, 16):
            batch = data.draw(min(16, chunks - at), past, new, generator(seed, at, past))
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
    return {**psnr, "chunks": 2 * chunks}


def pretrain(cfg: DictConfig, run_dir: RunDir) -> Path:
    """Train, or go on training, in ``run_dir``; returns the folder of the finished model."""
    device = pick_device(cfg.device)
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision={"fp32": "no"}.get(cfg.precision, cfg.precision)
    )
    path = cfg.autoencoder.path
    with accelerator.main_process_first():
        path = Path(path) if path else train_autoencoder(cfg, run_dir.path / "autoencoder_training")
    autoencoder = FrameAutoencoder.from_pretrained(path).to(accelerator.device)
    dataset = load_episodes(cfg.data)
    training, held = held_out_split(dataset)
    with accelerator.main_process_first():
        data = LatentEpisodes(dataset, autoencoder, training, run_dir / "latents.safetensors")
    text = hydra.utils.instantiate(cfg.model.text).fit(data.captions())
    scheduler = DPMSolverMultistepScheduler(**OmegaConf.to_container(cfg.model.scheduler))
    torch.manual_seed(cfg.seed)
    unet = build_unet(cfg.model.unet, autoencoder.channels).to(accelerator.device)

    options = cfg.diffusion
    learner = Learner(
        unet,
        run_dir / "training",
        options.steps,
        options.learning_rate,
        options.warmup,
        options.ema,
        accelerator,
    )
    resumed = learner.resume()
    if accelerator.is_main_process and resumed:
        print(f"going on at step {learner.step} of {options.steps}")
    diffusion = Diffusion(learner.wrapped, scheduler, text.null)
    loss = ChunkLoss(diffusion, text, data, cfg, accelerator.device)
    share = options.batch_size // accelerator.num_processes
    if share * accelerator.num_processes != options.batch_size:
        raise ValueError(
            f"diffusion.batch_size={options.batch_size} is no multiple of {accelerator.num_processes} processes"
        )
    part = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    log = Log(run_dir / "training", learner.step) if accelerator.is_main_process else None
    begin = time.monotonic()
    train(learner, lambda step: loss(step, cfg.seed, part), log, options.every, "pretraining")
    folder = run_dir / "model"
    if accelerator.is_main_process:
        settings = Settings(
            cfg.model.name,
            hydra.utils.instantiate(cfg.task).chunk_frames,
            cfg.model.context_frames,
            cfg.model.sampling_steps,
            tuple(cfg.model.guidance),
            tuple(cfg.model.theta_in),
        )
        averaged = learner.averaged().eval().requires_grad_(False)
        model = WorldModel(autoencoder, text, averaged, scheduler, settings)
        model.save_pretrained(folder)
        opened = WorldModel.from_pretrained(folder, device=accelerator.device)
        metrics = next_chunk_metrics(
            opened, LatentEpisodes(dataset, autoencoder, held), options.held_out_chunks
        )
        seconds = round(time.monotonic() - begin)
        write_json(
            folder / "metrics.json",
            {**metrics, "steps": options.steps, "seconds_this_run": seconds, "device": str(device)},
        )
    accelerator.wait_for_everyone()
    return folder


def run(cfg: DictConfig) -> None:
    for key in ("diffusion.steps", "diffusion.batch_size", "diffusion.every", "diffusion.held_out_chunks"):
        integer(cfg, key, 1)
    run_dir = RunDir.open("pretrain", cfg, ignore=("device",))
    folder = run_dir / "model"
    if (folder / "metrics.json").is_file():
        print("finished already")
    else:
        folder = pretrain(cfg, run_dir)
    print(json.dumps(json.loads((folder / "metrics.json").read_text())))
    print(f"{folder}\nplan with it: python -m planner.run task={cfg.task.name} weights={folder}")


if __name__ == "__main__":
    main("pretrain", run)
