"""A LeRobotDataset v3.0 folder as takes: recorded by LeRobot, as videos or as images, or written by this project."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from tasks.lerobot import IMAGE, VERSION
from tasks.revisit import REVISITS
from world_model.data.captions import said
from world_model.data.takes import Caption, DataError, Source, Take, check_captions, unbroken
from world_model.data.video_file import read_video

INFO = "meta/info.json"
PLACE = {"chunk_index": "data/chunk_index", "file_index": "data/file_index"}
NEEDED = ("episode_index", "length", "dataset_from_index", "dataset_to_index", *PLACE.values())


def read_table(path: Path, columns: Sequence[str] | None = None, filters: list | None = None) -> pa.Table:
    """A parquet file. Raises DataError: missing, damaged, or without a column."""
    try:
        have = pq.read_schema(path).names
        if missing := sorted(set(columns or ()) - set(have)):
            raise DataError(f"{path} has no column {', '.join(missing)}; is it a LeRobotDataset {VERSION}?")
        return pq.read_table(path, columns=None if columns is None else list(columns), filters=filters)
    except FileNotFoundError:
        raise DataError(f"{path}: the file is missing; get the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read ({str(error).splitlines()[0][:120]}); get it again") from None


def read_info(path: Path) -> dict[str, Any]:
    """``meta/info.json``. Raises DataError: no json, or another version."""
    try:
        info = json.loads((path / INFO).read_text())
        found, _ = info["codebase_version"], (info["fps"], info["features"].items(), info["data_path"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path / INFO} is no LeRobotDataset's; get the dataset again") from None
    if found != VERSION:
        raise DataError(f"{path} is a LeRobotDataset {found}; convert it to {VERSION} with LeRobot")
    return info


def camera_of(info: dict[str, Any], path: Path, camera: str | None) -> tuple[str, list[str]]:
    """The camera to take, and the others. Raises DataError: there is none, or not that one."""
    have = [k for k, f in info["features"].items() if f.get("dtype") in ("image", "video")]
    if not have:
        raise DataError(f"{path} has no camera; give a dataset with images or videos")
    if camera is not None and camera not in have:
        raise DataError(f"{path} has no camera {camera!r}; has {', '.join(have)}")
    chosen = camera or (IMAGE if IMAGE in have else have[0])
    return chosen, [k for k in have if k != chosen]


def read_tasks(path: Path) -> dict[int, str]:
    """Captions by ``task_index``. Raises DataError."""
    table = read_table(path / "meta/tasks.parquet")
    texts = [c for c in table.column_names if c != "task_index" and pa.types.is_string(table[c].type)]
    texts += [c for c in table.column_names if pa.types.is_large_string(table[c].type)]
    if "task_index" not in table.column_names or not texts:
        raise DataError(f"{path / 'meta/tasks.parquet'} names no tasks; get the dataset again")
    return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))


class LeRobotFolder:
    """One dataset and one of its cameras."""

    def __init__(self, path: Path, camera: str | None):
        self.path, self.info = path, read_info(path)
        self.fps = float(self.info["fps"])
        self.camera, self.others = camera_of(self.info, path, camera)
        self.feature = self.info["features"][self.camera]
        self.is_video = self.feature["dtype"] == "video"
        files = sorted(path.glob("meta/episodes/*/*.parquet"))
        if not files:
            raise DataError(f"{path}: no meta/episodes/*/*.parquet; get the dataset again")
        tables = [read_table(f) for f in files]
        for file, table in zip(files, tables, strict=True):
            if missing := sorted(
                {*NEEDED, *(self._video_columns() if self.is_video else ())} - set(table.column_names)
            ):
                raise DataError(
                    f"{file} has no column {', '.join(missing)}; is it a LeRobotDataset {VERSION}?"
                )
        kept = [c for c in tables[0].column_names if not c.startswith("stats/")]
        self.rows = [row for t in tables for row in t.select(kept).to_pylist()]
        self.ours = bool(self.rows) and "segments" in self.rows[0]
        self._tasks = {} if self.ours else read_tasks(path)
        self._indices: dict[Path, tuple[np.ndarray, np.ndarray]] = {}

    def _video_columns(self) -> tuple[str, ...]:
        return tuple(f"videos/{self.camera}/{k}" for k in ("chunk_index", "file_index", "from_timestamp"))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px; a shape may come with its channels first."""
        shape, names = list(self.feature["shape"]), list(self.feature.get("names") or ())
        height, width = shape[1:3] if names[:1] in (["channels"], ["channel"]) else shape[:2]
        return int(width), int(height)

    def data_file(self, row: dict[str, Any]) -> Path:
        """The parquet file that holds an episode's frames."""
        return self.path / self.info["data_path"].format(**{k: row[c] for k, c in PLACE.items()})

    def captions(self, row: dict[str, Any]) -> list[Caption]:
        """An episode's captions, in seconds. Raises DataError."""
        name, length = f"{self.path}: episode {row['episode_index']}", row["length"]
        if self.ours:
            parts = [
                (s["start"] if k else -1, s["stop"], s["caption"]) for k, s in enumerate(row["segments"])
            ]
            parts = [(a + 1, b + 1, text) for a, b, text in parts]
        else:
            runs, at, parts = groupby(self._task_indices(row)), 0, []
            for task, group in runs:
                count = len(list(group))
                parts.append((at, at + count, self._tasks.get(task, "")))
                at += count
        if parts and parts[-1][1] != length:
            raise DataError(
                f"{name}: {parts[-1][1]} of {length} frames have a caption; get the dataset again"
            )
        return [Caption(a / self.fps, b / self.fps, said(text, f"{name}, frame {a}")) for a, b, text in parts]

    def _task_indices(self, row: dict[str, Any]) -> list[int]:
        file = self.data_file(row)
        if file not in self._indices:
            table = read_table(file, ["index", "task_index"])
            self._indices[file] = table["index"].to_numpy(), table["task_index"].to_numpy()
        index, tasks = self._indices[file]
        mine = tasks[(index >= row["dataset_from_index"]) & (index < row["dataset_to_index"])]
        if len(mine) != row["length"]:
            raise DataError(
                f"{file}: {len(mine)} frames where meta/episodes has {row['length']}; get it again"
            )
        return mine.tolist()

    def take(self, row: dict[str, Any], captions: tuple[Caption, ...]) -> Take:
        """A stretch of an episode."""
        read = partial(self._from_video if self.is_video else self._from_images, row)
        more: dict[str, Any] = json.loads(row["provenance"]) if row.get("provenance") else {}
        pairs = tuple((a / self.fps, b / self.fps) for a, b in more.pop(REVISITS, ()))
        return Take(f"episode {row['episode_index']}", captions, read, more, pairs)

    def _from_video(self, row: dict[str, Any], start: float, fps: float, count: int, side: int) -> np.ndarray:
        chunk, file, begin = (row[c] for c in self._video_columns())
        given = {"video_key": self.camera, "chunk_index": chunk, "file_index": file}
        video, end = self.path / self.info["video_path"].format(**given), begin + row["length"] / self.fps
        return read_video(video, begin + start, fps, count, side, end)

    def _from_images(
        self, row: dict[str, Any], start: float, fps: float, count: int, side: int
    ) -> np.ndarray:
        first, file = row["dataset_from_index"], self.data_file(row)
        inside = [("index", ">=", first), ("index", "<", row["dataset_to_index"])]
        stored = read_table(file, [self.camera, "index"], inside)[self.camera].to_pylist()
        wanted = np.round((start + np.arange(count) / fps) * self.fps).astype(int)
        wanted = np.minimum(wanted, row["length"] - 1)
        out = np.empty((count, side, side, 3), np.uint8)
        for k, i in enumerate(wanted):
            try:
                picture = Image.open(io.BytesIO(stored[i]["bytes"])).convert("RGB")
            except (OSError, ValueError, TypeError, IndexError, SyntaxError):
                raise DataError(
                    f"{file}: episode {row['episode_index']} frame {i} is no picture; get the dataset again"
                ) from None
            if picture.size != (side, side):
                picture = ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)
            out[k] = np.asarray(picture)
        return out


def open_lerobot(path: Path, camera: str | None = None) -> Source:
    """A dataset as takes; what can't be used is told in ``wrong``. Raises DataError: the folder is none."""
    folder = LeRobotFolder(path, camera)
    takes: list[Take] = []
    wrong: list[str] = []
    for row in folder.rows:
        try:
            captions = folder.captions(row)
        except DataError as error:
            wrong.append(str(error))
            continue
        found = check_captions(captions, row["length"] / folder.fps, folder.fps)
        wrong += [f"{path}: episode {row['episode_index']}: {line}" for line in found]
        if not found:
            takes += [folder.take(row, run) for run in unbroken(captions, folder.fps)]
    notes = [
        f"camera {folder.camera}" + (f"; not taken: {', '.join(folder.others)}" if folder.others else "")
    ]
    stored = "videos" if folder.is_video else "images"
    return Source(
        path, f"LeRobotDataset {VERSION} of {stored}", len(folder.rows), folder.size, folder.fps,
        sum(row["length"] for row in folder.rows) / folder.fps, tuple(takes), tuple(wrong), tuple(notes), folder.ours,
    )  # fmt: skip
