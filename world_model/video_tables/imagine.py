"""What a model makes of the clips: each next chunk from the true past, or the whole video from its start."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tasks.files import atomic_path
from tasks.provenance import processor
from world_model.device import device_name
from world_model.model import WorldModel
from world_model.video_tables.clips import Clip
from world_model.video_tables.rows import LONG, Halfway, Row, reworded, similar


@dataclass(frozen=True)
class Imagined:
    """One clip as a model sees it.

    Attributes:
        frames: ``(T - 1, H, W, 3)`` uint8, without the frame that was given.
        seconds: of its share of the batch.
        effect: of Θ after each chunk, where the memory measures it.
        hardware: that the seconds are of; empty in files of an older version.
    """

    frames: np.ndarray
    seconds: float
    effect: tuple[float, ...] = ()
    hardware: str = ""


def hardware(device: torch.device) -> str:
    """The processor, and the device by name."""
    return f"{processor()}, {device_name(device)}"


def imagine(
    model: WorldModel, part: str, clips: Sequence[Clip], captions: Sequence[Sequence[str]]
) -> list[Imagined]:
    """B clips of one length in lock-step.

    Args:
        part: ``long``: every chunk goes on from what was imagined before. ``next_chunk``: from the true
            frames before it, which the memory has seen, too.
        captions: what the model is told, a text for each chunk of each clip.
    """
    begun = time.perf_counter()
    rollout = model.start(np.stack([c.frames[0] for c in clips]), [c.seed for c in clips])
    made, length = [], model.settings.chunk_frames
    for k in range(clips[0].chunks):
        texts = [c[k] for c in captions]
        rollout, chunk = model.imagine(rollout, texts)
        made.append(chunk.frames)
        if part == LONG:
            rollout = model.remember(rollout, chunk)
        else:
            true = np.stack([c.frames[1 + k * length : 1 + (k + 1) * length] for c in clips])
            rollout = model.observe(rollout, texts, true)
    seconds = (time.perf_counter() - begun) / len(clips)
    frames, effects, on = np.concatenate(made, 1), model.effects(rollout), hardware(model.device)
    return [Imagined(f, seconds, tuple(e), on) for f, e in zip(frames, effects, strict=True)]


def batches(clips: Sequence[Clip], size: int) -> Iterator[list[int]]:
    """Numbers of clips that go together: of one length, ``size`` at most."""
    for chunks in sorted({c.chunks for c in clips}):
        alike = [i for i, c in enumerate(clips) if c.chunks == chunks]
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def imagine_all(
    model: WorldModel,
    row: Row,
    part: str,
    clips: Sequence[Clip],
    synonyms: Mapping[str, str],
    folder: Path,
    batch_size: int,
) -> list[Imagined]:
    """Every clip, from ``folder`` where it lies there already; each finished batch is stored in it."""
    files = [folder / f"{c.seed}.npz" for c in clips]
    todo = [i for i, file in enumerate(files) if not file.is_file()]
    if todo:
        if row.wording == "interpolated":
            model.text = Halfway(model.text, lambda caption: similar(caption, synonyms))
        with tqdm(total=len(clips), initial=len(clips) - len(todo), unit="clip") as bar:
            for batch in batches([clips[i] for i in todo], batch_size):
                chosen = [todo[k] for k in batch]
                captions = [reworded(row, clips[i].captions, synonyms) for i in chosen]
                made = imagine(model, part, [clips[i] for i in chosen], captions)
                for i, imagined in zip(chosen, made, strict=True):
                    save(files[i], imagined)
                bar.update(len(chosen))
    return [load(file) for file in files]


def save(file: Path, imagined: Imagined) -> None:
    """Write one clip, all or nothing."""
    with atomic_path(file) as temp, open(temp, "wb") as out:
        np.savez_compressed(
            out,
            frames=imagined.frames,
            seconds=imagined.seconds,
            effect=np.array(imagined.effect),
            hardware=imagined.hardware,
        )


def load(file: Path) -> Imagined:
    """Read what :func:`save` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        on = str(stored["hardware"]) if "hardware" in stored else ""
        return Imagined(stored["frames"], float(stored["seconds"]), tuple(map(float, stored["effect"])), on)
