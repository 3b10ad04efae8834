"""A long video from one picture and a stream of actions in free text, one chunk of frames an action.

    python -m world_model.generate image=start.png actions=actions.txt frames=1000
    python -m world_model.generate image=start.png actions=-

After each chunk the video, the chunk's latents and the whole state are on disk: after Ctrl-C, or when the
process is killed, the same command goes on from there, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig

from tasks.commands import CommandError, OptionError, RunDir, integer, main
from tasks.files import kept_json, write_text
from tasks.shipped import shown, weights_folder
from world_model.action_lines import ActionError, Actions, FileActions, StreamActions
from world_model.growing_video import GrowingVideo, captioned
from world_model.memory.adapter import write_safetensors
from world_model.model import SETTINGS, WorldModel, stored_settings
from world_model.peak_memory import peak_so_far
from world_model.picture import read_picture
from world_model.rollout_file import load_rollout, save_rollout
from world_model.sampling import open_world_model, sampling_options
from world_model.training import CheckpointError
from world_model.video_tables.choice import choose

STATE, VIDEO, LOG, CHOSEN = "state.safetensors", "video.mp4", "chunks.jsonl", "chosen.json"
ENDS = 10  # chunks at either end of a video whose times are compared


# --- what goes in ------------------------------------------------------------------------------


def source_of(cfg: DictConfig) -> Actions:
    """The actions that ``cfg.actions`` names. Raises ActionError, OptionError."""
    if cfg.actions is None or cfg.image is None:
        raise OptionError(
            "image=PICTURE and actions=FILE are needed, or actions=- to give actions on standard input"
        )
    if str(cfg.actions) == "-":
        return StreamActions(sys.stdin.buffer, sys.stdin.isatty())
    return FileActions(Path(str(cfg.actions)), repeat=cfg.frames is not None)


def memory_for(cfg: DictConfig, picture: np.ndarray, source: Actions) -> tuple[dict[str, Any], str]:
    """Options of the memory that ``cfg.choose`` gives for this scene, and what they are called.

    Raises:
        CheckpointError, CommandError: no such weights.
        OptionError: no finished table 6, no Temp-LoRA to set, or actions that are not known beforehand.
    """
    if cfg.choose is None:
        return {}, ""
    if not isinstance(source, FileActions) or not cfg.memory._target_.endswith("TempLora"):
        raise OptionError(
            f"choose={cfg.choose} sets Temp-LoRA before the first action; give actions=FILE with it"
        )
    actions = len(source.lines)
    if cfg.frames is not None:
        memory = hydra.utils.instantiate(cfg.memory)
        actions = -(-cfg.frames // chunk_frames_of(weights_of(cfg, memory.name, chosen=True)))
    told, options = choose(Path(str(cfg.choose)), picture, actions)
    return options, told


def weights_of(cfg: DictConfig, memory: str, chosen: bool) -> Path:
    """The world model's folder; a memory with ``chosen`` options takes the base, for a shipped loop's Θ₀ has a rank
    of its own. Raises CommandError."""
    finetuned = None if chosen and cfg.weights is None else memory
    return weights_folder(cfg.weights, cfg.task.name, "world_model", finetuned)


def chunk_frames_of(folder: Path) -> int:
    """New frames of each chunk that the model in a folder makes. Raises CheckpointError: its settings are damaged."""
    file = folder / SETTINGS
    try:
        return stored_settings(folder).chunk_frames
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} can't be read ({reason}); get it again") from None


def open_model(cfg: DictConfig, chosen: Mapping[str, Any] | None = None) -> tuple[WorldModel, str]:
    """The world model, its memory with ``chosen`` options on the base, and a line that names its weights.

    Raises:
        CheckpointError, OptionError: no such weights, or a value that an option can't take.
    """
    sampling_options(cfg)  # refused before weights are fetched
    memory = hydra.utils.instantiate(cfg.memory, **(chosen or {}))
    if memory.name.startswith("shuffled"):
        raise OptionError("memory=shuffled exchanges the memories of several episodes; a video is one")
    if memory.name == "oracle":
        raise OptionError("memory=oracle is told how a chunk should end; of a video nobody knows it")
    folder = weights_of(cfg, memory.name, bool(chosen))
    context = chunk_frames_of(folder) + 1 if cfg.get("single_frame") else None
    model = open_world_model(cfg, folder, memory, context)
    if cfg.image_size % model.autoencoder.factor:
        raise OptionError(f"image_size={cfg.image_size}: expected a multiple of {model.autoencoder.factor}")
    return model, f"{shown(folder)} ({model.version})"


# --- what comes out ----------------------------------------------------------------------------


class LongVideo:
    """A video in a run directory, with all that it takes to go on with it.

    Args:
        picture: ``(H, W, 3)`` uint8; what an older state was made with must be the same.

    Attributes:
        done: the actions so far, one a chunk.
        log: a record a chunk: its number and action, seconds and their parts, ``peak_gib``.
        resumed: whether chunks were there already.

    Raises:
        CommandError: the directory's video was made with another picture or other weights.
    """

    def __init__(self, folder: RunDir, model: WorldModel, picture: np.ndarray, seed: int, fps: int):
        self.folder, self.model, self.picture = folder, model, picture
        self.made_with = {"image": hashlib.sha256(picture.tobytes()).hexdigest(), "weights": model.version}
        self.done: list[str] = []
        self.log: list[dict[str, Any]] = []
        self.resumed = (folder / STATE).is_file()
        if not self.resumed:
            self.rollout = model.start(picture[None], [seed])
            self.video = GrowingVideo(folder / VIDEO, fps)
            return
        self.rollout, told = load_rollout(folder / STATE, model)
        for key, value in self.made_with.items():
            if told[key] != value:
                raise CommandError(
                    f"{folder} was made with another {key} ({told[key][:8]}, now {value[:8]}); "
                    "give fresh=true or another run_dir"
                )
        self.done = told["actions"]
        lines = (folder / LOG).read_text().splitlines() if (folder / LOG).is_file() else []
        self.log = [r for r in map(json.loads, lines) if r["chunk"] <= len(self.done)]
        self.video = GrowingVideo(folder / VIDEO, fps, told["frames"], told["bytes"])

    def advance(self, action: str) -> str:
        """Imagine, remember and store one more chunk; the line that says so."""
        begun, number = time.perf_counter(), len(self.done) + 1
        rollout, chunk = self.model.imagine(self.rollout, [action])
        imagined = time.perf_counter()
        rollout = self.model.remember(rollout, chunk)
        remembered = time.perf_counter()
        if not self.video.frames:
            self.video.append(captioned(self.picture[None], "start", 0))
        write_safetensors(
            self.folder / f"latents/chunk_{number:05d}.safetensors", {"latents": chunk.latents[0]}
        )
        self.video.append(captioned(chunk.frames[0], action, self.video.frames))
        self.done, self.rollout = [*self.done, action], rollout
        told = {"actions": self.done, "frames": self.video.frames, "bytes": self.video.size}
        save_rollout(self.folder / STATE, self.model, rollout, **self.made_with, **told)
        seconds = {
            "imagine": imagined - begun,
            "remember": remembered - imagined,
            "seconds": time.perf_counter() - begun,
        }
        record = {"chunk": number, "action": action} | {k: round(v, 4) for k, v in seconds.items()}
        self.log.append(record | {"peak_gib": round(peak_so_far(self.model.device) / 1024, 4)})
        write_text(self.folder / LOG, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in self.log))
        return (
            f"chunk {number:4d}  {seconds['seconds']:6.2f} s (imagine {seconds['imagine']:.2f}, remember "
            f"{seconds['remember']:.2f})  peak {self.log[-1]['peak_gib']:.2f} GiB  {self.imagined} frames  {action}"
        )

    @property
    def imagined(self) -> int:
        """Frames so far, without the picture that was given."""
        return len(self.done) * self.model.settings.chunk_frames


def closing_line(log: Sequence[dict[str, Any]]) -> str:
    """Median time per chunk at the beginning and at the end, and the peak of memory, of a log."""
    if not log:
        return "no times are kept"
    first, last = (float(np.median([r["seconds"] for r in part])) for part in (log[:ENDS], log[-ENDS:]))
    peak = max(r["peak_gib"] for r in log)
    return f"{len(log)} chunks: {first:.2f} s each at first, {last:.2f} s at last; peak {peak:.2f} GiB"


def run(cfg: DictConfig) -> None:
    wanted = None if cfg.frames is None else integer(cfg, "frames", 1)
    seed, size, fps = integer(cfg, "seed", 0), integer(cfg, "image_size", 8), integer(cfg, "fps", 1)
    source = source_of(cfg)
    picture, changes = read_picture(Path(str(cfg.image)), size)
    chosen, told = memory_for(cfg, picture, source)
    model, weights = open_model(cfg, chosen)
    run_dir = RunDir.open("generate", cfg, ignore=("device", "frames"))
    if cfg.choose is not None:
        kept = kept_json(run_dir / CHOSEN, lambda: {"label": told, "options": chosen})
        if kept["options"] != chosen:  # for more actions, or by another table, than the video was begun with
            model, weights = open_model(cfg, kept["options"])
        told = kept["label"]
    video = LongVideo(run_dir, model, picture, seed, fps)
    used = model.settings
    header = {
        "task": cfg.task.name,
        "model": f"{used.name}, {used.sampling_steps} sampling steps, guidance {list(used.guidance)}",
        "weights": weights,
        "memory": model.memory.name + (f", chosen for this scene: {told}" if told else ""),
        "image": f"{cfg.image}" + (f" ({changes})" if changes else ""),
        "device": str(model.device),
        "video": str(run_dir / VIDEO),
    }
    if video.resumed:
        header["goes on"] = f"after chunk {len(video.done)} (fresh=true starts anew)"
    print("\n".join(f"{k:>8}  {v}" for k, v in header.items()), flush=True)
    chunks = None if wanted is None else max(0, -(-wanted // used.chunk_frames) - len(video.done))
    before = len(video.done)
    for action in islice(source.after(video.done), chunks):
        print(video.advance(action), flush=True)
    if not video.done:
        raise ActionError("standard input gave no action; write one a line, such as: pick up the red cube")
    if len(video.done) == before:
        print("finished already; more actions or more frames= go on, fresh=true starts anew")
    print(f"{video.imagined} frames; {closing_line(video.log)}\nvideo: {run_dir / VIDEO}")


if __name__ == "__main__":
    main("generate", run)
