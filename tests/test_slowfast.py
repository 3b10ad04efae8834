"""The slow-fast loop (Algorithm 1b): what it snapshots, what it trains, its command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import UNet3DConditionModel
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tiny import (
    CAPTIONS,
    make_dataset,
    make_memory,
    make_model,
    make_text,
    open_modelscope,
    save_modelscope,
)
from torch import nn

from tasks.commands import main
from tasks.dataset import load_episodes
from world_model import slowfast
from world_model.chunks import LatentEpisodes
from world_model.memory.anchor import Anchor
from world_model.memory.first_frame import FirstFrame
from world_model.memory.none import NoMemory
from world_model.memory.oracle import Oracle
from world_model.memory.shuffled import Shuffled
from world_model.memory.temp_lora import TempLora
from world_model.model import WorldModel
from world_model.objective import Draws, Objective
from world_model.slowfast import (
    ChunkChooser,
    EpisodeBatches,
    SlowFastLoss,
    chunk_losses,
    inner_loop,
    memory_use,
)
from world_model.slowfast_loop import Probe, run
from world_model.training import CheckpointError, Learner, TrainingError, generator

ROOT = Path(__file__).resolve().parents[1]
LAST = "training/last.safetensors"
OPTIONS = OmegaConf.create(
    {
        "drop_past": 0.0,
        "drop_text": 0.0,
        "sequence_share": 0.0,
        "high_noise": 0.5,
        "high_from": 0.5,
        "change_weight": 1.0,
        "past_noise": 0.0,
    }
)
TINY = (
    "device=cpu", "memory.rank=2", "memory.alpha=2", "memory.steps=1", "batch_size=2", "iterations=2",
    "every=1", "pool=2", "outer.steps=2", "outer.warmup=1", "probe_episodes=2", "held_out_chunks=1", "focus=blue",
)  # fmt: skip


@pytest.fixture(scope="module")
def text():
    return make_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Forty episodes of two or three subgoals, two of the last held out; no test changes it."""
    return make_dataset(tmp_path_factory.mktemp("data") / "episodes", (2, 3) * 19 + (3, 3))


@pytest.fixture(scope="module", params=["tiny", pytest.param("published", marks=pytest.mark.long)])
def base(request, text, tmp_path_factory) -> Path:
    """A model to go on from: ``tiny``'s, or one that began as a folder laid out as ModelScopeT2V's."""
    folder = tmp_path_factory.mktemp("base")
    settings = {"chunk_frames": 4, "context_frames": 8, "sampling_steps": 1, "guidance": (1.0, 1.0)}
    if request.param == "tiny":
        model = make_model(text, **settings)
    else:
        model = open_modelscope(save_modelscope(folder / "hub"), **settings)
    model.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def model(base) -> WorldModel:
    return WorldModel.from_pretrained(base, make_memory())


@pytest.fixture(scope="module")
def episodes(data, base) -> LatentEpisodes:
    return LatentEpisodes(load_episodes(data), WorldModel.from_pretrained(base).autoencoder, range(12))


def loop(data: Path, base: Path, run_dir: Path, *overrides: str) -> int:
    """The command, in this process; its exit code."""
    argv = [f"data={data}", f"weights={base}", f"run_dir={run_dir}", *TINY, *overrides]
    with pytest.raises(SystemExit) as end:
        main("slowfast_loop", run, argv)
    return int(end.value.code)


def unet_copy(model: WorldModel) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.unet.state_dict().items()}


def make_loss(
    model: WorldModel, episodes: LatentEpisodes, part: slice = slice(None), pool: int = 1
) -> SlowFastLoss:
    objective = Objective(model.diffusion, model.text, OPTIONS)
    batches = EpisodeBatches(episodes.segments, 4, 4, seed=0)
    chooser = ChunkChooser("blue", 0.6, 0.1)
    return SlowFastLoss(model, objective, episodes, batches, chooser, "ground_truth", 2, 0, part, pool)


# --- the inner loop ------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["ground_truth", "generated"])
def test_snapshots_are_taken_before_each_update(model, episodes, inner):
    before = unet_copy(model)
    made = inner_loop(model, episodes, [1, 3], inner, seed=0, iteration=0)
    assert len(made) == 3 and [s.updates for s in made.states] == [(0, 0), (1, 1), (2, 2)]
    assert made.states[0].weights.distance(model.theta0).max() == 0
    assert made.states[1].weights.distance(model.theta0).min() > 0
    assert [p.shape[1] for p in made.pasts] == [1, 4, 4]
    assert all(torch.equal(before[k], v) for k, v in model.unet.state_dict().items())
    truth = episodes.latents[3][5:9].float()
    assert torch.equal(made.news[1][1], truth)  # the target is the truth, whatever was remembered
    follows = torch.equal(made.pasts[2][1], truth)
    assert follows == (inner == "ground_truth")


def test_an_episode_remembers_the_same_alone_and_in_a_batch(model, episodes):
    both = inner_loop(model, episodes, [1, 3], "ground_truth", seed=0, iteration=5)
    alone = inner_loop(model, episodes, [3], "ground_truth", seed=0, iteration=5)
    apart = both.states[2].weights.select([1]).distance(alone.states[2].weights)
    assert apart < 1e-4 * alone.states[2].weights.norm()  # another batch rounds elsewhere
    later = inner_loop(model, episodes, [3], "ground_truth", seed=0, iteration=6)
    assert later.states[2].weights.distance(alone.states[2].weights) > 1e-4


def test_each_episode_comes_once_an_epoch_in_batches_of_one_length(episodes):
    batches = EpisodeBatches(episodes.segments, 3, 4, seed=0)
    assert batches.per_epoch == 4
    epoch = [batches[i] for i in range(4)]
    assert Counter(e for batch in epoch for e in batch) == Counter(range(12))
    assert all(len({len(episodes.segments[e]) for e in batch}) == 1 for batch in epoch)
    assert [batches[i] for i in range(4, 8)] != epoch and batches[2] == epoch[2]
    long = EpisodeBatches(episodes.segments, 3, 4, seed=0, lengths=[3])
    assert long.per_epoch == 2 and all(len(episodes.segments[e]) == 3 for i in range(2) for e in long[i])
    with pytest.raises(ValueError, match=r"chunks=\[7\]: no episode has so many"):
        EpisodeBatches(episodes.segments, 3, 4, seed=0, lengths=[7])


# --- the outer loop ------------------------------------------------------------------------------


def test_the_focus_gets_its_share_of_the_draws():
    captions = [[CAPTIONS[0], *CAPTIONS]] * 50
    chooser = ChunkChooser("blue", 0.7, 0.2)
    drawn = [chooser(captions, generator(0, step)) for step in range(200)]
    first = [d for d in drawn if 0 in d]
    assert all(set(d) == {0} for d in first) and 0.12 < len(first) / 200 < 0.28
    later = Counter(k for d in drawn if 0 not in d for k in d)
    assert set(later) == {1, 2, 3} and 0.67 < later[2] / later.total() < 0.73


def test_an_outer_step_trains_phi_at_phi_plus_theta_and_leaves_theta(model, episodes):
    loss = make_loss(model, episodes)
    model.unet.requires_grad_(True)
    model.injector.initial()  # Θ enters only through the snapshots
    value, figures = loss(0)
    kept = [s.weights.clone() for s in loss.collected(0)[0].states]
    value.backward()
    gradients = {n: p.grad.norm() for n, p in model.unet.named_parameters() if p.grad is not None}
    assert gradients and all(torch.isfinite(g) for g in gradients.values())
    assert figures["loss/t_high"] > 0
    for state, before in zip(loss.collected(0)[0].states, kept, strict=True):
        assert state.weights.distance(before).max() == 0
        assert not any(t.requires_grad for t in state.weights.tensors())
    step = next(s for s in range(2, 20) if 0 not in chosen(loss, s))
    with_theta = float(loss(step)[0].detach())
    model.use_memory(NoMemory())
    without = make_loss(model, episodes)
    assert float(without(step)[0]) != pytest.approx(with_theta, rel=1e-6)


def chosen(loss: SlowFastLoss, step: int) -> list[int]:
    return loss.draw(step)[2]


def test_two_halves_of_a_batch_are_the_whole(model, episodes):
    for pool in (1, 3):
        whole, first, second = (
            float(make_loss(model, episodes, part, pool)(7)[0].detach())
            for part in (slice(None), slice(0, 2), slice(2, 4))
        )
        assert whole == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_outer_loop_draws_from_the_last_inner_loops(model, episodes, monkeypatch):
    """Each sample from any of them, in its own place; those that are there are not walked again."""
    walked = []
    monkeypatch.setattr(slowfast, "inner_loop", lambda *args: walked.append(args[5]) or inner_loop(*args))
    loss = make_loss(model, episodes, pool=3)
    seen = Counter()
    for step in range(8, 10):
        assert torch.isfinite(loss(step)[0])
    for seed in range(100):
        loss.seed = seed
        loops, drawn, _, _ = loss.draw(8)
        seen.update(loops)
        assert drawn == [loss.batches[i][place] for place, i in enumerate(loops)]
    assert walked == [2, 3, 4] and set(seen) == {2, 3, 4} and min(seen.values()) > 100
    assert set(loss.collected(5)) == {3, 4, 5} and walked == [2, 3, 4, 5]
    assert {len(loss.batches[i]) for i in range(6)} == {4} and loss.draw(0)[0] == [0] * 4


def test_chunks_after_pasts_of_several_lengths_share_a_step(text, episodes):
    """A window of twelve frames is full only at the third chunk."""
    wide = make_model(text, make_memory(), chunk_frames=4, context_frames=12, guidance=(1.0, 1.0))
    loss = make_loss(wide, episodes, pool=3)
    step = next(s for s in range(30) if set(loss.draw(s)[2]) == {1, 2})
    torch.manual_seed(0)
    value, figures = loss(step)
    loops, _, chunks, rng = loss.draw(step)
    samples = [
        loss.collected(step // 2)[i].sample(wide.memory, place, k)
        for place, (i, k) in enumerate(zip(loops, chunks, strict=True))
    ]
    assert {len(s.past) for s in samples} == {5, 8} and {"loss/5+4", "loss/8+4"} <= set(figures)
    draws = loss.objective.draw((4, 12, *samples[0].new.shape[1:]), rng)
    for row, sample in enumerate(samples):
        alone, _ = chunk_losses(wide, loss.objective, [sample], draws.part([row]))
        together, _ = chunk_losses(wide, loss.objective, samples, draws)
        assert float(alone) == pytest.approx(float(together[row]), rel=1e-4)
    assert float(value) == pytest.approx(float(together.mean()), rel=1e-5)


def test_memory_use_tells_own_from_other_and_empty(model, episodes):
    made = inner_loop(model, episodes, [1, 3, 5], "ground_truth", seed=0, iteration=0)
    objective = Objective(model.diffusion, model.text, OPTIONS)
    losses = memory_use(model, objective, made, [2, 2, 2], seed=0)
    assert set(losses) == {"own", "other", "empty"} and losses["own"].shape == (3,)
    assert not torch.equal(losses["own"], losses["other"])
    model.use_memory(NoMemory())
    made = inner_loop(model, episodes, [1, 3, 5], "ground_truth", seed=0, iteration=0)
    losses = memory_use(model, objective, made, [2, 2, 2], seed=0)
    assert torch.equal(losses["own"], losses["other"]) and torch.equal(losses["own"], losses["empty"])


def test_noise_on_the_past_changes_it_alone(model, episodes):
    """The same draws otherwise; the new frames, their weight and what a dropped past leaves stay as they are."""
    noised = Objective(model.diffusion, model.text, OmegaConf.merge(OPTIONS, {"past_noise": 0.5}))
    clean = torch.stack([episodes.latents[e][:7] for e in (0, 1)]).float()
    plain_draws, draws = (
        of.draw(clean.shape, generator(0, 0))
        for of in (Objective(model.diffusion, model.text, OPTIONS), noised)
    )
    assert torch.equal(plain_draws.noise, draws.noise) and plain_draws.spoiled(clean, 3) is clean
    spoiled = draws.spoiled(clean, 3)
    assert torch.equal(spoiled[:, 3:], clean[:, 3:])
    level = (spoiled - clean)[:, :3].flatten(1).std(1) / draws.noise[:, :3].flatten(1).std(1)
    torch.testing.assert_close(level, draws.past_noise)
    assert (level > 0).all() and (level < 0.5).all() and level[0] != level[1]
    assert torch.equal(draws.part([1]).spoiled(clean[1:], 3), spoiled[1:])

    def losses(of: Draws, with_past: bool) -> torch.Tensor:
        of = replace(of, with_past=torch.full((2,), with_past))
        return noised.losses(clean, 3, ["go on", "go on"], of)[0].detach()

    assert not torch.equal(losses(draws, True), losses(plain_draws, True))
    assert torch.equal(losses(draws, False), losses(plain_draws, False))


def test_a_memory_of_clean_frames_takes_part(base, episodes):
    model = WorldModel.from_pretrained(base, FirstFrame())
    loss = make_loss(model, episodes)
    step = next(s for s in range(20) if 0 not in chosen(loss, s))
    assert torch.isfinite(loss(step)[0])
    assert loss.model.memory.past(loss.collected(step // 2)[step // 2].states[1]).shape[:2] == (4, 1)


def test_the_oracle_is_told_the_ends_of_the_chunks(base, episodes):
    model = WorldModel.from_pretrained(base, Oracle())
    made = inner_loop(model, episodes, [1, 3], "ground_truth", seed=0, iteration=0)
    for news, state in zip(made.news, made.states, strict=True):
        assert torch.equal(model.memory.past(state)[:, 0], news[:, -1])
    objective = Objective(model.diffusion, model.text, OPTIONS)
    assert set(memory_use(model, objective, made, [2, 2], seed=0)) == {"own", "other"}


def test_a_loss_that_is_not_finite_names_step_and_episodes(model, episodes):
    loss = make_loss(model, episodes)
    with torch.no_grad():
        model.unet.conv_in.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 0 \(iteration 0, episodes \["):
        loss(0)


def test_the_probe_takes_episodes_of_the_lengths_that_are_trained_on(episodes):
    chooser, accelerator = ChunkChooser("blue", 1.0, 0.0), Accelerator(cpu=True)
    counts = Counter(map(len, episodes.segments))
    found, (most, _) = sorted(counts), counts.most_common()[0]
    assert len(found) == 2

    def lengths(count: int, *trained: int) -> list[int]:
        probe = Probe(episodes, chooser, count, 0, accelerator, trained or None)
        assert all(len(episodes.segments[e]) == n for n, group in probe.episodes.items() for e in group)
        return [n for n, group in probe.episodes.items() for _ in group]

    assert [lengths(3, n) for n in found] == [[n] * 3 for n in found]
    assert lengths(6) == [found[0]] * 3 + [found[1]] * 3 and lengths(2) == [most] * 2
    assert lengths(3, 99) == lengths(0) == lengths(1) == []


def test_the_probe_watches_each_length_by_itself(model, episodes):
    chooser, accelerator = ChunkChooser("blue", 1.0, 0.0), Accelerator(cpu=True)
    objective = Objective(model.diffusion, model.text, OPTIONS)
    figures = Probe(episodes, chooser, 4, 0, accelerator)(model, objective)
    assert set(figures) == {f"probe/{k}{n}" for k in ("own", "other", "empty") for n in ("", "_2", "_3")}
    for kind in ("own", "other", "empty"):
        both = figures[f"probe/{kind}_2"] + figures[f"probe/{kind}_3"]
        assert figures[f"probe/{kind}"] == pytest.approx(both / 2)
    alone = Probe(episodes, chooser, 2, 0, accelerator, [3])(model, objective)
    assert alone == {f"probe/{k}": pytest.approx(figures[f"probe/{k}_3"]) for k in ("own", "other", "empty")}


def test_the_probe_sees_the_averaged_weights(tmp_path):
    learner = Learner(nn.Linear(2, 2), tmp_path, 4, 1e-2, 1, 0.5)
    learner.network(torch.ones(1, 2)).sum().backward()
    learner.apply()
    trained = learner.network.weight.detach().clone()
    learner.average.module.weight.data.fill_(0.25)
    with learner.on_average():
        assert torch.equal(learner.network.weight, torch.full((2, 2), 0.25))
    assert torch.equal(learner.network.weight, trained)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data, base, tmp_path_factory) -> Path:
    AcceleratorState._reset_state(True)
    path = tmp_path_factory.mktemp("runs") / "straight"
    assert loop(data, base, path) == 0
    return path


def test_a_finished_loop_is_a_model_with_its_theta0(finished, base):
    rows = [json.loads(r) for r in (finished / "training/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4]
    assert all({"probe/own", "probe/other", "probe/empty"} <= set(r) for r in rows)
    model = WorldModel.from_pretrained(finished / "model", TempLora(rank=2, alpha=2))
    stored = load_file(finished / "model/theta0.safetensors")
    assert torch.equal(next(iter(model.theta0.state_dict().values())), next(iter(stored.values())).float())
    before = load_file(base / "unet/diffusion_pytorch_model.safetensors")
    after = load_file(finished / "model/unet/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert json.loads((finished / "model/metrics.json").read_text())["memory"] == "temp_lora"


def test_weights_remember_how_their_memory_was_written(finished, data, base, tmp_path):
    """What planning gives no option for is as the loop had it; what it gives stands."""
    told = ("iterations=1", "probe_episodes=0", "memory.begins=theta", "memory.timesteps=[900,950]")
    assert loop(data, base, tmp_path / "one", *told) == 0
    folder = tmp_path / "one/model"
    kept = json.loads((folder / "memory.json").read_text())["options"]
    assert kept == {
        **TempLora(rank=2, alpha=2).kept(),
        "begins": "theta",
        "timesteps": [900, 950],
        "betas": [0.9, 0.999],
    }
    memory = WorldModel.from_pretrained(folder, TempLora(steps=2)).memory
    assert memory.kept() == TempLora(**kept | {"steps": 2}).kept()
    shuffled = WorldModel.from_pretrained(folder, Shuffled(TempLora())).memory
    assert shuffled.memory.kept() == TempLora(**kept).kept() and shuffled.name == "shuffled temp_lora"
    options = [o for o in TINY if not o.startswith("memory.")]
    with pytest.raises(SystemExit, match="0"):  # the next pass goes on with them
        main("slowfast_loop", run, [f"data={data}", f"weights={folder}", f"run_dir={tmp_path}/two", *options])
    assert json.loads((tmp_path / "two/model/memory.json").read_text())["options"] == kept
    other = WorldModel.from_pretrained(folder, TempLora(objective="conditional", rank=2, alpha=2)).memory
    assert other.kept()["begins"] == "theta0", "another memory's options are none of its own"
    with pytest.raises(ValueError, match=r"optimizer_state=keep, optimizer=normalized") as error:
        WorldModel.from_pretrained(folder, TempLora(optimizer_state="keep"))
    assert "get it again" not in str(error.value), "it is not the file that is at fault"
    version = WorldModel.from_pretrained(folder).version
    (folder / "memory.json").write_text('{"memory": "temp_lora", "options": {"stride": 3}}')
    assert WorldModel.from_pretrained(folder).version != version, "its runs are others"
    with pytest.raises(CheckpointError, match=r"memory.json: .*'stride'; get it again"):
        WorldModel.from_pretrained(folder, TempLora())
    (folder / "memory.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds theta0.safetensors without memory.json"):
        WorldModel.from_pretrained(folder, TempLora())


def test_the_loop_leaves_what_is_written_as_it_was(finished, base, episodes):
    """Θ of the finished model is the base's, read by another Φ; without the writer it would not be."""
    models = {n: WorldModel.from_pretrained(n, TempLora(rank=2, alpha=2)) for n in (base, finished / "model")}
    looped = models[finished / "model"]
    models[base].use_memory(TempLora(rank=2, alpha=2, steps=1), looped.theta0)
    written = [inner_loop(m, episodes, [1, 3], "ground_truth", 0, 0).states[2] for m in models.values()]
    assert float(written[0].weights.distance(written[1].weights).max()) == 0
    unet = load_file(base / "unet/diffusion_pytorch_model.safetensors")
    kept = load_file(finished / "model/writer/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(unet[k], kept[k]) for k in unet)
    looped.writer, looped.writing = None, looped.diffusion
    looped.use_memory(TempLora(rank=2, alpha=2), looped.theta0)
    drifted = inner_loop(looped, episodes, [1, 3], "ground_truth", 0, 0).states[2]
    assert float(drifted.weights.distance(written[0].weights).min()) > 0


def test_the_command_prints_how_to_plan_with_the_result(finished, data, base, capsys):
    assert loop(data, base, finished) == 0
    out = capsys.readouterr().out
    assert "finished already" in out
    assert f"planner.run task=cube_return memory=temp_lora weights={finished / 'model'}" in out


def test_an_interrupted_loop_resumes_bit_for_bit(finished, data, base, tmp_path, capsys):
    """Ctrl-C in the second iteration."""
    calls = 0

    def count(module, _) -> None:
        nonlocal calls
        if isinstance(module, UNet3DConditionModel) and module.training:
            calls += 1
            if calls == 6:
                signal.raise_signal(signal.SIGINT)

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        assert loop(data, base, tmp_path / "run") == 130
    finally:
        hook.remove()
    step = int(load_file(tmp_path / "run" / LAST)["step"]) if (tmp_path / "run" / LAST).is_file() else 0
    assert step < 4
    assert loop(data, base, tmp_path / "run") == 0
    if step:
        assert "going on at iteration 1 of 2" in capsys.readouterr().out
    left, right = load_file(finished / LAST), load_file(tmp_path / "run" / LAST)
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


@pytest.mark.parametrize("memory", ["none", "first_frame", "anchor", "oracle"])
def test_the_loop_takes_any_memory(data, base, tmp_path, memory):
    argv = [o for o in TINY if not o.startswith("memory.")]
    with pytest.raises(SystemExit) as end:
        main(
            "slowfast_loop",
            run,
            [f"data={data}", f"weights={base}", f"run_dir={tmp_path}/r", *argv, f"memory={memory}"],
        )
    assert end.value.code == 0
    assert (tmp_path / "r/model/memory.safetensors").is_file() == (memory == "anchor")


def test_a_module_that_a_step_does_not_use_gets_gradients_of_zero(base, episodes):
    """Processes that share a step wait for every weight's gradient; first chunks have no anchor yet."""
    model = WorldModel.from_pretrained(base, Anchor(), untrained_memory=True)
    loss = make_loss(model, episodes)
    loss.chooser = ChunkChooser("blue", 0.6, first_share=1.0)
    loss(0)[0].backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.memory.module.parameters())


def test_writer_self_leaves_an_earlier_loops_writer(finished, data, tmp_path):
    assert (finished / "model/writer").is_dir()
    assert loop(data, finished / "model", tmp_path / "run", "writer=self", "pool=1", "iterations=1") == 0
    assert not (tmp_path / "run/model/writer").exists()


def test_keys_that_tell_places_apart_belong_to_the_model(data, base, tmp_path):
    short = ("iterations=1", "probe_episodes=0")
    assert loop(data, base, tmp_path / "one", "theta0_keys=discriminant", *short) == 0
    assert loop(data, tmp_path / "one/model", tmp_path / "two", *short) == 0
    assert loop(data, base, tmp_path / "three", "theta0_keys=random", *short) == 0
    one, two, three = (load_file(tmp_path / n / "model/theta0.safetensors") for n in ("one", "two", "three"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    again = (
        "theta0_keys=discriminant",
        *short,
    )  # Φ has learned to read what is written under the keys it has
    assert loop(data, tmp_path / "three/model", tmp_path / "four", *again) == 0
    four = load_file(tmp_path / "four/model/theta0.safetensors")
    assert all(torch.equal(three[k], four[k]) for k in three)
    assert any(not torch.equal(one[k], three[k]) for k in one)


def test_other_weights_at_the_same_place_are_another_run(finished, data, base, tmp_path, capsys):
    folder = shutil.copytree(base, tmp_path / "base")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    assert loop(data, folder, run_dir, "iterations=1", "probe_episodes=0") == 0
    shutil.copytree(finished / "model/unet", folder / "unet", dirs_exist_ok=True)
    assert loop(data, folder, run_dir, "iterations=1", "probe_episodes=0") == 1
    assert "belongs to another configuration (versions.world_model: " in capsys.readouterr().err


@pytest.mark.long
def test_two_processes_share_a_memory_with_weights_of_its_own(data, base, tmp_path):
    """Steps on first chunks beside others."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [o for o in TINY if not o.startswith("memory.")]
    options += ["memory=anchor", "first_share=0.5", "outer.steps=4", "probe_episodes=4"]
    argv = [f"data={data}", f"weights={base}", f"run_dir={tmp_path}/two", *options]
    done = subprocess.run(
        [*command, "-m", "world_model.slowfast_loop", *argv], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_two_processes_train_as_one(finished, data, base, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = [f"data={data}", f"weights={base}", f"run_dir={tmp_path}/two", *TINY, "probe_episodes=4"]
    done = subprocess.run(
        [*command, "-m", "world_model.slowfast_loop", *argv], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = load_file(finished / LAST), load_file(tmp_path / "two" / LAST)
    worst = max(float((one[k] - two[k]).abs().max()) for k in one if k.startswith("network."))
    assert worst < 1e-4


def test_bad_input_is_one_line(data, base, tmp_path, capsys):
    short = make_dataset(tmp_path / "short", (1, 1, 2, 2))
    for overrides, expected, code in (
        (["inner=dreamt"], "inner=dreamt: expected ground_truth, generated or mixed", 2),
        (["inner=mixed"], "pool=2, inner=mixed, writer=base: earlier inner loops", 2),
        (["writer=self"], "expected pool=1 without", 2),
        (["pool=0"], "pool=0", 2),
        (["theta0_keys=own_ones"], "theta0_keys=own_ones: expected random or discriminant", 2),
        (["batch_size=30"], "batch_size=30", 1),
        ([f"data={short}"], "single chunk", 1),
        ([f"data={tmp_path}/absent"], "python -m envs.collect", 1),
        ([f"weights={tmp_path}/absent"], "is missing", 1),
    ):
        assert loop(data, base, tmp_path / f"run{len(overrides[0])}", *overrides) == code
        err = capsys.readouterr().err.strip()
        assert expected in err.splitlines()[-1], err
        assert "Traceback" not in err
    for option in (f"data={tmp_path}/absent", f"data={short}", "batch_size=30"):
        assert loop(data, base, tmp_path / "nothing", option) == 1
        assert not (tmp_path / "nothing").exists(), (
            "nothing was encoded, and a directory is left by no bad start"
        )


def test_a_share_outside_its_range_is_named(text):
    model = make_model(text)
    wrong = OmegaConf.merge(OPTIONS, {"high_from": 1.5})
    with pytest.raises(ValueError, match=r"high_from=1.5: expected a share from 0 to 1"):
        Objective(model.diffusion, model.text, wrong)
