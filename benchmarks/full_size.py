"""What ModelScopeT2V's size costs: seconds and memory of a chunk, with and without fast learning.

    python -m benchmarks.full_size --json runs/full_size.json

Every network has its published size and random weights, for time and memory do not ask what was learned:
the UNet and the autoencoder of ``configs/model/modelscope.yaml``, and CLIP's text tower beside them. On a
GPU; ``--device cpu`` with small ``--side``, ``--frames``, ``--past`` and ``--steps`` shows only that all
of it fits together. The paper's Table 3, on a V100: 12.93 s and 13.81 s, 9,579 MB and 9,931 MB.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet3DConditionModel
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.fast_learning import compare_chunks, paper_memory
from tasks.commands import compose
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor
from world_model.device import PRECISIONS, pick_device, pick_dtype
from world_model.memory.temp_lora import TempLora
from world_model.model import Settings, WorldModel
from world_model.pretrain import build_unet, options_of
from world_model.train_autoencoder import build_autoencoder

CLIP = {  # the text tower of OpenCLIP ViT-H/14 without its last layer, as ModelScopeT2V carries it
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
PAPER = {"seconds": {"without": 12.93, "with": 13.81}, "peak_mb": {"without": 9579, "with": 9931}}  # a V100


class RandomClip:
    """CLIP's text tower with random weights; a text's bytes stand for its tokens."""

    name = "CLIP, random weights"

    def __init__(self, network: CLIPTextModel):
        self.network = network
        self.null = self.encode([""])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(B, 77, 1024)`` float32."""
        length = self.network.config.max_position_embeddings
        ids = [list(text.encode()[:length].ljust(length, b"\0")) for text in texts]
        return self.network(torch.tensor(ids, device=self.network.device)).last_hidden_state.float()

    def save_pretrained(self, folder: str | Path) -> None:
        self.network.save_pretrained(Path(folder) / "text_encoder")


def published_text() -> CLIPTextModel:
    """CLIP's text tower at the published size, random weights."""
    return CLIPTextModel(CLIPTextConfig(**CLIP)).eval().requires_grad_(False)


def drawn(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """A network that was built without storage, drawn on its device: variance over fan-in, gains 1, biases 0."""
    network = nn.Module.to(network, dtype)  # not the class's own, which talks of parts kept in float32
    network.to_empty(device=device)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 1 / math.sqrt(p[0].numel()))
            else:
                p.fill_(float(name.endswith("weight")))
    return network.eval().requires_grad_(False)


def random_model(cfg: DictConfig, settings: Settings, device: torch.device, dtype: torch.dtype) -> WorldModel:
    """The world model of a ``model`` node with random weights; never a float32 copy of the UNet."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet: UNet3DConditionModel = build_unet(cfg.unet, cfg.autoencoder.latent_channels)
    autoencoder = build_autoencoder(cfg.autoencoder).eval().requires_grad_(False).to(device, dtype)
    text = RandomClip(published_text())  # on the CPU, where the world model keeps it
    scheduler = DPMSolverMultistepScheduler(**options_of(cfg.scheduler))
    return WorldModel(autoencoder, text, drawn(unet, device, dtype), scheduler, settings, version="random")


def millions(network: nn.Module) -> float:
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 1)


def fits(model: WorldModel, side: int, memory: TempLora, frames: int) -> bool:
    """Whether a chunk of ``frames`` new frames after as many past ones is imagined and remembered; what else than
    memory runs out, such as a library's largest index, is printed."""
    model.settings = Settings(
        **{**vars(model.settings), "chunk_frames": frames, "context_frames": 2 * frames}
    )
    try:
        compare_chunks(model, memory, 1, side)
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError):
            print(f"{frames} frames: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def largest_chunk(fits: Callable[[int], bool], first: int, limit: int = 256) -> int:
    """The largest number of frames up to ``limit`` that fits, to a quarter of it; 0 if not even ``first`` does."""
    low, high = 0, first
    while high <= limit and fits(high):
        low, high = high, 2 * high
    while low and high <= limit and high - low > max(1, low // 4):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Both ways of one chunk, and on a GPU the largest chunk that fits; json-able."""
    cfg = compose("pretrain", ["model=modelscope"]).model
    settings = Settings(
        cfg.name, args.frames, args.past + args.frames, args.steps, tuple(cfg.guidance),
        gradient_checkpointing=args.checkpointing,
    )  # fmt: skip
    model = random_model(cfg, settings, device, pick_dtype(args.precision, device))
    memory = paper_memory()
    on_gpu = device.type == "cuda"
    figures: dict[str, Any] = {
        "one_chunk": {**compare_chunks(model, memory, args.rounds, args.side), "paper": PAPER},
        "largest_chunk": None,
        "parameters_millions": {
            "unet": millions(model.unet),
            "autoencoder": millions(model.autoencoder),
            "text": millions(model.text.network),  # type: ignore[attr-defined]
        },
        **{key: vars(args)[key] for key in ("side", "frames", "past", "steps", "precision", "checkpointing")},
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "hardware": processor(),
        "torch": torch.__version__,
        "commit": commit(),
        "command": command_line("benchmarks.full_size"),
    }
    if on_gpu and args.largest:
        if args.json:
            write_json(args.json, figures)  # the search may end the process
        figures["largest_chunk"] = largest_chunk(partial(fits, model, args.side, memory), args.frames)
    return figures


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What ModelScopeT2V's size costs.")
    numbers = {
        "side": (256, "of the frames, px; a multiple of 64"),
        "frames": (16, "new frames of a chunk"),
        "past": (16, "past frames"),
        "steps": (20, "sampling steps"),
        "rounds": (3, "repetitions of each way"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--precision", default="fp16", choices=tuple(PRECISIONS), help="default fp16")
    parser.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    parser.add_argument("--no-largest", dest="largest", action="store_false", help="skip the largest chunk")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default cuda)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if min(vars(args)[name] for name in numbers) < 1 or args.side % 64:
        parser.error("--side must be a multiple of 64, the other numbers at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write json if asked."""
    args = parsed(argv)
    try:
        device = pick_device(args.device)
        pick_dtype(args.precision, device)
    except ValueError as error:
        small = "--device cpu --precision bf16 --side 64 --frames 2 --past 1 --steps 1 --rounds 1"
        print(
            f"error: {error}; the full size is meant for a GPU ({small} only shows that it fits together)",
            file=sys.stderr,
        )
        return 1
    figures = measure(args, device)
    for key, value in figures.items():
        print(f"{key:20} {value}")
    if args.json:
        write_json(args.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
