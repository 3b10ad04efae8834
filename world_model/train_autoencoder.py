"""Trains the frame autoencoder on a dataset's frames; the first stage of ``world_model.pretrain``.

    python -m world_model.train_autoencoder task=cube_return

The same command resumes. Shipped and used afterwards is the average of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import cast

import hydra
import numpy as np
import torch
from diffusers import AutoencoderKL
from omegaconf import DictConfig
from torch import Tensor

from tasks.commands import RunDir, integer, main, number
from tasks.files import read_json, write_json
from tasks.provenance import record_origin
from world_model.autoencoder import FrameAutoencoder, reconstruction_loss
from world_model.data.footage import Footage, inlined, open_data
from world_model.device import device_name, pick_device
from world_model.training import Learner, Log, generator, train


def build_autoencoder(cfg: DictConfig) -> FrameAutoencoder:
    """The network of a ``model.autoencoder`` node, untrained."""
    levels, channels = len(cfg.block_out_channels), 3 * cfg.unshuffle**2
    vae = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        latent_channels=cfg.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(cfg.block_out_channels),
        layers_per_block=cfg.layers_per_block,
        norm_num_groups=cfg.norm_num_groups,
        mid_block_add_attention=cfg.get("mid_block_add_attention", False),
    )
    return FrameAutoencoder(vae, cfg.unshuffle, scale=1.0)


def held_out_split(footage: Footage, share: float = 0.05) -> tuple[list[int], list[int]]:
    """Episode indices for training, and those of each source held out: the last ones, at least one where it has two.

    Raises:
        ValueError: no source has two.
    """
    counts = [max(0, min(len(r) - 1, max(1, round(share * len(r))))) for r in footage.ranges]
    if not any(counts):
        raise ValueError(
            f"{len(footage)} episodes are too few to hold some out; collect at least 2, or cut long recordings "
            "with data.clip_chunks"
        )
    parts = zip(footage.ranges, counts, strict=True)
    held = [i for episodes, count in parts for i in last_ones(footage, episodes, count)]
    return sorted(set(range(len(footage))) - set(held)), held


def last_ones(footage: Footage, episodes: Sequence[int], count: int) -> list[int]:
    """The last ``count`` of a source's episodes; those of a single chunk, which has no past, only where there are not
    enough others. The first of the others is not taken: training needs one, too."""
    single = [i for i in episodes if len(footage.segments(i)) < 2]
    longer = [i for i in episodes if len(footage.segments(i)) > 1]
    order = [*longer[:1], *single, *longer[1:]]
    return sorted(order[len(order) - count :])


def frames_of(footage: Footage, episodes: Sequence[int]) -> np.ndarray:
    """All frames of some episodes, ``(N, H, W, 3)`` uint8."""
    return np.concatenate([footage[i].frames for i in episodes])


def draw_frames(frames: list[Tensor], weights: Sequence[float], count: int, rng: torch.Generator) -> Tensor:
    """``(count, H, W, 3)`` frames: by the sources' weights, then uniform over a source's frames."""
    if len(frames) == 1:
        return frames[0][torch.randint(len(frames[0]), (count,), generator=rng)]
    chosen = torch.multinomial(torch.tensor(weights, dtype=torch.float64), count, True, generator=rng)
    where = torch.rand(count, dtype=torch.float64, generator=rng)
    picked = [
        frames[k][int(w * len(frames[k]))] for k, w in zip(chosen.tolist(), where.tolist(), strict=True)
    ]
    return torch.stack(picked)


@torch.no_grad()
def normalise_latents(model: FrameAutoencoder, frames: np.ndarray) -> None:
    """Set shift and scale so that the latents of these frames have mean 0 and standard deviation 1."""
    model.shift.zero_()
    model.scale = 1.0
    latents = model.encode(frames)
    model.shift.copy_(latents.mean((0, 2, 3)).view(-1, 1, 1))
    model.scale = float(1 / (latents - model.shift).std())


def reconstruction_metrics(model: FrameAutoencoder, frames: np.ndarray) -> dict[str, float]:
    """PSNR (dB) over all pixels, and over the saturated ones, which are the things that move."""
    out = model.decode(model.encode(frames)).astype(np.float64)
    error = (out - frames) ** 2
    coloured = (frames.max(-1).astype(int) - frames.min(-1)) > 80
    return {
        "psnr": float(10 * np.log10(255**2 / error.mean())),
        "psnr_coloured": float(10 * np.log10(255**2 / error[coloured].mean()))
        if coloured.any()
        else float("nan"),
        "frames": len(frames),
    }


def train_autoencoder(cfg: DictConfig, folder: Path, footage: Footage) -> Path:
    """Train, or go on training, in ``folder``; returns the folder of the finished autoencoder."""
    done = folder / "autoencoder"
    if (done / "metrics.json").is_file():
        return done
    options = cfg.autoencoder
    torch.manual_seed(cfg.seed)
    device = pick_device(cfg.device)
    training, held = held_out_split(footage)
    apart = [[i for i in training if i in r] for r in footage.ranges]
    frames = [torch.from_numpy(frames_of(footage, some)) for some in apart]
    model = build_autoencoder(cfg.model.autoencoder).to(device)
    learner = Learner(model.vae, folder, options.steps, options.learning_rate, options.warmup, options.ema)
    learner.resume()
    log = Log(folder, learner.step)

    def loss(step: int):
        draw = generator(cfg.seed, step)
        batch = draw_frames(frames, footage.weights, options.batch_size, draw)
        torch.manual_seed(cfg.seed * 1_000_003 + step)  # the posterior's sample
        return reconstruction_loss(model, model.to_pixels(batch), options.colour_weight, options.kl_weight)

    train(learner, loss, log, options.every, name="autoencoder")
    log.close()
    averaged = cast(AutoencoderKL, learner.averaged().eval())
    final = FrameAutoencoder(averaged, model.unshuffle, scale=1.0).to(device)
    each = 4096 // len(frames)
    normalise_latents(final, torch.cat([f[:: max(1, len(f) // each)] for f in frames]).numpy())
    metrics = reconstruction_metrics(final, frames_of(footage, held)[:2048])
    final.save_pretrained(done)
    write_json(done / "metrics.json", {**metrics, "steps": options.steps})
    return done


def check_autoencoder_options(cfg: DictConfig) -> None:
    """OptionError for a seed or a value of ``autoencoder`` outside its range."""
    integer(cfg, "seed", 0)
    for key in ("steps", "batch_size", "every"):
        integer(cfg, f"autoencoder.{key}", 1)
    integer(cfg, "autoencoder.warmup", 0)
    for key, top in (("learning_rate", inf), ("ema", 1.0), ("colour_weight", inf), ("kl_weight", inf)):
        number(cfg, f"autoencoder.{key}", maximum=top)


def run(cfg: DictConfig) -> None:
    check_autoencoder_options(cfg)
    cfg.data = inlined(cfg.data)
    run_dir = RunDir.open("autoencoder", cfg, ignore=("device",))
    folder = run_dir / "autoencoder"
    if not (folder / "metrics.json").is_file():
        with run_dir.withdrawn_on_error():
            device = pick_device(cfg.device)
            footage = open_data(cfg.data, hydra.utils.instantiate(cfg.task).chunk_frames)
            held_out_split(footage)
        print("".join(f"data: {line}\n" for line in footage.told), end="", flush=True)
        record_origin(run_dir.path, "world_model.train_autoencoder", device_name(device))
        train_autoencoder(cfg, run_dir.path, footage)
    print(json.dumps(read_json(folder / "metrics.json")))
    print(folder)


if __name__ == "__main__":
    main("autoencoder", run)
