"""What trainers and tables read: the episodes of one source or of several, brought to one size and rate.

``data=`` names a folder, a yaml file, or says it all::

    data=videos
    "data={sources: [{path: data/cube_return, weight: 3}, {path: videos}], fps: 4, image_size: 64}"
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks import Episode, Segment
from tasks.commands import OptionError
from tasks.dataset import COLLECTION, EpisodeDataset, load_episodes
from world_model.data.lerobot_folder import INFO, open_lerobot
from world_model.data.takes import DataError, Source, Take
from world_model.data.video_folder import open_videos

SIDE, FPS = 64, 4.0  # px and frames a second, where neither the options nor a dataset of ours say otherwise
KEYS = {"sources", "fps", "image_size", "clip_chunks"}
OF_SOURCE = {"path", "weight", "camera"}


@dataclass(frozen=True)
class DataOptions:
    """``data=``, read.

    Attributes:
        sources: ``(path, weight, camera)`` of each.
        fps: frames a second; None: the first source's if it is a dataset of ours, else ``FPS``.
        image_size: px; None likewise.
        clip_chunks: recordings are cut into clips of so many chunks; None leaves them whole.
    """

    sources: tuple[tuple[Path, float, str | None], ...]
    fps: float | None = None
    image_size: int | None = None
    clip_chunks: int | None = None

    @classmethod
    def of(cls, data: Any) -> DataOptions:
        """Read ``data=``. Raises OptionError."""
        told = inlined(data)
        if isinstance(told, str):
            told = {"sources": [told]}
        if not isinstance(told, Mapping) or set(told) - KEYS or not isinstance(told.get("sources"), Sequence):
            raise OptionError(
                f"data={data}: expected a folder, or {{sources: [...]}} with {', '.join(sorted(KEYS))}"
            )
        sources = [{"path": s} if isinstance(s, str) else s for s in told["sources"]]
        for s in sources:
            if not isinstance(s, Mapping) or "path" not in s or set(s) - OF_SOURCE:
                raise OptionError(f"data: source {s}: expected path, and if you like weight and camera")
            if not number(s.get("weight", 1.0)):
                raise OptionError(f"data: weight={s['weight']} of {s['path']}: expected a number above 0")
        if not sources:
            raise OptionError("data.sources is empty; name a folder")
        for key in ("fps", "image_size", "clip_chunks"):
            value = told.get(key)
            if value is not None and (not number(value) or (key != "fps" and not isinstance(value, int))):
                raise OptionError(f"data.{key}={value}: expected a number above 0")
        return cls(
            tuple((Path(s["path"]), float(s.get("weight", 1.0)), s.get("camera")) for s in sources),
            told.get("fps"), told.get("image_size"), told.get("clip_chunks"),
        )  # fmt: skip


def number(value: Any) -> bool:
    """Whether it is a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def inlined(data: Any) -> Any:
    """``data=`` as plain values; a yaml file's content in its place. Raises OptionError."""
    if isinstance(data, DictConfig | ListConfig):
        data = OmegaConf.to_container(data, resolve=True)
    if isinstance(data, list):
        return {"sources": data}
    if not isinstance(data, str) or not data.endswith((".yaml", ".yml")):
        return data
    try:
        return OmegaConf.to_container(OmegaConf.load(data), resolve=True)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:120]
        raise OptionError(f"data={data} can't be read ({reason}); expected sources: [...]") from None


class Part(Protocol):
    """The episodes of one source."""

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def seeds(self) -> Sequence[int | None]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Episode: ...
    def segments(self, index: int) -> tuple[Segment, ...]: ...
    def provenance(self, index: int) -> dict[str, Any]: ...
    def fingerprint(self) -> str: ...


class TakeEpisodes:
    """The takes of a source as episodes of whole chunks; frames are read when an episode is taken.

    Attributes:
        short: how many takes hold no whole chunk and are left out.
    """

    def __init__(
        self, source: Source, fps: float, side: int, chunk_frames: int, clip_chunks: int | None = None
    ):
        self.source, self.fps, self.side, self.chunk_frames = source, fps, side, chunk_frames
        takes = source.takes
        if clip_chunks is not None:
            takes = tuple(x for take in takes for x in take.cut(fps, chunk_frames, clip_chunks))
        self.takes: list[Take] = [t for t in takes if t.chunks(fps, chunk_frames)]
        self.short = sum(not t.chunks(fps, chunk_frames) for t in source.takes)
        self.lengths = np.array([1 + chunk_frames * t.chunks(fps, chunk_frames) for t in self.takes], int)
        self.seeds = [t.more.get("seed") for t in self.takes]

    def __len__(self) -> int:
        return len(self.takes)

    def __getitem__(self, index: int) -> Episode:
        return self.takes[index].episode(self.fps, self.chunk_frames, self.side)

    def segments(self, index: int) -> tuple[Segment, ...]:
        """Of one episode, without reading its frames."""
        return self.takes[index].segments(self.fps, self.chunk_frames)

    def provenance(self, index: int) -> dict[str, Any]:
        """Likewise."""
        return self.takes[index].origin(self.fps, self.chunk_frames)

    def fingerprint(self) -> str:
        """sha256 of which stretches are read, how, and of the folder's files by name, size and time of change."""
        taken = [(t.name, t.start, t.chunks(self.fps, self.chunk_frames)) for t in self.takes]
        folder = self.source.path
        files = [(p.relative_to(folder), p.stat()) for p in sorted(folder.rglob("*")) if p.is_file()]
        known = [(str(name), stat.st_size, stat.st_mtime_ns) for name, stat in files]
        return hashlib.sha256(repr((self.fps, self.side, taken, known)).encode()).hexdigest()


class Footage(Sequence[Episode]):
    """Episodes of several sources, one after the other.

    Args:
        parts: the sources' episodes.
        weights: how often pretraining draws from each; by default each as often.
        told: a line for each source, for people.

    Attributes:
        ranges: the episodes of each source.
    """

    def __init__(
        self, parts: Sequence[Part], weights: Sequence[float] | None = None, told: Sequence[str] = ()
    ):
        self.parts, self.told = list(parts), tuple(told)
        self.weights = [1.0] * len(self.parts) if weights is None else list(weights)
        self._ends = list(accumulate(len(p) for p in self.parts))
        self.ranges = [range(end - len(p), end) for p, end in zip(self.parts, self._ends, strict=True)]
        self.lengths = np.concatenate([np.asarray(p.lengths, int) for p in self.parts])
        self.seeds = tuple(seed for p in self.parts for seed in p.seeds)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of the numbers of an action, where it is one dataset of ours; other sources have no actions."""
        alone = self.parts[0] if len(self.parts) == 1 else None
        return alone.action_names if isinstance(alone, EpisodeDataset) else ()

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, inside = self._place(index)
        return part[inside]

    def source_of(self, index: int) -> int:
        """The number of the source that an episode is of."""
        return bisect_right(self._ends, range(len(self))[index])

    def segments(self, index: int) -> tuple[Segment, ...]:
        """Of one episode, without its frames."""
        part, inside = self._place(index)
        return part.segments(inside)

    def provenance(self, index: int) -> dict[str, Any]:
        """Where an episode came from, without its frames."""
        part, inside = self._place(index)
        return part.provenance(inside)

    def fingerprint(self) -> str:
        """sha256 that changes with the frames of any source."""
        return hashlib.sha256(" ".join(p.fingerprint() for p in self.parts).encode()).hexdigest()

    def _place(self, index: int) -> tuple[Part, int]:
        index = range(len(self))[index]
        number = self.source_of(index)
        return self.parts[number], index - self.ranges[number].start


def as_footage(data: Footage | EpisodeDataset) -> Footage:
    """A single dataset as footage."""
    return data if isinstance(data, Footage) else Footage([data])


def open_source(path: Path, camera: str | None = None) -> Source:
    """A folder of either kind, whatever is wrong with it. Raises DataError: there is nothing to open."""
    if (path / INFO).is_file():
        return open_lerobot(path, camera)
    if not path.is_dir():
        raise DataError(f"no data at {path}; give a folder of videos with captions or a LeRobotDataset v3.0")
    return open_videos(path)


def target(options: DataOptions, first: Source) -> tuple[float, int]:
    """Rate and side that all sources are brought to. Raises OptionError."""
    width, height = first.size
    fps = options.fps or (first.fps if first.ours else FPS)
    side = options.image_size or (width if first.ours and width == height else SIDE)
    return float(fps), int(side)


def line_of(source: Source, fps: float, side: int) -> str:
    """What is done to a source's frames, for people."""
    width, height = source.size
    done = [] if (width, height) == (side, side) else [f"{width} × {height} px become {side} × {side}"]
    if done and width != height:
        done[0] += ", the centre square"
    if abs(source.fps - fps) > 1e-3:
        done.append(f"{source.fps:.4g} frames a second become {fps:.4g}")
    return f"{source.kind}, " + (
        "; ".join(done) or f"{side} × {side} px at {fps:.4g} frames a second, as they are"
    )


def open_data(data: Any, chunk_frames: int) -> Footage:
    """Open what ``data=`` names.

    Args:
        data: a folder, a yaml file, or the options as a mapping.
        chunk_frames: frames of a chunk; recordings that are no dataset of ours are divided into whole chunks.

    Raises:
        DataError, DatasetError: a source is missing, damaged, or has wrong captions; the first of them.
        OptionError: ``data`` names no sources.
    """
    options = DataOptions.of(data)
    alone = options == DataOptions(options.sources) and len(options.sources) == 1
    path, _, camera = options.sources[0]
    if alone and camera is None and (not path.is_dir() or (path / COLLECTION).is_file()):
        return as_footage(load_episodes(path))
    sources = [open_source(path, camera) for path, _, camera in options.sources]
    if alone and camera is None and sources[0].ours:  # one that has lost a file
        return as_footage(load_episodes(path))
    for source in sources:
        if source.wrong:
            more = f" (and {len(source.wrong) - 1} more)" if len(source.wrong) > 1 else ""
            raise DataError(f"{source.wrong[0]}{more}; see: python -m world_model.data inspect {source.path}")
    fps, side = target(options, sources[0])
    parts = [TakeEpisodes(s, fps, side, chunk_frames, options.clip_chunks) for s in sources]
    for source, part in zip(sources, parts, strict=True):
        if not len(part):
            raise DataError(
                f"{source.path}: nothing is as long as a chunk of {chunk_frames} frames at {fps:.4g} a second; "
                "give longer captions, or a higher data.fps"
            )
    weights = [weight for _, weight, _ in options.sources]
    told = [
        f"{s.path}: {line_of(s, fps, side)}; {len(p)} clips, {sum(p.lengths) - len(p)} new frames"
        + (f", weight {w:g} of {sum(weights):g}" if len(weights) > 1 else "")
        + (f"; {p.short} too short, left out" if p.short else "")
        for s, p, w in zip(sources, parts, weights, strict=True)
    ]
    return Footage(parts, weights, told)
