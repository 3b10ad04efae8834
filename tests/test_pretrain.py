"""Slow learning through its command: draws, resume after kill -9, errors, two processes, other starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from diffusers import UNet3DConditionModel
from invoke import killed_at_every_write
from omegaconf import DictConfig
from safetensors.torch import load_file
from sharded_learner import STEPS, go_on, learner_in
from tiny import (
    CAPTIONS,
    frames,
    make_autoencoder,
    make_dataset,
    make_scheduler,
    make_text,
    make_unet,
    modelscope_options,
    save_modelscope,
)
from torch import nn

from tasks.commands import OptionError, RunDir, compose, main
from tasks.dataset import load_episodes
from tasks.files import write_text
from tasks.shipped import weights_folder
from world_model import slowfast_loop, train_autoencoder
from world_model.chunks import Focus, LatentEpisodes, change_weight
from world_model.device import pick_device, pick_precision, pick_products
from world_model.diffusion import Diffusion
from world_model.model import WorldModel
from world_model.objective import draw_timesteps
from world_model.pretrain import ChunkLoss, build_unet, pairs_of, run, settings_of
from world_model.train_autoencoder import build_autoencoder
from world_model.training import (
    CheckpointError,
    Learner,
    Log,
    TrainingError,
    check_launch,
    generator,
    learning_rate_at,
    train,
)

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "device=cpu", "model.unet.block_out_channels=[8,16]", "model.unet.attention_head_dim=4",
    "model.unet.norm_num_groups=4", "model.autoencoder.latent_channels=4",
    "model.autoencoder.block_out_channels=[8,8]", "model.autoencoder.norm_num_groups=4",
    "model.sampling_steps=1", "autoencoder.steps=2", "autoencoder.batch_size=4",
    "diffusion.batch_size=4", "diffusion.every=1", "diffusion.held_out_chunks=1", "diffusion.warmup=2",
)  # fmt: skip
LAST, METRICS = "training/last.safetensors", "model/metrics.json"
LATENTS = "latents/training/00000.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six episodes of two or three subgoals; no test changes it."""
    return make_dataset(tmp_path_factory.mktemp("data") / "episodes")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one state a process; a command has the process for itself."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def pretrain(data: Path, run_dir: Path, *overrides: str) -> int:
    """The command, in this process; its exit code."""
    with pytest.raises(SystemExit) as end:
        main("pretrain", run, [f"data={data}", f"run_dir={run_dir}", *TINY, *overrides])
    return int(end.value.code)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """The run directory of 4 uninterrupted steps; no test changes it."""
    AcceleratorState._reset_state(True)
    path = tmp_path_factory.mktemp("runs") / "straight"
    assert pretrain(data, path, "diffusion.steps=4") == 0
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_tensors(a: Path, b: Path) -> None:
    left, right = load_file(a), load_file(b)
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


# --- the command ---------------------------------------------------------------------------------


def test_a_finished_run_is_a_model_that_imagines(finished):
    metrics = json.loads((finished / METRICS).read_text())
    assert metrics["steps"] == 4 and metrics["chunks"] == 2 and metrics["device"] == "cpu"
    rows = [json.loads(row) for row in (finished / "training/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all({"loss", "gradient_norm", "steps_per_second", "seconds"} <= row.keys() for row in rows)
    (started,) = json.loads((finished / "origin.json").read_text())
    assert started["command"].startswith("python -m world_model.pretrain") and started["device"] == "cpu"
    model = WorldModel.from_pretrained(finished / "model")
    settings = model.settings
    assert (settings.name, settings.chunk_frames, settings.context_frames) == ("tiny", 4, 8)
    rollout = model.start(frames(1), [1])
    assert model.imagine(rollout, CAPTIONS[:1])[1].frames.shape == (1, 4, 16, 16, 3)


def test_the_same_command_again_prints_the_result(finished, data, capsys):
    before = files(finished)
    assert pretrain(data, finished, "diffusion.steps=4") == 0
    out, err = capsys.readouterr()
    assert "finished already" in out and str(finished / "model") in out and err == ""
    assert files(finished) == before


def opened_pretraining(cfg: DictConfig) -> RunDir:
    return RunDir.open("pretrain", cfg, ("device",))


def opened_loop(cfg: DictConfig) -> RunDir:
    return slowfast_loop.opened_run(cfg, weights_folder(None, cfg.task.name, "world_model"))


@pytest.mark.parametrize(
    ("name", "finish", "begin"),
    [("pretrain", run, opened_pretraining), ("slowfast_loop", slowfast_loop.run, opened_loop)],
)
def test_a_damaged_result_is_named(tmp_path, capsys, name, finish, begin):
    options = [f"run_dir={tmp_path}/made", "device=cpu"]
    begin(compose(name, options))
    write_text(tmp_path / "made" / METRICS, '{"psnr_imag')
    with pytest.raises(SystemExit) as end:
        main(name, finish, options)
    err = capsys.readouterr().err
    assert end.value.code == 1 and err.count("\n") == 1
    assert f"{tmp_path}/made/{METRICS} is damaged" in err and "delete it" in err


def assert_same_run(a: Path, b: Path) -> None:
    for name in (LAST, "model/unet/diffusion_pytorch_model.safetensors", LATENTS):
        assert_same_tensors(a / name, b / name)
    rows = [json.loads(row)["step"] for row in (b / "training/metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4]


def test_an_interrupted_run_resumes_bit_for_bit(finished, data, tmp_path, capsys):
    """Ctrl-C within the third step; the same command does steps three and four."""
    calls = 0

    def third_step(module, _) -> None:
        nonlocal calls
        if isinstance(module, UNet3DConditionModel):
            calls += 1
            if calls == 3:
                signal.raise_signal(signal.SIGINT)

    hook = nn.modules.module.register_module_forward_pre_hook(third_step)
    try:
        assert pretrain(data, tmp_path / "run", "diffusion.steps=4") == 130
    finally:
        hook.remove()
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on from here\n")
    assert int(load_file(tmp_path / "run" / LAST)["step"]) == 2 and not (tmp_path / "run" / METRICS).exists()
    assert pretrain(data, tmp_path / "run", "diffusion.steps=4") == 0
    assert "going on at step 2 of 4" in capsys.readouterr().out
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(finished, data, tmp_path, capsys):
    """kill -9 once the first step is logged."""
    path, rows = tmp_path / "run", tmp_path / "run/training/metrics.jsonl"
    options = (f"data={data}", f"run_dir={path}", *TINY, "diffusion.steps=4")
    command = [sys.executable, "-m", "world_model.pretrain", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (
            (path / LAST).is_file() and rows.is_file() and rows.read_text()
        ):
            time.sleep(0.002)
    finally:  # also when pytest's own timeout ends the test: nothing may wait for a process that hangs
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (path / METRICS).exists()
    stopped = int(load_file(path / LAST)["step"])
    assert pretrain(data, path, "diffusion.steps=4") == 0
    assert f"going on at step {stopped} of 4" in capsys.readouterr().out
    assert_same_run(finished, path)


@pytest.mark.long
def test_an_autoencoder_killed_at_every_write_ends_with_the_same_weights(finished, data, tmp_path):
    """The first stage alone; its steps are those of the finished run's."""
    options = [o for o in TINY if "unet" not in o and "sampling" not in o and "diffusion" not in o]
    killed_at_every_write(
        "world_model.train_autoencoder", *options, "autoencoder.every=1", f"data={data}", f"run_dir={tmp_path}/run"
    )  # fmt: skip
    whole, killed = finished / "autoencoder_training", tmp_path / "run"
    for name in ("last.safetensors", "autoencoder/diffusion_pytorch_model.safetensors"):
        assert_same_tensors(whole / name, killed / name)
    for name in ("autoencoder/metrics.json", "autoencoder/frames.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    steps = [json.loads(row)["step"] for row in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_a_finished_autoencoder_is_taken_as_it_is(finished, data, tmp_path):
    autoencoder = finished / "autoencoder_training/autoencoder"
    assert (
        pretrain(
            data,
            tmp_path / "run",
            "diffusion.steps=1",
            f"autoencoder.path={autoencoder}",
            "autoencoder.steps=0",
        )
        == 0
    )
    assert not (tmp_path / "run/autoencoder_training").exists()
    assert_same_tensors(finished / LATENTS, tmp_path / "run" / LATENTS)


BAD = [
    (["precision=half"], "precision=half: expected fp32, bf16, fp16"),
    (["precision=fp16"], "precision=fp16 needs a CUDA device; use bf16 or fp32"),
    (["device=gpu"], "device=gpu: expected auto, cpu, cuda or cuda:N"),
    (["diffusion.steps=0"], "diffusion.steps=0: expected an integer, at least 1"),
    (["diffusion.batch_size=many"], "diffusion.batch_size=many: expected an integer"),
    (["autoencoder.path=a", "+model.pretrained=b"], "give autoencoder.path or model.pretrained"),
    (["model=huge"], "unknown model 'huge'; have: modelscope, tiny"),
    (["autoencoder.every=0"], "autoencoder.every=0: expected an integer, at least 1"),
    (["autoencoder.steps=0"], "autoencoder.steps=0: expected an integer, at least 1"),
    (["autoencoder.batch_size=0"], "autoencoder.batch_size=0: expected an integer, at least 1"),
    (["autoencoder.learning_rate=abc"], "autoencoder.learning_rate=abc: expected a number, at least 0"),
    (["autoencoder.ema=2"], "autoencoder.ema=2: expected a number, at least 0 and at most 1"),
    (["autoencoder.colour_weight=-1"], "autoencoder.colour_weight=-1: expected a number, at least 0"),
    (["autoencoder.kl_weight=null"], "autoencoder.kl_weight=None: expected a number, at least 0"),
    (["autoencoder.warmup=0.5"], "autoencoder.warmup=0.5: expected an integer, at least 0"),
    (["diffusion.learning_rate=abc"], "diffusion.learning_rate=abc: expected a number, at least 0"),
    (["diffusion.ema=-0.1"], "diffusion.ema=-0.1: expected a number, at least 0 and at most 1"),
    (["diffusion.change_weight=nan"], "diffusion.change_weight=nan: expected a number, at least 0"),
    (["diffusion.past_noise=-1"], "diffusion.past_noise=-1: expected a number, at least 0"),
    (["diffusion.warmup=few"], "diffusion.warmup=few: expected an integer, at least 0"),
    (["diffusion.drop_past=1.5"], "diffusion.drop_past=1.5: expected a number, at least 0 and at most 1"),
    (["diffusion.focus='('"], "focus='(' is no regular expression"),
    (
        ["diffusion.pairs=[[10,4,1.0]]"],
        "no training episode has 10 past and 4 new frames: of 5 the longest has 13",
    ),
    (["diffusion.pairs=[[1,1,1.0]]", "model.context_frames=40"], "no held-out episode has 36 past and 4 new"),
    (["data=nowhere"], "no dataset at nowhere"),
]


@pytest.mark.parametrize(("overrides", "says"), BAD)
def test_a_wrong_option_is_one_line_and_changes_nothing(data, tmp_path, capsys, overrides, says):
    assert pretrain(data, tmp_path / "run", *overrides) in (1, 2)
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: ") and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["autoencoder.every=0"], "autoencoder.every=0: expected an integer, at least 1"),
        (["autoencoder.learning_rate=abc"], "autoencoder.learning_rate=abc: expected a number, at least 0"),
        (["device=gpu"], "device=gpu: expected auto, cpu, cuda or cuda:N"),
        (["data=nowhere"], "no dataset at nowhere"),
    ],
)
def test_the_autoencoder_alone_refuses_likewise(data, tmp_path, capsys, overrides, says):
    options = ["device=cpu", f"data={data}", f"run_dir={tmp_path / 'run'}", *overrides]
    with pytest.raises(SystemExit) as end:
        main("autoencoder", train_autoencoder.run, options)
    out, err = capsys.readouterr()
    assert end.value.code in (1, 2) and says in err and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "run").exists()


def test_clips_too_short_are_said_before_the_autoencoder_is_trained(tmp_path, capsys):
    short = make_dataset(tmp_path / "short", (2, 1, 1))
    assert pretrain(short, tmp_path / "run") == 1
    err = capsys.readouterr().err
    assert "no held-out episode has 4 past and 4 new frames: of 1 the longest has 5" in err
    assert "data.clip_chunks" in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_run_directory_that_was_there_outlives_bad_data(tmp_path):
    options = [f"data={tmp_path / 'nowhere'}", f"run_dir={tmp_path / 'run'}", *TINY]
    opened_pretraining(compose("pretrain", options))
    before = files(tmp_path / "run")
    assert pretrain(tmp_path / "nowhere", tmp_path / "run") == 1
    assert files(tmp_path / "run") == before != {}


BROKEN = [
    (["model.unet.cross_attention_dim=64"], "text tokens are 128 wide, the UNet's cross_attention_dim is 64"),
    (
        ["autoencoder.path=nowhere"],
        "nowhere: no such folder; expected an autoencoder that train_autoencoder saved",
    ),
]


@pytest.mark.parametrize(("overrides", "says"), BROKEN)
def test_what_does_not_fit_is_said_before_training(finished, data, tmp_path, capsys, overrides, says):
    autoencoder = f"autoencoder.path={finished / 'autoencoder_training/autoencoder'}"
    assert pretrain(data, tmp_path / "run", "diffusion.steps=1", autoencoder, *overrides) == 1
    err = capsys.readouterr().err
    assert says in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "run" / LAST).exists() and not (tmp_path / "run" / LATENTS).exists()


def test_a_truncated_checkpoint_is_one_line(finished, data, tmp_path, capsys):
    path = tmp_path / "run"
    autoencoder = f"autoencoder.path={finished / 'autoencoder_training/autoencoder'}"
    assert pretrain(data, path, autoencoder, "diffusion.steps=1") == 0
    whole = (path / LAST).read_bytes()
    (path / METRICS).unlink()
    (path / LAST).write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert pretrain(data, path, autoencoder, "diffusion.steps=1") == 1
    err = capsys.readouterr().err
    assert f"{path / LAST} can't be read" in err and err.splitlines()[-1].startswith("error: ")
    assert (path / LAST).read_bytes() == whole[: len(whole) // 2]


def test_a_rate_that_blows_up_stops_the_run(finished, data, tmp_path, capsys):
    autoencoder = f"autoencoder.path={finished / 'autoencoder_training/autoencoder'}"
    overrides = (autoencoder, "diffusion.learning_rate=1e20", "diffusion.steps=9")
    assert pretrain(data, tmp_path / "run", *overrides) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the ") and "at step" in last and "Lower the learning rate" in last
    step = int(last.split("at step ")[1].split(";")[0])
    assert int(load_file(tmp_path / "run" / LAST)["step"]) == step


# --- other starts --------------------------------------------------------------------------------


def test_training_starts_from_a_published_model(data, tmp_path, capsys):
    folder = save_modelscope(tmp_path / "published")
    run_dir = tmp_path / "run"
    options = modelscope_options(folder, "diffusion.steps=2", "diffusion.learning_rate=1e-9")
    assert pretrain(data, run_dir, *options) == 0
    assert "text_encoder" in {p.name for p in (run_dir / "model").iterdir()}
    start = WorldModel.from_pretrained(folder).unet.state_dict()
    trained = WorldModel.from_pretrained(run_dir / "model")
    assert trained.settings.name == "modelscope" and trained.settings.guidance == (2.0, 5.0)
    for key, value in trained.unet.state_dict().items():
        torch.testing.assert_close(value, start[key], rtol=1e-3, atol=1e-3)  # fp16 on disk

    capsys.readouterr()
    wrong = modelscope_options(folder, "model.unet.block_out_channels=[8,24]")
    assert pretrain(data, tmp_path / "other", *wrong) == 1
    err = capsys.readouterr().err
    assert "block_out_channels=[8, 16], model.unet.block_out_channels=[8, 24]; make them equal" in err
    assert pretrain(data, tmp_path / "third", *modelscope_options(Path("nobody/nothing"))) == 1
    assert "model.pretrained: nobody/nothing is missing here, and the Hub's cache" in capsys.readouterr().err


def test_modelscope_is_the_published_architecture():
    """1.41 billion parameters of the UNet and 83 653 863 of the autoencoder; nothing is allocated."""
    cfg = compose("pretrain", ["model=modelscope"]).model
    with torch.device("meta"):
        unet, autoencoder = build_unet(cfg.unet, 4), build_autoencoder(cfg.autoencoder)
    assert sum(p.numel() for p in autoencoder.vae.parameters()) == 83_653_863
    mask_channel = 320 * 9
    assert sum(p.numel() for p in unet.parameters()) - mask_channel == 1_411_233_860
    assert autoencoder.factor == 8 and cfg.scheduler.prediction_type == "epsilon"


# --- one step's draws ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes(data) -> LatentEpisodes:
    return LatentEpisodes(load_episodes(data), make_autoencoder(), range(6))


@pytest.mark.parametrize(("past", "new"), [(1, 1), (1, 4), (4, 4), (4, 1), (2, 3), (9, 4)])
def test_drawn_chunks_are_consecutive_frames_of_one_segment(data, episodes, past, new):
    dataset, autoencoder = load_episodes(data), make_autoencoder()
    every = np.concatenate([dataset[i].frames for i in range(6)])
    known = autoencoder.encode(every).half().float().split([len(dataset[i]) for i in range(6)])
    batch = episodes.draw(40, past, new, generator(0, past, new))
    assert batch.clean.shape == (40, past + new, 4, 4, 4) and batch.past_frames == past
    starts = set()
    for clean, caption in zip(batch.clean, batch.captions, strict=True):
        found = [
            (e, int(t))
            for e, all_ in enumerate(known)
            for t in (all_ == clean[0]).flatten(1).all(1).nonzero()
        ]
        (episode, first), *others = found
        assert not others and torch.equal(known[episode][first : first + past + new], clean)
        before_new = first + past - 1
        (segment,) = [s for s in dataset[episode].segments if s.start <= before_new < s.stop]
        assert segment.caption == caption and before_new + new <= segment.stop
        starts.add((episode, first))
    assert len(starts) > 1


def test_draws_depend_on_the_generator_alone(episodes):
    a, b, c = (episodes.draw(8, 1, 4, generator(0, s)) for s in (3, 3, 4))
    assert torch.equal(a.clean, b.clean) and a.captions == b.captions
    assert not torch.equal(a.clean, c.clean)


def test_the_focus_is_drawn_in_its_share(episodes):
    pattern = sorted(CAPTIONS)[0]
    plain = episodes.draw(300, 1, 4, generator(0, 0)).captions.count(pattern) / 300
    focused = episodes.draw(300, 1, 4, generator(0, 0), Focus.of(pattern, 0.8)).captions.count(pattern) / 300
    assert focused == pytest.approx(0.8 + 0.2 * plain, abs=0.06) and plain < 0.5
    absent = episodes.draw(8, 1, 4, generator(0, 1), Focus.of("no such caption", 1.0))
    assert len(absent.captions) == 8
    assert Focus.of(None, 0.5) is None
    with pytest.raises(ValueError, match=r"focus='\(' is no regular expression"):
        Focus.of("(", 0.5)


def test_episodes_that_do_not_fit(data, episodes, tmp_path):
    assert len(episodes) == 6
    with pytest.raises(ValueError, match="no episode has 10 past and 4 new frames; collect longer episodes"):
        episodes.draw(1, 10, 4, generator(0, 0))
    with pytest.raises(ValueError, match="no episode has 1 past and 5 new"):
        episodes.allowed(1, 5)
    with pytest.raises(ValueError, match="the dataset holds no episodes"):
        LatentEpisodes(load_episodes(data), make_autoencoder(), [])


def test_change_weight(episodes):
    clean = episodes.draw(6, 1, 4, generator(0, 0)).clean
    clean[:, 1:, :, :2] = clean[:, :1, :, :2]  # the upper half stands still
    weight = change_weight(clean, 1, 1.0)
    assert weight.shape == (6, 4, 1, 4, 4)
    torch.testing.assert_close(weight.mean((1, 2, 3, 4)), torch.ones(6))
    assert float(weight[..., 2:, :].min()) > float(weight[..., :2, :].max())
    torch.testing.assert_close(change_weight(clean, 1, 0.0), torch.ones(6, 4, 1, 4, 4))
    still = clean[:, :1].expand(-1, 5, -1, -1, -1)
    torch.testing.assert_close(change_weight(still, 1, 1.0), torch.ones(6, 4, 1, 4, 4))


def make_loss(episodes: LatentEpisodes, *overrides: str) -> ChunkLoss:
    cfg = compose("pretrain", [*TINY, *overrides])
    text = make_text()
    diffusion = Diffusion(make_unet(), make_scheduler(), text.null)
    return ChunkLoss(diffusion, text, episodes, cfg, torch.device("cpu"))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_processes_parts_make_up_the_batch(episodes, share):
    loss = make_loss(episodes, f"diffusion.sequence_share={share}")
    for step in range(2):
        whole, figures = loss(step, 0)
        parts = [loss(step, 0, part)[0] for part in (slice(0, 2), slice(2, 4))]
        torch.testing.assert_close(sum(parts) / 2, whole)
        assert ("loss/sequence" in figures) == bool(share)


def test_timesteps_and_the_learning_rate():
    t = draw_timesteps(4000, 1000, 0.5, 0.5, generator(0, 0))
    assert int(t.min()) >= 0 and int(t.max()) <= 999
    assert abs(float((t >= 500).float().mean()) - 0.75) < 0.03
    rates = [learning_rate_at(s, 100, 1.0, 10) for s in range(101)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[100] == pytest.approx(0.02)
    assert all(a >= b for a, b in pairwise(rates[9:]))


# --- the trainer ---------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path):
    torch.manual_seed(0)
    learner = Learner(nn.Linear(3, 1), tmp_path, 10, 1e-2, 1, 0.9)
    poison = {4: float("nan")}

    def loss(step: int):
        return learner.wrapped(torch.ones(2, 3)).square().mean() * poison.get(step, 1.0), {}

    log = Log(tmp_path, 0)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 4; .*last.safetensors is intact"):
        train(learner, loss, log, 1)
    log.close()
    again = Learner(nn.Linear(3, 1), tmp_path, 10, 1e-2, 1, 0.9)
    assert again.resume() and again.step == 4
    assert torch.equal(again.network.weight, learner.network.weight)
    first = Learner(nn.Linear(3, 1), tmp_path / "none", 10, 1e-2, 1, 0.9)
    with pytest.raises(TrainingError, match="at step 0; there is no checkpoint yet"):
        first.backward(first.network(torch.full((1, 3), torch.inf)).mean())


def test_a_gradient_that_is_not_finite_stops(tmp_path):
    learner = Learner(nn.Linear(1, 1), tmp_path, 10, 1e-2, 1, 0.9)
    before = learner.network.weight.clone()
    learner.backward(learner.network(torch.zeros(1, 1)).sub(learner.network.bias).abs().sqrt().sum())
    with pytest.raises(TrainingError, match="the gradient is not finite at step 0"):
        learner.apply()
    assert torch.equal(learner.network.weight, before)


def test_a_checkpoint_of_another_network(tmp_path):
    Learner(nn.Linear(3, 1), tmp_path, 10, 1e-2, 1, 0.9).save()
    with pytest.raises(
        CheckpointError, match=r"last.safetensors is of another network: size mismatch"
    ) as error:
        Learner(nn.Linear(4, 1), tmp_path, 10, 1e-2, 1, 0.9).resume()
    assert "\n" not in str(error.value)


def test_training_draws_the_pasts_that_planning_has():
    def drawn(*options: str) -> list[tuple[int, int, float]]:
        cfg = compose("pretrain", [*options])
        return pairs_of(cfg.diffusion.pairs, settings_of(cfg))

    assert drawn() == [(4, 4, 0.5), (1, 4, 0.3), (4, 1, 0.1), (1, 1, 0.1)]
    large = drawn("model=modelscope")
    assert [past for past, new, _ in large if new == 4] == [5, 9, 13, 17, 21, 25, 28, 1]
    assert sum(share for *_, share in large) == pytest.approx(1)
    with pytest.raises(OptionError, match=r"pairs: soon frames; expected a whole number, later or chunk"):
        drawn("diffusion.pairs=[[soon,4,1.0]]")
    for pairs in ("5", "[]", "later", "[[1,4]]", "[1,4,1.0]"):
        with pytest.raises(
            OptionError, match=r"pairs=.*: expected a list of \[past frames, new frames, share\]"
        ):
            drawn(f"diffusion.pairs={pairs}")
    for share in ("0", "-1", "much", "true", "nan"):
        with pytest.raises(OptionError, match=r"pairs: a share of .*; expected a number above 0"):
            drawn(f"diffusion.pairs=[[1,4,{share}]]")


def test_a_log_drops_what_was_not_saved(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": step})
    log.close()
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 4, "lo')
    Log(tmp_path, 2).close()
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0)]


def test_a_log_counts_the_seconds_before_a_resumption(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 100.0}\n{"step": 2, "seconds": 200.0}\n')
    log = Log(tmp_path, 1)
    log.write(2, {"loss": 1})
    log.close()
    assert 100 <= json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] < 130


def test_devices_and_precisions():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda")
    assert [pick_precision(p, torch.device("cuda")) for p in ("fp32", "bf16", "fp16")] == [
        "no",
        "bf16",
        "fp16",
    ]
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device=cuda: this torch sees no CUDA device; use device=cpu"):
            pick_device("cuda")


@pytest.fixture
def torchs_own_products():
    """torch's settings for matrix products, put back afterwards."""
    kept = torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled()
    yield
    torch.set_float32_matmul_precision(kept[0])
    torch.backends.cuda.enable_flash_sdp(kept[1])


@pytest.mark.usefixtures("torchs_own_products")
def test_products_of_matrices_are_as_asked():
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    exact = (a.double() @ b.double()).float()
    pick_products("medium", torch.device("cpu"))
    assert (torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled()) == (
        "medium",
        False,
    )
    assert ((a @ b) - exact).norm() < 1e-2 * exact.norm()
    pick_products("highest", torch.device("cpu"))
    assert torch.backends.cuda.flash_sdp_enabled()
    assert ((a @ b) - exact).norm() < 1e-6 * exact.norm()
    with pytest.raises(ValueError, match="products=fast: expected highest, high, medium"):
        pick_products("fast", torch.device("cpu"))


# --- several processes ---------------------------------------------------------------------------


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A Python process that leads a session of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT, env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def launched(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a Python process, which leaves no process of its own behind."""
    process = started(*arguments, **environment)
    try:
        out, err = process.communicate()
    except BaseException:  # pytest's own timeout as well
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": ("accelerate.commands.launch", "--config_file", "docs/accelerate/two_cpus.yaml"),
}
FSDP = (
    "-m", "accelerate.commands.launch", "--config_file", "docs/accelerate/fsdp.yaml", "--num_processes", "2",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_what_one_does(finished, data, tmp_path, launcher):
    """The autoencoder included: the main process trains it while the other waits."""
    options = (f"data={data}", f"run_dir={tmp_path / 'two'}", *TINY, "diffusion.steps=4")
    code, out, err = launched("-m", *LAUNCHERS[launcher], "-m", "world_model.pretrain", *options)
    assert code == 0, err[-2000:]
    assert out.count("plan with it") == 1
    one, two = load_file(finished / LAST), load_file(tmp_path / "two" / LAST)
    assert one.keys() == two.keys()
    for name in (LATENTS, LATENTS.replace("training", "held_out")):
        assert_same_tensors(finished / name, tmp_path / "two" / name)
    for key in (k for k in one if k.startswith("network.")):
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=2e-4, msg=key)


@pytest.mark.long
@pytest.mark.parametrize("file", ["nodes", "fsdp_nodes"])
def test_two_machines_train_what_one_process_does(finished, data, tmp_path, file):
    """A launcher on each, as the files say; here both are this one, with a process apiece."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = ("-m", "accelerate.commands.launch", "--config_file", f"docs/accelerate/{file}.yaml",
             "--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port)  # fmt: skip
    options = (f"data={data}", f"run_dir={tmp_path / 'two'}", *TINY, "diffusion.steps=4")
    ranks = [
        started(*nodes, "--machine_rank", str(rank), "-m", "world_model.pretrain", *options)
        for rank in range(2)
    ]
    with ThreadPoolExecutor() as readers:
        try:
            for done in as_completed([readers.submit(process.communicate) for process in ranks]):
                out, err = done.result()
                assert out.count("plan with it") == 1, err[-2000:]  # each machine's terminal says it
        finally:  # one that fails leaves the other waiting
            for process in ranks:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in ranks] == [0, 0]
    [start] = json.loads((tmp_path / "two/origin.json").read_text())
    assert start["command"].startswith("torchrun --nnodes 2 --nproc-per-node 1 "), "they found each other"
    one, two = load_file(finished / LAST), load_file(tmp_path / "two" / LAST)
    for key in (k for k in one if k.startswith("network.")):
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "docs/accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_accelerate_reads_its_files(file):
    made = load_config_from_file(str(file))
    kinds = {
        "fsdp": DistributedType.FSDP,
        "fsdp_nodes": DistributedType.FSDP,
        "two_cpus": DistributedType.MULTI_CPU,
    }
    assert made.distributed_type == kinds.get(file.stem, DistributedType.MULTI_GPU)
    assert made.num_processes % made.num_machines == 0 and made.num_processes > 1


@pytest.mark.long
def test_two_sharded_processes_train_what_one_does(finished, data, tmp_path):
    """The whole command with FSDP: checkpoint, average and finished model are those of one process."""
    options = (f"data={data}", f"run_dir={tmp_path / 'two'}", *TINY, "diffusion.steps=4")
    code, out, err = launched(*FSDP, "-m", "world_model.pretrain", *options)
    assert code == 0, err[-2000:]
    assert out.count("plan with it") == 1
    for file in (LAST, "model/unet/diffusion_pytorch_model.safetensors"):
        one, two = load_file(finished / file), load_file(tmp_path / "two" / file)
        assert one.keys() == two.keys()
        for key in (k for k in one if not k.startswith("optimizer.")):
            torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=2e-4, msg=key)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_checkpoint_goes_on_with_and_without_fsdp(tmp_path, precision):
    """Two steps in one process, two on shards, one in one process again: what five in one process give."""
    straight, mixed = (Accelerator(cpu=True, mixed_precision=precision), tmp_path / "mixed")
    whole = learner_in(tmp_path / "whole", straight)
    go_on(whole, STEPS)
    go_on(learner_in(mixed, straight), 2)
    script = (str(ROOT / "tests/sharded_learner.py"), str(mixed), "4", precision)
    code, _, err = launched(*FSDP, *script, PYTHONPATH=str(ROOT))
    assert code == 0, err[-2000:]
    last = learner_in(mixed, straight)
    assert last.resume() and last.step == 4
    sharded = load_file(mixed / "averaged.safetensors")
    assert all(torch.equal(sharded[k], v) for k, v in last.averaged().state_dict().items())
    go_on(last, STEPS)
    one, other = load_file(tmp_path / "whole/last.safetensors"), load_file(mixed / "last.safetensors")
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(
            other[key], one[key], rtol=1e-3, atol=1e-5 if precision == "no" else 1e-3, msg=key
        )


def test_ways_to_share_the_work_that_are_not_here_are_refused(tmp_path, monkeypatch):
    class Launched(SimpleNamespace):
        distributed_type, mixed_precision = DistributedType.FSDP, "no"

    with pytest.raises(TrainingError, match=r"^FSDP leaves a process a part .*docs/accelerate/gpus\.yaml$"):
        Learner(nn.Linear(2, 2), tmp_path, 1, 1e-3, 1, 0.9, Launched())
    with pytest.raises(TrainingError, match=r"^DEEPSPEED is not supported; launch it with DDP"):
        check_launch(Launched(distributed_type=DistributedType.DEEPSPEED), shards=True)
    with pytest.raises(TrainingError, match=r"precision=fp16 scales the gradients.*use precision=bf16"):
        check_launch(Launched(mixed_precision="fp16"), shards=True)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(TrainingError, match="fsdp_cpu_ram_efficient_loading: true is not supported"):
        check_launch(Launched(), shards=True)
    check_launch(Launched(distributed_type=DistributedType.MULTI_GPU), shards=False)


@pytest.mark.long
def test_the_command_is_quiet(data, tmp_path):
    """Only its own progress bars on stderr: nothing of the libraries'."""
    options = (f"data={data}", f"run_dir={tmp_path / 'run'}", *TINY, "diffusion.steps=1", "precision=bf16")
    code, _, err = launched("-m", "world_model.pretrain", *options)
    assert code == 0, err
    foreign = [
        line for line in err.replace("\r", "\n").splitlines()
        if line.strip() and not line.startswith(("autoencoder:", "pretraining:"))
    ]  # fmt: skip
    assert foreign == []
