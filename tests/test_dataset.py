"""Episodes go to disk in LeRobot's layout and come back as they were."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks import Episode, Segment
from tasks.dataset import (
    DatasetError,
    DatasetWriter,
    captions,
    join_episodes,
    load_episodes,
)
from tasks.lerobot import IMAGE, STATE, aggregate, png, statistics

ACTIONS = ("x", "y", "gripper")


def make_episode(seed: int) -> Episode:
    rng, chunks = np.random.default_rng(seed), 1 + seed % 3
    T = 1 + 2 * chunks
    return Episode(
        frames=rng.integers(0, 256, (T, 8, 12, 3), np.uint8),
        actions=rng.normal(size=(T - 1, 3)).astype(np.float32),
        segments=tuple(Segment(2 * k, 2 * k + 2, f"do {seed} {k % 2}") for k in range(chunks)),
        positions=rng.normal(size=(T, 2, 3)).astype(np.float32),
        names=("red cube", "gripper"),
        provenance={"task": "t", "env": "e", "seed": 100 + seed, "version": "0"},
    )


def write(path: Path, count: int, group: int = 2) -> Path:
    writer = DatasetWriter(path, 4, ACTIONS, {"episodes": count}, group)
    for seed in range(len(writer), count):
        writer.append(make_episode(seed))
    return writer.finish()


def same(a: Episode, b: Episode) -> bool:
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("frames", "actions", "positions"))
    return arrays and (a.segments, a.names, a.provenance) == (b.segments, b.names, b.provenance)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def dataset(tmp_path) -> Path:
    return write(tmp_path / "d", 5)


def test_episodes_come_back_bit_for_bit(dataset):
    episodes = load_episodes(dataset)
    assert len(episodes) == 5 and episodes.seeds == (100, 101, 102, 103, 104)
    assert all(same(episode, make_episode(i)) for i, episode in enumerate(episodes))
    assert same(episodes[-1], make_episode(4)) and len(episodes[1:3]) == 2
    assert episodes.lengths.tolist() == [3, 5, 7, 3, 5] and episodes.names == ("red cube", "gripper")
    assert episodes.captions()[:3] == ("do 0 0", "do 1 0", "do 1 1")
    with pytest.raises(IndexError):
        episodes[5]


def test_the_layout_is_lerobots(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 4, {"train": "0:5"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 23, 8)
    assert info["features"][IMAGE] == {
        "dtype": "image",
        "shape": [8, 12, 3],
        "names": ["height", "width", "channels"],
    }
    assert info["features"][STATE]["names"][:4] == ["red cube.x", "red cube.y", "red cube.z", "gripper.x"]
    assert sorted(p.name for p in (dataset / "data/chunk-000").iterdir()) == [
        f"file-00{i}.parquet" for i in range(3)
    ]

    tables = [pq.read_table(p) for p in sorted(dataset.glob("data/*/*.parquet"))]
    assert tables[0].column_names == list(info["features"])
    assert [i for t in tables for i in t["index"].to_pylist()] == list(range(23))
    rows = [
        row for p in sorted(dataset.glob("meta/episodes/*/*.parquet")) for row in pq.read_table(p).to_pylist()
    ]
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows][:2] == [(0, 3), (3, 8)]
    assert [(r["data/chunk_index"], r["data/file_index"]) for r in rows] == [
        (0, 0),
        (0, 0),
        (0, 1),
        (0, 1),
        (0, 2),
    ]
    assert rows[1]["tasks"] == ["do 1 0", "do 1 1"] and rows[1]["meta/episodes/file_index"] == 0
    hub = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert hub[IMAGE] == {"_type": "Image"} and hub["action"]["length"] == 3


def test_captions_follow_the_segments(dataset):
    tasks = pq.read_table(dataset / "meta/tasks.parquet")
    texts = dict(zip(tasks["task_index"].to_pylist(), tasks["task"].to_pylist(), strict=True))
    table = pq.read_table(dataset / "data/chunk-000/file-001.parquet")
    stored = [texts[i] for i in table["task_index"].to_pylist()][:7]
    assert stored == captions(make_episode(2)) == ["do 2 0"] * 3 + ["do 2 1"] * 2 + ["do 2 0"] * 2
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_the_last_action_row_is_padding(dataset):
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    stored = np.array(table["action"].to_pylist()[:3], np.float32)
    assert np.array_equal(stored[1], stored[2])
    assert np.array_equal(load_episodes(dataset)[0].actions, stored[:2])


def test_statistics_merge_to_those_of_the_whole(dataset):
    stats = json.loads((dataset / "meta/stats.json").read_text())
    frames = np.concatenate([make_episode(i).frames for i in range(5)]) / 255
    state = np.concatenate([make_episode(i).positions.reshape(-1, 6) for i in range(5)])
    assert np.allclose(stats[IMAGE]["mean"], frames.mean((0, 1, 2)).reshape(3, 1, 1))
    assert np.allclose(stats[IMAGE]["std"], frames.std((0, 1, 2)).reshape(3, 1, 1))
    assert np.allclose(stats[STATE]["max"], state.max(0)) and np.allclose(
        stats[STATE]["std"], state.std(0), atol=1e-5
    )
    assert stats["timestamp"]["count"] == [23] and len(stats["timestamp"]["q50"]) == 1
    one = statistics(np.arange(10.0))
    assert one["min"] == [0] and one["q50"] == [4.5] and aggregate([one, one])["mean"] == [4.5]


# --- interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_an_interrupted_collection_ends_as_an_uninterrupted_one(dataset, tmp_path, after):
    writer = DatasetWriter(tmp_path / "again", 4, ACTIONS, {"episodes": 5}, 2)
    for seed in range(after):
        writer.append(make_episode(seed))
    writer.close()  # what a killed process leaves: whole groups, and what a half-written one may
    data = tmp_path / "again.partial/data/chunk-000"
    data.mkdir(exist_ok=True, parents=True)
    (data / f"file-00{after // 2}.parquet").write_bytes(b"orphan")
    (data / ".file-009.parquet.1.tmp").write_bytes(b"half")

    with pytest.raises(DatasetError, match=r"not finished; run its"):
        load_episodes(tmp_path / "again")
    assert files(write(tmp_path / "again", 5)) == files(dataset)
    assert not (tmp_path / "again.partial").exists()


def test_a_collection_killed_before_it_had_a_name_goes_on(dataset, tmp_path):
    meta = tmp_path / "again.partial/meta"
    meta.mkdir(parents=True)
    (meta / ".collection.json.1.tmp").write_text('{"epi')  # what a kill inside the very first write leaves
    assert files(write(tmp_path / "again", 5)) == files(dataset)


def test_a_partial_dataset_of_another_config_is_left_alone(tmp_path):
    DatasetWriter(tmp_path / "d", 4, ACTIONS, {"episodes": 5}).close()
    before = files(tmp_path)
    with pytest.raises(DatasetError, match=r"belongs to another collection .episodes: 5 there, 6 here"):
        DatasetWriter(tmp_path / "d", 4, ACTIONS, {"episodes": 6})
    assert files(tmp_path) == before


def test_two_writers_do_not_mix(tmp_path):
    writer = DatasetWriter(tmp_path / "d", 4, ACTIONS)
    with pytest.raises(DatasetError, match=r"another process is writing"):
        DatasetWriter(tmp_path / "d", 4, ACTIONS)
    writer.close()


def test_nothing_is_overwritten(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"exists already"):
        DatasetWriter(dataset, 4, ACTIONS)
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial/thesis.tex").write_text("x")
    with pytest.raises(DatasetError, match=r"was not made by this command"):
        DatasetWriter(tmp_path / "mine", 4, ACTIONS)
    assert (tmp_path / "mine.partial/thesis.tex").read_text() == "x"


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"no episode was collected"):
        DatasetWriter(tmp_path / "d", 4, ACTIONS).finish()
    assert not list(tmp_path.iterdir())


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/collection.json",
        "meta/episodes/chunk-000/file-001.parquet",
        "data/chunk-000/file-001.parquet",
    ],
)
@pytest.mark.parametrize("how", ["missing", "truncated", "empty"])
def test_a_broken_file_is_named(dataset, broken, how):
    file = dataset / broken
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if how == "truncated" else 0])
    with pytest.raises(DatasetError) as error:
        load_episodes(dataset)
    named = dataset / "meta/episodes" if how == "missing" and "episodes" in broken else file
    assert str(named) in str(error.value) and "delete it" in str(error.value) and "\n" not in str(error.value)


def test_a_data_file_of_another_dataset_is_noticed(dataset):
    shutil.copy(dataset / "data/chunk-000/file-000.parquet", dataset / "data/chunk-000/file-001.parquet")
    with pytest.raises(DatasetError, match=r"8 frames where meta/episodes has 10"):
        load_episodes(dataset)


def flipped(picture: bytes, at: int) -> bytes:
    return picture[:at] + bytes([picture[at] ^ 1]) + picture[at + 1 :]


DAMAGED = {
    "cut short": lambda picture: picture[:20],
    "gone": lambda picture: None,
    "no PNG": lambda picture: flipped(picture, 1),
    "wrong length of IHDR": lambda picture: flipped(picture, 11),  # Pillow: ValueError
    "wrong length of IDAT": lambda picture: flipped(picture, 35),  # Pillow: SyntaxError
    "wrong pixels": lambda picture: flipped(picture, 60),
    "another size": lambda picture: png(np.zeros((4, 4, 3), np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_corrupt_picture_is_named(dataset, damage):
    file = dataset / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pictures = table[IMAGE].to_pylist()
    pictures[4]["bytes"] = damage(pictures[4]["bytes"])
    pq.write_table(table.set_column(0, table.schema.field(0), [pictures]), file)
    episodes = load_episodes(dataset)
    assert same(episodes[0], make_episode(0))
    with pytest.raises(DatasetError, match=r"file-000.parquet: episode 1 frame 1 is no picture"):
        episodes[1]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda info: [], "holds no json object"),
        (lambda info: info | {"total_episodes": None}, "no usable total_episodes"),
        (lambda info: {k: v for k, v in info.items() if k != "total_episodes"}, "no usable total_episodes"),
        (lambda info: info | {"features": []}, "no usable features"),
        (lambda info: info | {"features": dict.fromkeys(info["features"])}, "no usable shape of observation"),
        (
            lambda info: info | {"features": info["features"] | {STATE: {"names": None}}},
            "no usable names of observation.state",
        ),
        (lambda info: info | {"data_path": "data/{episode_chunk}.parquet"}, "no usable data_path"),
    ],
)
def test_an_info_that_lacks_something_says_what(dataset, damage, says):
    file = dataset / "meta/info.json"
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(DatasetError, match=f"info.json: .*{says}.*delete it and collect it again"):
        load_episodes(dataset)


def test_missing_and_foreign_datasets(tmp_path, dataset):
    with pytest.raises(DatasetError, match=r"no dataset at .*nowhere; make one with"):
        load_episodes(tmp_path / "nowhere")
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(DatasetError, match=r"is a LeRobotDataset v2.1; expected v3.0"):
        load_episodes(dataset)
    (dataset / "meta/info.json").write_text(json.dumps(info | {"features": {"action": {}}}))
    with pytest.raises(DatasetError, match=r"has no feature observation.images.front"):
        load_episodes(dataset)


def test_shapes_must_agree(tmp_path):
    writer = DatasetWriter(tmp_path / "d", 4, ACTIONS)
    writer.append(make_episode(0))
    other = make_episode(1)
    with pytest.raises(ValueError, match=r"other shapes or names"):
        writer.append(
            Episode(other.frames[:, :4], other.actions, other.segments, other.positions, other.names)
        )
    writer.close()


# --- several datasets as one -------------------------------------------------------------------


def test_joined_datasets_are_mixed_evenly(tmp_path):
    write(tmp_path / "large", 9)
    writer = DatasetWriter(tmp_path / "small", 4, ACTIONS, {"episodes": 3})
    for seed in range(20, 23):
        writer.append(make_episode(seed))
    writer.finish()
    joined = join_episodes([tmp_path / "large", tmp_path / "small"])
    seeds = [episode.provenance["seed"] - 100 for episode in joined]
    assert sorted(seeds) == [*range(9), 20, 21, 22] and [s for s in seeds if s < 9] == list(range(9))
    assert all(sum(s >= 20 for s in seeds[at : at + 4]) == 1 for at in (0, 4, 8))
    assert same(joined[-1], make_episode(8)) and [e.provenance["seed"] for e in joined[1:3]] == [
        100 + s for s in seeds[1:3]
    ]


def test_one_dataset_needs_no_list_and_different_ones_are_refused(tmp_path, dataset):
    assert (
        len(join_episodes(dataset)) == len(join_episodes(str(dataset))) == len(join_episodes([dataset])) == 5
    )
    writer = DatasetWriter(tmp_path / "other", 4, (*ACTIONS, "more"), {"episodes": 1})
    episode = make_episode(0)
    more = np.concatenate([episode.actions, episode.actions[:, :1]], 1)
    writer.append(replace(episode, actions=more))
    other = writer.finish()
    with pytest.raises(DatasetError, match=r"action of shape \[3\], .*other \[4\]"):
        join_episodes([dataset, other])
    with pytest.raises(DatasetError, match="no dataset is given"):
        join_episodes([])
    with pytest.raises(DatasetError, match="no dataset at"):
        join_episodes([dataset, tmp_path / "moon"])
