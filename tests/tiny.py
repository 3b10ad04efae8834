"""The world model's real classes at a size that a test can afford: 16x16 frames, 4x4x4 latents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet3DConditionModel
from torch import Tensor, nn

from tasks import Episode, Segment
from tasks.dataset import DatasetWriter
from world_model.autoencoder import FrameAutoencoder
from world_model.memory.temp_lora import TempLora
from world_model.model import Settings, WorldModel
from world_model.text import SentenceEncoder, TextEncoder

SIDE, CHANNELS, LATENT, WIDTH = 16, 4, 4, 8
SETTINGS = {"chunk_frames": 2, "context_frames": 4, "sampling_steps": 3, "guidance": (1.5, 2.5)}
CAPTIONS = ("pick up the red cube", "pick up the blue cube", "put the red cube on the left")


def shake(network: nn.Module, scale: float = 0.1) -> nn.Module:
    """Fill what diffusers starts at zero (its temporal convolutions' last layers), so that every part counts."""
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(0, scale)
    return network


def make_unet(extra: int = 1, width: int = WIDTH, seed: int = 0) -> UNet3DConditionModel:
    torch.manual_seed(seed)
    unet = UNet3DConditionModel(
        in_channels=CHANNELS + extra,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=4,
    )
    return shake(unet).eval().requires_grad_(False)


def make_vae(unshuffle: int, levels: int, seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return (
        AutoencoderKL(
            in_channels=3 * unshuffle**2,
            out_channels=3 * unshuffle**2,
            latent_channels=CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(8,) * levels,
            norm_num_groups=4,
        )
        .eval()
        .requires_grad_(False)
    )


def make_autoencoder() -> FrameAutoencoder:
    return FrameAutoencoder(make_vae(unshuffle=2, levels=2), 2, [0.1, -0.2, 0.0, 0.3], 1.5)


def make_scheduler(prediction_type: str = "v_prediction") -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )


def make_model(text: TextEncoder, memory: TempLora | None = None, **settings: object) -> WorldModel:
    chosen = {"name": "tiny"} | SETTINGS | settings
    return WorldModel(
        make_autoencoder(), text, make_unet(), make_scheduler(), Settings(**chosen), memory, version="test"
    )


def make_text() -> SentenceEncoder:
    return SentenceEncoder(WIDTH).fit(CAPTIONS)


ADAM = {
    "steps": 4,
    "timesteps": (600, 1000),
    "targets": "attention",
    "optimizer": "adam",
    "begins": "theta",
    "draws": "own",
}
"""Options under which fast learning is what the paper writes down: several steps of Adam, an episode's own noise."""


def make_memory(**options: object) -> TempLora:
    return TempLora(**ADAM | {"rank": 2, "alpha": 2, "steps": 2, "learning_rate": 1e-2} | options)


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)


def latents(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, CHANNELS, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))


def make_episode(segments: int, chunk: int = 4, seed: int = 0) -> Episode:
    """Random frames, ``segments`` subgoals of ``chunk`` frames."""
    T = 1 + chunk * segments
    return Episode(
        frames(T, seed=seed),
        np.zeros((T - 1, 2), np.float32),
        tuple(Segment(i * chunk, (i + 1) * chunk, CAPTIONS[(i + seed) % 3]) for i in range(segments)),
        np.random.default_rng(seed).random((1, 2, 3), np.float32).repeat(T, 0),
        ("red cube", "blue cube"),
        {"seed": seed},
    )


def make_dataset(path: Path, segments: tuple[int, ...] = (2, 3, 2, 2, 3, 2)) -> Path:
    writer = DatasetWriter(path, 5, ("x", "gripper"))
    for seed, count in enumerate(segments):
        writer.append(make_episode(count, seed=seed))
    return writer.finish()


def save_modelscope(folder: Path) -> Path:
    """A folder laid out as ModelScopeT2V's on the Hub: four-channel UNet, DDIM scheduler, CLIP text."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    make_unet(extra=0).save_pretrained(folder / "unet")
    make_vae(unshuffle=1, levels=3).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    source = folder / "vocabulary"
    source.mkdir()
    (source / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(source / "vocab.json"), str(source / "merges.txt"), model_max_length=12)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    return folder


def open_modelscope(folder: Path, memory: TempLora | None = None, **settings: object) -> WorldModel:
    """``save_modelscope``'s folder with ``make_model``'s settings."""
    return WorldModel.from_pretrained(folder, memory, **SETTINGS | settings)


def modelscope_options(folder: Path, *overrides: str) -> tuple[str, ...]:
    """Of ``world_model.pretrain``: start from ``save_modelscope``'s folder."""
    unet = ("block_out_channels=[8,16]", "layers_per_block=1", "attention_head_dim=4", "norm_num_groups=4",
            f"cross_attention_dim={WIDTH}", "down_block_types=[CrossAttnDownBlock3D,DownBlock3D]",
            "up_block_types=[UpBlock3D,CrossAttnUpBlock3D]")  # fmt: skip
    options = tuple(f"model.unet.{option}" for option in unet)
    return "model=modelscope", f"model.pretrained={folder}", *options, "model.context_frames=8", *overrides
