"""The video tables: adversaries rank last on true videos, rows resume, json and markdown agree."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from tiny import SIDE, make_dataset, make_episode, make_model, make_text
from torch import device

from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig
from planner.results import write_results
from tasks import Episode, Layout, Segment
from tasks.commands import CommandError, OptionError, RunDir, compose
from tasks.cube_return import CubeReturn
from tasks.dataset import DatasetWriter
from world_model import evaluate
from world_model.video_metrics.revisit import out_and_back
from world_model.video_tables.adversaries import (
    ADVERSARIES,
    BARS,
    REFERENCES,
    Autoencoded,
    doubts,
    reference_row,
)
from world_model.video_tables.choice import CHOSEN, FIXED, SETS, by_set, choose, chosen_rows
from world_model.video_tables.clips import Clip, Clips, clip_of
from world_model.video_tables.imagine import Imagined, batches, hardware, load, save
from world_model.video_tables.judge import Judge, summary
from world_model.video_tables.metrics import FOLLOWING, METRICS
from world_model.video_tables.page import interval, times_elsewhere
from world_model.video_tables.rows import (
    ADAM,
    TABLES,
    VARIANTS,
    Halfway,
    RowLeftOut,
    composed,
    row_folder,
    rows_of,
    similar,
)

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 4


class Patches:
    """Mean colours of 4 x 4 patches: an extractor that costs nothing."""

    name, weights_sha256 = "patches", "0" * 64

    def __init__(self, device: device | str = "cpu"):
        self.device = device

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        blocks = frames.reshape(len(frames), 4, frames.shape[1] // 4, 4, frames.shape[2] // 4, 3)
        return (blocks.mean((2, 4)).reshape(len(frames), -1) - 127).astype(np.float32)


class Stage:
    """What :func:`perform` is given for a simulator."""

    metadata = {"render_fps": 4}  # noqa: RUF012

    def __init__(self, task: object, image_size: int = SIDE):
        self.task, self.image_size = task, image_size

    def close(self) -> None:
        """Nothing is open."""


def square(seed: int, steps: np.ndarray, side: int = SIDE) -> np.ndarray:
    """``(T, side, side, 3)``: a bright square that stands where the seed says and moves by ``(T, 2)`` pixels."""
    rng = np.random.default_rng(seed)
    start, colour = rng.integers(0, side, 2), rng.integers(120, 255, 3)
    slope = np.linspace(60, 120, side)[None, :, None].repeat(side, 0).repeat(3, 2).astype(np.uint8)
    frames = np.repeat(slope[None], len(steps), 0)
    for frame, (row, column) in zip(frames, start + steps, strict=True):
        rows, columns = (row + np.arange(5)) % side, (column + np.arange(5)) % side
        frame[rows[:, None], columns] = colour
    return frames


def perform(env: Stage, layout: Layout) -> tuple[Episode | None, str | None]:
    """An expert whose every action moves the square another way; it refuses one layout."""
    if layout.seed % 100 == 3:
        return None, "refused"
    ways = [np.array([(len(s.text) % 3) - 1, 1]) for s in layout.plan]
    steps = np.cumsum([np.zeros(2), *(w for w in ways for _ in range(CHUNK))], 0).astype(int)
    T = len(steps)
    segments = tuple(Segment(k * CHUNK, (k + 1) * CHUNK, s.text) for k, s in enumerate(layout.plan))
    positions = np.zeros((T, 1, 3), np.float32)
    provenance = {"seed": layout.seed, "task": "cube_return"}
    frames = square(layout.seed, steps, env.image_size)
    return Episode(frames, np.zeros((T - 1, 8), np.float32), segments, positions, ("a",), provenance), None


def true_clips(n: int = 6, chunks: int = 6, returns: bool = False) -> Clips:
    """Squares that go straight, or out and back; the wrong ones go another way."""
    T = 1 + CHUNK * chunks
    way = np.arange(T)
    if returns:
        way = np.minimum(way, T - 1 - way)
    out = [np.stack([way * 0, way], 1), np.stack([way, -way], 1)]

    def clip(seed: int, steps: np.ndarray) -> Clip:
        pairs = out_and_back(T, 2 * CHUNK) if returns else None
        return Clip(seed, square(seed, steps), ("go",) * chunks, pairs)

    truth, others = ([clip(s, out[0]) for s in range(first, first + n)] for first in (0, n))
    return Clips(truth, others, {i: clip(i, out[1]) for i in range(n)})


def nearly(frames: np.ndarray) -> np.ndarray:
    """What an autoencoder does to frames: close, and alike for alike ones."""
    return (frames // 8 * 8 + 4).astype(np.uint8)


# --- adversaries -------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["next_chunk", "long"])
def test_adversaries_rank_last_on_true_videos(part):
    clips = true_clips(returns=part == "long")
    judge = Judge(clips, Patches(), cuts={"min_scene": 4}, resamples=5)
    chunk = CHUNK if part == "next_chunk" else None
    blurred = Autoencoded(clips, nearly)
    rows = {n: reference_row(n, clips, judge, chunk, blurred) for n in (*REFERENCES, *ADVERSARIES)}
    assert doubts(rows) == []
    judged = {m for metrics in BARS.values() for m in metrics} & set(rows["autoencoded"]["figures"])
    assert judged >= {"frechet", "frechet_steps", "psnr", "ssim", "scuts"}
    assert ("src_contrast" in judged) == (part == "long")
    assert rows["cut_injected"]["injected"] == {"found": 12, "of": 12, "others": 0}
    calm = [rows["truth"], rows["frozen"] if part == "long" else rows["truth"]]
    assert [row["figures"]["scuts"]["value"] for row in calm] == [0, 0]
    floor = rows["other_layouts"]["figures"]["frechet"]["value"]
    assert floor == pytest.approx(rows["cut_injected"]["figures"]["frechet"]["floor"])
    assert rows["truth"]["figures"].keys() == {"scuts"} | (
        {"src", "src_normalised", "src_contrast"} if part == "long" else set()
    )
    frozen = judge.measure(
        {i: np.repeat(c.frames[:1], len(c.frames) - 1, 0) for i, c in enumerate(clips.truth)}
    )
    doubted = doubts({**rows, "bad": {**frozen, "label": "bad", "kind": "model"}})
    assert {(d.row, d.adversary) for d in doubted} >= {("bad", "frozen")}


def test_revisits_are_measured_between_floor_and_ceiling():
    clips = true_clips(returns=True)
    judge = Judge(clips, Patches(), resamples=1)
    truth = judge.measure({i: c.frames[1:] for i, c in enumerate(clips.truth)}, against_truth=False)[
        "figures"
    ]
    assert truth["src_contrast"]["value"] == pytest.approx(1) == truth["src_normalised"]["value"]
    frozen = reference_row("frozen", clips, judge, None, Autoencoded(clips, nearly))["figures"]
    assert frozen["src"]["value"] > 99 and abs(frozen["src_contrast"]["value"]) < 0.05
    seen = reference_row("autoencoded", clips, judge, None, Autoencoded(clips, nearly))
    assert seen["figures"]["revisit_psnr"]["value"] > frozen["revisit_psnr"]["value"]
    assert [r["src"] for r in seen["clips"]] != [r["src"] for r in seen["clips"][::-1]]


def test_pairs_come_with_each_video():
    episode, _ = perform(Stage(None), compose_layout(1_000_001))
    assert clip_of(episode, 1, CHUNK, None, False, 8).pairs is None
    back = clip_of(episode, 1, CHUNK, None, True, 8).pairs
    assert np.array_equal(back, out_and_back(33, 8))
    episode.provenance["revisits"] = [[0, 12], [2, 14], [3, 5], [4, 30]]
    assert clip_of(episode, 1, CHUNK, None, True, 8).pairs.tolist() == [[0, 12], [2, 14], [4, 30]]
    cut = clip_of(episode, 1, CHUNK, 18, True, 8)
    assert cut.pairs.tolist() == [[0, 12], [2, 14]] and len(cut.frames) == 17 and cut.chunks == 4
    with pytest.raises(CommandError, match=r"chunks of \[4\] frames; expected 2"):
        clip_of(episode, 1, 2, None, True, 8)


def compose_layout(seed: int) -> Layout:
    from tasks.cube_return import CubeReturn

    return CubeReturn().layout(seed)


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_table_has_rows_that_can_be_made(table):
    cfg = compose("evaluate_video", [f"table={table}"])
    rows = rows_of(cfg)
    assert {r.memory for r in rows.values()} <= set(cfg.memories)
    assert {r.loop for r in rows.values()} - {None} <= set(cfg.loop_weights)
    assert len(rows) == {1: 8, 3: 0, 4: 9, 5: 4, 6: 10, 7: 8, 8: 22, 9: 8, 10: 8}[table]


def test_ablations_are_options():
    cells = rows_of(compose("evaluate_video", ["table=8", "ranks=[4]", "learning_rates=[1e-3,0.1]"]))
    assert list(cells) == [
        "no_memory",
        "temp_lora_no_loop-lr_0.001-rank_4",
        "temp_lora_no_loop-lr_0.1-rank_4",
        "temp_lora_no_loop",
    ]
    assert cells["temp_lora_no_loop"].options == {} and "best found" in cells["temp_lora_no_loop"].label
    options = cells["temp_lora_no_loop-lr_0.1-rank_4"].options
    assert options == {**ADAM, "learning_rate": 0.1, "rank": 4, "alpha": 4}
    steps = rows_of(compose("evaluate_video", ["table=9", "steps=[7]", "varied=no_memory"]))
    assert steps["no_memory-steps_7"].sampling_steps == 7 and steps["no_memory-steps_7"].memory == "none"
    assert rows_of(compose("evaluate_video", ["table=4"]))["full-single_frame"].single_frame
    assert set(rows_of(compose("evaluate_video", ["table=1"]))) == set(VARIANTS)


def test_table_8_has_the_paper_s_grid():
    cells = rows_of(compose("evaluate_video", ["table=8"])).values()
    grid = {(r.options["learning_rate"], r.options["rank"]) for r in cells if r.options}
    assert grid == {(rate, rank) for rate in (1e-3, 5e-4, 1e-4, 5e-5, 1e-5) for rank in (16, 32, 64, 128)}


def test_a_loop_s_row_runs_beside_the_base_it_began_with(tmp_path):
    full, mine = VARIANTS["full"], tmp_path / "mine"
    (tmp_path / "loop").mkdir()
    given = compose("evaluate_video", [f"weights={mine}", f"loop_weights.temp_lora={tmp_path / 'loop'}"])
    assert row_folder(full, given) == tmp_path / "loop"
    alone = compose("evaluate_video", [f"weights={mine}"])
    with pytest.raises(RowLeftOut, match=r"mine holds no world_model-temp_lora, .*memory=temp_lora with"):
        row_folder(full, alone)
    (mine / "world_model-temp_lora").mkdir(parents=True)
    assert row_folder(full, alone) == mine / "world_model-temp_lora"


def test_actions_in_other_words():
    words = {"pick up": "grasp", "put": "place"}
    assert similar("pick up the red cube", words) == "grasp the red cube"
    assert similar("computer", words) == "computer"
    assert composed(("a", "b", "c")) == ("a, then b", "a, then b", "c")
    encoder = make_text()
    told = Halfway(encoder, lambda caption: similar(caption, words)).encode(["pick up the red cube"])
    ends = encoder.encode(["pick up the red cube", "grasp the red cube"])
    assert np.allclose(told[0], ends.mean(0), atol=1e-6) and not np.allclose(told[0], ends[0])


# --- rank and rate by scene --------------------------------------------------------------------


def grid_rows(psnrs: dict[str, list[float]], chunks: list[int]) -> dict[str, dict]:
    """Rows of table 6 with these figures of each clip."""

    def row(name: str, values: list[float], options: dict) -> dict:
        clips = [
            {"seed": i, "chunks": n, "complexity": 1.0, "frames": 1 + 4 * n, "cuts": [], "psnr": v}
            for i, (n, v) in enumerate(zip(chunks, values, strict=True))
        ]
        return {"label": name, "kind": "model", "options": options, "clips": clips, "figures": {}}

    rates = {name: {"rank": 2, "learning_rate": 10.0**-k} for k, name in enumerate(psnrs)}
    cells = {name: row(name, values, rates[name]) for name, values in psnrs.items()}
    return {"no_memory": row("no_memory", [0.0] * len(chunks), {}), **cells}


def test_rank_and_rate_are_chosen_by_scene(tmp_path):
    chunks = [4] * 6 + [8] * 6
    short, long = [30.0] * 6 + [10.0] * 6, [20.0] * 6 + [25.0] * 6
    rows = chosen_rows(grid_rows({"short": short, "long": long}, chunks))
    assert rows[CHOSEN]["taken"] == ["short"] * 6 + ["long"] * 6
    assert rows[CHOSEN]["figures"]["psnr"]["value"] == 27.5
    assert set(rows[FIXED]["taken"]) == {"long"} and rows[FIXED]["figures"]["psnr"]["value"] == 22.5
    own = [0.0] * 12
    own[3] = 1000.0  # a clip's own figures have no part in its choice
    blind = chosen_rows(grid_rows({"own": own, "other": [1.0] * 12}, [k + 4 for k in range(12)]))
    assert blind[CHOSEN]["taken"][3] == "other"
    assert chosen_rows(grid_rows({"alone": short}, chunks)) == {}
    sets = by_set(rows[CHOSEN]["clips"])
    assert [sets[s]["scuts"]["n"] for s in SETS] == [4, 4, 4] and sets["simple"]["psnr"]["value"] == 30
    file = tmp_path / "result.json"
    file.write_text(
        json.dumps({"parts": {"long": {"rows": grid_rows({"short": short, "long": long}, chunks)}}})
    )
    frame = np.zeros((16, 16, 3), np.uint8)
    assert choose(file, frame, 4) == ("short", {"rank": 2, "learning_rate": 1.0})
    assert choose(file, frame, 20)[1]["learning_rate"] == 0.1
    file.write_text("{}")
    with pytest.raises(OptionError, match=r"expected table_6/result.json"):
        choose(file, frame, 4)


def test_a_busier_picture_is_more_complex():
    rng = np.random.default_rng(0)
    busy, calm = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8), np.full((1, 32, 32, 3), 90, np.uint8)
    assert Clip(0, busy, ()).complexity > 20 > Clip(0, calm, ()).complexity > 0


def test_tables_of_own_videos_ask_for_them(weights, tmp_path):
    with pytest.raises(OptionError, match=r"table=7 is of own videos: give data=FOLDER"):
        evaluate.run(options(weights, tmp_path / "run", "table=7"))
    assert not (tmp_path / "run").exists()


def test_the_truth_is_autoencoded_once():
    calls = []

    def count(frames: np.ndarray) -> np.ndarray:
        calls.append(len(frames))
        return nearly(frames)

    clips = true_clips(3)
    judge, blurred = Judge(clips, Patches(), resamples=1), Autoencoded(clips, count)
    for name in (*REFERENCES, *ADVERSARIES):
        reference_row(name, clips, judge, None, blurred)
    assert len(calls) == 3 + 3  # the truth's and the wrong actions'


def test_batches_are_of_one_length():
    clips = [Clip(i, np.zeros((1, 1, 1, 3), np.uint8), ("a",) * n) for i, n in enumerate((4, 8, 4, 4))]
    assert list(batches(clips, 2)) == [[0, 2], [3], [1]]


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    settings = {"chunk_frames": CHUNK, "context_frames": 8, "sampling_steps": 1, "guidance": (1, 1)}
    make_model(make_text(), **settings).save_pretrained(folder / "world_model")
    config = InverseDynamicsConfig(CubeReturn().action_spec, (SIDE, SIDE), (8, 8, 8), keypoints=4, hidden=16)
    InverseDynamics(config).save_pretrained(folder / "inverse_dynamics")
    return folder


def options(weights: Path, run_dir: Path, *more: str) -> DictConfig:
    return compose(
        "evaluate_video",
        [
            f"weights={weights}", f"inverse_dynamics={weights}", f"run_dir={run_dir}",
            "clips=3", "frames=16", "batch_size=2", "resamples=3",
            "env._target_=test_evaluate_video.Stage", f"env.image_size={SIDE}",
            "record._target_=test_evaluate_video.perform",
            "features._target_=test_evaluate_video.Patches", "~features.layer",
            "memories.temp_lora.steps=1", "memories.temp_lora.rank=2", "memories.temp_lora.alpha=2", *more,
        ],
    )  # fmt: skip


def test_a_table_from_the_command(weights, tmp_path, capsys):
    """Figures in json and markdown agree; rows without weights are left out; finished ones are kept."""
    rows = "rows=[no_memory,anchor,temp_lora_no_loop]"
    evaluate.run(options(weights, tmp_path / "run", "table=1", rows, f"results={tmp_path}"))
    said = capsys.readouterr().out
    assert "slowfast_loop task=cube_return memory=anchor" in said and "left out: FVD: give i3d=PATH" in said
    folder = tmp_path / "run" / "table_1"
    result, page = json.loads((folder / "result.json").read_text()), (folder / "table.md").read_text()
    assert page in said and set(result["parts"]) == {"next_chunk", "long"}
    for part in result["parts"].values():
        assert set(part["rows"]) == {*REFERENCES, *ADVERSARIES, "no_memory", "temp_lora_no_loop"}
        for row in part["rows"].values():
            line = next(x for x in page.splitlines() if row["label"] in x and x.startswith("| "))
            assert line
            for name, figure in row["figures"].items():
                assert interval(figure, METRICS[name].form) in page
                assert figure["low"] <= figure["value"] <= figure["high"]
            again = summary(row["clips"])
            assert all(again[k] == v for k, v in row["figures"].items() if "frechet" not in k)
    assert result["parts"]["long"]["rows"]["temp_lora_no_loop"]["effect"]
    assert "scuts" not in result["parts"]["next_chunk"]["rows"]["no_memory"]["figures"]
    rows_of_models = [r for p in result["parts"].values() for r in p["rows"].values() if r["kind"] == "model"]
    assert {r["hardware"] for r in rows_of_models} == {result["provenance"]["hardware"]}
    assert "s a video of" not in page
    for part in result["parts"].values():
        read = [set(FOLLOWING) <= set(row["figures"]) for row in part["rows"].values()]
        assert read and all(read)
    assert (
        "within 20 mm" in result["instruments"]["Actions followed"] and "Actions followed: the share" in page
    )
    assert len(result["left_out"]) >= 3 and "SRC: not applicable" in page
    assert result["provenance"]["seeds"] == [1_000_000, 1_000_001, 1_000_002]
    assert {f"{p}{x}.png" for p in ("next_chunk", "long") for x in ("", "_over_time", "_frames")} == {
        p.name for p in folder.glob("*.png")
    }
    resumed(weights, tmp_path / "run", rows)
    assert "## Table 1" in write_results(tmp_path, tmp_path / "page.md").read_text()


def resumed(weights: Path, run_dir: Path, rows: str) -> None:
    """Nothing finished is made again, and what is missing is made as it was, up to a rounding: it shares its batch
    with other videos now."""
    finished = sorted(run_dir.glob("finished/*/*.json"))
    times = {p: p.stat().st_mtime_ns for p in (*finished, *run_dir.glob("videos/*/*/*.npz"))}
    [lost] = run_dir.glob("videos/long/no_memory-*/1000001.npz")
    [row] = run_dir.glob("finished/long/no_memory-*.json")
    [frozen] = run_dir.glob("finished/references/frozen-*.json")
    before, told = np.load(lost)["frames"], json.loads(row.read_text())
    lost.unlink(), row.unlink()
    of_another_reader = frozen.rename(frozen.with_name("frozen-01234567.json"))
    evaluate.run(options(weights, run_dir, "table=4", "rows=[no_memory]"))  # table 4 shares table 1's rows
    assert {p for p, t in times.items() if p.stat().st_mtime_ns != t} == {lost, row, frozen}
    figures = [json.loads(path.read_text())["figures"] for path in (frozen, of_another_reader, row)]
    assert figures[0] == figures[1] and figures[2].keys() == told["figures"].keys()
    for name, figure in told["figures"].items():
        for end in ("value", "low", "high"):
            assert figures[2][name][end] == pytest.approx(figure[end], rel=1e-3), name
    assert np.abs(np.load(lost)["frames"].astype(int) - before).max() <= 1


def test_what_other_weights_make_has_places_of_its_own(tmp_path):
    """Weights that changed in their folder: videos, figures, and what the base's autoencoder shows are made anew."""
    model = make_model(make_text(), chunk_frames=CHUNK, context_frames=8, guidance=(1, 1))
    row, places = rows_of(compose("evaluate_video", ["rows=[no_memory]"]))["no_memory"], []
    for _ in range(2):
        model.save_pretrained(tmp_path / "model")
        bench = evaluate.Bench(options(tmp_path / "model", tmp_path / "run", "inverse_dynamics=null"))
        bench.open(RunDir(tmp_path / "run", resumed=False))
        bench.read_back = None
        names = [("references", "autoencoded"), ("long", "no_memory")]
        places += [evaluate.figures_file(bench, part, name, row) for part, name in names]
        places += [evaluate.made_in(bench, "videos/long", "no_memory", row)]
        assert not evaluate.was_made(bench, "long", "no_memory")
        model.unet.conv_in.weight.mul_(2)
    assert len(set(places)) == 6


def test_other_metrics_measure_the_videos_that_are_there(weights, tmp_path):
    given, times = ["table=4", "rows=[no_memory]", "clips=2", "frames=8"], []
    for more in ([], ["cuts.min_scene=3", "resamples=2"]):
        evaluate.run(options(weights, tmp_path / "run", *given, *more))
        times.append({p: p.stat().st_mtime_ns for p in tmp_path.glob("run/videos/*/*/*.npz")})
    assert times[0] == times[1] and len(times[0]) == 2
    assert len(list(tmp_path.glob("run/finished/long/no_memory-*.json"))) == 2


def test_seconds_say_what_they_were_measured_on(tmp_path):
    save(tmp_path / "a.npz", Imagined(np.zeros((1, 2, 2, 3), np.uint8), 2.0, (0.5,), "a GPU"))
    assert load(tmp_path / "a.npz").hardware == "a GPU"
    rows = {k: {"label": k, "hardware": on} for k, on in (("here", "cpu"), ("there", "a GPU"))}
    rows["truth"] = {"label": "truth"}
    assert times_elsewhere(rows, "cpu") == ["s a video of there: measured on a GPU."]


def test_another_device_or_truth_is_measured_anew(weights, tmp_path, monkeypatch):
    calls, data = [], make_dataset(tmp_path / "data", (2, 2))
    costs = evaluate.costs

    def count(model, clips):
        calls.append(hardware(model.device))
        return costs(model, clips)

    monkeypatch.setattr(evaluate, "costs", count)
    more = [f"data={data}", "frames=null", "clips=2", "table=3", "varied=no_memory", "inverse_dynamics=null"]
    for _ in range(2):
        evaluate.run(options(weights, tmp_path / "run", *more))
    assert len(calls) == 1
    monkeypatch.setattr(evaluate, "hardware", lambda device: "a GPU")
    evaluate.run(options(weights, tmp_path / "run", *more))
    assert len(calls) == 2
    shutil.rmtree(data)
    writer = DatasetWriter(data, 5, ("x", "gripper"))
    for seed in range(2):
        episode = make_episode(2, seed=seed)
        told = tuple(replace(s, caption=f"now {s.caption}") for s in episode.segments)
        writer.append(replace(episode, segments=told))
    writer.finish()
    with pytest.raises(CommandError, match=r"belongs to another configuration \(versions.data"):
        evaluate.run(options(weights, tmp_path / "run", *more))


@pytest.mark.parametrize(
    ("table", "more"),
    [
        (3, ["varied=temp_lora_no_loop"]),
        pytest.param(
            5,
            ["varied=temp_lora_no_loop", "rows=[temp_lora_no_loop-composed,temp_lora_no_loop-interpolated]"],
            marks=pytest.mark.long,
        ),
        pytest.param(6, ["ranks=[2,4]", "learning_rates=[1e-3]", "clips=4"], marks=pytest.mark.long),
        pytest.param(7, ["rows=[no_memory]"], marks=pytest.mark.long),
        pytest.param(10, ["rows=[no_memory]"], marks=pytest.mark.long),
        pytest.param(9, ["varied=no_memory", "steps=[1,2]"], marks=pytest.mark.long),
    ],
)
def test_the_ablations_run(weights, tmp_path, capsys, table, more):
    data = make_dataset(tmp_path / "data", (2, 3, 2, 2))
    given = [f"data={data}", "frames=null", "clips=2", f"table={table}", "inverse_dynamics=null", *more]
    evaluate.run(options(weights, tmp_path / "run", *given))
    result = json.loads((tmp_path / f"run/table_{table}/result.json").read_text())
    page = (tmp_path / f"run/table_{table}/table.md").read_text()
    header = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("  metrics  "))
    assert "inverse dynamics" not in header  # it reads other actions than these
    if table == 3:
        assert result["costs"]["rows"]["with"]["figures"]["seconds"]["n"] == 2
        assert interval(result["costs"]["ratios"]["seconds"], ".3f") in page and "1.068" in page
        assert (tmp_path / "run/table_3/costs.png").is_file()
        return
    made = {n for p in result["parts"].values() for n, r in p["rows"].items() if r["kind"] == "model"}
    chosen = {CHOSEN, FIXED} if table == 6 else set()  # of two cells on four clips
    assert made == set(rows_of(compose("evaluate_video", [f"table={table}", *more]))) | chosen
    assert any("wrong_action" in line for line in result["left_out"])
    assert any("Actions followed: the videos have actions of [2] numbers" in x for x in result["left_out"])
    if table == 6:
        cell = result["parts"]["long"]["rows"]["temp_lora_no_loop-lr_0.001-rank_2"]
        assert cell["rank"] == {"rank": 2, "full": [8, 32]} and set(cell["by_chunks"]) == {"2", "3"}
        assert "| 2 / 8 to 32 |" in page and "| 3 |" in page


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("table=2", "table=2: expected 1, 3, 4, 5, 6, 7, 8, 9, 10"),
        ("rows=[no_memory,elephant]", "rows=['no_memory', 'elephant']: table=1 has no_memory"),
        ("clips=1", "clips=1: expected an integer, at least 2"),
        ("frames=3", "frames=3: a chunk has 4"),
        ("varied=elephant", "varied=elephant: have no_memory"),
        ("steps=[0]", "steps=[0]: expected numbers above 0"),
        ("ranks=[]", "ranks=[]: expected numbers above 0"),
        ("weights=no/such", "no/such is missing"),
        ("inverse_dynamics=no/such", "no/such is missing"),
        ("~reader._target_", "reader has no _target_; its options are: _partial_;"),
        ("i3d=no/such/file.pt", "no/such/file.pt: no such file"),
        ("lpips.net=vgg19", "net=vgg19: expected alex, vgg, squeeze"),
        ("lpips.backbone=no/such.pth", "LPIPS needs"),
        ("cuts.detector=hash", "detector=hash: expected adaptive or content"),
        ("data=no/such", "no dataset at no/such"),
        ("guidance=5", "guidance=5: expected two numbers"),
        ("device=tpu9", "device=tpu9"),
    ],
)
def test_wrong_options_are_one_line(weights, tmp_path, option, says):
    with pytest.raises((OptionError, CommandError, ValueError, OSError)) as error:
        evaluate.run(options(weights, tmp_path / "run", "clips=2", "rows=[temp_lora_no_loop]", option))
    assert says in str(error.value) and "\n" not in str(error.value)
    of_videos = option.startswith("cuts.")  # which have to be there
    assert of_videos or not (tmp_path / "run").exists()


def test_every_option_is_read():
    sources = [ROOT / "world_model/evaluate.py", *(ROOT / "world_model/video_tables").glob("*.py")]
    text = "\n".join(
        p.read_text() for p in (*sources, ROOT / "tasks/commands.py", ROOT / "world_model/sampling.py")
    )
    unread = [k for k in compose("evaluate_video") if not re.search(rf'cfg\.{k}\b|"{k}"', text)]
    assert unread == []
