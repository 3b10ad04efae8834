"""The inverse dynamics model and its trainer, on small real models."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from invoke import killed_at_every_write
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from inverse_dynamics.model import CheckpointError, InverseDynamics, InverseDynamicsConfig
from inverse_dynamics.train import (
    Pairs,
    Trainer,
    action_errors,
    augment,
    evaluate,
    make_corruption,
    run,
    score,
)
from tasks import ActionSpec, Episode, Segment
from tasks.commands import CommandError, RunDir, compose, main, plain
from tasks.cube_return import CubeReturn
from tasks.dataset import DatasetWriter, load_episodes

SPEC = CubeReturn().action_spec
KEYS = ActionSpec(
    ("forward", "jump", "pitch", "yaw"),
    ("binary", "binary", "degrees", "degrees"),
    (0, 0, -30, -30),
    (1, 1, 30, 30),
)
LAST = "last.safetensors"
SMALL = {"channels": (8, 8, 8), "keypoints": 8, "hidden": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three episodes of a dot whose place is the action."""
    path = tmp_path_factory.mktemp("data") / "dots"
    rng = np.random.default_rng(0)
    writer = DatasetWriter(path, 4, SPEC.names)
    for seed in range(3):
        actions = SPEC.clip(rng.uniform(SPEC.low, SPEC.high, (8, 8)))
        actions[:, 3:7] = [1, 0, 0, 0]
        frames = np.full((9, 32, 32, 3), 170, np.uint8)
        for t, action in enumerate(actions, 1):
            u, v = (int(28 * (action[i] - SPEC.low[i]) / (SPEC.high[i] - SPEC.low[i])) for i in (0, 1))
            frames[t, v : v + 4, u : u + 4] = [200, 20, 20] if action[7] > 0.5 else [20, 20, 200]
        positions = np.zeros((9, 1, 3), np.float32)
        writer.append(
            Episode(frames, actions, (Segment(0, 8, "move"),), positions, ("gripper",), {"seed": seed})
        )
    writer.finish()
    return path


def options(data, run_dir, *more):
    return compose(
        "inverse_dynamics",
        [
            f"data={data}",
            f"run_dir={run_dir}",
            "batch_size=4",
            "every=2",
            "steps=4",
            "device=cpu",
            "corruption=null",
            *more,
        ],
    )


def test_it_overfits_sixteen_pairs(data, tmp_path):
    torch.manual_seed(0)
    pairs = Pairs(load_episodes(data), range(2), None, 0)
    model = InverseDynamics(InverseDynamicsConfig(SPEC, (32, 32), **SMALL))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    frames = pairs.pair(torch.arange(16), torch.zeros(16, 2, dtype=torch.bool)).permute(0, 1, 4, 2, 3) / 255
    for _ in range(300):
        loss, _ = model.loss(model(frames), pairs.actions[:16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_resumed_training_ends_with_the_same_weights(data, tmp_path):
    run(options(data, tmp_path / "whole"))
    cfg = options(data, tmp_path / "cut")
    config = InverseDynamicsConfig(SPEC, (32, 32))
    training = Pairs(load_episodes(data), range(2), None, 0)
    first = Trainer(cfg, config, tmp_path / "half", torch.device("cpu"))
    for _ in range(2):
        first.train_step(training)
    first.save()
    second = Trainer(cfg, config, tmp_path / "half", torch.device("cpu"))
    second.resume()
    assert second.step == 2
    for _ in range(2):
        second.train_step(training)
    second.save()
    whole, halves = (load_file(tmp_path / n / "last.safetensors") for n in ("whole", "half"))
    assert whole.keys() == halves.keys() and all(torch.equal(whole[k], halves[k]) for k in whole)


def test_after_ctrl_c_the_same_command_ends_with_the_same_weights(data, tmp_path, capsys):
    """Ctrl-C in the third step of four, after a checkpoint."""
    given = ["batch_size=4", "every=2", "steps=4", "device=cpu", "corruption=null", f"data={data}"]
    steps = 0

    def third(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            signal.raise_signal(signal.SIGINT)

    def train(name: str) -> object:
        with pytest.raises(SystemExit) as end:
            main("inverse_dynamics", run, [*given, f"run_dir={tmp_path / name}"])
        return end.value.code

    hook = register_optimizer_step_pre_hook(third)
    try:
        assert train("cut") == 130
    finally:
        hook.remove()
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert train("cut") == 0 and "going on at step 2 of 4" in capsys.readouterr().out
    assert train("whole") == 0
    left, right = (load_file(tmp_path / name / LAST) for name in ("cut", "whole"))
    assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.long
def test_a_training_killed_at_every_write_ends_with_the_same_weights(data, tmp_path):
    given = ["batch_size=4", "every=2", "steps=4", "device=cpu", "corruption=null", f"data={data}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(compose("inverse_dynamics", [*given, f"run_dir={whole}"]))
    said = killed_at_every_write("inverse_dynamics.train", *given, f"run_dir={killed}")
    assert "going on at step 2 of 4" in said
    for name in (LAST, "best/model.safetensors", "model/model.safetensors", "metrics.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    steps = [json.loads(row)["step"] for row in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_the_command_writes_figures_and_finishes_once(data, tmp_path, capsys):
    cfg = options(data, tmp_path / "run", "corruption={_target_: tests.test_inverse_dynamics.Darker}")
    run(cfg)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics) == {"true", "corrupted", "step"} and metrics["true"]["n"] == 8
    before = (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns
    run(cfg)
    assert (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns == before
    assert "plan with it" in capsys.readouterr().out


def test_a_damaged_result_is_named(data, tmp_path, capsys):
    given = [f"data={data}", f"run_dir={tmp_path}/r", "device=cpu"]
    RunDir.open("inverse_dynamics", compose("inverse_dynamics", given), ("device",))
    (tmp_path / "r/metrics.json").write_text('{"step"')
    with pytest.raises(SystemExit) as end:
        main("inverse_dynamics", run, given)
    err = capsys.readouterr().err
    assert end.value.code == 1 and err.count("\n") == 1
    assert f"{tmp_path}/r/metrics.json is damaged" in err and "delete it" in err


def test_the_best_step_is_the_model_not_the_last(data, tmp_path):
    """At a learning rate that tears the weights apart, the first step is the best one."""
    run(options(data, tmp_path, "every=1", "learning_rate=100", "ema=0"))
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["score"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics.pop("step") == best["step"] < rows[-1]["step"] and best["score"] < rows[-1]["score"]
    assert score(metrics) == pytest.approx(best["score"], rel=0.02)  # the model is kept in half precision
    model, kept, last = (
        load_file(tmp_path / name) for name in ("model/model.safetensors", "best/model.safetensors", LAST)
    )
    assert all(torch.equal(model[k], kept[k]) for k in model)
    assert int(last["step"]) == 4
    assert not all(torch.equal(model[k], last[f"average.module.{k}"].half()) for k in model)


def test_corrupted_frames_are_made_once(data, tmp_path):
    made, cache = [], tmp_path / "corrupted.safetensors"

    def darker(frames: np.ndarray) -> np.ndarray:
        made.append(len(frames))
        return frames // 2

    first, again = (Pairs(load_episodes(data), range(2), darker, 1, cache) for _ in range(2))
    assert made == [9] and torch.equal(first.corrupted, again.corrupted)
    with pytest.raises(CheckpointError, match=r"other frames .*delete it"):
        Pairs(load_episodes(data), range(2), darker, 2, cache)
    named = Darker()
    named.fingerprint = lambda: "one"
    with pytest.raises(CheckpointError, match=r"by another corruption; delete it"):
        Pairs(load_episodes(data), range(2), named, 1, cache)
    cache.write_bytes(cache.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"can't be read .*delete it"):
        Pairs(load_episodes(data), range(2), darker, 1, cache)


def test_a_resumed_command_takes_the_corrupted_frames_it_made(data, tmp_path):
    cfg = options(data, tmp_path / "run", "corruption={_target_: tests.test_inverse_dynamics.Darker}")
    run(cfg)
    files = [tmp_path / "run" / name for name in ("corrupted.safetensors", "corrupted_held.safetensors")]
    before = [file.stat().st_mtime_ns for file in files]
    (tmp_path / "run" / "metrics.json").unlink()
    run(cfg)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_the_defaults_are_what_made_the_shipped_weights(root):
    manifest = json.loads((root / "weights/cube_return/manifest.json").read_text())
    used, given = manifest["inverse_dynamics"]["options"], plain(compose("inverse_dynamics"))
    autoencoder = given["corruption"].pop("folder")
    used["corruption"].pop("folder")  # the run's; the same autoencoder is shipped
    assert (root / autoencoder).is_dir()
    assert {k: given[k] for k in used} == used
    assert set(given) - set(used) == {"device", "run_dir", "fresh"}


def test_without_shipped_weights_the_corruption_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setattr("inverse_dynamics.train.ROOT", tmp_path)
    with pytest.raises(CommandError, match=r"none is shipped for task=cube_return; give .* corruption=null"):
        make_corruption(compose("inverse_dynamics"))
    assert make_corruption(compose("inverse_dynamics", ["corruption=null"])) is None


class Darker:
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames // 2


class Halved:
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames[:, ::2, ::2]


def test_a_row_cut_by_a_kill_does_not_stop_the_resume(data, tmp_path):
    cfg = options(data, tmp_path / "run")
    run(cfg)
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "metrics.json").unlink()
    log = tmp_path / "run" / "metrics.jsonl"
    rows = log.read_text()
    log.write_text(rows + '{"step": 4, "lo')
    run(cfg)
    assert log.read_text() == rows
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before


def test_half_precision_resumes_with_the_scale_of_its_loss(data, tmp_path):
    cfg, config = options(data, tmp_path, "precision=fp16"), InverseDynamicsConfig(SPEC, (32, 32), **SMALL)
    training = Pairs(load_episodes(data), range(2), None, 0)
    first = Trainer(cfg, config, tmp_path, torch.device("cpu"))
    first.train_step(training)
    first.scaler.update(512.0)
    first.save()
    second = Trainer(cfg, config, tmp_path, torch.device("cpu"))
    second.resume()
    steps = [trainer.train_step(training) for trainer in (first, second)]
    assert steps[0] == steps[1] and first.scaler.get_scale() == second.scaler.get_scale() == 512.0
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


@pytest.mark.parametrize(
    "option",
    [
        "device=banana",
        "precision=int8",
        "corrupted_share=1.5",
        "ema=2",
        "learning_rate=abc",
        "seed=-1",
        "steps=0",
    ],
)
def test_a_bad_option_is_named_and_writes_nothing(data, tmp_path, option):
    with pytest.raises(CommandError, match=option):
        run(options(data, tmp_path / "run", option))
    assert not (tmp_path / "run").exists()


def test_data_of_another_task_and_a_hook_that_changes_the_shape_are_named(data, tmp_path):
    writer = DatasetWriter(tmp_path / "keys", 4, KEYS.names)
    for seed in range(2):
        frames, positions = np.zeros((3, 32, 32, 3), np.uint8), np.zeros((3, 1, 3), np.float32)
        episode = Episode(
            frames,
            np.zeros((2, 4), np.float32),
            (Segment(0, 2, "go"),),
            positions,
            ("agent",),
            {"seed": seed},
        )
        writer.append(episode)
    writer.finish()
    with pytest.raises(CommandError, match="actions of 4 numbers"):
        run(options(tmp_path / "keys", tmp_path / "run"))
    with pytest.raises(ValueError, match="keep shape and dtype"):
        Pairs(load_episodes(data), range(2), Halved(), 1)


def test_corrupted_frames_are_taken_where_asked(data):
    pairs = Pairs(load_episodes(data), range(3), Darker(), 1)
    index, flags = pairs.draw(20, 0.5, torch.Generator().manual_seed(0))
    assert flags[:10, 1].all() and not flags[10:].any() and (index[:10] < 8).all()
    plain = pairs.pair(index[:10], torch.zeros(10, 2, dtype=torch.bool))
    assert torch.equal(pairs.pair(index[:10], torch.ones(10, 2, dtype=torch.bool)), plain // 2)


def test_augmentation_keeps_shape_range_and_its_seed():
    pairs = torch.rand(6, 2, 3, 16, 16)
    once, twice = (augment(pairs, torch.Generator().manual_seed(1)) for _ in range(2))
    assert once.shape == pairs.shape and once.min() >= 0 and once.max() <= 1
    assert torch.equal(once, twice) and not torch.equal(once, pairs)


def test_saved_and_opened_it_reads_the_same(tmp_path):
    model = InverseDynamics(InverseDynamicsConfig(SPEC, (32, 32), **SMALL)).eval()
    model.save_pretrained(tmp_path / "m")
    opened = InverseDynamics.from_pretrained(tmp_path / "m")
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 32, 32, 3), dtype=np.uint8)
    read = opened.actions(frames)
    assert read.shape == (2, 4, 8) and read.dtype == np.float32
    np.testing.assert_allclose(read, model.actions(frames), atol=2e-2)
    assert (read >= np.float32(SPEC.low)).all() and (read <= np.float32(SPEC.high)).all()


def test_keys_and_camera_have_heads_of_their_own():
    model = InverseDynamics(InverseDynamicsConfig(KEYS, (32, 32), **SMALL)).eval()
    read = model.actions(np.zeros((1, 3, 32, 32, 3), np.uint8))
    assert read.shape == (1, 2, 4) and set(np.unique(read[..., :2])) <= {0.0, 1.0}
    loss, parts = model.loss(torch.zeros(3, 4), torch.tensor([[1.0, 0, 10, -10]] * 3))
    assert set(parts) == {"degrees", "binary"} and torch.isfinite(loss)


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (1, 1, 32, 32, 3), (1, 2, 64, 64, 3)])
def test_frames_of_another_shape_are_refused(shape):
    model = InverseDynamics(InverseDynamicsConfig(SPEC, (32, 32), **SMALL))
    with pytest.raises(ValueError, match="expected frames"):
        model.actions(np.zeros(shape, np.uint8))


def test_damaged_checkpoints_are_one_line(tmp_path):
    model = InverseDynamics(InverseDynamicsConfig(SPEC, (32, 32), **SMALL))
    with pytest.raises(CheckpointError, match="no config"):
        InverseDynamics.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError) as caught:
        InverseDynamics.from_pretrained(tmp_path / "m")
    assert "\n" not in str(caught.value)
    weights.write_bytes(whole)
    other = InverseDynamics(InverseDynamicsConfig(KEYS, (32, 32), **SMALL))
    other.save_pretrained(tmp_path / "other")
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="shape"):
        InverseDynamics.from_pretrained(tmp_path / "m")


def test_errors_fall_when_the_answer_is_right(data):
    pairs = Pairs(load_episodes(data), range(1), None, 0)
    model = InverseDynamics(InverseDynamicsConfig(SPEC, (32, 32), **SMALL)).eval()
    figures = evaluate(model, pairs)["true"]
    assert figures["position_mean_mm"] > 50 and 0 <= figures["binary_accuracy"] <= 1


def test_keys_and_camera_are_told_apart_in_the_figures():
    model = InverseDynamics(InverseDynamicsConfig(KEYS, (32, 32), **SMALL))
    told = np.array([[1, 0, 0, 10], [0, 0, 0, -10], [1, 1, 5, 0], [0, 1, 0, 0]], np.float32)
    read = told.copy()
    read[0, 1], read[1, 3], read[2, 2] = 1, -6, 6
    figures = action_errors(model, read, told)
    assert figures["binary_accuracy"] == 7 / 8 and figures["binaries_all_right"] == 3 / 4
    assert figures["degrees_mean"] == pytest.approx(5 / 8) and figures["degrees_median"] == 0
    assert set(figures) == {
        "n", "degrees_median", "degrees_mean", "degrees_p90", "binary_accuracy", "binaries_all_right"
    }  # fmt: skip
