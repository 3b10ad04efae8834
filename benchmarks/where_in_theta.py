"""How well Θ tells where a cube stood: fast learning's writing, apart from whether Φ can read it.

    python -m benchmarks.where_in_theta steps=4 learning_rate=2e-3 --json benchmarks/results/where_adam4.json

Each episode's first chunk is learned into its own Θ; a linear map from Θ to the moved cube's start is
fitted by ridge regression and tested by leaving one episode out. A guess (the mean start) stands beside.
Options of :class:`~world_model.memory.temp_lora.TempLora` are given as ``key=value``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.provenance import commit, processor
from tasks import Episode
from tasks.dataset import load_episodes
from tasks.files import write_json
from tasks.shipped import weights_folder
from world_model.chunks import LatentEpisodes
from world_model.memory.temp_lora import TempLora
from world_model.model import WorldModel
from world_model.training import generator

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def leave_one_out(features: Tensor, targets: np.ndarray) -> dict[float, np.ndarray]:
    """Ridge regression's predictions ``(N, D)`` for each left-out row, by strength of the ridge.

    Args:
        features: ``(N, P)``; the mean is taken out.
        targets: ``(N, D)``.
    """
    x = features.double() - features.double().mean(0)
    gram = x @ x.T
    gram = gram / gram.diag().mean()
    centre = targets.mean(0)
    predictions = {}
    for ridge in RIDGES:
        hat = (gram @ torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))).numpy()
        own = np.diag(hat)[:, None]
        predictions[ridge] = centre + (hat @ (targets - centre) - own * (targets - centre)) / (1 - own)
    return predictions


def moved_object(episode: Episode) -> str:
    """The object of an episode's first subgoal. Raises ``ValueError`` if its caption names none."""
    caption = episode.segments[0].caption
    named = [name for name in episode.names if name in caption]
    if len(named) != 1:
        raise ValueError(
            f"{caption!r} should name one of {', '.join(episode.names)}; give cube_return's data"
        )
    return named[0]


@torch.no_grad()
def thetas(model: WorldModel, memory: TempLora, data: LatentEpisodes, batch: int) -> tuple[Tensor, float]:
    """B of every layer after the first chunk ``(N, P)``, and the mean effect on the predicted noise."""
    rows, effects = [], []
    for at in range(0, len(data), batch):
        chosen = range(at, min(at + batch, len(data)))
        first = [data.segments[e][0] for e in chosen]
        z = torch.stack([data.latents[e][s.start : s.stop + 1] for e, s in zip(chosen, first, strict=True)])
        z = z.float().to(model.device)
        tokens = model.text.encode([s.caption for s in first]).to(z)
        generators = [generator(0, e) for e in chosen]
        state = memory.update(memory.reset(len(z)), model.diffusion, z[:, :1], z[:, 1:], tokens, generators)
        rows.append(torch.cat([b.flatten(1) for b in state.weights.tensors()[1::2]], 1).cpu())
        effects.append(memory.effect(state.weights, model.diffusion, z[:, 1:]).cpu())
    return torch.cat(rows), float(torch.cat(effects).mean())


def measure(weights: str, data: str, episodes: int, batch: int, options: dict[str, Any]) -> dict[str, Any]:
    """Error in m of the decoded start, beside the guess's; json-able."""
    dataset = load_episodes(data)
    count = min(episodes, len(dataset))
    memory = TempLora(**options)
    model = WorldModel.from_pretrained(weights_folder(weights, "", "world_model"), memory)
    chosen = [dataset[i] for i in range(count)]
    features, effect = thetas(model, memory, LatentEpisodes(dataset, model.autoencoder, range(count)), batch)
    objects = [n for n in chosen[0].names if n != "gripper"]
    starts = np.stack([np.concatenate([e.position(n)[0, :2] for n in objects]) for e in chosen])
    column = np.array([objects.index(moved_object(e)) for e in chosen])

    def error(predicted: np.ndarray) -> float:
        cells = (predicted - starts).reshape(count, -1, 2)[np.arange(count), column]
        return float(np.linalg.norm(cells, axis=1).mean())

    errors = {ridge: error(p) for ridge, p in leave_one_out(features, starts).items()}
    ridge = min(errors, key=lambda r: errors[r])
    return {
        "error_m": round(errors[ridge], 4),
        "ridge": ridge,
        "guess_m": round(error(np.broadcast_to(starts.mean(0), starts.shape)), 4),
        "effect": round(effect, 4),
        "episodes": count,
        "options": options,
        "model": model.version,
        "hardware": processor(),
        "commit": commit(),
        "command": f"python -m benchmarks.where_in_theta {' '.join(sys.argv[1:])}".strip(),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="How well Temp-LoRA's weights tell where a cube stood.")
    parser.add_argument("options", nargs="*", help="of Temp-LoRA, as steps=4 or timesteps=[600,1000]")
    parser.add_argument("--weights", default="weights/cube_return", help="a world model's folder")
    parser.add_argument("--data", default="data/cube_return", help="a dataset of the task")
    parser.add_argument("--episodes", type=int, default=192, help="how many (default 192)")
    parser.add_argument("--batch", type=int, default=32, help="episodes at once (default 32)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.episodes < 3 or args.batch < 1:
        parser.error("--episodes must be at least 3 and --batch at least 1")
    given = OmegaConf.to_container(OmegaConf.from_dotlist(args.options))
    try:
        figures = measure(args.weights, args.data, args.episodes, args.batch, dict(given))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    for key, value in figures.items():
        print(f"{key:10} {value}")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
