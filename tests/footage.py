"""Videos and datasets that tests make as a user would have them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.lerobot import png

STEP = 3  # grey levels from frame to frame: frame k of a video is 20 + STEP * k throughout


def grey(count: int, width: int = 48, height: int = 32) -> np.ndarray:
    """``(count, height, width, 3)`` frames that say their number."""
    return np.stack([np.full((height, width, 3), 20 + STEP * k, np.uint8) for k in range(count)])


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of :func:`grey` these are."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 4 : -(height // 4), width // 4 : -(width // 4)]
    return np.round((middle.mean((1, 2, 3)) - 20) / STEP).astype(int).tolist()


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> Path:
    """A video as a camera writes it: H.264, its index at the front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, height, width, _ = frames.shape
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", "-c:v", "libx264", "-crf", "8",
        "-threads", "1", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def write_lerobot(
    path: Path, lengths: tuple[int, ...], fps: int, video: bool, tasks: tuple[str, ...]
) -> Path:
    """A LeRobotDataset v3.0 as LeRobot itself records it: no columns of ours, one task an episode, two cameras;
    videos of several episodes in one file."""
    frames, total = grey(max(lengths)), sum(lengths)
    kind = {
        "dtype": "video" if video else "image",
        "shape": [32, 48, 3],
        "names": ["height", "width", "channels"],
    }
    cameras = {"observation.images.top": kind, "observation.images.wrist": kind}
    info = {
        "codebase_version": "v3.0", "fps": fps, "features": {**cameras, "action": {"dtype": "float32", "shape": [2]}},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "total_episodes": len(lengths), "total_frames": total,
    }  # fmt: skip
    ends = np.cumsum(lengths)
    rows = [
        {"episode_index": e, "tasks": [tasks[e % len(tasks)]], "length": n, "dataset_from_index": int(ends[e]) - n,
         "dataset_to_index": int(ends[e]), "data/chunk_index": 0, "data/file_index": 0}
        for e, n in enumerate(lengths)
    ]  # fmt: skip
    columns: dict[str, list] = {
        "index": list(range(total)),
        "episode_index": [e for e, n in enumerate(lengths) for _ in range(n)],
        "frame_index": [k for n in lengths for k in range(n)],
        "task_index": [e % len(tasks) for e, n in enumerate(lengths) for _ in range(n)],
    }
    for camera in cameras:
        shown = np.concatenate([frames[:n] if camera.endswith("top") else 255 - frames[:n] for n in lengths])
        if video:
            write_mp4(path / f"videos/{camera}/chunk-000/file-000.mp4", shown, fps)
            for row in rows:
                begin, end = row["dataset_from_index"] / fps, row["dataset_to_index"] / fps
                row |= {f"videos/{camera}/{k}_index": 0 for k in ("chunk", "file")}
                row |= {f"videos/{camera}/from_timestamp": begin, f"videos/{camera}/to_timestamp": end}
        else:
            columns[camera] = [{"bytes": png(f), "path": None} for f in shown]
    for name, table in {
        "data/chunk-000/file-000.parquet": pa.table(columns),
        "meta/episodes/chunk-000/file-000.parquet": pa.Table.from_pylist(rows),
        "meta/tasks.parquet": pa.table(
            {"task_index": list(range(len(tasks))), "__index_level_0__": list(tasks)}
        ),
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path / name)
    (path / "meta/info.json").write_text(json.dumps(info))
    return path
