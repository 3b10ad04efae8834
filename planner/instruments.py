"""How far each instrument is off: the inverse dynamics model, the locator, the world model's next chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from inverse_dynamics.model import InverseDynamics
from planner.locator import Locator
from tasks import Episode, Segment, Subgoal
from world_model.model import WorldModel


def autoencoded(model: WorldModel, frames: np.ndarray) -> np.ndarray:
    """``(T, H, W, 3)`` frames through the autoencoder and back."""
    return model.autoencoder.decode(model.autoencoder.encode(frames))


def reading_error(
    reader: InverseDynamics, episodes: Sequence[Episode], frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """Error of the actions read off frames against the expert's: of a gripper's pose, mm, with the gripper's
    accuracy; of a camera, degrees, with the share of frames whose keys are all right."""
    read = np.concatenate([reader.actions(f[None])[0] for f in frames])
    return _action_error(reader, read, np.concatenate([e.actions for e in episodes]))


def imagined_reading_error(
    model: WorldModel,
    reader: InverseDynamics,
    episodes: Sequence[Episode],
    plans: Sequence[Sequence[Subgoal]],
    chunks: int,
) -> dict[str, float]:
    """:func:`reading_error` on chunks that the world model imagines from true past frames, as the expert would carry
    them out; without returns, whose captions leave open what to do."""
    read: list[np.ndarray] = []
    told: list[np.ndarray] = []
    for episode, segment, subgoal in _chunks_of(episodes, plans):
        if subgoal.kind == "return" or len(read) == chunks:
            continue
        past = _past(model, episode, segment)
        made = imagine_after(model, past, subgoal, seed=len(read))
        read.append(reader.actions(np.concatenate([past[-1:], made])[None])[0])
        told.append(episode.actions[segment.start : segment.stop])
    return _action_error(reader, np.concatenate(read), np.concatenate(told))


def _action_error(reader: InverseDynamics, read: np.ndarray, told: np.ndarray) -> dict[str, float]:
    binary = reader.spec.indices("binary")
    right = ((read[:, binary] > 0.5) == (told[:, binary] > 0.5)).all(1)
    if at := reader.spec.indices("position"):
        figures = _spread(1000 * np.linalg.norm(read[:, at] - told[:, at], axis=1), "mm")
        return {**figures, "gripper": float(np.mean(right)), "n": len(read)}
    at = reader.spec.indices("degrees")
    figures = _spread(np.linalg.norm(read[:, at] - told[:, at], axis=1), "degrees")
    return {**figures, "keys": float(np.mean(right)), "n": len(read)}


def locating_error(
    locator: Locator, episodes: Sequence[Episode], frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """Error of the located things against the truth where a chunk ends, in the locator's unit, and the
    share not found."""
    pairs = zip(episodes, frames, strict=True)
    errors = locator.scale * np.concatenate([locator.errors(e, shown) for e, shown in pairs])
    lost = np.isnan(errors)
    return {**_spread(errors[~lost], locator.unit), "lost": float(np.mean(lost)), "n": len(lost)}


def _spread(errors: np.ndarray, unit: str) -> dict[str, float]:
    if not len(errors):
        return dict.fromkeys((f"median_{unit}", f"mean_{unit}", f"p90_{unit}"), float("nan"))
    return {
        f"median_{unit}": float(np.median(errors)),
        f"mean_{unit}": float(errors.mean()),
        f"p90_{unit}": float(np.quantile(errors, 0.9)),
    }


def next_chunk_error(
    model: WorldModel,
    locator: Locator,
    episodes: Sequence[Episode],
    plans: Sequence[Sequence[Subgoal]],
    chunks: int,
) -> dict[str, dict[str, float]]:
    """Imagined next chunks from true past frames, against copying the last frame.

    PSNR (dB) of the chunk's frames, and for chunks that leave a thing somewhere its distance from the truth
    in the last frame, in the locator's unit (and px), and the share not found; each kind of subgoal apart,
    for only a memory can tell where a return leads.
    """
    errors: dict[str, list[float]] = {"imagined": [], "copied": []}
    landed: dict[tuple[str, str], list[float]] = {}
    for done, (episode, segment, subgoal) in enumerate(islice(_chunks_of(episodes, plans), chunks)):
        past = _past(model, episode, segment)
        truth = episode.frames[segment.start + 1 : segment.stop + 1]
        made = imagine_after(model, past, subgoal, seed=done)
        shown = {"imagined": made, "copied": np.repeat(past[-1:], len(truth), 0)}
        for name, frames in shown.items():
            errors[name].append(float(((frames.astype(np.float64) - truth) ** 2).mean()))
            gap = locator.chunk_error(episode, segment, subgoal, frames)
            if gap is not None:
                landed.setdefault((name, subgoal.kind), []).append(locator.scale * gap)
    pixel = locator.pixel(episodes[0])
    out = {
        n: {"psnr": float(10 * np.log10(255**2 / np.mean(e))), "chunks": len(e)} for n, e in errors.items()
    }
    for (name, kind), values in landed.items():
        found = np.array(values)[np.isfinite(values)]
        middle = float(np.median(found)) if len(found) else float("nan")
        out[name] |= {f"{kind}_median_{locator.unit}": middle}
        out[name] |= {f"{kind}_median_px": middle / pixel} if pixel else {}
        out[name] |= {f"{kind}_lost": float(np.mean(~np.isfinite(values))), f"{kind}_n": len(values)}
    return out


def _chunks_of(
    episodes: Sequence[Episode], plans: Sequence[Sequence[Subgoal]]
) -> Iterator[tuple[Episode, Segment, Subgoal]]:
    for episode, plan in zip(episodes, plans, strict=True):
        for segment, subgoal in zip(episode.segments, plan, strict=True):
            yield episode, segment, subgoal


def _past(model: WorldModel, episode: Episode, segment: Segment) -> np.ndarray:
    """``(f_p, H, W, 3)`` true frames up to a chunk's first, as many as the model looks back on."""
    return episode.frames[max(0, segment.start + 1 - model.past_frames) : segment.start + 1]


def imagine_after(model: WorldModel, past: np.ndarray, subgoal: Subgoal, seed: int) -> np.ndarray:
    """``(F, H, W, 3)`` frames that the model imagines after ``(f_p, H, W, 3)`` true ones, without memory."""
    import dataclasses

    rollout = model.start(past[-1:], [seed])
    rollout = dataclasses.replace(rollout, past=model.autoencoder.encode(past)[None])
    return model.imagine(rollout, [subgoal])[1].frames[0]
