"""How far each instrument is off: the inverse dynamics model, the locator, the world model's next chunk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inverse_dynamics.model import InverseDynamics
from planner.locate import CubeLocator
from tasks import Episode, Subgoal
from world_model.model import WorldModel


def autoencoded(model: WorldModel, frames: np.ndarray) -> np.ndarray:
    """``(T, H, W, 3)`` frames through the autoencoder and back."""
    return model.autoencoder.decode(model.autoencoder.encode(frames))


def reading_error(
    reader: InverseDynamics, episodes: Sequence[Episode], frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """Error of the read-off gripper pose against the expert's command, mm, and the gripper's accuracy."""
    read = np.concatenate([reader.actions(f[None])[0] for f in frames])
    told = np.concatenate([e.actions for e in episodes])
    error = 1000 * np.linalg.norm(read[:, :3] - told[:, :3], axis=1)
    return {
        "median_mm": float(np.median(error)),
        "mean_mm": float(error.mean()),
        "p90_mm": float(np.quantile(error, 0.9)),
        "gripper": float(np.mean((read[:, -1] > 0.5) == (told[:, -1] > 0.5))),
        "n": len(error),
    }


def locating_error(
    locator: CubeLocator, episodes: Sequence[Episode], frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """Error of the located cubes against the truth at the frames that end a chunk, mm, and the share not
    found; cubes in the gripper are left out."""
    errors, lost = [], []
    for episode, shown in zip(episodes, frames, strict=True):
        ends = [0, *(s.stop for s in episode.segments)]
        found = locator.locate(shown[ends])
        true = np.stack([episode.position(n) for n in locator.names], 1)[ends]
        standing = np.abs(true[..., 2] - locator.cube_half) < 0.005
        distance = 1000 * np.linalg.norm(found - true, axis=-1)[standing]
        lost += np.isnan(distance).tolist()
        errors += distance[np.isfinite(distance)].tolist()
    return {
        "median_mm": float(np.median(errors)),
        "mean_mm": float(np.mean(errors)),
        "p90_mm": float(np.quantile(errors, 0.9)),
        "lost": float(np.mean(lost)),
        "n": len(lost),
    }


def next_chunk_error(
    model: WorldModel,
    locator: CubeLocator,
    episodes: Sequence[Episode],
    plans: Sequence[Sequence[Subgoal]],
    chunks: int,
) -> dict[str, dict[str, float]]:
    """Imagined next chunks from true past frames, against copying the last frame.

    PSNR (dB) of the chunk's frames, and for chunks that put a cube down the distance of the cube in the
    last frame from the truth, px and mm, and the share not found; ``put`` and ``return`` apart, for only a
    memory can tell where to return a cube.
    """
    errors: dict[str, list[float]] = {"imagined": [], "copied": []}
    landed: dict[tuple[str, str], list[float]] = {}
    done = 0
    for episode, plan in zip(episodes, plans, strict=True):
        for segment, subgoal in zip(episode.segments, plan, strict=True):
            if done >= chunks:
                break
            first = max(0, segment.start + 1 - model.past_frames)
            past = episode.frames[first : segment.start + 1]
            truth = episode.frames[segment.start + 1 : segment.stop + 1]
            made = imagine_after(model, past, subgoal, seed=done)
            shown = {"imagined": made, "copied": np.repeat(past[-1:], len(truth), 0)}
            for name, frames in shown.items():
                errors[name].append(float(((frames.astype(np.float64) - truth) ** 2).mean()))
                if subgoal.kind != "pick":
                    index = locator.names.index(subgoal.object)
                    found = locator.locate(frames[-1:])[0, index]
                    true = episode.position(subgoal.object)[segment.stop]
                    landed.setdefault((name, subgoal.kind), []).append(
                        float(1000 * np.linalg.norm(found - true))
                    )
            done += 1
    pixel = 1000 * locator.camera.metres_per_pixel(
        np.array([*np.mean(episodes[0].position(locator.names[0]), 0)])
    )
    out = {
        n: {"psnr": float(10 * np.log10(255**2 / np.mean(e))), "chunks": len(e)} for n, e in errors.items()
    }
    for (name, kind), values in landed.items():
        found = np.array(values)[np.isfinite(values)]
        out[name] |= {
            f"{kind}_median_mm": float(np.median(found)) if len(found) else float("nan"),
            f"{kind}_median_px": float(np.median(found) / pixel) if len(found) else float("nan"),
            f"{kind}_lost": float(np.mean(~np.isfinite(values))),
            f"{kind}_n": len(values),
        }
    return out


def imagine_after(model: WorldModel, past: np.ndarray, subgoal: Subgoal, seed: int) -> np.ndarray:
    """``(F, H, W, 3)`` frames that the model imagines after ``(f_p, H, W, 3)`` true ones, without memory."""
    import dataclasses

    rollout = model.start(past[-1:], [seed])
    rollout = dataclasses.replace(rollout, past=model.autoencoder.encode(past)[None])
    return model.imagine(rollout, [subgoal])[1].frames[0]
