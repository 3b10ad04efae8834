"""Latents of episodes: which are encoded, by which process, and when those kept are taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import make_autoencoder, make_dataset, make_episode

from tasks.dataset import DatasetWriter, load_episodes
from world_model import latents
from world_model.autoencoder import FrameAutoencoder
from world_model.chunks import LatentEpisodes
from world_model.data.footage import Footage
from world_model.latents import KeptLatents
from world_model.training import WAIT, CheckpointError, accelerator_on


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six episodes of two or three subgoals; no test changes it."""
    return make_dataset(tmp_path_factory.mktemp("data") / "episodes")


@pytest.fixture
def kept(data, tmp_path, monkeypatch) -> KeptLatents:
    """Five episodes in files of two."""
    monkeypatch.setattr(latents, "PART", 2)
    return KeptLatents(Footage([load_episodes(data)]), make_autoencoder(), range(5), tmp_path / "latents")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def process(index: int, count: int) -> Any:
    return SimpleNamespace(
        process_index=index, num_processes=count, is_main_process=index == 0, wait_for_everyone=lambda: None
    )


def test_parts_hold_what_the_whole_does(data, kept):
    whole = LatentEpisodes(load_episodes(data), make_autoencoder(), range(5))
    parts = torch.cat([kept.read(part) for part in range(3)])
    assert names(kept.folder) == ["00000.safetensors", "00001.safetensors", "00002.safetensors"]
    torch.testing.assert_close(parts, torch.cat(whole.latents), rtol=2e-3, atol=2e-3)


def test_every_process_encodes_its_share_and_none_what_is_there(kept, capsys):
    kept.encode(process(1, 2))
    assert names(kept.folder) == ["00001.safetensors"] and capsys.readouterr().err == ""
    kept.encode(process(0, 2))
    assert len(names(kept.folder)) == 3 and "encoding: 100%" in capsys.readouterr().err
    first, *others = sorted(kept.folder.iterdir())
    first.unlink()  # a run that was killed before it came to this one
    written = [p.stat().st_mtime_ns for p in others]
    kept.encode(process(0, 1))
    assert first.is_file() and [p.stat().st_mtime_ns for p in others] == written
    capsys.readouterr()
    kept.encode(process(0, 1))
    assert capsys.readouterr().err == ""


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


def test_processes_wait_longer_than_an_autoencoder_trains():
    AcceleratorState._reset_state(True)
    made = accelerator_on(torch.device("cpu"), "bf16")
    assert cast(Any, made).init_handler.timeout == WAIT and made.mixed_precision == "bf16"
    AcceleratorState._reset_state(True)
