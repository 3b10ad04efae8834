"""Episodes on disk, in the layout of LeRobotDataset v3.0, so that its tools read them too.

Our episodes carry more than LeRobot knows; it rides in columns of our own in ``meta/episodes``:
``segments`` (start, stop, caption), ``seed`` and ``provenance`` (json). A frame's LeRobot task is the
caption of the segment whose (start, stop] holds it. LeRobot stores an action with every frame, ours are
one fewer: the last row repeats the one before and is dropped when read.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.commands import differences
from tasks.episode import Episode, Segment
from tasks.files import atomic_path, write_json
from tasks.lerobot import (
    ACTION,
    CHUNK_FILES,
    COUNTERS,
    FILE,
    IMAGE,
    STATE,
    VERSION,
    aggregate,
    group_file,
    pandas_index,
    png,
    schema,
    statistics,
)

COLLECTION = "meta/collection.json"


class DatasetError(ValueError):
    """A dataset that is missing, unfinished, broken or another one; says which file and what to do."""


def captions(episode: Episode) -> list[str]:
    """The T captions of an episode's frames; frame 0 has the first segment's."""
    if not episode.segments or episode.segments[-1].stop != len(episode) - 1:
        raise ValueError(f"segments must cover all {len(episode)} frames, got {episode.segments}")
    counts = [s.stop - s.start for s in episode.segments]
    counts[0] += 1
    return [s.caption for s, n in zip(episode.segments, counts, strict=True) for _ in range(n)]


# --- writing -----------------------------------------------------------------------------------


class DatasetWriter:
    """Writes a dataset group by group into ``<path>.partial``; ``finish`` moves it to ``path`` at once.

    A process killed at any moment leaves whole groups: a new writer of the same path and config goes on
    after them. Episodes must come in the same order then; the files depend on nothing else.

    Args:
        path: where the finished dataset is to lie; must not exist yet.
        fps: frames per second that the timestamps state.
        action_names: the A names of an action.
        config: json-able identity of what is collected; a partial dataset of another one is an error.
        group: episodes a file; the most that a killed process loses.
        robot_type: free text for LeRobot.

    Raises:
        DatasetError: ``path`` exists, another process writes it, or the partial one is of another config.
    """

    def __init__(
        self, path: str | Path, fps: int, action_names: Sequence[str], config: dict[str, Any] | None = None,
        group: int = 50, robot_type: str | None = None,
    ):  # fmt: skip
        self.path = Path(path)
        self.fps, self.action_names, self.group, self.robot_type = (
            int(fps),
            tuple(action_names),
            group,
            robot_type,
        )
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.path.exists():
            raise DatasetError(f"{self.path} exists already; delete it or give another path")
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.partial, os.O_RDONLY)
        self.rows: list[dict[str, Any]] = []
        self._features: dict[str, Any] = {}
        self._tasks: dict[str, int] = {}
        self._files = 0
        self._waiting: list[tuple[pa.Table, dict[str, Any]]] = []
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume(config or {})
        except BlockingIOError:
            self.close()
            raise DatasetError(
                f"another process is writing {self.partial}; wait for it or give another path"
            ) from None
        except DatasetError:
            self.close()
            raise

    def __len__(self) -> int:
        """Episodes so far, those that are not yet on disk included."""
        return len(self.rows) + len(self._waiting)

    @property
    def saved(self) -> int:
        """Episodes on disk."""
        return len(self.rows)

    def append(self, episode: Episode) -> None:
        """Add one episode; every ``group``-th call writes them to disk."""
        features = self._describe(episode)
        if self._features and features != self._features:
            raise ValueError(f"episode {len(self)} has other shapes or names than those before: {features}")
        self._features = features
        self._waiting.append(self._encode(episode))
        if len(self._waiting) == self.group:
            self._flush()

    def finish(self) -> Path:
        """Write what is left and the metadata, and give the dataset its name."""
        self._flush()
        if not self.rows:
            self.close()
            shutil.rmtree(self.partial)
            raise DatasetError(f"no episode was collected, so {self.path} was not written")
        stats = {key: aggregate([_unprefixed(row, key) for row in self.rows]) for key in self._features}
        write_json(self.partial / "meta/stats.json", stats)
        texts = pa.table({"task_index": list(self._tasks.values()), "task": list(self._tasks)})
        with atomic_path(self.partial / "meta/tasks.parquet") as temp:
            pq.write_table(texts.replace_schema_metadata({"pandas": pandas_index()}), temp)
        write_json(self.partial / "meta/info.json", self._info())
        os.replace(self.partial, self.path)
        self.close()
        return self.path

    def close(self) -> None:
        """Let go of the directory; what is on disk stays."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- inside ------------------------------------------------------------------------------

    def _resume(self, config: dict[str, Any]) -> None:
        identity = self.partial / COLLECTION
        if identity.is_file():
            differ = differences(_read_json(identity), config)
            if differ:
                raise DatasetError(
                    f"{self.partial} belongs to another collection ({differ}); delete it or give another path"
                )
        elif any(not (p.is_dir() or p.match(".*.tmp")) for p in self.partial.rglob("*")):
            raise DatasetError(f"{self.partial} was not made by this command; delete it or give another path")
        write_json(identity, config)
        while (meta := self.partial / "meta/episodes" / group_file(self._files)).is_file():
            self.rows += _read_table(meta).to_pylist()
            self._files += 1
        for row in self.rows:
            for segment in row["segments"]:
                self._tasks.setdefault(segment["caption"], len(self._tasks))
        if self.rows:
            first = _read_table(self.partial / "data" / group_file(0))
            self._features = json.loads(first.schema.metadata[b"features"])
        known = {self.partial / "data" / group_file(i) for i in range(self._files)}
        for file in (*self.partial.glob("data/*/*.parquet"), *self.partial.rglob(".*.tmp")):
            if file not in known:
                file.unlink()

    def _describe(self, episode: Episode) -> dict[str, Any]:
        """LeRobot's ``features``."""
        state = [f"{name}.{axis}" for name in episode.names for axis in "xyz"]
        shape = list(episode.frames.shape[1:])
        described: dict[str, Any] = {
            IMAGE: {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]},
            STATE: {"dtype": "float32", "shape": [len(state)], "names": state},
            ACTION: {"dtype": "float32", "shape": [len(self.action_names)], "names": list(self.action_names)},
        }
        return described | {k: {"dtype": d, "shape": [1], "names": None} for k, d in COUNTERS.items()}

    def _encode(self, episode: Episode) -> tuple[pa.Table, dict[str, Any]]:
        """One episode's rows of ``data`` and its row of ``meta/episodes``."""
        T, number = len(episode), len(self)
        last = self._waiting[-1][1] if self._waiting else self.rows[-1] if self.rows else None
        start = last["dataset_to_index"] if last else 0
        texts = captions(episode)
        for text in texts:
            self._tasks.setdefault(text, len(self._tasks))
        actions = np.concatenate([episode.actions, episode.actions[-1:]]).astype(np.float32)
        values: dict[str, np.ndarray] = {
            STATE: episode.positions.reshape(T, -1).astype(np.float32),
            ACTION: actions,
            "timestamp": (np.arange(T) / self.fps).astype(np.float32),
            "frame_index": np.arange(T),
            "episode_index": np.full(T, number),
            "index": np.arange(start, start + T),
            "task_index": np.array([self._tasks[t] for t in texts]),
        }
        row: dict[str, Any] = {
            "episode_index": number, "tasks": list(dict.fromkeys(texts)), "length": T,
            "dataset_from_index": start, "dataset_to_index": start + T,
            "segments": [{"start": s.start, "stop": s.stop, "caption": s.caption} for s in episode.segments],
            "seed": episode.provenance.get("seed"),
            "provenance": json.dumps(episode.provenance, sort_keys=True),
        }  # fmt: skip
        for key, value in {IMAGE: episode.frames, **values}.items():
            row |= {f"stats/{key}/{name}": stat for name, stat in statistics(value).items()}
        pngs = [{"bytes": png(frame), "path": f"frame-{i:06d}.png"} for i, frame in enumerate(episode.frames)]
        types = schema(self._features)
        lists = {key: value.tolist() for key, value in values.items()}
        return pa.Table.from_pydict({IMAGE: pngs, **lists}, schema=types), row

    def _flush(self) -> None:
        """Put the waiting episodes on disk: data first, then the metadata that makes them count."""
        if not self._waiting:
            return
        index = self._files
        place = {"chunk_index": index // CHUNK_FILES, "file_index": index % CHUNK_FILES}
        with (
            atomic_path(self.partial / "data" / group_file(index)) as temp,
            pq.ParquetWriter(temp, schema(self._features)) as writer,
        ):
            for table, _ in self._waiting:
                writer.write_table(table)  # one row group an episode, as LeRobot writes them
        where = {f"{prefix}/{k}": v for prefix in ("data", "meta/episodes") for k, v in place.items()}
        rows = [row | where for _, row in self._waiting]
        with atomic_path(self.partial / "meta/episodes" / group_file(index)) as temp:
            pq.write_table(pa.Table.from_pylist(rows), temp)
        self.rows += rows
        self._files += 1
        self._waiting = []

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type,
            "total_episodes": len(self.rows),
            "total_frames": self.rows[-1]["dataset_to_index"],
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": f"data/{FILE}",
            "video_path": None,
            "features": self._features,
        }


def _unprefixed(row: dict[str, Any], key: str) -> dict[str, Any]:
    prefix = f"stats/{key}/"
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


# --- reading -----------------------------------------------------------------------------------


class EpisodeDataset(Sequence[Episode]):
    """The episodes of a finished dataset. Frames stay compressed in memory until an episode is taken.

    Attributes:
        path: where it lies.
        info: ``meta/info.json``.
        names: the N names of the positions.
        lengths: ``(episodes,)`` frames of each.
        seeds: each episode's layout seed.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.info = _read_info(self.path)
        features = self.info["features"]
        self.names = tuple(n.rsplit(".", 1)[0] for n in features[STATE]["names"][::3])
        self.action_names = tuple(features[ACTION]["names"])
        columns = [
            "episode_index",
            "length",
            "data/chunk_index",
            "data/file_index",
            "segments",
            "seed",
            "provenance",
        ]
        files = sorted(self.path.glob("meta/episodes/*/*.parquet"))
        self._rows = [row for file in files for row in _read_table(file, columns).to_pylist()]
        if [row["episode_index"] for row in self._rows] != list(range(self.info["total_episodes"])):
            raise _broken(
                self.path / "meta/episodes", f"expected the episodes 0 … {self.info['total_episodes'] - 1}"
            )
        self.lengths = np.array([row["length"] for row in self._rows])
        self.seeds = tuple(row["seed"] for row in self._rows)
        self._load()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        row, start = self._rows[index], int(self._starts[index])
        stop = start + row["length"]
        return Episode(
            frames=self._frames(index, start, stop),
            actions=self._actions[start : stop - 1].copy(),  # the last row is padding
            segments=self.segments(index),
            positions=self._positions[start:stop].copy(),
            names=self.names,
            provenance=json.loads(row["provenance"]),
        )

    def segments(self, index: int) -> tuple[Segment, ...]:
        """An episode's segments, without decoding its frames."""
        return tuple(Segment(s["start"], s["stop"], s["caption"]) for s in self._rows[index]["segments"])

    def provenance(self, index: int) -> dict[str, Any]:
        """Where an episode came from, without decoding its frames."""
        return json.loads(self._rows[index]["provenance"])

    def fingerprint(self) -> str:
        """sha256 of all frames as they are stored, and of where episodes begin; no frame is decoded."""
        digest = hashlib.sha256(self.lengths.tobytes())
        for picture in self._png:
            digest.update(picture.as_py() or b"")
        return digest.hexdigest()

    def captions(self) -> tuple[str, ...]:
        """Every caption once, in order of first use."""
        return tuple(dict.fromkeys(s["caption"] for row in self._rows for s in row["segments"]))

    def _load(self) -> None:
        """Read all data files; the frames as PNG bytes."""
        places = [(row["data/chunk_index"], row["data/file_index"]) for row in self._rows]
        images, states, actions = [], [], []
        for chunk, file in dict.fromkeys(places):
            path = self.path / self.info["data_path"].format(chunk_index=chunk, file_index=file)
            table = _read_table(path, [IMAGE, STATE, ACTION])
            frames = int(
                sum(n for n, place in zip(self.lengths, places, strict=True) if place == (chunk, file))
            )
            if len(table) != frames:
                raise _broken(path, f"it has {len(table)} frames where meta/episodes has {frames}")
            images.append(_image_bytes(table))
            states.append(_matrix(table, STATE, len(self.names) * 3, path))
            actions.append(_matrix(table, ACTION, len(self.action_names), path))
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self._png = pa.chunked_array(images)
        self._positions = np.concatenate(states).reshape(-1, len(self.names), 3)
        self._actions = np.concatenate(actions)

    def _frames(self, index: int, start: int, stop: int) -> np.ndarray:
        shape = tuple(self.info["features"][IMAGE]["shape"])
        out = np.empty((stop - start, *shape), np.uint8)
        for k, data in enumerate(self._png.slice(start, stop - start)):
            try:
                out[k] = np.asarray(Image.open(io.BytesIO(data.as_py())).convert("RGB"))
            except (OSError, ValueError, TypeError, SyntaxError):  # Pillow's for a damaged PNG
                row = self._rows[index]
                where = f"data/chunk-{row['data/chunk_index']:03d}/file-{row['data/file_index']:03d}.parquet"
                raise _broken(
                    self.path / where, f"episode {index} frame {k} is no picture of {shape}"
                ) from None
        return out


class JoinedEpisodes(Sequence[Episode]):
    """The episodes of several datasets as one, evenly mixed: any long run of them holds each one's share, and
    so does what a trainer holds out at the end.

    Raises:
        DatasetError: none is given, or they differ in the size of frames or in the numbers of an action.
    """

    def __init__(self, datasets: Sequence[EpisodeDataset]):
        if not datasets:
            raise DatasetError("no dataset is given; give the path of one, or a list of paths")
        first = datasets[0]
        for other in datasets[1:]:
            for what in (IMAGE, ACTION):
                shapes = [d.info["features"][what]["shape"] for d in (first, other)]
                if shapes[0] != shapes[1]:
                    raise DatasetError(
                        f"{first.path} has {what} of shape {shapes[0]}, {other.path} {shapes[1]}"
                    )
        places = [((i + 0.5) / len(d), k, i) for k, d in enumerate(datasets) for i in range(len(d))]
        self._datasets, self._places = tuple(datasets), [(k, i) for _, k, i in sorted(places)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        dataset, episode = self._places[index]
        return self._datasets[dataset][episode]


def join_episodes(paths: str | Path | Sequence[str | Path]) -> Sequence[Episode]:
    """Open a dataset, or several as one.

    Raises:
        DatasetError: as :func:`load_episodes` and :class:`JoinedEpisodes` say.
    """
    if isinstance(paths, str | Path):
        return load_episodes(paths)
    return JoinedEpisodes([load_episodes(path) for path in paths])


def load_episodes(path: str | Path) -> EpisodeDataset:
    """Open a dataset.

    Raises:
        DatasetError: it is missing, unfinished, in another layout, or a file of it is missing or corrupt.
    """
    return EpisodeDataset(path)


def collection(path: Path) -> dict[str, Any]:
    """The identity of what was collected; DatasetError if it can't be read."""
    return _read_json(path / COLLECTION)


def _broken(file: Path, what: str) -> DatasetError:
    return DatasetError(f"{file}: {what}; the dataset is damaged: delete it and collect it again")


def _read_info(path: Path) -> dict[str, Any]:
    partial = path.with_name(path.name + ".partial")
    if not path.is_dir():
        if partial.is_dir():
            raise DatasetError(
                f"the dataset {path} is not finished; run its command, such as `python -m envs.collect`, again to go on"
            )
        raise DatasetError(
            f"no dataset at {path}; make one with `python -m envs.collect task=TASK path={path}`"
        )
    info = _read_json(path / "meta/info.json")
    if info.get("codebase_version") != VERSION:
        raise DatasetError(f"{path} is a LeRobotDataset {info.get('codebase_version')}; expected {VERSION}")
    features = info.get("features")
    if isinstance(features, dict) and (missing := [k for k in (IMAGE, STATE, ACTION) if k not in features]):
        raise DatasetError(f"{path} has no feature {', '.join(missing)}; has {', '.join(features)}")
    if wrong := _wrong_in(info):
        raise _broken(path / "meta/info.json", f"no usable {wrong}")
    _read_json(path / "meta/stats.json")  # read by LeRobot's tools alone, but a dataset has all its files
    _read_table(path / "meta/tasks.parquet", ["task_index", "task"])
    _read_json(path / COLLECTION)
    return info


def _wrong_in(info: dict[str, Any]) -> str:
    """What of that which is read here ``meta/info.json`` lacks or has in another form; empty if nothing."""
    for key, kind in (("total_episodes", int), ("data_path", str), ("features", dict)):
        if not isinstance(info.get(key), kind):
            return key
    for feature, key, kind in ((IMAGE, "shape", int), (STATE, "names", str), (ACTION, "names", str)):
        described = info["features"][feature]
        values = described.get(key) if isinstance(described, dict) else None
        if not isinstance(values, list) or not all(isinstance(v, kind) for v in values):
            return f"{key} of {feature}"
    try:
        info["data_path"].format(chunk_index=0, file_index=0)
    except (KeyError, IndexError, ValueError):
        return "data_path"
    return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise _broken(path, "the file is missing") from None
    except ValueError:
        raise _broken(path, "the file is no json") from None
    if not isinstance(value, dict):
        raise _broken(path, "the file holds no json object")
    return value


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise DatasetError(
                    f"{path} has no column {', '.join(sorted(missing))}; was it made by envs.collect?"
                )
            return file.read(columns)
    except FileNotFoundError:
        raise _broken(path, "the file is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, f"the file can't be read ({str(error).splitlines()[0]})") from None


def _image_bytes(table: pa.Table) -> pa.Array:
    array = table[IMAGE].combine_chunks()
    return (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).field("bytes")


def _matrix(table: pa.Table, key: str, width: int, path: Path) -> np.ndarray:
    """``(frames, width)`` float32 of a column of lists."""
    array = table[key].combine_chunks()
    flat = (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).flatten().to_numpy()
    if flat.size != len(table) * width:
        raise _broken(path, f"{key} does not have {width} numbers a frame")
    return flat.reshape(-1, width).astype(np.float32)
