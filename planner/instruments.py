"""How far each instrument is off: the inverse dynamics model, the locator, the world model's next chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from inverse_dynamics.model import InverseDynamics
from planner.locator import Locator
from tasks import Episode, Segment, Subgoal
from tasks.following import ReadActions
from world_model.model import WorldModel

EXACT = 1e-9  # squared levels of 255: json has no infinity for the PSNR of frames that are the same


@dataclass(frozen=True)
class NextChunk:
    """A chunk of an expert's episode, and what the world model imagines in its place without memory.

    Attributes:
        past: ``(f_p, H, W, 3)`` true frames up to the chunk's first.
        made: ``(F, H, W, 3)`` imagined after them.
    """

    episode: Episode
    segment: Segment
    subgoal: Subgoal
    past: np.ndarray
    made: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """``(F, H, W, 3)`` what really came."""
        return self.episode.frames[self.segment.start + 1 : self.segment.stop + 1]

    @property
    def actions(self) -> np.ndarray:
        """``(F, A)`` the expert's."""
        return self.episode.actions[self.segment.start : self.segment.stop]


def next_chunks(
    model: WorldModel,
    episodes: Sequence[Episode],
    plans: Sequence[Sequence[Subgoal]],
    chunks: int,
    batch_size: int,
) -> list[NextChunk]:
    """``chunks`` chunks drawn from all of some episodes, each imagined from true past frames; the n-th with seed n."""
    all_of_them = [
        (
            episode,
            segment,
            replace(subgoal, text=segment.caption),
        )  # a simulator's own words, where it has some
        for episode, plan in zip(episodes, plans, strict=True)
        for segment, subgoal in zip(episode.segments, plan, strict=True)
    ]
    drawn = np.random.default_rng(0).permutation(len(all_of_them))[:chunks]
    wanted = [all_of_them[k] for k in sorted(drawn)]
    pasts = [e.frames[max(0, s.start + 1 - model.past_frames) : s.start + 1] for e, s, _ in wanted]
    made: dict[int, np.ndarray] = {}
    for length in sorted({len(p) for p in pasts}):
        alike = [k for k, past in enumerate(pasts) if len(past) == length]
        for at in range(0, len(alike), batch_size):
            batch = alike[at : at + batch_size]
            frames = imagine_after(
                model, np.stack([pasts[k] for k in batch]), [wanted[k][2] for k in batch], batch
            )
            made |= dict(zip(batch, frames, strict=True))
    return [
        NextChunk(e, s, g, past, made[k])
        for k, ((e, s, g), past) in enumerate(zip(wanted, pasts, strict=True))
    ]


def imagine_after(
    model: WorldModel, past: np.ndarray, subgoals: Sequence[Subgoal], seeds: Sequence[int]
) -> np.ndarray:
    """``(B, F, H, W, 3)`` frames that the model imagines after ``(B, f_p, H, W, 3)`` true ones, without memory."""
    latents = model.autoencoder.encode(past.reshape(-1, *past.shape[2:])).unflatten(0, past.shape[:2])
    rollout = replace(model.start(past[:, -1], seeds), past=latents)
    return model.imagine(rollout, subgoals)[1].frames


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


def imagined_reading_error(reader: InverseDynamics, chunks: Sequence[NextChunk]) -> dict[str, float]:
    """:func:`reading_error` on imagined chunks, as the expert would carry them out; without returns, whose captions
    leave open what to do."""
    told = [c for c in chunks if c.subgoal.kind != "return"]
    shown = [np.concatenate([c.past[-1:], c.made]) for c in told]
    read = np.concatenate([reader.actions(frames[None])[0] for frames in shown])
    return _action_error(reader, read, np.concatenate([c.actions for c in told]))


def _action_error(reader: InverseDynamics, read: np.ndarray, commanded: np.ndarray) -> dict[str, float]:
    actions = ReadActions.of(reader.spec, read, commanded)
    figures, binary = _spread(actions.off, actions.unit), "gripper" if actions.unit == "mm" else "keys"
    return {**figures, binary: float(np.mean(actions.right)), "n": len(read)}


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


def next_chunk_error(locator: Locator | None, chunks: Sequence[NextChunk]) -> dict[str, dict[str, float]]:
    """Imagined next chunks from true past frames, against copying the last frame.

    PSNR (dB) of the chunk's frames, and, with a locator, for chunks that leave a thing somewhere its distance from
    the truth in the last frame, in the locator's unit (and px), and the share not found; each kind of subgoal
    apart, for only a memory can tell where a return leads.
    """
    errors: dict[str, list[float]] = {"imagined": [], "copied": []}
    landed: dict[tuple[str, str], list[float]] = {}
    for c in chunks:
        shown = {"imagined": c.made, "copied": np.repeat(c.past[-1:], len(c.truth), 0)}
        for name, frames in shown.items():
            errors[name].append(float(((frames.astype(np.float64) - c.truth) ** 2).mean()))
            gap = locator.chunk_error(c.episode, c.segment, c.subgoal, frames) if locator else None
            if locator and gap is not None:
                landed.setdefault((name, c.subgoal.kind), []).append(locator.scale * gap)
    out: dict[str, dict[str, float]] = {
        n: {"psnr": float(10 * np.log10(255**2 / max(float(np.mean(e)), EXACT))), "chunks": len(e)}
        for n, e in errors.items()
    }
    if locator is None:
        return out
    pixel = locator.pixel(chunks[0].episode)
    for (name, kind), values in landed.items():
        found = np.array(values)[np.isfinite(values)]
        middle = float(np.median(found)) if len(found) else float("nan")
        out[name] |= {f"{kind}_median_{locator.unit}": middle}
        out[name] |= {f"{kind}_median_px": middle / pixel} if pixel else {}
        out[name] |= {f"{kind}_lost": float(np.mean(~np.isfinite(values))), f"{kind}_n": len(values)}
    return out
