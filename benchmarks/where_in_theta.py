"""How well Θ tells where a cube stood: fast learning's writing, apart from whether Φ can read it.

    python -m benchmarks.where_in_theta steps=4 learning_rate=2e-3 --json benchmarks/results/where_adam4.json

Each episode's first chunks are learned into its own Θ, one after the other; a linear map from Θ to the
first moved cube's start is fitted by ridge regression and tested by leaving one episode out. A guess (the
mean start) stands beside. ``--chunks 1`` asks what was written, more of them what is still there.
The same map is fitted to the UNet's middle activations at one fixed input under each Θ: what Φ can read.
And without any map: what Θ changes in the frame that Φ predicts from noise alone, held against the episodes' first
frames, both less their mean over the episodes. ``recall`` is the cosine with the episode's own, ``found`` the share
whose own is the nearest of all. ``--keys discriminant`` writes under keys that tell places apart (memory/keys.py).
Options of :class:`~world_model.memory.temp_lora.TempLora` are given as ``key=value``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from tasks import Episode
from tasks.dataset import load_episodes
from tasks.files import write_json
from tasks.provenance import command_line, commit, processor
from tasks.shipped import weights_folder
from world_model.chunks import LatentEpisodes
from world_model.memory.lora import LoraWeights
from world_model.memory.temp_lora import TempLora
from world_model.model import WorldModel
from world_model.slowfast import inner_loop
from world_model.slowfast_loop import write_under_telling_keys

NOISE = 0.96  # of all timesteps: where sampling decides what will stand where
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def leave_one_out(features: Tensor, targets: np.ndarray) -> dict[float, np.ndarray]:
    """Ridge regression's predictions ``(N, D)`` for each left-out row, by strength of the ridge.

    The row has no part in the intercept either: with more features than rows, a mean taken over all of
    them would give its target away.

    Args:
        features: ``(N, P)``.
        targets: ``(N, D)``.
    """
    x = features.double() - features.double().mean(0)
    gram, count = x @ x.T, len(x)
    gram = gram / gram.diag().mean()
    centre = targets.mean(0)
    predictions = {}
    for ridge in RIDGES:
        hat = (gram @ torch.linalg.inv(gram + ridge * torch.eye(count, dtype=gram.dtype))).numpy()
        fitted, own = centre + hat @ (targets - centre), np.diag(hat)[:, None] + 1 / count
        predictions[ridge] = targets - (targets - fitted) / (1 - own)
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


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """While open, what a module puts out is appended to the list."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, output: outputs.append(output.detach().cpu()))
    try:
        yield outputs
    finally:
        hook.remove()


class Reader:
    """What Φ makes of Θ at one fixed input, the same for every episode: the activations of the UNet's middle.

    Args:
        clean: ``(1, f_p + f_g, C, h, w)``, the input; its new frames are all but noise.
        tokens: ``(1, n, D)``.
    """

    def __init__(self, model: WorldModel, clean: Tensor, past_frames: int, tokens: Tensor):
        self.model, self.clean, self.past_frames, self.tokens = model, clean, past_frames, tokens
        self.noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)

    def __call__(self, weights: LoraWeights) -> Tensor:
        """``(B, P)`` at Φ + Θ of B episodes."""
        assert self.model.injector is not None
        diffusion, count = self.model.diffusion, weights.batch
        t = torch.full((count,), int(NOISE * diffusion.num_train_timesteps), device=self.clean.device)
        clean, noise, tokens = (x.expand(count, *x.shape[1:]) for x in (self.clean, self.noise, self.tokens))
        with self.model.injector.applied(weights), recorded(self.model.unet.mid_block) as outputs:
            diffusion.conditional_loss(clean, self.past_frames, t, noise, tokens)
        return outputs[0].reshape(count, -1).float()


@dataclass(frozen=True)
class Written:
    """What N episodes' memories are after so many chunks.

    Attributes:
        thetas: B of every layer, ``(N, P)``.
        activations: of the UNet's middle under each, ``(N, P')``.
        recalled: what each changes in the frame that is predicted from noise alone, ``(N, C, h, w)``.
        effect: on the predicted noise, mean.
    """

    thetas: Tensor
    activations: Tensor
    recalled: Tensor
    effect: float


def recalled(model: WorldModel, weights: LoraWeights, shape: Sequence[int], draws: int = 4) -> Tensor:
    """What Θ ``(B, …)`` changes in the predicted latents, up to a factor, mean over the frames of ``shape``
    ``(F, C, h, w)`` and over draws of noise, which are the same for all: ``(B, C, h, w)``."""
    assert model.injector is not None
    generator, changes = torch.Generator().manual_seed(0), []
    diffusion, device = model.diffusion, model.device
    t = torch.full((weights.batch,), int(NOISE * diffusion.num_train_timesteps), device=device)
    for _ in range(draws):
        alone = torch.randn((1, *shape), generator=generator).to(device)
        without = diffusion.predicted_noise(torch.zeros_like(alone), t[:1], alone)
        noise = alone.expand(weights.batch, *shape)
        with model.injector.applied(weights):
            changes.append(without - diffusion.predicted_noise(torch.zeros_like(noise), t, noise))
    return torch.stack(changes).mean((0, 2)).cpu()


def likeness(recall: Tensor, frames: Tensor) -> tuple[float, float]:
    """Cosine of what is recalled with the episode's own frame, mean; and the share whose own is the nearest of all.
    Both are ``(N, C, h, w)``; their means over the episodes are taken away."""
    rows, columns = ((x - x.mean(0)).flatten(1).float() for x in (recall, frames))
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], columns[None], dim=2)
    nearest = cosines.argmax(1) == torch.arange(len(cosines))
    return float(cosines.diag().mean()), float(nearest.float().mean())


@torch.no_grad()
def thetas(model: WorldModel, data: LatentEpisodes, chunks: int, batch: int) -> Written:
    """The episodes' memories after so many chunks."""
    rows, read, told, effects = [], [], [], []
    memory = model.memory
    assert isinstance(memory, TempLora)
    reader: Reader | None = None
    for at in range(0, len(data), batch):
        experience = inner_loop(model, data, range(at, min(at + batch, len(data))), "ground_truth", 0, 0)
        if reader is None:
            past, new = experience.pasts[chunks][:1], experience.news[chunks][:1]
            tokens = model.text.encode(experience.captions[chunks][:1]).to(past)
            reader = Reader(model, torch.cat([past, new], 1), past.shape[1], tokens)
        weights = memory.weights(experience.states[chunks])
        rows.append(torch.cat([b.flatten(1) for b in weights.tensors()[1::2]], 1).cpu())
        read.append(reader(weights))
        told.append(recalled(model, weights, (model.settings.context_frames, *data.latents[0].shape[1:])))
        effects.append(memory.effect(weights, model.writing, experience.news[chunks - 1]).cpu())
    return Written(torch.cat(rows), torch.cat(read), torch.cat(told), float(torch.cat(effects).mean()))


def measure(
    weights: str, data: str, episodes: int, chunks: int, batch: int, keys: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Error in m of the decoded start, beside the guess's; json-able.

    Raises:
        ValueError: fewer than three episodes go on after so many chunks.
    """
    dataset = load_episodes(data)
    memory = TempLora(**options)
    model = WorldModel.from_pretrained(weights_folder(weights, "", "world_model"), memory)
    longer = (i for i in range(len(dataset)) if len(dataset[i].segments) > chunks)
    indices = list(islice(longer, episodes))
    if len(indices) < 3:
        raise ValueError(f"--chunks {chunks}: only {len(indices)} episodes are longer; lower it")
    chosen, count = [dataset[i] for i in indices], len(indices)
    latents = LatentEpisodes(dataset, model.autoencoder, indices)
    if keys == "discriminant":
        write_under_telling_keys(model, latents)
    latents.segments = [s[: chunks + 1] for s in latents.segments]
    written = thetas(model, latents, chunks, batch)
    recall, found = likeness(written.recalled, torch.stack([x[0].float() for x in latents.latents]))
    objects = [n for n in chosen[0].names if n != "gripper"]
    starts = np.stack([np.concatenate([e.position(n)[0, :2] for n in objects]) for e in chosen])
    column = np.array([objects.index(moved_object(e)) for e in chosen])

    def error(predicted: np.ndarray) -> float:
        cells = (predicted - starts).reshape(count, -1, 2)[np.arange(count), column]
        return float(np.linalg.norm(cells, axis=1).mean())

    def decoded(x: Tensor) -> float:
        return min(error(predicted) for predicted in leave_one_out(x, starts).values())

    return {
        "error_m": round(decoded(written.thetas), 4),
        "read_m": round(decoded(written.activations), 4),
        "guess_m": round(error(np.broadcast_to(starts.mean(0), starts.shape)), 4),
        "recall": round(recall, 3),
        "found": round(found, 3),
        "effect": round(written.effect, 4),
        "chunks": chunks,
        "keys": keys,
        "episodes": count,
        "options": options,
        "model": model.version,
        "hardware": processor(),
        "commit": commit(),
        "command": command_line("benchmarks.where_in_theta"),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="How well Temp-LoRA's weights tell where a cube stood.")
    parser.add_argument("options", nargs="*", help="of Temp-LoRA, as steps=4 or timesteps=[600,1000]")
    parser.add_argument("--weights", default="weights/cube_return", help="a world model's folder")
    parser.add_argument("--data", default="data/cube_return", help="a dataset of the task")
    parser.add_argument("--episodes", type=int, default=192, help="how many (default 192)")
    parser.add_argument("--chunks", type=int, default=1, help="how many are learned before (default 1)")
    parser.add_argument("--batch", type=int, default=32, help="episodes at once (default 32)")
    parser.add_argument(
        "--keys", choices=("own", "discriminant"), default="own", help="Θ₀'s A (default: the weights')"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.episodes < 3 or args.chunks < 1 or args.batch < 1:
        parser.error("--episodes must be at least 3, --chunks and --batch at least 1")
    given = OmegaConf.to_container(OmegaConf.from_dotlist(args.options))
    try:
        asked = (args.weights, args.data, args.episodes, args.chunks, args.batch, args.keys)
        figures = measure(*asked, dict(given))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    for key, value in figures.items():
        print(f"{key:10} {value}")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
