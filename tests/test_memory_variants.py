"""Every memory behind the one protocol, on a tiny real world model: what it keeps, shows and learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from tiny import (
    ADAM,
    CAPTIONS,
    CHANNELS,
    WIDTH,
    frames,
    latents,
    make_model,
    make_text,
)
from torch import Tensor

from tasks.commands import CONFIGS, compose
from world_model.diffusion import CLEAN
from world_model.memory.anchor import Anchor
from world_model.memory.base import AnyMemory, MemoryFileError, Sizes
from world_model.memory.context import Context
from world_model.memory.fast_learning import NAMES
from world_model.memory.first_frame import FirstFrame
from world_model.memory.keys import content_keys, recorded
from world_model.memory.lora import LoraWeights, tensors_sha256
from world_model.memory.none import NoMemory
from world_model.memory.oracle import Oracle
from world_model.memory.retrieval import Retrieval
from world_model.memory.shuffled import Shuffled
from world_model.memory.temp_lora import TempLora
from world_model.model import WorldModel
from world_model.training import CheckpointError

SIZES = Sizes(CHANNELS, WIDTH, past_frames=2)
SMALL = ADAM | {"rank": 2, "alpha": 2, "steps": 2, "learning_rate": 1e-2}
VARIANTS = {
    "none": NoMemory,
    "first_frame": FirstFrame,
    "anchor": lambda: Anchor(hidden=4, grid=2),
    "context": lambda: Context(3),
    "retrieval": lambda: Retrieval(2, 1),
    "shuffled": lambda: Shuffled(TempLora(**SMALL)),
    "temp_lora_replay": lambda: TempLora(**SMALL, replay=1),
    "temp_lora_keep": lambda: TempLora(**SMALL, optimizer_state="keep", measure_effect=True),
    "temp_lora_sgd": lambda: TempLora(**SMALL | {"optimizer": "sgd"}),
    "temp_lora_normalized": lambda: TempLora(**SMALL | {"optimizer": "normalized", "draws": "shared"}),
    "temp_lora_original": lambda: TempLora(**SMALL, objective="conditional"),
    "temp_lora_sequence": lambda: TempLora(**SMALL, objective="whole_sequence"),
}
WITH_THETA = [n for n in VARIANTS if n.startswith(("temp_lora", "shuffled"))]


@pytest.fixture(scope="module")
def text() -> Any:
    return make_text()


@pytest.fixture(scope="module")
def model(text) -> WorldModel:
    """In double precision; every test attaches its own memory."""
    made = make_model(text)
    made.unet.double()
    return made


def attached(model: WorldModel, memory: AnyMemory) -> AnyMemory:
    model.use_memory(memory)
    if memory.spec:
        theta0 = model.injector.initial().map(lambda x: x.double())
        memory.bind(model.injector, theta0, Sizes(CHANNELS, WIDTH, model.past_frames))
    return memory


def words(batch: int, seed: int = 3) -> Tensor:
    return torch.randn(batch, 1, WIDTH, generator=torch.Generator().manual_seed(seed)).double()


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


EPISODE = latents(3, 7, seed=1).double()  # 3 episodes of a first frame and 3 chunks of 2 frames
CHUNKS = [(EPISODE[:, :1], EPISODE[:, 1:3]), (EPISODE[:, 1:3], EPISODE[:, 3:5])]


def learned(memory: AnyMemory, model: WorldModel, rows: list[int], chunks: int = 2) -> Any:
    state, generators = memory.reset(len(rows)), seeded(*rows)
    for past, new in CHUNKS[:chunks]:
        state = memory.update(state, model.diffusion, past[rows], new[rows], words(3)[rows], generators)
    return state


def seen(memory: AnyMemory, state: Any) -> list[Tensor]:
    """All that the world model gets of a state."""
    weights = memory.weights(state)
    parts = [memory.past(state), memory.tokens(state), *(weights.tensors() if weights else [])]
    return [p.detach() for p in parts if p is not None]


def assert_seen(memory: AnyMemory, one: Any, other: Any, atol: float = 0.0) -> None:
    for x, y in zip(seen(memory, one), seen(memory, other), strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0.0)


# --- the protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "shuffled"])  # which mixes episodes
def test_a_batch_equals_single_episodes_and_states_join_and_part(model, name, tmp_path):
    memory = attached(model, VARIANTS[name]())
    together, alone = learned(memory, model, [0, 1, 2]), [learned(memory, model, [i]) for i in range(3)]
    joined = memory.concat(alone)
    assert_seen(memory, together, joined, atol=1e-6)
    for i in range(3):
        assert_seen(memory, memory.select(joined, [i]), alone[i])
        assert_seen(memory, memory.select(together, [i]), alone[i], atol=1e-6)
    assert_seen(memory, memory.select(together, [2, 0]), memory.concat([alone[2], alone[0]]), atol=1e-6)
    if name != "none":
        first, second = (seen(memory, memory.select(together, [i]))[-1] for i in (0, 1))
        assert name == "anchor" or not torch.allclose(first, second)
    again = memory.load_state_dict(memory.state_dict(together))
    assert_seen(memory, again, together)
    memory.save_episode(together, 1, tmp_path / "memory")
    loaded = memory.load_episode(tmp_path / "memory")
    assert_seen(memory, loaded, memory.select(together, [1]))
    # What is not shown counts as well: both learn the same from the next chunk.
    chunk = EPISODE[1:2, 3:5], EPISODE[1:2, 5:7]
    ends = [
        memory.update(s, model.diffusion, *chunk, words(1), seeded(9))
        for s in (memory.select(together, [1]), memory.select(again, [1]), loaded)
    ]
    assert_seen(memory, ends[0], ends[1])
    assert_seen(memory, ends[0], ends[2])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_state_is_a_value_without_a_graph_and_phi_is_untouched(model, name):
    memory = attached(model, VARIANTS[name]())
    before = tensors_sha256(model.unet.state_dict())
    state = learned(memory, model, [0, 1], chunks=1)
    kept = [x.clone() for x in seen(memory, state)]
    past, new = CHUNKS[1]
    with torch.inference_mode():
        memory.update(state, model.diffusion, past[:2], new[:2], words(2), seeded(0, 1))
    assert all(map(torch.equal, kept, seen(memory, state)))
    assert not any(t.requires_grad for t in memory.state_dict(state).values())
    assert tensors_sha256(model.unet.state_dict()) == before
    assert all(p.grad is None for p in model.unet.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_an_episode_is_imagined_with_every_memory(text, name):
    model = make_model(text, VARIANTS[name](), sampling_steps=1)
    rollout = model.start(frames(2), [3, 4])
    for k in range(3):
        rollout, chunk = model.imagine(rollout, [CAPTIONS[k]] * 2)
        assert torch.isfinite(chunk.latents).all()
        rollout = model.remember(rollout, chunk)


def test_episodes_at_different_chunks_share_a_batch(model):
    for name in ("context", "retrieval", "anchor", "first_frame", *WITH_THETA):
        memory = attached(model, VARIANTS[name]())
        short, long = (learned(memory, model, [0, 1], chunks=n) for n in (1, 2))
        mixed = memory.concat([memory.select(short, [0]), memory.select(long, [1])])
        if name != "shuffled":
            assert_seen(memory, memory.select(mixed, [0]), memory.select(short, [0]))
        assert_seen(memory, mixed, memory.load_state_dict(memory.state_dict(mixed)))
    memory = attached(model, Anchor())
    mixed = memory.concat([memory.reset(1), learned(memory, model, [0])])
    assert memory.tokens(mixed).shape == (2, 1, WIDTH)
    memory = attached(model, FirstFrame())
    with pytest.raises(ValueError, match="memory=first_frame: 1 of 2 episodes have 1 extra past") as error:
        memory.concat([memory.reset(1), learned(memory, model, [0])])
    assert "\n" not in str(error.value)
    memory = attached(model, VARIANTS["temp_lora_keep"]())
    mixed = memory.concat([memory.reset(1), learned(memory, model, [0])])
    assert mixed.updates == (0, 2) and mixed.effect[0].isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"episodes after \[0, 2\] updates"):
        memory.update(mixed, model.diffusion, *(x[:2] for x in CHUNKS[1]), words(2), seeded(0, 1))


# --- frames ----------------------------------------------------------------------------------------


def shown(memory: AnyMemory, chunks: int) -> list[int] | None:
    """Which frames of an episode (of 1 + 2 · chunks) are extra past after so many chunks."""
    memory.bind(None, None, SIZES)
    sequence, state = latents(1, 1 + 2 * chunks, seed=5), memory.reset(1)
    for k in range(chunks):
        past, new = sequence[:, max(0, 2 * k - 1) : 2 * k + 1], sequence[:, 2 * k + 1 : 2 * k + 3]
        state = memory.update(state, None, past, new, words(1), seeded(0))
    past = memory.past(state)
    if past is None:
        return None
    return [int((sequence[0] - f).flatten(1).norm(dim=1).argmin()) for f in past[0]]


def test_which_frames_are_extra_past():
    assert [shown(FirstFrame(), n) for n in (0, 1, 3)] == [None, [0], [0]]
    assert [shown(Context(3), n) for n in range(4)] == [None, [0, 0, 0], [0, 1, 2], [2, 3, 4]]
    assert [shown(Retrieval(5, 1), n) for n in (0, 1, 3)] == [None, [0] * 5, [0, 1, 2, 3, 4]]
    assert shown(Retrieval(2, 2), 3) in ([0, 2], [0, 4], [2, 4])


def test_a_window_longer_than_the_episode_shows_its_first_frame():
    for memory in (Context(2), Retrieval(2, 1)):
        memory.bind(None, None, Sizes(CHANNELS, WIDTH, past_frames=8))
        past, new = latents(1, 1), latents(1, 2, seed=1)
        state = memory.update(memory.reset(1), None, past, new, words(1), seeded(0))
        assert torch.equal(memory.past(state), past.expand(-1, 2, -1, -1, -1))


def test_retrieval_finds_the_most_similar_frames_in_time_order():
    memory = Retrieval(2, 1)
    memory.bind(None, None, SIZES)
    sequence = latents(1, 8, seed=2)
    sequence[:, 1] = 3 * sequence[:, 7]  # cosine similarity knows no length
    sequence[:, 4] = sequence[:, 7] + 0.1 * sequence[:, 4]
    sequence[:, 6] = sequence[:, 7]  # still in the ordinary past, the last two
    state = memory.update(memory.reset(1), None, sequence[:, :2], sequence[:, 2:], words(1), seeded(0))
    assert torch.equal(memory.past(state), sequence[:, [1, 4]])


def test_an_episode_that_starts_from_a_saved_memory_keeps_both():
    memory = Context(4)
    memory.bind(None, None, SIZES)
    old = memory.update(memory.reset(1), None, latents(1, 1), latents(1, 2, seed=1), words(1), seeded(0))
    start, new = latents(1, 1, seed=7), latents(1, 2, seed=8)
    after = memory.update(old, None, start, new, words(1), seeded(0))
    expected = torch.cat([latents(1, 1), latents(1, 2, seed=1), start], 1)
    assert torch.equal(memory.past(after), torch.cat([expected[:, :1], expected[:, :-1], start], 1)[:, -4:])


def test_the_first_frame_is_one_more_clean_past_frame_in_every_step(text):
    model = make_model(text, FirstFrame())
    rollout = model.start(frames(2), [3, 4])
    first = rollout.past
    _, chunk = model.imagine(rollout, CAPTIONS[:2])
    rollout = model.remember(rollout, chunk)
    inputs: list[Tensor] = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    try:
        model.imagine(rollout, CAPTIONS[:2])
    finally:
        hook.remove()
    assert len(inputs) == 3 and {x.shape[2] for x in inputs} == {1 + 2 + 2}
    for sample in inputs:  # guidance: uncond, past, text; the first withholds every past frame
        frame, mask = sample[2:, :CHANNELS, 0], sample[2:, CHANNELS, 0]
        assert torch.equal(frame, first[:, 0].repeat(2, 1, 1, 1)) and bool((mask == CLEAN).all())


def test_the_oracle_shows_the_true_end_of_the_chunk_to_come(text):
    model = make_model(text, Oracle(), sampling_steps=1)
    assert model.foresees and not make_model(text, FirstFrame()).foresees
    ends = np.stack([frames(2), frames(2)[::-1]], 1)
    rollout = model.foresee(model.start(frames(2), [3, 4]), ends)
    for k in range(2):
        told = model.autoencoder.encode(ends[:, k])
        torch.testing.assert_close(model.memory.past(rollout.memory)[:, 0], told)
        assert torch.equal(
            model.memory.past(model.memory.select(rollout.memory, [1])), model.memory.past(rollout.memory)[1:]
        )
        rollout, chunk = model.imagine(rollout, CAPTIONS[:2])
        rollout = model.remember(rollout, chunk)
    for untold in (rollout, model.start(frames(2), [3, 4])):
        with pytest.raises(ValueError, match="memory=oracle was not told how this chunk should end"):
            model.imagine(untold, CAPTIONS[:2])


# --- the anchor's own weights ----------------------------------------------------------------------


def test_anchor_tokens_are_zero_at_first_and_carry_gradients_to_the_module(model):
    memory = attached(model, Anchor(tokens=2, hidden=4, grid=2))
    assert not memory.tokens(memory.reset(2)).any()
    state = learned(memory, model, [0, 1])
    tokens = memory.tokens(state)
    assert tokens.shape == (2, 2, WIDTH) and not tokens.any() and memory.past(state) is None
    clean, noise = EPISODE[:2, :4], latents(2, 4, seed=6).double()
    for step in range(2):  # the zero last layer moves first, then what feeds it
        both = torch.cat([words(2), memory.tokens(state)], 1)
        t = torch.tensor([900, 500])
        loss = model.diffusion.conditional_loss(clean, 2, t, noise, both).sum()
        gradients = torch.autograd.grad(loss, list(memory.module.parameters()))
        moved = [bool(g.abs().max() > 0) for g in gradients]
        assert moved[-2:] == [True, True] and all(moved) == bool(step)
        with torch.no_grad():
            for p, g in zip(memory.module.parameters(), gradients, strict=True):
                p -= g
    assert (memory.tokens(state)[0] - memory.tokens(state)[1]).abs().max() > 0


def test_the_anchors_encoder_is_saved_with_the_model(text, tmp_path):
    model = make_model(text, Anchor(hidden=4, grid=2))
    with torch.no_grad():
        for p in model.memory.module.parameters():
            p += 0.1
    folder = tmp_path / "model"
    model.save_pretrained(folder, torch.float32)
    opened = WorldModel.from_pretrained(folder, Anchor(hidden=4, grid=2))
    ours, theirs = (m.memory.module.state_dict() for m in (model, opened))
    assert ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())
    opened.use_memory(opened.memory)
    assert tensors_sha256(opened.memory.module.state_dict()) == tensors_sha256(theirs)  # not drawn anew
    assert WorldModel.from_pretrained(folder, FirstFrame()).memory.name == "first_frame"
    for wrong in (Anchor(hidden=8, grid=2), Anchor(tokens=2, hidden=4, grid=2)):
        with pytest.raises(CheckpointError, match=r"memory.safetensors does not fit memory=anchor") as error:
            WorldModel.from_pretrained(folder, wrong)
        assert "\n" not in str(error.value)
    (folder / "memory.json").write_text('{"memory": "other"}')
    with pytest.raises(CheckpointError, match=r"hold those of memory=other, memory=anchor needs its own"):
        WorldModel.from_pretrained(folder, Anchor(hidden=4, grid=2))
    (folder / "memory.json").unlink()
    with pytest.raises(CheckpointError, match=r"python -m world_model.slowfast_loop memory=anchor") as error:
        WorldModel.from_pretrained(folder, Anchor(hidden=4, grid=2))
    assert "\n" not in str(error.value)
    fresh = WorldModel.from_pretrained(folder, Anchor(hidden=4, grid=2), untrained_memory=True)
    assert not fresh.memory.module.project[-1].weight.any()


# --- objectives ------------------------------------------------------------------------------------


@dataclass
class Recording:
    """The real diffusion; keeps what fast learning asked of it."""

    diffusion: Any
    asked: list[Tensor] = field(default_factory=list)

    @property
    def num_train_timesteps(self) -> int:
        return self.diffusion.num_train_timesteps

    def sequence_loss(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        self.asked.append(clean)
        return self.diffusion.sequence_loss(clean, timesteps, noise)

    def conditional_loss(self, *args: Any) -> Tensor:
        return self.diffusion.conditional_loss(*args)

    def predicted_noise(self, *args: Any) -> Tensor:
        return self.diffusion.predicted_noise(*args)


@pytest.mark.parametrize("objective", NAMES)
def test_each_objective_lowers_its_own_loss(model, objective):
    memory = attached(model, TempLora(**SMALL | {"steps": 25}, objective=objective))
    state = learned(memory, model, [0, 1], chunks=1)
    clean, noise = EPISODE[:2, :3], latents(2, 3, seed=8).double()
    t = torch.tensor([800, 700])

    def loss() -> Tensor:
        if objective == "conditional":
            return model.diffusion.conditional_loss(clean, 1, t, noise, words(3)[:2])
        if objective == "backward":
            return model.diffusion.conditional_loss(clean.flip(1), 2, t, noise)
        return model.diffusion.sequence_loss(clean, t, noise)

    with torch.no_grad():
        before = loss()
        with model.injector.applied(state.weights):
            after = loss()
    assert (after < 0.97 * before).all(), (before, after)


def test_objectives_learn_different_things_and_only_one_reads_the_text(model):
    ends: dict[str, LoraWeights] = {}
    past, new = CHUNKS[1]
    for objective in NAMES:
        memory = attached(model, TempLora(**SMALL, objective=objective))
        state = learned(memory, model, [0], chunks=1)
        both = [
            memory.update(state, model.diffusion, past[:1], new[:1], words(1, seed), seeded(5)).weights
            for seed in (1, 2)
        ]
        assert bool(both[0].distance(both[1]) > 1e-4) == (objective == "conditional")
        ends[objective] = both[0]
    assert float(ends["local"].distance(ends["conditional"])) > 1e-3
    assert min(float(ends["backward"].distance(ends[o])) for o in ends if o != "backward") > 1e-3
    assert float(ends["local"].distance(ends["whole_sequence"])) > 1e-3


@pytest.mark.parametrize("options", [{"objective": "whole_sequence"}, {"replay": 2}])
def test_windows_of_the_whole_sequence_and_replay(model, options):
    memory = attached(model, TempLora(**SMALL | {"steps": 12}, **options))
    denoiser = Recording(model.diffusion)
    state, generators = memory.reset(2), seeded(0, 1)
    for past, new in [*CHUNKS, (EPISODE[:, 3:5], EPISODE[:, 5:7])]:
        denoiser.asked.clear()
        state = memory.update(state, denoiser, past[:2], new[:2], words(2), generators)
    assert all(map(torch.equal, state.frames, EPISODE[:2]))
    each = 3 if "replay" in options else 1
    starts = set()
    for clean in denoiser.asked:
        assert clean.shape[:2] == (2 * each, 4)
        for i, window in enumerate(clean):
            whole = EPISODE[i // each]
            (at,) = [s for s in range(4) if torch.equal(whole[s : s + 4], window)]
            if "replay" in options and i % each == 0:
                assert at == 3
            else:
                starts.add(at)
    assert starts == ({0, 1} if "replay" in options else {0, 1, 2, 3})


def test_sgd_takes_one_plain_step_along_the_gradient(model):
    memory = attached(model, TempLora(**SMALL | {"steps": 1, "learning_rate": 0.5, "optimizer": "sgd"}))
    state = learned(memory, model, [0], chunks=1)
    (generator,) = seeded(0)
    t = torch.randint(600, 1000, (), generator=generator)[None]
    clean = EPISODE[:1, :3]
    noise = torch.randn(clean.shape[1:], generator=generator)[None].double()
    theta = memory.theta0.map(lambda x: x.clone().requires_grad_(True))
    with model.injector.applied(theta):
        loss = model.diffusion.sequence_loss(clean, t, noise).sum()
    gradients = torch.autograd.grad(loss, theta.tensors())
    for x, before, g in zip(state.weights.tensors(), theta.tensors(), gradients, strict=True):
        torch.testing.assert_close(x, before.detach() - 0.5 * g, atol=1e-9, rtol=0.0)
    assert float(state.weights.norm()) > 0


def test_normalized_steps_have_one_length_and_leave_a_to_all_episodes(model):
    options = SMALL | {"steps": 1, "learning_rate": 0.5}
    plain, even = (
        learned(
            attached(model, TempLora(**options | {"optimizer": kind})), model, [0, 1, 2], chunks=1
        ).weights
        for kind in ("sgd", "normalized")
    )
    start = attached(model, TempLora(**options)).theta0
    for name, (a, b) in even.factors.items():
        along = plain.factors[name][1]
        assert torch.equal(a, start.factors[name][0].expand_as(a))
        for episode in range(3):
            length = along[episode].norm()
            if length:
                expected = 0.5 * b[episode].numel() ** 0.5 * along[episode] / length
                torch.testing.assert_close(b[episode], expected, atol=1e-6, rtol=1e-6)
            else:
                assert not b[episode].any()
    assert float(even.norm().min()) > 0


def test_content_keys_leave_out_what_is_everywhere(model):
    """Of what x is, a random A keeps mostly the part that all inputs share."""
    memory = attached(model, TempLora(**SMALL, objective="backward"))
    random = memory.theta0
    made = content_keys(memory.injector, model.diffusion, latents(16, 4, seed=5).double(), 2, (990, 1000))
    found: dict[str, list[Tensor]] = {name: [] for name in made.factors}
    t, (clean, noise) = torch.full((8,), 995), latents(16, 4, seed=6).double().split(8)
    with torch.no_grad(), recorded(memory.injector, lambda name, x: found[name].append(x.flatten(0, -2))):
        model.diffusion.conditional_loss(clean, 2, t, noise)

    def everywhere(name: str, a: Tensor) -> float:
        keys = found[name][0] @ a[0].T.to(found[name][0])
        return float(keys.mean(0).square().sum() / keys.square().mean(0).sum())

    shares = [
        (everywhere(name, a), everywhere(name, random.factors[name][0]))
        for name, (a, b) in made.factors.items()
        if not b.any() and not torch.equal(a, random.factors[name][0].to(a))
    ]
    assert len(shares) >= 4 and all(made < 0.2 for made, _ in shares)
    assert sum(made < 0.5 * usual for made, usual in shares) > len(shares) / 2


def test_a_memory_of_other_options_is_refused(model, tmp_path):
    for wrong in (
        {"objective": "text"}, {"replay": -1}, {"optimizer": "lion"}, {"betas": [0.9]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            TempLora(**wrong)
    for apart in (
        {"replay": 1, "objective": "conditional"}, {"replay": 1, "objective": "backward"},
        {"optimizer": "sgd", "optimizer_state": "keep"}, {"optimizer": "normalized", "optimizer_state": "keep"},
    ):  # fmt: skip  # each may be what the weights were trained with
        with pytest.raises(ValueError, match=r"replay=1, objective=|optimizer_state=keep"):
            attached(model, TempLora(**SMALL | apart))
    for bad in (lambda: Anchor(tokens=0), lambda: Context(0), lambda: Retrieval(1, 0)):
        with pytest.raises(ValueError, match="expected at least 1"):
            bad()
    for unbound in (lambda: Context(1).sizes, lambda: Anchor().tokens(Anchor().reset(1))):
        with pytest.raises(RuntimeError, match="not bound"):
            unbound()
    memory = attached(model, TempLora(**SMALL))
    memory.save_episode(memory.reset(1), 0, tmp_path / "theta")
    with pytest.raises(MemoryFileError, match="kind 'temp_lora', expected 'temp_lora_sequence'"):
        attached(model, TempLora(**SMALL, objective="whole_sequence")).load_episode(tmp_path / "theta")
    with pytest.raises(MemoryFileError, match=r"keeps no earlier frames, .* replay=1"):
        attached(model, TempLora(**SMALL, replay=1)).load_episode(tmp_path / "theta")
    kept = attached(model, FirstFrame())
    kept.save_episode(learned(kept, model, [0]), 0, tmp_path / "frame")
    kept.bind(None, None, Sizes(CHANNELS + 1, WIDTH, 2))
    with pytest.raises(MemoryFileError, match="this model's have 5 channels"):
        kept.load_episode(tmp_path / "frame")
    with pytest.raises(MemoryFileError, match="not a state of memory=first_frame"):
        kept.load_state_dict({"theta": torch.zeros(1)})


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "memory").glob("*.yaml")))
def test_every_yaml_makes_the_memory_of_its_name(name):
    memory = instantiate(compose("run", [f"memory={name}"]).memory)
    of_another = {"temp_lora_paper": "temp_lora"}  # the same memory with other values
    assert name.split("_")[0] in memory.name
    assert name == "shuffled" or memory.name == of_another.get(name, name)


def test_the_folder_of_a_kept_frame_is_readable(model, tmp_path: Path):
    memory = attached(model, FirstFrame())
    memory.save_episode(memory.reset(1), 0, tmp_path / "empty")  # before the first chunk
    assert memory.past(memory.load_episode(tmp_path / "empty")) is None
