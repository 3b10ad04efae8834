"""The true videos that imagined ones are measured against: held-out layouts recorded, or a dataset's."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from tasks import Episode, Layout, Task
from tasks.commands import CommandError, RunDir, factory
from tasks.dataset import DatasetWriter, load_episodes
from tasks.lerobot import png
from tasks.revisit import REVISITS
from tasks.task import SEEDS_APART, held_out_seeds
from world_model.data.footage import open_data
from world_model.video_metrics.revisit import out_and_back

Record = Callable[..., tuple[Episode | None, str | None]]


@dataclass(frozen=True)
class Clip:
    """A true video.

    Attributes:
        seed: of its layout; unique among clips, and that of every random draw made for it.
        frames: ``(T, H, W, 3)`` uint8; the first is what a model is given.
        captions: one for each chunk of the T - 1 others.
        pairs: ``(P, 2)`` (first, later) frames that show one view, for SRC; None where there are none.
        actions: ``(T - 1, A)`` float32 that were carried out; None where nobody knows them.
    """

    seed: int
    frames: np.ndarray
    captions: tuple[str, ...]
    pairs: np.ndarray | None = None
    actions: np.ndarray | None = None

    @property
    def chunks(self) -> int:
        """Actions, each a chunk of frames."""
        return len(self.captions)

    @property
    def complexity(self) -> float:
        """How much there is in the first picture: bits a pixel, as PNG packs it without loss."""
        first = self.frames[0]
        return 8 * len(png(first)) / (first.shape[0] * first.shape[1])


@dataclass(frozen=True)
class Clips:
    """What a table is measured on.

    Attributes:
        truth: the videos.
        others: videos of other layouts, for what two real sets differ by; empty where there are none.
        wrong: by number of a video in ``truth``: from the same start, other actions.
        action_names: of the numbers of an action; empty where the videos name none.
    """

    truth: list[Clip]
    others: list[Clip]
    wrong: dict[int, Clip]
    action_names: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """sha256 of all that rows are told and measured against: frames, captions, pairs, actions."""
        digest = hashlib.sha256(repr(self.action_names).encode())
        for clip in (*self.truth, *self.others, *self.wrong.values()):
            pairs = None if clip.pairs is None else clip.pairs.tolist()
            digest.update(repr((clip.seed, clip.captions, pairs, clip.frames.shape)).encode())
            digest.update(clip.frames.tobytes())
            digest.update(b"" if clip.actions is None else clip.actions.tobytes())
        return digest.hexdigest()


def clip_of(
    episode: Episode, seed: int, chunk_frames: int, frames: int | None, retraces: bool, gap: int
) -> Clip:
    """An episode as a clip.

    Args:
        frames: new frames to keep, whole chunks of them; None keeps all.
        retraces: the episode's second half undoes its first. Pairs in its provenance go before that.
        gap: frames that lie between two visits at least: more than the model is shown at once.

    Raises:
        CommandError: its chunks have another length.
    """
    lengths = {s.stop - s.start for s in episode.segments}
    if lengths != {chunk_frames}:
        raise CommandError(
            f"the episode of seed {seed} has chunks of {sorted(lengths)} frames; expected {chunk_frames}"
        )
    kept = len(episode.segments) if frames is None else frames // chunk_frames
    given = episode.provenance.get(REVISITS)
    pairs = np.zeros((0, 2), int)
    if given is not None:
        pairs = np.asarray(given, int).reshape(-1, 2)
    elif retraces:
        pairs = out_and_back(len(episode), gap)
    stop = 1 + kept * chunk_frames
    pairs = pairs[(pairs[:, 1] < stop) & (pairs[:, 1] - pairs[:, 0] >= gap)]
    captions = tuple(s.caption for s in episode.segments[:kept])
    places = len(set(pairs[:, 0].tolist()))
    actions = episode.actions[: stop - 1] if episode.actions.shape[1] else None
    return Clip(seed, episode.frames[:stop], captions, pairs if places > 1 else None, actions)


def long_enough(chunks: int, chunk_frames: int, frames: int | None) -> bool:
    """Whether an episode of so many chunks can be cut to ``frames``."""
    return frames is None or chunks * chunk_frames >= frames


# --- a dataset ---------------------------------------------------------------------------------


def dataset_clips(cfg: DictConfig, task: Task, clip: Callable[[Episode, int], Clip]) -> Clips:
    """The first ``cfg.clips`` fitting episodes of ``cfg.data``, and as many others where it has them. A
    dataset of ours keeps its layouts' seeds; other episodes are numbered.

    Raises:
        CommandError: too few episodes, or another task's.
    """
    data = open_data(cfg.data, task.chunk_frames)
    for line in data.told:
        print(f"data: {line}")
    made_for = {data.provenance(i).get("task", task.name) for i in range(len(data))}
    if made_for != {task.name}:
        raise CommandError(
            f"data={cfg.data} holds episodes of {', '.join(made_for)}, not of task={task.name}"
        )
    fitting = [
        i for i, length in enumerate(data.lengths)
        if long_enough((length - 1) // task.chunk_frames, task.chunk_frames, cfg.frames)
    ]  # fmt: skip
    if len(fitting) < cfg.clips:
        raise CommandError(
            f"clips={cfg.clips}: data={cfg.data} has {len(fitting)} episodes that are long enough"
        )
    given = [s for s in data.seeds if s is not None]
    seeds = given if len(set(given)) == len(data) else list(range(len(data)))
    if trained := sum(data.seeds[i] in task.train_seeds for i in fitting[: cfg.clips]):
        print(f"{trained} of {cfg.clips} clips are training layouts: figures on them are not held-out ones")
    chosen = [clip(data[i], seeds[i]) for i in fitting[: 2 * cfg.clips]]
    others = chosen[cfg.clips :] if len(chosen) == 2 * cfg.clips else []
    return Clips(chosen[: cfg.clips], others, {}, data.action_names)


# --- recorded ----------------------------------------------------------------------------------


def recorded_clips(
    cfg: DictConfig, task: Task, run_dir: RunDir, clip: Callable[[Episode, int], Clip]
) -> Clips:
    """Held-out layouts as ``cfg.record`` carries them out, kept as datasets in the run directory.

    Raises:
        CommandError: the expert carries out too few of them.
    """
    env = factory(cfg, "env")(task=task)
    record: Record = hydra.utils.instantiate(cfg.record)
    seeds = held_out_seeds(task.heldout_seeds, cfg.seed, min(SEEDS_APART, len(task.heldout_seeds)))
    layouts = (task.layout(s) for s in seeds)
    fitting = (x for x in layouts if long_enough(len(x.plan), task.chunk_frames, cfg.frames))
    env_class: Any = hydra.utils.get_class(cfg.env._target_)
    fps = env_class.metadata["render_fps"]

    def carried_out() -> Iterator[Episode]:
        done = (episode for x in fitting if (episode := record(env, x)[0]) is not None)
        yield from islice(done, 2 * cfg.clips)

    def keep(name: str, episodes: Iterator[Episode], total: int) -> list[Episode]:
        return kept_episodes(run_dir / name, tqdm(episodes, name, total), fps, task.action_spec.names)

    try:
        right = keep("true_videos", carried_out(), 2 * cfg.clips)
        if len(right) < 2 * cfg.clips:
            raise CommandError(
                f"clips={cfg.clips}: the expert carried out {len(right)} of {2 * cfg.clips} layouts; ask for fewer"
            )
        plans = [task.layout(_seed(e)) for e in right]
        wrong = keep("wrong_actions", wrong_episodes(env, record, plans, cfg.clips), cfg.clips)
    finally:
        env.close()
    clips = [clip(e, _seed(e)) for e in right]
    at = {c.seed: i for i, c in enumerate(clips[: cfg.clips])}
    others = {at[_seed(e)]: clip(e, _seed(e)) for e in wrong}
    return Clips(clips[: cfg.clips], clips[cfg.clips :], others, task.action_spec.names)


def wrong_episodes(env: Any, record: Record, layouts: Sequence[Layout], count: int) -> Iterator[Episode]:
    """For each of the first ``count`` layouts an episode from its start under another one's actions, as
    many; those that the simulator refuses are passed over, and a layout for which it refuses all."""
    for k, layout in enumerate(layouts[:count]):
        told = [s.text for s in layout.plan]
        for other in chain(layouts[k + 1 :], layouts[:k]):
            same = [s.text for s in other.plan] == told
            if same or len(other.plan) != len(layout.plan):
                continue
            episode, _ = record(env, replace(layout, plan=other.plan, instruction=other.instruction))
            if episode is not None:
                yield episode
                break


def kept_episodes(path: Path, episodes: Iterator[Episode], fps: int, names: Sequence[str]) -> list[Episode]:
    """The episodes, from a dataset at ``path`` that is written first where there is none; may be none."""
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        writer = DatasetWriter(path, fps, names)
        try:
            for episode in episodes:
                writer.append(episode)
            if not len(writer):
                return []
            writer.finish()
        finally:
            writer.close()
    return list(load_episodes(path))


def _seed(episode: Episode) -> int:
    return int(episode.provenance["seed"])


def open_clips(cfg: DictConfig, task: Task, run_dir: RunDir | None, gap: int) -> Clips:
    """The clips that the configuration asks for.

    Args:
        run_dir: where recorded ones are kept; those of ``cfg.data`` need none.
        gap: frames that lie between two visits at least.

    Raises:
        CommandError, DatasetError: there are too few, or none that fit.
    """

    def clip(episode: Episode, seed: int) -> Clip:
        return clip_of(episode, seed, task.chunk_frames, cfg.frames, task.retraces, gap)

    if cfg.data is not None:
        return dataset_clips(cfg, task, clip)
    assert run_dir is not None
    return recorded_clips(cfg, task, run_dir, clip)
