"""Temp-LoRA on a tiny real UNet3DConditionModel: what it learns, what it leaves alone, what it saves."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDPMScheduler, UNet3DConditionModel
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peft import PeftModel
from tiny import ADAM
from torch import Tensor

from world_model.memory.adapter import ADAPTER, load_theta0, save_theta0
from world_model.memory.base import MemoryFileError, Sizes
from world_model.memory.fast_learning import FastLearning
from world_model.memory.keys import place_keys
from world_model.memory.lora import LoraInjector, LoraSpec, LoraWeights, tensors_sha256
from world_model.memory.none import NoMemory
from world_model.memory.temp_lora import SCALES, TempLora, TempLoraState

CHANNELS, SIZE, TEXT, WIDTH = 3, 4, 2, 8
SIZES = Sizes(CHANNELS, WIDTH, past_frames=2)


def make_unet(seed: int = 0) -> UNet3DConditionModel:
    torch.manual_seed(seed)
    return UNet3DConditionModel(
        sample_size=SIZE,
        in_channels=CHANNELS + 1,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    ).eval()


@dataclass
class TinyDenoiser:
    """ε-prediction without text and without a clean past, as fast learning asks for it."""

    unet: UNet3DConditionModel
    num_train_timesteps: int = 1000

    def predicted_noise(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        noisy = DDPMScheduler(self.num_train_timesteps).add_noise(clean, noise, timesteps)
        sample = torch.cat([noisy, torch.zeros_like(noisy[:, :, :1])], 2).transpose(1, 2)
        text = torch.zeros(len(clean), TEXT, WIDTH, dtype=clean.dtype)
        return self.unet(sample, timesteps, text).sample.transpose(1, 2)

    def sequence_loss(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return (self.predicted_noise(clean, timesteps, noise) - noise).square().flatten(1).mean(1)


def make_memory(unet: UNet3DConditionModel, **options: object) -> TempLora:
    memory = TempLora(**ADAM | {"rank": 4, "alpha": 8} | options)
    injector = LoraInjector(unet, memory.spec)
    memory.bind(injector, injector.initial(seed=0).to(next(unet.parameters()).dtype), SIZES)
    return memory


def latents(batch: int, frames: int, seed: int) -> Tensor:
    return torch.randn(batch, frames, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def words(batch: int, seed: int = 3) -> Tensor:
    """Text tokens of a chunk's caption."""
    return torch.randn(batch, TEXT, WIDTH, generator=torch.Generator().manual_seed(seed))


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def learned(memory: TempLora, batch: int = 1, chunks: int = 1) -> TempLoraState:
    state = memory.reset(batch)
    denoiser, generators = TinyDenoiser(memory.injector.unet), seeded(*range(batch))
    dtype = memory.theta0.tensors()[0].dtype
    for i in range(chunks):
        past, new = latents(batch, 1, i).to(dtype), latents(batch, 2, 100 + i).to(dtype)
        state = memory.update(state, denoiser, past, new, words(len(past)), generators)
    return state


def unet_output(unet: torch.nn.Module, batch: int = 1, seed: int = 5) -> Tensor:
    """A forward pass whose every input, text included, differs between samples."""
    g = torch.Generator().manual_seed(seed)
    dtype = next(unet.parameters()).dtype
    sample = torch.randn(batch, CHANNELS + 1, 3, SIZE, SIZE, generator=g).to(dtype)
    text = torch.randn(batch, TEXT, WIDTH, generator=g).to(dtype)
    with torch.no_grad():
        return unet(sample, torch.full((batch,), 700), encoder_hidden_states=text).sample


def assert_same(one: LoraWeights, other: LoraWeights, atol: float = 0.0) -> None:
    assert one.factors.keys() == other.factors.keys()
    for x, y in zip(one.tensors(), other.tensors(), strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0.0)


def test_update_lowers_the_loss_of_what_it_remembers() -> None:
    memory = make_memory(make_unet(), steps=20, learning_rate=5e-3)
    denoiser = TinyDenoiser(memory.injector.unet)
    past, new = latents(2, 1, 0), latents(2, 2, 1)
    state = memory.update(memory.reset(2), denoiser, past, new, words(len(past)), seeded(0, 1))
    clean, noise, t = torch.cat([past, new], 1), latents(2, 3, 9), torch.tensor([800, 700])
    with torch.no_grad():
        before = denoiser.sequence_loss(clean, t, noise)
        with memory.injector.applied(state.weights):
            after = denoiser.sequence_loss(clean, t, noise)
    assert (after < 0.95 * before).all(), (before, after)
    assert state.updates == (1, 1) and (state.weights.norm() > 0).all()


def test_half_precision_scales_the_loss_and_refuses_what_is_not_finite(monkeypatch) -> None:
    """fp16 needs a GPU; the same arithmetic in float32."""
    memory = make_memory(make_unet(), steps=2, learning_rate=5e-3)
    past, new = latents(2, 1, 0), latents(2, 2, 1)

    def learned(past: torch.Tensor) -> LoraWeights:
        denoiser = TinyDenoiser(memory.injector.unet)
        return memory.update(memory.reset(2), denoiser, past, new, words(2), seeded(0, 1)).weights

    plain = learned(past)
    monkeypatch.setitem(SCALES, torch.float32, SCALES[torch.float16])
    assert_same(learned(past), plain, atol=1e-5)
    with pytest.raises(ValueError, match="a gradient is not finite in half precision"):
        learned(past * float("nan"))


def test_update_equals_adam_on_peft_over_the_whole_noised_sequence(tmp_path: Path) -> None:
    """Eq. 3 and Algorithm 1a written out on PEFT's own layers: past ⊕ new, one t, loss over all of it."""
    unet = make_unet().double()
    memory = make_memory(unet, steps=3)
    past, new = latents(1, 1, 0).double(), latents(1, 2, 1).double()
    state = memory.update(memory.reset(1), TinyDenoiser(unet), past, new, words(len(past)), seeded(0))

    memory.save_episode(memory.reset(1), 0, tmp_path / "theta0")
    opened = PeftModel.from_pretrained(make_unet().double(), tmp_path / "theta0", is_trainable=True)
    opened.double()
    adam = torch.optim.Adam(
        [p for p in opened.parameters() if p.requires_grad], memory.learning.learning_rate, (0.9, 0.999)
    )
    sequence, (generator,) = torch.cat([past, new], 1), seeded(0)
    alphas = DDPMScheduler(1000).alphas_cumprod.double()
    for _ in range(3):
        t = int(torch.randint(600, 1000, (), generator=generator))
        noise = torch.randn(sequence.shape[1:], generator=generator).double()[None]
        noisy = alphas[t].sqrt() * sequence + (1 - alphas[t]).sqrt() * noise
        sample = torch.cat([noisy, torch.zeros(1, 3, 1, SIZE, SIZE)], 2).transpose(1, 2)
        text = torch.zeros(1, TEXT, WIDTH, dtype=torch.float64)
        predicted = opened(sample, t, encoder_hidden_states=text).sample.transpose(1, 2)
        adam.zero_grad()
        (predicted - noise).square().mean().backward()
        adam.step()
    theirs = {n: p for n, p in opened.named_parameters() if "lora_" in n}
    for name, (a, b) in state.weights.factors.items():
        full = f"base_model.model.{name}.lora_"
        torch.testing.assert_close(a[0], theirs[f"{full}A.default.weight"], atol=1e-6, rtol=0.0)
        torch.testing.assert_close(b[0], theirs[f"{full}B.default.weight"], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("draws", "equal"), [("own", False), ("shared", True)])
def test_shared_draws_leave_only_what_was_seen(draws: str, equal: bool) -> None:
    """The same chunks under other seeds: the same Θ, and another one for an episode that is further on."""
    memory = make_memory(make_unet().double(), steps=2, draws=draws)
    denoiser = TinyDenoiser(memory.injector.unet)
    past, new = (latents(1, n, n).double().expand(2, -1, -1, -1, -1) for n in (1, 2))
    state = memory.update(memory.reset(2), denoiser, past, new, words(2), seeded(5, 6))
    one, other = state.weights.select([0]), state.weights.select([1])
    assert bool(one.distance(other) < 1e-5) == equal
    if equal:
        again = memory.update(memory.reset(1), denoiser, past[:1], new[:1], words(1), seeded(9))
        assert_same(again.weights, one, atol=1e-6)
        later = TempLoraState(memory.reset(1).weights, None, (1,))
        assert (
            memory.update(later, denoiser, past[:1], new[:1], words(1), seeded(9)).weights.distance(one)
            > 1e-3
        )


def test_update_leaves_the_base_and_older_states_bitwise_unchanged() -> None:
    unet = make_unet()
    memory = make_memory(unet)
    hashes, base = tensors_sha256(unet.state_dict()), unet_output(unet)
    first = learned(memory)
    kept = first.weights.clone()
    past, new = latents(1, 1, 3), latents(1, 2, 4)
    memory.update(first, TinyDenoiser(unet), past, new, words(1), seeded(3))
    assert tensors_sha256(unet.state_dict()) == hashes
    assert torch.equal(unet_output(unet), base)
    assert all(p.grad is None and p.requires_grad for p in unet.parameters())
    assert_same(first.weights, kept)
    assert not any(m._forward_hooks for m in unet.modules())


def test_update_works_where_the_caller_has_gradients_off() -> None:
    memory = make_memory(make_unet())
    expected = learned(memory)
    with torch.inference_mode():
        found = learned(memory)
        denoiser, same = TinyDenoiser(memory.injector.unet), latents(1, 1, 0)
        again = memory.update(found, denoiser, same, same, words(1), seeded(0))
    assert_same(found.weights, expected.weights)
    assert again.updates == (2,)


def test_reset_restores_the_base_output_exactly() -> None:
    unet = make_unet()
    memory = make_memory(unet)
    base = unet_output(unet)
    with memory.injector.applied(learned(memory).weights):
        assert not torch.allclose(unet_output(unet), base, atol=1e-4)
    with memory.injector.applied(memory.weights(memory.reset(1))):
        assert torch.equal(unet_output(unet), base)


@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_three_episodes_in_a_batch_equal_three_single_ones(optimizer_state: str) -> None:
    unet = make_unet().double()
    memory = make_memory(unet, optimizer_state=optimizer_state)
    denoiser = TinyDenoiser(unet)
    chunks = [(latents(3, 1, i).double(), latents(3, 2, 10 + i).double()) for i in range(2)]

    caption = words(3).double()

    def run(rows: list[int]) -> TempLoraState:
        state, generators = memory.reset(len(rows)), seeded(*rows)
        for past, new in chunks:
            state = memory.update(state, denoiser, past[rows], new[rows], caption[rows], generators)
        return state

    together, alone = run([0, 1, 2]), [run([i]) for i in range(3)]
    assert_same(together.weights, LoraWeights.cat([s.weights for s in alone]), atol=1e-5)
    assert (together.weights.distance(together.weights.select([1, 2, 0])) > 1e-2).all()
    with memory.injector.applied(together.weights):
        batched = unet_output(unet, batch=3)
    for i in range(3):
        with memory.injector.applied(alone[i].weights):
            torch.testing.assert_close(unet_output(unet, batch=3)[i], batched[i], atol=1e-5, rtol=0.0)


def test_every_target_sees_the_episodes_outermost() -> None:
    """Θ of one episode never reaches another, in spatial, temporal and text projections alike."""
    unet = make_unet()
    injector = LoraInjector(unet, LoraSpec(4, 8, "attention_blocks"))
    g = torch.Generator().manual_seed(1)
    weights = injector.initial().select([0, 0]).map(lambda x: torch.randn(x.shape, generator=g) * 0.1)
    base = unet_output(unet, 2)
    for name in injector.layers:
        only = LoraWeights({n: (a, b * (n == name)) for n, (a, b) in weights.factors.items()})
        with injector.applied(only.scaled([0.0, 1.0])):
            changed = (unet_output(unet, 2) - base).flatten(1).abs().amax(1)
        assert changed[0] == 0.0 and changed[1] > 0.0, name


def test_weights_for_guidance_and_subsets() -> None:
    unet = make_unet()
    memory = make_memory(unet)
    weights = learned(memory, batch=2).weights
    with memory.injector.applied(weights.repeat(2).scaled([0.0, 0.0, 1.0, 1.0])):
        out = unet_output(unet, batch=4)
    assert torch.equal(out[:2], unet_output(unet, batch=4)[:2])
    with memory.injector.applied(weights.select([0, 1, 0, 1])):
        torch.testing.assert_close(unet_output(unet, batch=4)[2:], out[2:])
    with memory.injector.applied(weights), memory.injector.applied(None):
        assert torch.equal(unet_output(unet, batch=2), unet_output(make_unet(), batch=2))
    with memory.injector.applied(weights), pytest.raises(ValueError, match="2 episodes"):
        unet_output(unet, batch=3)
    assert torch.equal(weights.distance(weights), torch.zeros(2))


@pytest.mark.parametrize(
    "targets", ["attention", "attention_blocks", ["to_q", "ff.net.2"], r".*temp_att.*to_v"]
)
def test_saved_memory_opens_in_peft_with_equal_outputs(tmp_path: Path, targets: str | list[str]) -> None:
    unet = make_unet()
    memory = make_memory(unet, targets=targets, learning_rate=1e-2)
    state = learned(memory, batch=2)
    memory.save_episode(state, 1, tmp_path / "memory")
    one = memory.select(state, [1])
    with memory.injector.applied(one.weights):
        ours = unet_output(unet)
    assert not torch.allclose(ours, unet_output(unet), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = PeftModel.from_pretrained(make_unet(), tmp_path / "memory")
    torch.testing.assert_close(unet_output(opened), ours, atol=1e-6, rtol=1e-5)
    loaded = memory.load_episode(tmp_path / "memory")
    assert_same(loaded.weights, one.weights)
    assert loaded.updates == (1,)


def test_memory_saved_by_peft_itself_loads_with_equal_outputs(tmp_path: Path) -> None:
    memory = make_memory(make_unet(), learning_rate=1e-2)
    memory.save_episode(learned(memory), 0, tmp_path / "memory")
    opened = PeftModel.from_pretrained(make_unet(), tmp_path / "memory")
    with torch.no_grad():
        for name, parameter in opened.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.5)
    opened.save_pretrained(str(tmp_path / "memory"))
    with memory.injector.applied(memory.load_episode(tmp_path / "memory").weights):
        torch.testing.assert_close(
            unet_output(memory.injector.unet), unet_output(opened), atol=1e-6, rtol=1e-5
        )


def test_optimizer_state_keep_and_reset(tmp_path: Path) -> None:
    unet = make_unet()
    reset, keep = make_memory(unet), make_memory(unet, optimizer_state="keep")
    assert_same(learned(reset).weights, learned(keep).weights)
    assert learned(reset).moments is None
    assert (learned(reset, chunks=2).weights.distance(learned(keep, chunks=2).weights) > 1e-4).all()

    state = learned(keep)
    keep.save_episode(state, 0, tmp_path / "memory")
    flat = keep.load_state_dict(keep.state_dict(state))
    new = latents(1, 2, 101), latents(1, 1, 1)
    ends = [
        keep.update(s, TinyDenoiser(unet), new[1], new[0], words(1), seeded(7))
        for s in (state, keep.load_episode(tmp_path / "memory"), flat)
    ]
    assert_same(ends[0].weights, ends[1].weights)
    assert_same(ends[0].weights, ends[2].weights)


def test_kept_moments_equal_one_uninterrupted_adam() -> None:
    unet = make_unet()
    chunk = latents(1, 1, 0), latents(1, 2, 1)
    long = make_memory(unet, steps=6)
    expected = long.update(long.reset(1), TinyDenoiser(unet), *chunk, words(1), seeded(0))
    short = make_memory(unet, steps=2, optimizer_state="keep")
    state, generators = short.reset(1), seeded(0)
    for _ in range(3):
        state = short.update(state, TinyDenoiser(unet), *chunk, words(1), generators)
    assert_same(state.weights, expected.weights)


def test_effect_is_measured_per_episode() -> None:
    memory = make_memory(make_unet(), measure_effect=True)
    state = learned(memory, batch=2, chunks=2)
    assert len(state.effect) == 2 and state.effect[0].shape == (2,) and (state.effect[0] > 1e-3).all()
    zero = memory.effect(memory.reset(2).weights, TinyDenoiser(memory.injector.unet), latents(2, 2, 0))
    assert torch.equal(zero, torch.zeros(2))
    back = memory.load_state_dict(memory.state_dict(state))
    assert all(map(torch.equal, back.effect, state.effect)) and back.updates == (2, 2)


def test_memory_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    memory = make_memory(make_unet())
    state = learned(memory)
    memory.save_episode(state, 0, folder)
    with pytest.raises(MemoryFileError, match="base_sha256"):
        make_memory(make_unet(seed=1)).load_episode(folder)
    with pytest.raises(MemoryFileError, match="rank=4, this model has rank=2"):
        make_memory(make_unet(), rank=2).load_episode(folder)
    other = make_memory(make_unet())
    other.bind(other.injector, other.injector.initial(seed=1), SIZES)
    for load in (lambda: other.load_episode(folder), lambda: other.load_state_dict(memory.state_dict(state))):
        with pytest.raises(MemoryFileError, match="theta0_sha256") as caught:
            load()
        assert "\n" not in str(caught.value)
    with pytest.raises(MemoryFileError, match="expected 'none'"):
        NoMemory().load_episode(folder)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    memory = make_memory(make_unet())
    with pytest.raises(MemoryFileError, match="does not exist"):
        memory.load_episode(folder)
    memory.save_episode(learned(memory), 0, folder)
    memory.save_episode(learned(memory), 0, folder)  # replaces its own kind
    whole = (folder / ADAPTER).read_bytes()
    for size in (0, 4, 100, len(whole) - 7):
        (folder / ADAPTER).write_bytes(whole[:size])
        with pytest.raises(MemoryFileError, match="truncated") as caught:
            memory.load_episode(folder)
        assert "\n" not in str(caught.value)
    (folder / "memory.json").write_text('{"memory": ')
    with pytest.raises(MemoryFileError, match="not readable json"):
        memory.load_episode(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["memory"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(MemoryFileError, match="not a saved memory"):
        memory.save_episode(learned(memory), 0, tmp_path / "notes")


def test_theta0_is_one_fixed_draw_and_survives_saving(tmp_path: Path) -> None:
    memory = make_memory(make_unet())
    again = LoraInjector(make_unet(seed=1), memory.spec).initial(seed=0)
    assert_same(again, memory.theta0)
    assert all(b.abs().max() == 0 and a.abs().max() > 0 for a, b in again.factors.values())
    save_theta0(tmp_path / "theta0.safetensors", again)
    loaded, size = (
        load_theta0(tmp_path / "theta0.safetensors"),
        (tmp_path / "theta0.safetensors").stat().st_size,
    )
    assert loaded.sha256() == again.sha256()
    odd = again.map(lambda x: x + 1 / 3)  # not a half-precision number: kept in full
    save_theta0(tmp_path / "odd.safetensors", odd)
    assert load_theta0(tmp_path / "odd.safetensors").sha256() == odd.sha256()
    assert (tmp_path / "odd.safetensors").stat().st_size > 1.5 * size
    assert_same(memory.reset(2).weights.select([1]), memory.theta0)


def test_bad_options_and_targets_are_refused() -> None:
    for options in (
        {"steps": 0},
        {"draws": "none"},
        {"timesteps": (900, 100)},
        {"optimizer_state": "kept"},
        {"rank": 0},
    ):
        with pytest.raises(ValueError, match="expected"):
            TempLora(**options)
    with pytest.raises(ValueError, match="to_queue"):
        LoraInjector(make_unet(), LoraSpec(targets=["to_queue"]))
    with pytest.raises(ValueError, match="only Linear"):
        LoraInjector(make_unet(), LoraSpec(targets=["conv_in"]))
    with pytest.raises(RuntimeError, match="bind"):
        TempLora().reset(1)
    memory = make_memory(make_unet(), timesteps=(600, 1001))
    with pytest.raises(ValueError, match="exceed"):
        learned(memory)
    memory = make_memory(make_unet())
    with pytest.raises(ValueError, match="generators"):
        same = latents(2, 1, 0)
        memory.update(memory.reset(2), TinyDenoiser(make_unet()), same, same, words(2), seeded(0))


def test_no_memory_gives_nothing_and_draws_nothing(tmp_path: Path) -> None:
    memory = NoMemory()
    memory.bind(None, None, SIZES)
    state, generators = memory.reset(2), seeded(0, 1)
    before = [g.get_state() for g in generators]
    chunk = latents(2, 1, 0), latents(2, 1, 1)
    state = memory.update(state, TinyDenoiser(make_unet()), *chunk, words(2), generators)
    assert memory.weights(state) is memory.past(state) is memory.tokens(state) is None
    assert all(map(torch.equal, before, [g.get_state() for g in generators]))
    assert memory.load_state_dict(memory.state_dict(state)) == 2
    memory.save_episode(state, 0, tmp_path / "memory")
    assert memory.load_episode(tmp_path / "memory") == 1


def test_the_config_names_every_option_and_its_default(root: Path) -> None:
    file = root / "configs" / "memory" / "temp_lora.yaml"
    node = OmegaConf.load(file)
    assert vars(instantiate(node)) == vars(TempLora())
    assert set(node) == {"_target_", "measure_effect", *(f.name for f in fields(FastLearning))}
    told = re.findall(r"^(\w+): null +# (\[.*?\]) ", file.read_text("utf-8"), re.M)
    default = {name: list(v) if isinstance(v, tuple) else [v] for name, v in TempLora().kept().items()}
    assert {name: yaml.safe_load(value) for name, value in told} == default


# --- where a chunk's steps begin, and under which keys ----------------------------------------------


@pytest.mark.parametrize("optimizer", ["normalized", "adam"])
def test_a_chunk_may_be_written_as_if_it_were_the_first(optimizer) -> None:
    chunks = [(latents(2, 1, i), latents(2, 2, 100 + i)) for i in range(2)]

    def after(memory: TempLora, *taken: int) -> list[Tensor]:
        state, denoiser = memory.reset(2), TinyDenoiser(memory.injector.unet)
        for i in taken:
            past, new = chunks[i]
            state = memory.update(state, denoiser, past, new, words(2), seeded(i, 10 + i))
        return state.weights.tensors()

    options = {"optimizer": optimizer, "steps": 2, "learning_rate": 0.05}
    for begins, adds_up in (("theta0", True), ("theta", False)):
        memory = make_memory(make_unet(), begins=begins, **options)
        start = memory.reset(2).weights.tensors()
        both, first, second = after(memory, 0, 1), after(memory, 0), after(memory, 1)
        sums = [x + y - z for x, y, z in zip(first, second, start, strict=True)]
        same = all(torch.allclose(x, y, atol=1e-6) for x, y in zip(both, sums, strict=True))
        assert same == adds_up
    with pytest.raises(ValueError, match="expected theta or theta0"):
        TempLora(begins="zero")
    with pytest.raises(
        ValueError, match="begins=theta0: only Adam has a state, and only steps that begin at theta"
    ):
        make_memory(make_unet(), begins="theta0", optimizer="adam", optimizer_state="keep")


def keys_of(memory: TempLora, weights: LoraWeights, name: str, seed: int) -> Tensor:
    """A x ``(draws, places, r)`` of one layer next to pure noise."""
    found: list[Tensor] = []
    layer, noise = memory.injector.layers[name], latents(16, 3, seed)
    hook = layer.register_forward_pre_hook(lambda _, x: found.append(x[0].reshape(16, -1, x[0].shape[-1])))
    with torch.no_grad():
        denoiser = TinyDenoiser(memory.injector.unet)
        denoiser.predicted_noise(torch.zeros_like(noise), torch.full((16,), 995), noise)
    hook.remove()
    return found[0] @ weights.factors[name][0][0].T


def told_apart(keys: Tensor) -> float:
    """Variance of ``(draws, places, r)`` between places, as a share of all their square."""
    places = keys.mean(0) - keys.mean((0, 1))
    return float(len(keys) * places.square().sum() / keys.square().sum())


def test_place_keys_tell_places_apart_under_any_noise() -> None:
    memory = make_memory(make_unet(), draws="shared", timesteps=(990, 1000))
    random = memory.theta0
    made = place_keys(
        memory.injector,
        TinyDenoiser(memory.injector.unet),
        (3, CHANNELS, SIZE, SIZE),
        memory.learning.timesteps,
    )
    memory.bind(memory.injector, made, SIZES)
    gains = []
    for name, (a, b) in made.factors.items():
        assert not b.any() and torch.equal(a, a.half().float()) and a.isfinite().all()
        if not torch.equal(a, random.factors[name][0]):
            gains.append(
                told_apart(keys_of(memory, made, name, 77)) / told_apart(keys_of(memory, random, name, 77))
            )
    assert 4 <= len(made.factors) - len(gains) < len(gains)  # keys and values of the text stay as they were
    assert min(gains) > 0.9 and sorted(gains)[len(gains) // 2] > 2
    again = place_keys(
        memory.injector,
        TinyDenoiser(memory.injector.unet),
        (3, CHANNELS, SIZE, SIZE),
        memory.learning.timesteps,
    )
    assert again.sha256() == made.sha256()
