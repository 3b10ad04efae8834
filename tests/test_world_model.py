"""Algorithm 1a on tiny real networks: start, imagine, remember, and the folders a world model lives in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    CAPTIONS,
    LATENT,
    SIDE,
    WIDTH,
    frames,
    latents,
    make_autoencoder,
    make_memory,
    make_model,
    make_scheduler,
    make_text,
    make_unet,
    open_modelscope,
    save_modelscope,
)

from tasks.cube_return import CubeReturn
from tasks.files import read_json, write_json
from world_model.memory.temp_lora import TempLora
from world_model.model import Chunk, Rollout, Settings, WorldModel
from world_model.text import ClipTextEncoder, SentenceEncoder
from world_model.training import CheckpointError
from world_model.unet import TemporalConv, prepared, with_mask_channel

ROOT = Path(__file__).resolve().parents[1]
VAE, UNET = "vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def text() -> SentenceEncoder:
    return make_text()


@pytest.fixture(scope="module", params=["tiny", "published"])
def build(request, text, tmp_path_factory) -> Callable[..., WorldModel]:
    """Makes a model of a memory and settings: ``tiny``'s, or what opens a folder laid out as ModelScopeT2V's."""
    if request.param == "tiny":
        return lambda memory=None, **settings: make_model(text, memory, **settings)
    folder = save_modelscope(tmp_path_factory.mktemp("hub") / "published")
    return lambda memory=None, **settings: open_modelscope(folder, memory, **settings)


@pytest.fixture(scope="module")
def plain(build) -> WorldModel:
    """Without memory; no test changes it."""
    return build()


@pytest.fixture(scope="module")
def remembering(build) -> WorldModel:
    """With Temp-LoRA; no test changes it."""
    return build(make_memory())


@pytest.fixture(scope="module")
def ours(text) -> WorldModel:
    """A remembering model that no folder was opened for; no test changes it."""
    return make_model(text, make_memory())


@pytest.fixture(scope="module")
def saved(ours, tmp_path_factory) -> Path:
    """Its folder, in float32; no test changes it."""
    folder = tmp_path_factory.mktemp("saved")
    ours.save_pretrained(folder, torch.float32)
    return folder


def play(
    model: WorldModel, start: np.ndarray, seeds, chunks: int = 2, observed=None
) -> tuple[Rollout, list[Chunk]]:
    """An episode whose k-th subgoal is the k-th caption, shifted by one for each further episode."""
    rollout, made = model.start(start, seeds), []
    for k in range(chunks):
        rollout, chunk = model.imagine(rollout, [CAPTIONS[(k + s) % 3] for s in seeds])
        made.append(chunk)
        rollout = model.remember(rollout, chunk, None if observed is None else observed[k])
    return rollout, made


def first_chunk(model: WorldModel) -> torch.Tensor:
    return play(model, frames(1), [3], chunks=1)[1][0].latents


# --- Algorithm 1a --------------------------------------------------------------------------------


def test_shapes_and_the_next_past(plain):
    start = frames(2)
    rollout = plain.start(start, [5, 6])
    assert rollout.past.shape == (2, 1, 4, LATENT, LATENT) and len(rollout) == 2 and rollout.index == 0
    assert np.array_equal(rollout.frames, start)
    _, chunk = plain.imagine(rollout, CAPTIONS[:2])
    assert chunk.subgoals == CAPTIONS[:2] and chunk.latents.shape == (2, 2, 4, LATENT, LATENT)
    assert chunk.frames.shape == (2, 2, SIDE, SIDE, 3) and chunk.frames.dtype == np.uint8
    after = plain.remember(rollout, chunk)
    assert torch.equal(after.past, chunk.latents) and after.index == 1  # f_p is 2 at most
    assert np.array_equal(after.frames, chunk.frames[:, -1]) and rollout.index == 0
    seen = frames(2, 2, seed=4)
    observed = plain.remember(rollout, chunk, seen)
    encoded = plain.autoencoder.encode(seen.reshape(-1, SIDE, SIDE, 3)).view(2, 2, 4, LATENT, LATENT)
    assert torch.equal(observed.past, encoded) and np.array_equal(observed.frames, seen[:, -1])


def test_learning_is_announced_pass_by_pass_and_can_be_ended(build):
    model = build(make_memory(steps=3, measure_effect=True))
    rollout, chunk = model.imagine(model.start(frames(1), [3]), CAPTIONS[:1])
    heard = []
    told = model.remember(rollout, chunk, progress=lambda: heard.append(None))
    assert len(heard) == 3 + 2  # the steps, and the two passes that measure the effect
    silent = model.remember(rollout, chunk)
    for a, b in zip(told.memory.weights.tensors(), silent.memory.weights.tensors(), strict=True):
        assert torch.equal(a, b)

    def stop() -> None:
        heard.append(None)
        if len(heard) == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        model.remember(rollout, chunk, progress=stop)
    assert rollout.index == 0 and rollout.memory.updates == (0,)
    original = build(make_memory(objective="conditional"))
    original.remember(original.start(frames(1), [3]), chunk, progress=lambda: heard.append(None))
    assert len(heard) == 9


def test_a_rollout_is_a_value(remembering):
    """The same rollout gives the same chunk again, whatever was imagined and remembered in between."""
    rollout, _ = play(remembering, frames(1), [3], chunks=1)
    _, chunk = remembering.imagine(rollout, [CAPTIONS[1]])
    remembering.remember(rollout, chunk)
    play(remembering, frames(1, seed=2), [8])
    assert torch.equal(remembering.imagine(rollout, [CAPTIONS[1]])[1].latents, chunk.latents)
    other_seed = remembering.imagine(replace(rollout, seeds=(4,)), [CAPTIONS[1]])[1].latents
    other_text = remembering.imagine(rollout, [CAPTIONS[2]])[1].latents
    assert not torch.equal(other_seed, chunk.latents) and not torch.equal(other_text, chunk.latents)


@pytest.mark.parametrize("name", ["plain", "remembering"])
def test_a_batch_of_episodes_equals_single_ones(name, build, request):
    model = request.getfixturevalue(name)
    start, seeds = frames(3), [3, 4, 5]
    together, chunks = play(model, start, seeds)
    for i, seed in enumerate(seeds):
        alone, single = play(model, start[i : i + 1], [seed])
        for a, b in zip(chunks, single, strict=True):
            torch.testing.assert_close(a.latents[i : i + 1], b.latents, rtol=1e-3, atol=1e-3)
        if name == "remembering":
            theta = together.memory.weights.select([i])
            assert float(theta.distance(alone.memory.weights) / alone.memory.weights.norm()) < 1e-3
    assert float((chunks[0].latents[0] - chunks[0].latents[1]).abs().max()) > 0.1


@contextmanager
def encoder_calls(model: WorldModel) -> Iterator[list[int]]:
    calls: list[int] = []
    hook = model.autoencoder.vae.encoder.register_forward_hook(lambda _, args, out: calls.append(len(out)))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["plain", "remembering"])
def test_an_imagined_rollout_encodes_once(name, build, request):
    model = request.getfixturevalue(name)
    with encoder_calls(model) as calls:
        play(model, frames(1), [3], chunks=3)
    assert calls == [1]
    with encoder_calls(model) as calls:
        play(model, frames(1), [3], chunks=3, observed=frames(3, 1, 2))
    assert calls == [1, 2, 2, 2]


def test_a_chunk_can_be_followed_and_given_up(remembering):
    first = frames(1)
    rollout, chunk = remembering.imagine(remembering.start(first, [7]), CAPTIONS[:1])
    rollout = remembering.remember(rollout, chunk)
    whole, seen, steps = remembering.imagine(rollout, CAPTIONS[1:2])[1], [], []
    _, followed = remembering.imagine(
        rollout, CAPTIONS[1:2], lambda *step: steps.append(step), lambda i, f: seen.append((i, f))
    )
    assert steps == [(1, 3), (2, 3), (3, 3)] and [i for i, _ in seen] == [0, 1]
    assert torch.equal(followed.latents, whole.latents)
    assert np.array_equal(np.stack([f for _, f in seen], 1), followed.frames)
    assert abs(followed.frames.astype(int) - whole.frames.astype(int)).max() <= 1

    def enough(done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembering.imagine(rollout, CAPTIONS[1:2], enough)
    assert torch.equal(remembering.imagine(rollout, CAPTIONS[1:2])[1].latents, whole.latents)


def test_the_same_networks_without_memory(plain, remembering):
    """Θ₀ changes nothing; what was remembered does, in one of the two."""
    twin, start = remembering.without_memory(), [frames(1), [3]]
    assert twin.unet is remembering.unet and twin.memory.name == "none"
    (a, first), (b, same) = (m.imagine(m.start(*start), CAPTIONS[:1]) for m in (remembering, twin))
    assert torch.equal(first.latents, same.latents)
    a, b = remembering.remember(a, first), twin.remember(b, same)
    then, other = (m.imagine(r, CAPTIONS[:1])[1].latents for m, r in ((remembering, a), (twin, b)))
    assert not torch.equal(then, other)
    assert torch.equal(other, plain.imagine(b, CAPTIONS[:1])[1].latents)


def test_an_observed_chunk_conditions_the_next(plain):
    imagined = play(plain, frames(1), [3])[1]
    observed = play(plain, frames(1), [3], observed=frames(2, 1, 2))[1]
    assert torch.equal(imagined[0].latents, observed[0].latents)
    assert not torch.equal(imagined[1].latents, observed[1].latents)


@pytest.mark.parametrize(("chunk", "context"), [(1, 2), (1, 4), (3, 4), (2, 5)])
def test_any_number_of_past_and_new_frames(build, chunk, context):
    model = build(chunk_frames=chunk, context_frames=context, sampling_steps=1)
    rollout = model.start(frames(1), [3])
    for k in range(3):
        assert rollout.past.shape[1] == min(1 + k * chunk, context - chunk)
        rollout, made = model.imagine(rollout, CAPTIONS[:1])
        assert made.frames.shape[1] == chunk
        rollout = model.remember(rollout, made)


def test_the_two_ways_to_be_wrong_about_the_number_of_episodes(plain):
    with pytest.raises(ValueError, match="2 frames but 1 seeds"):
        plain.start(frames(2), [1])
    with pytest.raises(ValueError, match="1 episodes but 2 subgoals"):
        plain.imagine(plain.start(frames(1), [1]), CAPTIONS[:2])
    with pytest.raises(ValueError, match="an empty caption"):
        plain.imagine(plain.start(frames(1), [1]), [" "])


# --- memory --------------------------------------------------------------------------------------


def test_reset_restores_the_base_output_and_phi_is_untouched(plain, remembering):
    before = {k: v.clone() for k, v in remembering.unet.state_dict().items()}
    rollout, chunks = play(remembering, frames(1), [3], chunks=3)
    base = play(plain, frames(1), [3], chunks=3)[1]
    assert torch.equal(chunks[0].latents, base[0].latents)  # Θ₀: exactly Φ
    assert float((chunks[1].latents - base[1].latents).abs().max()) > 1e-3  # Θ is in use
    assert float(rollout.memory.weights.norm()) > 0
    after = remembering.unet.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    assert torch.equal(first_chunk(remembering), chunks[0].latents)


def test_one_step_as_shipped_lowers_the_loss_of_what_it_remembers(build):
    """The options that planning has, at a rate that random keys need; the noise is another than that of the step."""
    model = build(TempLora(learning_rate=6e-3))
    past, new = latents(2, 2, seed=1), latents(2, 2, seed=2)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    tokens = model.text.encode(CAPTIONS[:2])
    state = model.memory.update(model.memory.reset(2), model.diffusion, past, new, tokens, generators)
    clean, noise, t = torch.cat([past, new], 1), latents(2, 4, seed=5), torch.tensor([995, 995])
    with torch.no_grad():
        before = model.diffusion.sequence_loss(clean, t, noise)
        with model.injector.applied(state.weights):
            after = model.diffusion.sequence_loss(clean, t, noise)
    assert (after < before).all(), (before, after)


# Guidance scales that leave a single pass.
ALONE = {"uncond": (0.0, 0.0), "past": (1.0, 0.0), "text": (1.0, 1.0)}


@pytest.mark.parametrize("seeing", ALONE)
def test_theta_in_names_the_passes_that_see_theta(remembering, seeing):
    rollout, _ = play(remembering, frames(1), [3], chunks=1)
    forgot = replace(rollout, memory=remembering.memory.reset(1))

    def imagined(at: Rollout, theta_in: tuple[str, ...], guidance) -> torch.Tensor:
        remembering.settings = replace(settings, theta_in=theta_in, guidance=guidance, sampling_steps=2)
        return remembering.imagine(at, CAPTIONS[:1])[1].latents

    settings = remembering.settings
    try:
        for alone, guidance in ALONE.items():
            base, full = imagined(forgot, tuple(ALONE), guidance), imagined(rollout, tuple(ALONE), guidance)
            assert not torch.equal(base, full)
            assert torch.equal(imagined(rollout, (seeing,), guidance), full if alone == seeing else base)
        mixed = imagined(rollout, (seeing,), (2.0, 5.0))
        assert not torch.equal(mixed, imagined(rollout, tuple(ALONE), (2.0, 5.0)))
        assert torch.equal(imagined(rollout, (), (2.0, 5.0)), imagined(forgot, (), (2.0, 5.0)))
    finally:
        remembering.settings = settings


def test_another_memory_can_be_attached(build):
    model = build()
    base = first_chunk(model)
    model.use_memory(make_memory())
    assert isinstance(model.memory, TempLora) and torch.equal(first_chunk(model), base)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"theta_in": ("texts",)}, r"theta_in: unknown passes \['texts'\]; have uncond, past, text"),
        ({"chunk_frames": 4, "context_frames": 4}, "chunk_frames=4 must be below context_frames=4"),
        ({"guidance": (1.0,)}, r"guidance=\[1.0\].* expected two scales"),
        ({"sampling_steps": 0}, "sampling_steps=0; expected .* at least 1 step"),
    ],
)
def test_settings_are_checked(given, says):
    with pytest.raises(ValueError, match=says):
        Settings(**given)


# --- folders -------------------------------------------------------------------------------------


def test_a_saved_model_opens_with_equal_outputs(remembering, tmp_path):
    remembering.save_pretrained(tmp_path, torch.float32)
    opened = WorldModel.from_pretrained(tmp_path, make_memory())
    assert opened.settings == remembering.settings and len(opened.version) == 8
    one, other = (play(m, frames(1), [3])[1] for m in (remembering, opened))
    for a, b in zip(one, other, strict=True):  # a CPU's matrix products round by how memory is aligned
        torch.testing.assert_close(a.latents, b.latents, rtol=0, atol=1e-4)
        assert np.abs(a.frames.astype(int) - b.frames.astype(int)).max() <= 1


def test_theta0_belongs_to_the_model(build, tmp_path):
    model = build(make_memory())
    drawn = model.injector.initial(seed=5)
    model.use_memory(make_memory(), drawn)
    model.save_pretrained(tmp_path, torch.float32)
    opened = WorldModel.from_pretrained(tmp_path, make_memory())
    assert opened.theta0.sha256() == drawn.sha256() != model.injector.initial().sha256()


def test_half_precision_on_disk_costs_little(plain, tmp_path):
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    plain.save_pretrained(tmp_path)
    assert torch.equal(torch.randn(3), expected)  # the global generator is left alone
    assert {v.dtype for name in (UNET, VAE) for v in load_file(tmp_path / name).values()} == {torch.float16}
    opened = WorldModel.from_pretrained(tmp_path)
    assert opened.unet.dtype == opened.autoencoder.vae.dtype == torch.float32
    torch.testing.assert_close(first_chunk(opened), first_chunk(plain), rtol=0.05, atol=0.05)


def test_a_model_in_bfloat16(saved, ours):
    opened = WorldModel.from_pretrained(saved, make_memory(), dtype=torch.bfloat16)
    rollout, chunks = play(opened, frames(1), [3])
    assert chunks[1].latents.dtype == rollout.past.dtype == torch.bfloat16
    reference = first_chunk(ours)
    assert float((chunks[0].latents.float() - reference).norm() / reference.norm()) < 0.2


def test_settings_can_be_changed_on_opening(saved):
    opened = WorldModel.from_pretrained(saved, sampling_steps=7, guidance=None, theta_in=("past",))
    assert (opened.settings.sampling_steps, opened.settings.guidance) == (7, (1.5, 2.5))
    assert opened.settings.theta_in == ("past",)
    with pytest.raises(ValueError, match="unknown passes"):
        WorldModel.from_pretrained(saved, theta_in=("nothing",))


def test_the_version_follows_the_weights(saved, tmp_path):
    other = shutil.copytree(saved, tmp_path / "other")
    assert WorldModel.from_pretrained(other).version == WorldModel.from_pretrained(saved).version
    tensors = load_file(other / UNET)
    save_file({k: v + 1 if k == "conv_out.bias" else v for k, v in tensors.items()}, other / UNET)
    assert WorldModel.from_pretrained(other).version != WorldModel.from_pretrained(saved).version


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def reshape(path: Path) -> None:
    tensors = load_file(path)
    key = next(k for k in tensors if k.endswith("conv_out.weight"))
    save_file(tensors | {key: tensors[key][:, :-1].contiguous()}, path)


def lose_one(path: Path) -> None:
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if not k.endswith("conv_out.weight")}, path)


def unsafe(path: Path) -> None:
    """The same weights, pickled: right in every number, but never opened."""
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


DAMAGE = [
    ("unet", shutil.rmtree, "no world model there (no unet/)"),
    ("vae", shutil.rmtree, "no world model there (no vae/)"),
    ("scheduler", shutil.rmtree, "no world model there (no scheduler/)"),
    ("sentence_encoder.json", Path.unlink, "sentence_encoder.json"),
    ("sentence_encoder.json", truncate, "JSONDecodeError"),
    ("world_model.json", truncate, "JSONDecodeError"),
    ("theta0.safetensors", truncate, "theta0.safetensors"),
    ("unet/config.json", Path.unlink, "config.json"),
    *[(file, damage, "can't be opened") for file in (UNET, VAE) for damage in (Path.unlink, truncate, reshape)],
    *[(file, Path.unlink, "holds no .safetensors file") for file in (UNET, VAE)],
    *[(file, unsafe, "holds no .safetensors file") for file in (UNET, VAE)],
    *[(file, lose_one, " missing tensors, e.g. ") for file in (UNET, VAE)],
]  # fmt: skip


def test_weights_that_write_are_missed(tmp_path):
    model = make_model(make_text(), make_memory())
    model.keep_writing()
    model.save_pretrained(tmp_path / "model")
    assert WorldModel.from_pretrained(tmp_path / "model", make_memory()).writer is not None
    shutil.rmtree(tmp_path / "model/writer")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="writer/ is missing, whose weights fast learning needs"):
            WorldModel.from_pretrained(tmp_path / "model", make_memory())
        settings = read_json(tmp_path / "model/world_model.json")
        settings.pop("writer", None)  # as weights from before it was told, whose link leads nowhere
        write_json(tmp_path / "model/world_model.json", settings)
        (tmp_path / "model/writer").unlink(missing_ok=True)
        (tmp_path / "model/writer").symlink_to("../nowhere")


@pytest.mark.parametrize(("file", "damage", "says"), DAMAGE)
def test_a_damaged_folder_is_one_line(saved, tmp_path, file, damage, says):
    folder = shutil.copytree(saved, tmp_path / "model")
    damage(folder / file)
    with pytest.raises(CheckpointError) as error:
        WorldModel.from_pretrained(folder, make_memory())
    message = str(error.value)
    assert message.startswith(f"weights={folder}") and says in message and "\n" not in message


@pytest.mark.slow
def test_damaged_weights_leave_nothing_else_on_stderr(saved, tmp_path):
    """In a process of its own: the libraries' logs go to the stderr that there was when they were imported."""
    damages: dict[str, Callable[[Path], None]] = {
        f"{damage.__name__}-{Path(file).parent}": damage
        for file in (UNET, VAE)
        for damage in (Path.unlink, truncate, reshape, lose_one)
    }
    for name, damage in damages.items():
        folder = shutil.copytree(saved, tmp_path / name)
        damage(folder / (UNET if name.endswith("unet") else VAE))
    code = (
        "import sys; from world_model.model import WorldModel; from world_model.training import CheckpointError\n"
        "for folder in sys.argv[1:]:\n"
        "    try: WorldModel.from_pretrained(folder)\n"
        "    except CheckpointError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / n) for n in damages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert len(said) == len(damages)
    for name, line in zip(damages, said, strict=True):
        assert line.startswith(f"weights={tmp_path / name} can't be opened")


def test_a_text_tower_that_lacks_a_tensor_is_no_model(tmp_path):
    folder = save_modelscope(tmp_path / "published")
    file = folder / "text_encoder/model.safetensors"
    tensors = load_file(file)
    key = next(k for k in tensors if k.endswith("token_embedding.weight"))
    save_file(tensors | {"position_ids": torch.arange(12)}, file, {"format": "pt"})
    WorldModel.from_pretrained(folder)  # published files hold such spare ones
    for damaged in (
        {k: v for k, v in tensors.items() if k != key},
        tensors | {key: tensors[key][:-1].clone()},
    ):
        save_file(damaged, file, {"format": "pt"})
        with pytest.raises(
            CheckpointError, match=f"weights={folder} can't be opened .*token_embedding"
        ) as error:
            WorldModel.from_pretrained(folder)
        assert "\n" not in str(error.value)


def test_parts_that_do_not_fit_are_named(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    make_unet(extra=3).save_pretrained(folder / "unet")
    with pytest.raises(
        CheckpointError, match=f"weights={folder} .*the UNet takes 7 channels; expected .* 4, or"
    ):
        WorldModel.from_pretrained(folder)
    make_unet(width=16).save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match=f"{WIDTH} wide, the UNet's cross_attention_dim is 16"):
        WorldModel.from_pretrained(folder)
    stored = json.loads((saved / "world_model.json").read_text())
    (folder / "world_model.json").write_text(json.dumps(stored | {"colour": "red"}))
    make_unet().save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match="colour"):
        WorldModel.from_pretrained(folder)


def test_prepared_keeps_the_unets_output_and_gradients():
    """Diffusers' own convolutions against one Linear over three frames, with 1, 2 and 5 frames."""
    plain, fast = make_unet().requires_grad_(True), prepared(make_unet().requires_grad_(True)).eval()
    assert sum(isinstance(m, TemporalConv) for m in fast.modules()) >= 8
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for count in (1, 2, 5):
        z, t = torch.randn(2, 5, count, LATENT, LATENT), torch.tensor([7, 700])
        words = torch.randn(2, 1, WIDTH)
        outputs = [unet(z, t, words).sample for unet in (plain, fast)]
        torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-4)
        for output in outputs:
            output.square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_a_four_channel_unet_gets_a_mask_channel_and_keeps_its_output():
    unet = make_unet(extra=0)
    z, t, words = latents(2, 3).transpose(1, 2), torch.tensor([7, 700]), torch.randn(2, 1, WIDTH)
    before = unet(z, t, words).sample
    extended = with_mask_channel(unet, 4)
    assert extended.config.in_channels == 5 and not extended.conv_in.weight.requires_grad
    for mask in (torch.zeros(2, 1, 3, LATENT, LATENT), torch.randn(2, 1, 3, LATENT, LATENT)):
        torch.testing.assert_close(extended(torch.cat([z, mask], 1), t, words).sample, before)
    assert with_mask_channel(extended, 4) is extended


def test_a_modelscope_folder_says_what_it_is(tmp_path):
    folder = save_modelscope(tmp_path / "published")
    model = WorldModel.from_pretrained(folder, chunk_frames=2, context_frames=4)
    assert isinstance(model.text, ClipTextEncoder) and model.settings.guidance == (2.0, 5.0)
    assert model.settings.name == "modelscope" and model.diffusion.prediction_type == "epsilon"
    assert (model.autoencoder.unshuffle, model.autoencoder.scale) == (1, 0.18215)
    assert model.unet.config.in_channels == 5 and not model.unet.conv_in.weight[:, 4].any()
    words = model.text.encode(CAPTIONS[:2])
    assert words.shape == (2, 12, WIDTH) and not torch.equal(words[0], words[1])
    assert model.text.null.shape == (1, 12, WIDTH) and not torch.equal(model.text.null[0], words[0])
    with pytest.raises(ValueError, match="an empty caption"):
        model.text.encode([""])


# --- text ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task_text() -> tuple[SentenceEncoder, list[str]]:
    task = CubeReturn(cubes=("red", "green", "blue"))
    objects = task.vocabulary.objects
    captions = [task.subgoal(kind, o).text for kind in ("pick", "return") for o in objects]
    captions += [task.subgoal("put", o, target).text for o in objects for target in task.vocabulary.targets]
    return SentenceEncoder(128).fit(captions), captions


def test_a_tasks_captions_are_far_apart(task_text):
    encoder, captions = task_text
    tokens = encoder.encode(captions)
    assert tokens.shape == (18, 1, 128) and tokens.dtype == torch.float32
    apart = torch.cdist(tokens[:, 0], tokens[:, 0]) + 1e9 * torch.eye(18)
    raw = torch.cat([encoder._embed([c]) for c in captions])
    raw_apart = torch.cdist(raw, raw) / raw.var(0).sum().sqrt() + 1e9 * torch.eye(18)
    spread = tokens[:, 0].var(0).sum().sqrt()
    assert float(apart.min() / spread) > 1.0 > float(raw_apart.min())
    # No text is like no caption: half the typical distance to the nearest, at least.
    assert torch.equal(encoder.null, torch.zeros(1, 1, 128))
    assert float(tokens.norm(dim=-1).min()) > 0.5 * float(spread)
    assert encoder.rank == 17  # as many directions as centred captions have


def test_sentences_are_encoded_one_by_one(task_text):
    encoder, captions = task_text
    fresh = SentenceEncoder(128, encoder.mean, encoder.basis)
    assert torch.equal(fresh.encode(captions[::-1]), encoder.encode(captions).flip(0))
    unseen = fresh.encode(["lift the crimson block"])
    assert unseen.shape == (1, 1, 128) and bool(unseen.isfinite().all())
    assert float(torch.cdist(unseen[0], encoder.encode(captions)[:, 0]).min()) > 1


def test_a_sentence_encoder_is_saved_and_opened(task_text, tmp_path):
    encoder, captions = task_text
    encoder.save_pretrained(tmp_path)
    opened = SentenceEncoder.from_pretrained(tmp_path)
    assert torch.equal(opened.encode(captions), encoder.encode(captions)) and opened.width == 128


def test_a_sentence_encoder_of_one_caption_or_wider_than_minilm(tmp_path):
    assert not SentenceEncoder(8).fit(["pick up the red cube"]).encode(["pick up the red cube"]).any()
    wide = SentenceEncoder(512).fit(CAPTIONS)
    assert wide.encode(CAPTIONS).shape == (3, 1, 512)
    wide.save_pretrained(tmp_path)
    assert torch.equal(SentenceEncoder.from_pretrained(tmp_path).encode(CAPTIONS), wide.encode(CAPTIONS))


def test_wrong_use_of_a_sentence_encoder(task_text):
    with pytest.raises(ValueError, match="an empty caption; say what should happen"):
        task_text[0].encode(["pick up the red cube", "  "])
    for misuse in (SentenceEncoder(8).encode, lambda _: SentenceEncoder(8).save_pretrained("nowhere")):
        with pytest.raises(ValueError, match="no reference texts yet; call fit"):
            misuse(["pick up the red cube"])
    with pytest.raises(ValueError, match="width=0"):
        SentenceEncoder(0)


# --- frames --------------------------------------------------------------------------------------


def test_the_autoencoder_refuses_other_frames():
    autoencoder = make_autoencoder()
    for wrong in (frames(1).astype(np.float32), frames(1)[0], frames(1)[..., :2], frames(1)[:, :10]):
        with pytest.raises(ValueError, match=r"expected \(N,H,W,3\) uint8|must be multiples of 4"):
            autoencoder.encode(wrong)
    torch.testing.assert_close(autoencoder.encode(frames(5), batch_size=2), autoencoder.encode(frames(5)))


def test_the_scheduler_on_disk_is_the_schedule(saved):
    opened = WorldModel.from_pretrained(saved).diffusion.scheduler
    assert torch.equal(opened.alphas_cumprod, make_scheduler().alphas_cumprod)
    assert opened.config.timestep_spacing == "trailing"
