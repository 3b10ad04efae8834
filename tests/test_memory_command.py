"""`python -m world_model.memory`: saved memories shown, compared and undone, and the planner's side of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from invoke import command
from tiny import CAPTIONS, frames, make_memory, make_model, make_text

from tasks.commands import OptionError, compose
from world_model.memory.__main__ import run
from world_model.memory.base import MemoryFileError
from world_model.memory.first_frame import FirstFrame
from world_model.memory.history import undo
from world_model.model import Rollout, WorldModel


def played(model: WorldModel, folder: Path, chunks: int = 2) -> list[Rollout]:
    """An episode of each of two seeds, its memory saved at every chunk."""
    rollout = model.start(frames(2), [3, 4])
    rollouts = [rollout]
    model.save_memory(rollout, folder)
    for k in range(chunks):
        rollout, chunk = model.imagine(rollout, [CAPTIONS[k]] * 2)
        rollouts.append(rollout := model.remember(rollout, chunk))
        model.save_memory(rollout, folder)
    return rollouts


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[WorldModel, Path, list[Rollout]]:
    """A model whose folder is ``model``, and its episodes' memories in ``memory``."""
    folder = tmp_path_factory.mktemp("saved")
    model = make_model(make_text(), make_memory(measure_effect=True), sampling_steps=1)
    model.save_pretrained(folder / "model", torch.float32)
    return model, folder, played(model, folder / "memory")


def output(capsys, *options: str) -> str:
    run(compose("memories", [*options, "device=cpu"]))
    return capsys.readouterr().out


def test_show_names_kind_chunks_norm_and_effect(saved, capsys):
    _, folder, _ = saved
    episode = folder / "memory" / "episode_000003"
    assert sorted(p.name for p in episode.iterdir()) == ["chunk_00", "chunk_01", "chunk_02", "last"]
    lines = output(capsys, f"folder={episode}").splitlines()
    assert len(lines) == 4 and lines[0].endswith("0 chunks remembered, ‖Θ‖ 0.0000, effect not measured")
    manifest = json.loads((episode / "chunk_02" / "memory.json").read_text())
    assert "temp_lora, 2 chunks remembered, ‖Θ‖ " in lines[2]
    assert lines[2].endswith(f"effect {manifest['effect'][-1]:.4f}") and manifest["effect"][-1] > 0
    assert output(capsys, f"folder={episode / 'chunk_01'}").strip() == lines[1]


def test_compare_measures_distance_and_effect(saved, capsys):
    _, folder, rollouts = saved
    one, other = (folder / "memory" / f"episode_{seed:06d}" / "chunk_02" for seed in (3, 4))
    options = ["action=compare", f"weights={folder / 'model'}"]
    lines = output(capsys, *options, f"a={one}", f"b={other}").splitlines()
    theta = rollouts[-1].memory.weights
    distance = float(theta.select([0]).distance(theta.select([1])))
    assert lines[2] == f"‖Θ_a − Θ_b‖ {distance:.4f}" and distance > 0
    figures = [float(x) for x in lines[3].split() if x[0].isdigit()]
    assert len(figures) == 3 and min(figures) > 0
    same = output(capsys, *options, f"a={one}", f"b={one}").splitlines()
    assert same[2].endswith(" 0.0000") and same[3].endswith("a against b 0.0000")


def test_undo_makes_an_earlier_memory_the_last_again(saved, capsys):
    model, folder, rollouts = saved
    episode = folder / "memory" / "episode_000004"
    start = model.start(frames(2), [3, 4])
    for chunk in (1, 0, 2):
        said = output(capsys, "action=undo", f"folder={episode}", f"chunk={chunk}")
        assert f"{chunk} chunks remembered" in said and f"load_memory={episode / 'last'}" in said
        begun = model.load_memory(start, episode / "last")
        expected = rollouts[chunk].memory.weights.select([1, 1])
        assert len(begun) == 2 and float(begun.memory.weights.distance(expected).max()) == 0
        assert begun.memory.updates == (chunk, chunk)
    assert sorted(p.name for p in episode.iterdir()) == ["chunk_00", "chunk_01", "chunk_02", "last"]


def test_an_imagined_chunk_depends_on_the_memory_that_is_loaded(saved):
    model, folder, _ = saved
    start = model.start(frames(1), [3])
    begun = model.load_memory(start, folder / "memory" / "episode_000003" / "chunk_02")
    empty = model.load_memory(start, folder / "memory" / "episode_000003" / "chunk_00")
    base, with_theta, without = (model.imagine(r, CAPTIONS[:1])[1].latents for r in (start, begun, empty))
    assert float((base - with_theta).abs().max()) > 1e-4 and bool((base == without).all())


def test_frames_are_shown_but_have_no_weights_to_compare(tmp_path, capsys):
    model = make_model(make_text(), FirstFrame(), sampling_steps=1)
    played(model, tmp_path, chunks=1)
    episode = tmp_path / "episode_000003"
    assert output(capsys, f"folder={episode / 'last'}").strip().endswith("first_frame, 1 frames kept")
    with pytest.raises(MemoryFileError, match="memory=first_frame has no low-rank weights"):
        output(capsys, "action=compare", f"a={episode / 'last'}", f"b={episode / 'last'}")
    undo(episode, 0)
    assert model.memory.past(model.memory.load_episode(episode / "last")) is None


def test_what_can_be_wrong_is_one_line(saved, tmp_path, capsys):
    model, folder, _ = saved
    good = folder / "memory" / "episode_000003" / "chunk_01"
    played(make_model(make_text(), make_memory(rank=1), sampling_steps=1), tmp_path, chunks=0)
    small = tmp_path / "episode_000003" / "last"
    other = make_model(make_text(), make_memory(), sampling_steps=1)
    other.unet.conv_out.bias.data += 1
    other.save_pretrained(tmp_path / "model", torch.float32)
    compare = ["action=compare", f"a={good}", f"weights={tmp_path / 'model'}"]
    wrong = [
        (["action=dance"], OptionError, "action=dance: have show, compare, undo"),
        (["action=show"], OptionError, "folder=null: action=show needs folder=FOLDER"),
        (["action=undo", f"folder={good.parent}"], OptionError, "chunk=None: expected an integer"),
        (["action=undo", f"folder={good.parent}", "chunk=7"], MemoryFileError, "after chunk=7; have chunks 0, 1, 2"),
        (["action=undo", f"folder={tmp_path}", "chunk=1"], MemoryFileError, "it holds no saved chunks"),
        ([f"folder={tmp_path}"], MemoryFileError, "no saved memory and no episode's folder"),
        ([*compare, f"b={tmp_path / 'none'}"], MemoryFileError, "none/memory.json does not exist"),
        ([*compare, f"b={small}"], MemoryFileError, "has rank=2, .* has rank=1; only memories of one model"),
        ([*compare, f"b={good}"], MemoryFileError, "base_sha256"),
    ]  # fmt: skip
    for options, kind, says in wrong:
        with pytest.raises(kind, match=says) as error:
            output(capsys, *options)
        assert "\n" not in str(error.value)
    with pytest.raises(MemoryFileError, match="rank=1"):
        model.load_memory(model.start(frames(1), [3]), small)


@pytest.mark.slow
def test_the_planner_saves_memories_and_starts_from_one(tmp_path):
    base = ["episodes=1", "batch_size=1", "media=0", "sampling_steps=1", "memory.steps=1"]
    command("planner.run", *base, "memory=temp_lora", "save_memory=true", f"run_dir={tmp_path / 'run'}")
    (episode,) = (tmp_path / "run" / "memory").iterdir()
    assert {"chunk_00", "chunk_04", "last"} <= {p.name for p in episode.iterdir()}
    undone = command("world_model.memory", "action=undo", f"folder={episode}", "chunk=1")
    assert "1 chunks remembered" in undone.stdout
    begun = [*base, f"load_memory={episode / 'last'}", f"run_dir={tmp_path / 'begun'}"]
    assert "starts from memory" in command("planner.run", *begun, "memory=temp_lora").stdout
    wrong = command(
        "planner.run", *base[:-1], "memory=none", f"load_memory={episode / 'last'}",
        f"run_dir={tmp_path / 'wrong'}", check=False,
    )  # fmt: skip
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1
    assert "holds a memory of kind 'temp_lora', expected 'none'" in wrong.stderr
