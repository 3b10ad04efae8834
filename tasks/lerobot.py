"""What LeRobotDataset v3.0 wants in its files: names, arrow types and statistics."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

VERSION = "v3.0"
IMAGE, STATE, ACTION = "observation.images.front", "observation.state", "action"
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNK_FILES = 1000
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def group_file(index: int) -> str:
    """Path of the index-th file below ``data/`` or ``meta/episodes/``."""
    return FILE.format(chunk_index=index // CHUNK_FILES, file_index=index % CHUNK_FILES)


def png(frame: np.ndarray) -> bytes:
    """``(H, W, 3)`` uint8 to a PNG file."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


def statistics(values: np.ndarray) -> dict[str, Any]:
    """LeRobot's statistics of one feature of one episode, as nested lists.

    ``(T, D)`` or ``(T,)`` numbers give lists of D (1) numbers; ``(T, H, W, 3)`` uint8 frames are scaled
    to 0…1 and give ``(3, 1, 1)``. ``count`` is [T].
    """
    image = values.ndim == 4
    flat = (values.reshape(-1, 3) / 255.0 if image else values.reshape(len(values), -1)).astype(np.float64)
    shape = (3, 1, 1) if image else (flat.shape[1],)
    out = {"min": flat.min(0), "max": flat.max(0), "mean": flat.mean(0), "std": flat.std(0)}
    out |= dict(zip(QUANTILES, np.quantile(flat, list(QUANTILES.values()), axis=0), strict=True))
    return {k: v.reshape(shape).tolist() for k, v in out.items()} | {"count": [len(values)]}


def aggregate(stats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Many episodes' statistics from each one's, as LeRobot merges them: quantiles by weighted mean."""
    count = np.array([s["count"][0] for s in stats], np.float64)
    arrays = {k: np.array([s[k] for s in stats]) for k in ("min", "max", "mean", "std", *QUANTILES)}

    def weighted(x: np.ndarray) -> np.ndarray:
        return np.tensordot(count, x, 1) / count.sum()

    mean = weighted(arrays["mean"])
    spread = weighted(arrays["std"] ** 2 + (arrays["mean"] - mean) ** 2)
    out = {"min": arrays["min"].min(0), "max": arrays["max"].max(0), "mean": mean, "std": np.sqrt(spread)}
    out |= {q: weighted(arrays[q]) for q in QUANTILES}
    return {k: v.tolist() for k, v in out.items()} | {"count": [int(count.sum())]}


def schema(features: dict[str, Any]) -> pa.Schema:
    """Arrow types of ``data``, with the metadata by which 🤗 datasets knows an image from a struct."""
    fields: list[pa.Field] = []
    known: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            fields.append(pa.field(key, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
            known[key] = {"_type": "Image"}
        elif feature["shape"] == [1]:
            fields.append(pa.field(key, pa.type_for_alias(feature["dtype"])))
            known[key] = value
        else:
            size = feature["shape"][0]
            fields.append(pa.field(key, pa.list_(pa.type_for_alias(feature["dtype"]), size)))
            known[key] = {"feature": value, "length": size, "_type": "Sequence"}
    hub = json.dumps({"info": {"features": known}})
    return pa.schema(fields, metadata={"huggingface": hub, "features": json.dumps(features)})


def pandas_index() -> str:
    """What makes pandas read the column ``task`` as the index, without needing pandas to write it."""

    def column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
        types = {"pandas_type": pandas_type, "numpy_type": numpy_type}
        return {"name": name, "field_name": name, **types, "metadata": None}

    return json.dumps(
        {
            "index_columns": ["task"],
            "column_indexes": [{**column("", "unicode", "object"), "name": None, "field_name": None}],
            "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
            "creator": {"library": "pyarrow", "version": pa.__version__},
            "pandas_version": "2.0.0",
        }
    )
