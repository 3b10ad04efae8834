"""Latents of episodes: which are encoded, by which process, and when those kept are taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_autoencoder, make_dataset, make_episode

from tasks.dataset import DatasetWriter, load_episodes
from world_model import latents
from world_model.autoencoder import FrameAutoencoder
from world_model.chunks import LatentEpisodes
from world_model.data.footage import Footage
from world_model.latents import KeptLatents
from world_model.training import CheckpointError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six episodes of two or three subgoals; no test changes it."""
    return make_dataset(tmp_path_factory.mktemp("data") / "episodes")


@pytest.fixture
def kept(data, tmp_path, monkeypatch) -> KeptLatents:
    """Six episodes of 9 or 13 frames, in files that are full from 20 on."""
    monkeypatch.setattr(latents, "PART", 20)
    made = KeptLatents(Footage([load_episodes(data)]), make_autoencoder(), range(6), tmp_path / "latents")
    assert made.parts == [[0, 1], [2, 3, 4], [5]]
    return made


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def process(index: int, count: int) -> Any:
    return SimpleNamespace(process_index=index, num_processes=count)


def test_parts_hold_what_the_whole_does(data, kept):
    whole = LatentEpisodes(load_episodes(data), make_autoencoder(), range(6))
    kept.encode()
    assert names(kept.folder) == ["00000.safetensors", "00001.safetensors", "00002.safetensors"]
    for part, episode in zip(kept.read(), whole.latents, strict=True):
        torch.testing.assert_close(part, episode, rtol=2e-3, atol=2e-3)


def test_every_process_encodes_its_share_and_waits(kept, capsys, monkeypatch):
    waited: list[list[str]] = []
    monkeypatch.setattr(latents, "wait", lambda _: waited.append(names(kept.folder)))
    kept.encode(process(1, 2))
    assert waited == [["00001.safetensors"]] and capsys.readouterr().err == ""
    with pytest.raises(
        CheckpointError, match=r"00000.safetensors is missing: all machines need run_dir on a"
    ):
        kept.read()
    kept.encode(process(0, 2))
    assert len(waited[1]) == 3 and "encoding: 100%" in capsys.readouterr().err
    first, *others = sorted(kept.folder.iterdir())
    first.unlink()  # a run that was killed before it came to this one
    written = [p.stat().st_mtime_ns for p in others]
    kept.encode()
    assert first.is_file() and [p.stat().st_mtime_ns for p in others] == written
    capsys.readouterr()
    kept.encode()
    assert capsys.readouterr().err == "" and len(waited) == 2


def test_two_processes_share_the_work(data, kept, tmp_path):
    """One of them comes two seconds late, and the other finds its files all the same."""
    script, folder = Path(__file__).with_name("encoding_process.py"), tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run([*command, data, folder], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    kept.encode()
    for file in kept.folder.iterdir():
        assert torch.equal(load_file(folder / file.name)["latents"], load_file(file)["latents"])
    assert sorted(done.stdout.splitlines()) == [
        "0 wrote ['00000.safetensors', '00002.safetensors'] and read 6, waits 1 day, 0:00:00",
        "1 wrote ['00001.safetensors'] and read 6, waits 1 day, 0:00:00",
    ]


def test_latents_are_kept_for_the_same_data_and_autoencoder_alone(data, tmp_path):
    cache, autoencoder = tmp_path / "latents", make_autoencoder()
    first = LatentEpisodes(load_episodes(data), autoencoder, [0, 1], cache)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    again = LatentEpisodes(load_episodes(data), make_autoencoder(), [0, 1], cache)
    assert all(torch.equal(a, b) for a, b in zip(first.latents, again.latents, strict=True))
    writer = DatasetWriter(tmp_path / "others", 5, ("x", "gripper"))
    for seed, count in enumerate((2, 3)):  # as many frames, other pictures
        writer.append(make_episode(count, seed=10 + seed))
    others = load_episodes(writer.finish())
    assert others.lengths.tolist() == load_episodes(data).lengths[:2].tolist()
    shifted = FrameAutoencoder(autoencoder.vae, 2, [0.2, -0.2, 0.0, 0.3], 1.5)
    trained = make_autoencoder()
    trained.vae.decoder.conv_out.bias.data += 1
    for episodes, dataset, network in (
        ([0, 1], others, autoencoder),
        ([0, 2], load_episodes(data), autoencoder),
        ([0, 1], load_episodes(data), shifted),
        ([0, 1], load_episodes(data), trained),
    ):
        with pytest.raises(CheckpointError, match=f"{file} is made of other data, or by another autoenc"):
            LatentEpisodes(dataset, network, episodes, cache)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=str(file)):
        LatentEpisodes(load_episodes(data), autoencoder, [0, 1], cache)
