"""The planning table: rows, their weights, the shuffled control, and the page made of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import frames, make_dataset, make_memory, make_model, make_text

from benchmarks import fast_learning, where_in_theta
from planner.aggregates import aggregate, executed, mean_of
from planner.kept_rows import KeptRow, finished_rows
from planner.paired_rows import paired_table
from planner.planning_section import trainings_line
from planner.results import write_results
from planner.row_names import NAMES
from planner.table_rows import BASELINES, MODEL_ROWS, row_versions, row_weights, rows_at_hand
from tasks.commands import CommandError, OptionError, compose
from tasks.files import write_json
from tasks.shipped import finetuned_folder
from tasks.versions import Versions
from world_model.memory.shuffled import Shuffled
from world_model.model import WorldModel, fingerprint


@pytest.fixture(scope="module")
def text():
    return make_text()


def test_every_row_has_a_name_and_a_memory():
    cfg = compose("evaluate")
    assert set(NAMES) == {*BASELINES, *MODEL_ROWS}
    assert {row.memory for row in MODEL_ROWS.values()} <= set(cfg.memories)
    assert cfg.rows is None
    at_hand = rows_at_hand(cfg)
    assert {*BASELINES, "no_memory", "full", "shuffled", "theta_off"} <= set(
        at_hand
    ) and "anchor" not in at_hand


def test_a_row_runs_on_its_own_weights(tmp_path):
    (tmp_path / "mine" / "unet").mkdir(parents=True)
    cfg = compose("evaluate", [f"loop_weights.context={tmp_path}/mine"])
    assert row_weights(MODEL_ROWS["context"], cfg, "cube_return") == [f"{tmp_path}/mine"]
    (base,) = row_weights(MODEL_ROWS["no_memory"], cfg, "cube_return")
    assert base.endswith("weights/cube_return/world_model")
    with pytest.raises(CommandError, match="slowfast_loop task=no_such_task memory=anchor"):
        row_weights(MODEL_ROWS["anchor"], cfg, "no_such_task")


def test_a_loop_s_row_is_at_hand_beside_the_base_it_began_with(tmp_path):
    made_of(tmp_path / "mine" / "world_model", "base")
    for weights in (tmp_path / "mine", tmp_path / "mine" / "world_model"):
        cfg = compose("evaluate", [f"weights={weights}"])
        loop = tmp_path / "mine" / "world_model-temp_lora"
        shutil.rmtree(loop, ignore_errors=True)
        assert "full" not in rows_at_hand(cfg)
        with pytest.raises(
            CommandError, match="holds no world_model-temp_lora, and what is shipped began with"
        ):
            row_weights(MODEL_ROWS["full"], cfg, "cube_return")
        made_of(loop, "loop")
        assert {"no_memory", "full", "shuffled"} <= set(rows_at_hand(cfg))
        assert row_weights(MODEL_ROWS["full"], cfg, "cube_return") == [str(loop)]


def test_one_folder_where_several_can_not_be_taken():
    with pytest.raises(OptionError, match=r"temp_lora=\['a', 'b'\]: expected one folder"):
        finetuned_folder("cube_return", "temp_lora", None, {"temp_lora": ["a", "b"]})


def version(folder):
    return fingerprint(Path(folder))


def made_of(folder, content):
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "of.safetensors").write_text(content)
    return folder


def test_a_row_of_several_trainings_runs_on_each_and_its_controls_on_the_first(tmp_path):
    folders = [str(made_of(tmp_path / name, name)) for name in "abc"]
    cfg = compose("evaluate", [f"loop_weights.temp_lora=[{','.join(folders)}]"])
    assert row_weights(MODEL_ROWS["full"], cfg, "cube_return") == folders
    assert row_weights(MODEL_ROWS["shuffled"], cfg, "cube_return") == folders[:1]
    made = row_versions("full", cfg, "r", version)
    assert made.trainings == tuple(fingerprint(Path(folder)) for folder in folders)
    same = str(made_of(tmp_path / "copy", "a"))
    cfg = compose("evaluate", [f"loop_weights.temp_lora=[{folders[0]},{same}]"])
    with pytest.raises(OptionError, match="expected the folders of different trainings"):
        row_versions("full", cfg, "r", version)
    with pytest.raises(OptionError, match=r"temp_lora=\[\]: expected the folders"):
        row_versions("full", compose("evaluate", ["loop_weights.temp_lora=[]"]), "r", version)


def test_what_is_kept_is_named_by_the_weights_that_made_it(tmp_path):
    def kept(name, *trainings, reader="r"):
        return KeptRow(tmp_path, name, Versions(reader, trainings))

    one, two = kept("full", "a"), kept("full", "a", "b")
    assert one.finished != two.finished and one.episodes() == two.episodes(0)
    folders = [
        two.episodes(0),
        two.episodes(1),
        kept("full", "c").episodes(),
        kept("shuffled", "a").episodes(),
    ]
    folders += [kept("full", "a", reader="s").episodes()]
    assert len(set(folders)) == len(folders)
    assert one.column("frechet/x") != kept("full", "c").column("frechet/x")
    assert KeptRow(tmp_path, "do_nothing", Versions()).finished.name == "do_nothing.json"


def test_a_table_shows_what_was_asked_for_and_the_newest_of_the_other_rows(tmp_path):
    def finish(name, reader, *trainings, at=0):
        row = KeptRow(tmp_path, name, Versions(reader, trainings))
        write_json(row.finished, row.made_with)
        os.utime(row.finished, (at, at))
        return row

    older, newer = finish("full", "r", "a", at=1), finish("full", "r", "b", at=2)
    base, nothing = finish("no_memory", "r", "n", at=1), finish("do_nothing", None, at=1)
    finish("anchor", "another reader", "x", at=3)
    write_json(tmp_path / "finished" / "theta_off.json", {"of": "an older version"})
    missing = KeptRow(tmp_path, "oracle", Versions("r", ("o",)))
    found = finished_rows(tmp_path, [older, missing], "r")
    assert sorted(found, key=lambda r: r.name) == [nothing, older, base]
    assert newer in finished_rows(tmp_path, [], "r")


def test_figures_of_several_trainings_cover_them():
    def episode(training, seed, distance):
        return {
            "seed": seed, "training": training, "executed_distance": distance, "imagined_distance": None, "plan": [1],
            "displaced": {"cube": True}, "distances": {"cube": distance}, "success": distance < 0.1,
            "imagined_lost": {}, "seconds": {}, "effect": [],
        }  # fmt: skip

    rows = [episode(t, s, 0.2 * t + 0.001 * s) for t in range(3) for s in range(20)]
    apart, together = (
        aggregate(rows),
        aggregate([{**r, "training": 0, "seed": i} for i, r in enumerate(rows)]),
    )
    assert apart["executed"]["mean"] == pytest.approx(together["executed"]["mean"])
    for figure in ("executed", "success"):
        width, pooled = (f[figure]["high"] - f[figure]["low"] for f in (apart, together))
        assert width > 1.5 * pooled
    assert apart["executed"]["n"] == 60 and apart["by_chunks"]["1"]["executed"] == apart["executed"]


def test_the_page_pairs_rows_of_several_trainings_and_measures_beyond_the_oracle():
    def row(trainings, distance, seeds=(1, 2, 3)):
        episodes = [
            {"seed": s, "training": t, "executed_distance": distance} for t in range(trainings) for s in seeds
        ]
        return {
            "episodes": episodes,
            "executed": mean_of(episodes, executed),
            "trainings": ["w (1)"] * trainings,
        }

    rows = {
        "full": row(3, 0.2),
        "oracle": row(1, 0.1),
        "no_memory": row(1, 0.8, (2, 3)),
        "equal_steps": row(2, 0.7),
    }
    table = paired_table({"rows": rows, "unit": "m"})
    assert "no memory, base | +0.600 [+0.600, +0.600] | 4.00 [4.00, 4.00] | 7.00 [7.00, 7.00] | 2 |" in table
    assert "| 0.50 [0.50, 0.50] | – | 3 |" in table
    assert table.endswith(f"the better of the base and its equal steps: {NAMES['equal_steps']}.\n")
    line = trainings_line({"rows": rows})
    assert line.startswith("training seeds: ") and f"{NAMES['full']} 3, the other rows 1" in line


def test_shuffled_reads_the_next_episodes_theta_and_learns_its_own(text):
    memory = Shuffled(make_memory())
    model = make_model(text, memory)
    rollout = model.start(frames(3), [1, 2, 3])
    rollout, chunk = model.imagine(rollout, ["pick up the red cube"] * 3)
    rollout = model.remember(rollout, chunk)
    own, read = memory.memory.weights(rollout.memory), memory.weights(rollout.memory)
    for b, other in enumerate((1, 2, 0)):
        assert read.select([b]).distance(own.select([other])) == 0
        assert read.select([b]).distance(own.select([b])) > 0
    plain = make_model(text, make_memory())
    same = plain.remember(plain.start(frames(3), [1, 2, 3]), chunk)
    assert torch.equal(same.memory.weights.tensors()[1], own.tensors()[1])
    with pytest.raises(ValueError, match="at least 2 episodes"):
        model.start(frames(1), [1])


def test_the_page_shows_each_row_and_the_effect_of_theta(tmp_path):
    mean = {"mean": 0.1, "low": 0.05, "high": 0.2, "n": 3}
    share = {"share": 0.5, "low": 0.2, "high": 0.8, "n": 3}
    row = {
        "executed": mean, "imagined": mean, "executed_over_displaced": None, "displaced": share, "success": share,
        "imagined_lost": share, "seconds_per_episode": {"imagine": 1.5}, "effect": [0.125, 0.25],
        "by_chunks": {"8": {"executed": mean, "imagined": mean, "success": share}}, "parts": {"weights": "w (1)"},
        "episodes": [{"seed": s, "executed_distance": 0.1} for s in (1, 2, 3)],
    }  # fmt: skip
    base = {k: v for k, v in row.items() if k in ("executed", "displaced", "success")} | {"imagined": None}
    base["episodes"] = [{"seed": s, "executed_distance": 0.2} for s in (2, 3, 4)]
    measured = {k: {"true": {"median_mm": 1, "mean_mm": 2, "p90_mm": 3, "n": 4, extra: 0.5}} for k, extra in
                (("inverse_dynamics", "gripper"), ("locate", "lost"))}  # fmt: skip
    result = {
        "task": "cube_return", "unit": "m", "rows": {"full": row, "do_nothing": base},
        "instruments": {**measured, "next_chunk": {"imagined": {"psnr": 20.0, "chunks": 5}}},
        "provenance": {"command": "c", "commit": "d", "hardware": "e", "episodes": 3, "seed": 0, "parts": {}},
    }  # fmt: skip
    (tmp_path / "planning_cube_return.json").write_text(json.dumps(result))
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert "Peak memory" not in page
    result["rows"]["full"]["peak_mb"] = 1234.5
    for device, said in (("cpu, fp32", "the process held"), ("cuda:0, bf16", "torch's allocator gave out")):
        result["provenance"]["parts"]["device"] = device
        (tmp_path / "planning_cube_return.json").write_text(json.dumps(result))
        page = write_results(tmp_path, tmp_path / "page.md").read_text()
        assert f"most that {said}" in page and "| 1.50 | 1.50 | 0.19 | 1234 |" in page
    assert "](media/planning_cube_return.png)" in page
    assert (tmp_path / "media/planning_cube_return.png").read_bytes().startswith(b"\x89PNG")
    assert page.index("do nothing") < page.index("slow-fast loop**")
    assert "do nothing (computed) | +0.100 [+0.100, +0.100] | 2.00 [2.00, 2.00] | 2 |" in page
    assert "Weights: w (1): full." in page
    assert "12.5% → 25.0%" in page and "0.100 [0.050, 0.200]" in page
    assert "slow-fast loop** | 8 | 0.100 [0.050, 0.200]" in page
    assert "Left out of a row" not in page
    assert "follow their actions" not in page
    floor = {"followed": {"mean": 0.0625, "low": 0.0, "high": 0.125, "n": 3}}
    result["followed"] = {"means": "as told", "references": {"true": {"followed": mean}, "frozen": floor}}
    result["rows"]["full"]["followed"] = {
        "followed": mean,
        "returns": share | {"mean": 0.5},
        "position_mm": mean,
    }
    (tmp_path / "planning_cube_return.json").write_text(json.dumps(result))
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert "share of steps (as told)" in page
    assert "| video | actions followed | on the way back | position, mm off | videos |" in page
    assert "| frozen: the first frame throughout | 6% [0%, 12%] | – | – | 3 |" in page
    assert "slow-fast loop** | 10% [5%, 20%] | 50% [20%, 80%] | 0.1 [0.1, 0.2] | 3 |" in page
    result["rows"]["full"] |= {"left_out": {"7": "SimulatorLostError: gone", "9": "the expert failed"}}
    (tmp_path / "planning_cube_return.json").write_text(json.dumps(result))
    shorter = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert "(n counts the others): **Temp-LoRA + slow-fast loop**: 7, 9." in shorter
    assert "What fast learning costs" not in page and "What Θ holds" not in page


@pytest.mark.long
def test_fast_learning_benchmark_measures_both_ways(text, tmp_path):
    folder = tmp_path / "model"
    settings = {"chunk_frames": 2, "context_frames": 4, "sampling_steps": 1, "guidance": (1, 1)}
    make_model(text, **settings).save_pretrained(folder)
    out = tmp_path / "out.json"
    fast_learning.main(
        ["--weights", str(folder), "--rounds", "1", "--batch", "2", "--threads", "1", "--device", "cpu",
         "--json", str(out)]
    )  # fmt: skip
    figures = json.loads(out.read_text())
    table = figures["one_chunk"]["the default"]
    assert table["time_ratio"] > 1 and table["peak_mb"]["with"] > 0
    assert figures["inner_loop"]["theta_relative_difference"] < 1e-3
    limits = figures["inner_loop"]["limits"]
    assert set(limits) == {"1", "2"} and all(0 < sum(shares.values()) <= 1 for shares in limits.values())
    out.rename(tmp_path / "fast_learning.json")
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert f"| the default | {table['seconds']['without']:.2f} |" in page and "1.068" in page
    assert "by operator: 1 at once: `aten::" in page
    with pytest.raises(SystemExit):
        fast_learning.main(["--rounds", "0"])
    assert WorldModel.from_pretrained(folder).settings.chunk_frames == 2


def test_theta_tells_what_a_linear_map_can_read(text, tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 2))
    readable = torch.from_numpy(
        np.concatenate([truth @ rng.normal(size=(2, 8)), rng.normal(size=(60, 4))], 1)
    )
    errors = {r: np.abs(p - truth).mean() for r, p in where_in_theta.leave_one_out(readable, truth).items()}
    assert min(errors.values()) < 0.1 * np.abs(truth).mean()
    for features in (12, 600):  # more than rows: a mean over all rows would give the left-out one away
        noise = torch.from_numpy(3 + rng.normal(size=(60, features)))
        blind = where_in_theta.leave_one_out(noise, truth)
        assert min(np.abs(p - truth).mean() for p in blind.values()) > 0.8 * np.abs(truth).mean()
    model = tmp_path / "model"
    make_model(text, chunk_frames=4, context_frames=8).save_pretrained(model)
    data = make_dataset(tmp_path / "data")
    command = ["steps=1", "rank=2", "alpha=2", "--weights", str(model), "--data", str(data), "--batch", "4"]
    where_in_theta.main([*command, "--json", str(tmp_path / "out.json")])
    figures = json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "out.json").rename(tmp_path / "where_one.json")
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert f"| {figures['error_m']:.3f} | {figures['read_m']:.3f} | {figures['guess_m']:.3f} |" in page
    assert figures["episodes"] == 6 and figures["effect"] > 0 and figures["options"]["steps"] == 1
    assert figures["keys"] == "own" and -1 <= figures["recall"] <= 1
    where_in_theta.main(
        ["begins=theta0", *command, "--keys", "discriminant", "--json", str(tmp_path / "out.json")]
    )
    other = json.loads((tmp_path / "out.json").read_text())
    assert other["keys"] == "discriminant" and other["recall"] != figures["recall"]
    frames = torch.randn(5, 3, 2, 2)
    assert where_in_theta.likeness(3 * frames + 1, frames) == (pytest.approx(1), 1)
    assert where_in_theta.likeness(frames.roll(1, 0), frames)[1] == 0
    with pytest.raises(SystemExit):
        where_in_theta.main([*command, "step=1"])
    assert "step" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        where_in_theta.main([*command, "--chunks", "2"])
    assert "only 2 episodes are longer" in capsys.readouterr().err
