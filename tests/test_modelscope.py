"""model=modelscope: the published size on the meta device, its layout on a small folder, and what keeps it small."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from invoke import command
from safetensors.torch import load_file, save_file
from tiny import CAPTIONS, LATENT, WIDTH, frames, make_memory, make_unet, modelscope_options, save_modelscope

from benchmarks import full_size
from tasks.commands import compose
from world_model import autoencoder as autoencoder_module
from world_model.device import pick_dtype
from world_model.memory.lora import LoraInjector, LoraSpec
from world_model.model import WorldModel, copied
from world_model.peak_memory import PeakMemory
from world_model.pretrain import build_unet
from world_model.train_autoencoder import build_autoencoder
from world_model.unet import checkpoint_layers, prepared

VAE = "vae/diffusion_pytorch_model.safetensors"
ATTENTION = {
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}  # as diffusers 0.14 wrote


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


# --- the published size ------------------------------------------------------------------------


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Weight and bias of a layer; its outputs come first."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def published_autoencoder() -> dict[str, tuple[int, ...]]:
    """Stable Diffusion's AutoencoderKL, whose files ModelScopeT2V ships: each tensor and its shape."""
    found = {}

    def resnet(name: str, into: int, out: int) -> None:
        found.update(affine(f"{name}.norm1", into) | affine(f"{name}.conv1", out, into, 3, 3))
        found.update(affine(f"{name}.norm2", out) | affine(f"{name}.conv2", out, out, 3, 3))
        found.update(affine(f"{name}.conv_shortcut", out, into, 1, 1) if into != out else {})

    def half(
        name: str, into: int, out: int, blocks: list[tuple[int, int]], resnets: int, between: str
    ) -> None:
        found.update(affine(f"{name}.conv_in", blocks[0][0] if name == "encoder" else 512, into, 3, 3))
        for b, (first, width) in enumerate(blocks):
            block = f"{name}.{between.removesuffix('samplers')}_blocks.{b}"
            for r in range(resnets):
                resnet(f"{block}.resnets.{r}", width if r else first, width)
            if b < len(blocks) - 1:
                found.update(affine(f"{block}.{between}.0.conv", width, width, 3, 3))
        for r in range(2):
            resnet(f"{name}.mid_block.resnets.{r}", 512, 512)
        attention = f"{name}.mid_block.attentions.0"
        found.update(affine(f"{attention}.group_norm", 512))
        for key in ("to_q", "to_k", "to_v", "to_out.0"):
            found.update(affine(f"{attention}.{key}", 512, 512))
        last = blocks[-1][1]
        found.update(affine(f"{name}.conv_norm_out", last) | affine(f"{name}.conv_out", out, last, 3, 3))

    half("encoder", 3, 8, [(128, 128), (128, 256), (256, 512), (512, 512)], 2, "downsamplers")
    half("decoder", 4, 3, [(512, 512), (512, 512), (512, 256), (256, 128)], 3, "upsamplers")
    return found | affine("quant_conv", 8, 8, 1, 1) | affine("post_quant_conv", 4, 4, 1, 1)


def published_text_tower() -> dict[str, tuple[int, ...]]:
    """OpenCLIP's ViT-H text tower without its last layer: each tensor and its shape. Before its fifth version
    transformers puts ``text_model.`` before the names."""
    found = {
        "embeddings.token_embedding.weight": (49408, 1024),
        "embeddings.position_embedding.weight": (77, 1024),
    }
    for number in range(23):
        layer = f"encoder.layers.{number}"
        for key in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= affine(f"{layer}.self_attn.{key}", 1024, 1024)
        found |= affine(f"{layer}.mlp.fc1", 4096, 1024) | affine(f"{layer}.mlp.fc2", 1024, 4096)
        found |= affine(f"{layer}.layer_norm1", 1024) | affine(f"{layer}.layer_norm2", 1024)
    return found | affine("final_layer_norm", 1024)


def test_every_network_has_the_published_tensors():
    """The classes' own defaults are ModelScopeT2V's UNet; nothing is allocated."""
    cfg = compose("pretrain", ["model=modelscope"]).model
    with torch.device("meta"):
        published, ours = shapes(UNet3DConditionModel()), shapes(build_unet(cfg.unet, 4))
        autoencoder, text = build_autoencoder(cfg.autoencoder), full_size.published_text()
    assert published.pop("conv_in.weight") == (320, 4, 3, 3) and ours.pop("conv_in.weight") == (320, 5, 3, 3)
    assert ours == published
    for key, shape in {
        "transformer_in.proj_in.weight": (512, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "down_blocks.2.temp_attentions.1.transformer_blocks.0.attn1.to_q.weight": (1280, 1280),
        "mid_block.temp_convs.0.conv1.2.weight": (1280, 1280, 3, 1, 1),
        "up_blocks.3.temp_convs.2.conv4.3.weight": (320, 320, 3, 1, 1),
    }.items():
        assert ours[key] == shape
    assert shapes(autoencoder.vae) == published_autoencoder()
    assert {k.removeprefix("text_model."): v for k, v in shapes(text).items()} == published_text_tower()
    assert sum(p.numel() for p in text.parameters()) == 340_387_840
    assert text.config.hidden_size == cfg.unet.cross_attention_dim


def test_attention_is_torch_s_own_fused_one():
    unet = make_unet()
    kinds = {type(m.processor) for m in unet.modules() if hasattr(m, "processor")}
    assert kinds == {AttnProcessor2_0}


# --- the layout of the Hub's folder ------------------------------------------------------------


def as_published(folder: Path) -> Path:
    """A small folder with what the Hub's has beside the parts: old names in the autoencoder, further files."""
    save_modelscope(folder)
    tensors = load_file(folder / VAE)
    old = {}
    for key, value in tensors.items():
        for new, name in ATTENTION.items():
            key = key.replace(f".{new}.", f".{name}.") if "mid_block.attentions" in key else key
        old[key] = value
    assert set(old) != set(tensors)
    save_file(old, folder / VAE, {"format": "pt"})
    (folder / "model_index.json").write_text('{"_class_name": "TextToVideoSDPipeline"}')
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half precision, not read")
    return folder


def test_a_folder_as_it_lies_on_the_hub_opens(tmp_path):
    """With the autoencoder's attention under the names of diffusers 0.14, which ModelScopeT2V was saved by."""
    new, old = save_modelscope(tmp_path / "new"), as_published(tmp_path / "old")
    a, b = (WorldModel.from_pretrained(folder) for folder in (new, old))
    seen = frames(2)
    assert torch.equal(a.autoencoder.encode(seen), b.autoencoder.encode(seen))
    assert a.settings.gradient_checkpointing, "fast learning at that size needs it"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_published_folder_plays_in_a_precision(tmp_path, precision):
    dtype = pick_dtype(precision, torch.device("cpu"))
    changes = {"sampling_steps": 2, "chunk_frames": 2, "context_frames": 4}
    model = WorldModel.from_pretrained(
        save_modelscope(tmp_path), make_memory(), dtype=dtype, untrained_memory=False, **changes
    )
    rollout = model.start(frames(2), [3, 4])
    for caption in CAPTIONS[:2]:
        rollout, chunk = model.imagine(rollout, [caption] * 2)
        rollout = model.remember(rollout, chunk)
    assert chunk.latents.dtype == dtype and bool(chunk.latents.isfinite().all())
    assert float(rollout.memory.weights.norm().min()) > 0


@pytest.mark.long
def test_the_documented_way_from_a_published_folder_to_a_plan(tmp_path):
    """docs/modelscope.md's commands in a few steps each: data, slow learning, the loop, the reader, planning."""
    folder, data = save_modelscope(tmp_path / "published"), tmp_path / "data"
    base, loop, reader, plan = (tmp_path / name for name in ("base", "loop", "reader", "plan"))
    memory = ["memory=temp_lora_paper", "memory.rank=2", "memory.alpha=2"]
    command("envs.collect", "episodes=6", "workers=1", f"path={data}")
    command(
        "world_model.pretrain", f"data={data}", f"run_dir={base}", "precision=bf16", "diffusion.steps=2",
        "diffusion.batch_size=2", "diffusion.every=2", "diffusion.held_out_chunks=1", "model.sampling_steps=1",
        *modelscope_options(folder),
    )  # fmt: skip
    command(
        "world_model.slowfast_loop", f"data={data}", f"weights={base}/model", f"run_dir={loop}", "precision=bf16",
        "batch_size=2", "iterations=1", "outer.steps=2", "every=1", "probe_episodes=0", "held_out_chunks=1",
        "writer=self", *memory,
    )  # fmt: skip
    command(
        "inverse_dynamics.train", f"data={data}", f"corruption.folder={base}/model", f"run_dir={reader}",
        "steps=2", "batch_size=4", "every=2", "corrupted_episodes=1",
    )  # fmt: skip
    command(
        "planner.run", f"weights={loop}/model", f"inverse_dynamics={reader}/model", f"run_dir={plan}", "episodes=2",
        "batch_size=2", "media=0", "precision=bf16", *memory,
    )  # fmt: skip
    result = json.loads((plan / "result.json").read_text())
    assert result["parts"]["model"].startswith("modelscope") and result["parts"]["memory"] == "temp_lora"
    assert [len(e["plan"]) for e in result["episodes"]] == [4, 8]
    assert all(e["seconds"]["remember"] > 0 for e in result["episodes"])
    assert result["summary"]["executed"]["n"] == 2
    slow, trained = (WorldModel.from_pretrained(run_dir / "model") for run_dir in (base, loop))
    assert trained.settings.gradient_checkpointing and (loop / "model/theta0.safetensors").is_file()
    assert not torch.equal(slow.unet.conv_in.weight, trained.unet.conv_in.weight)


def test_half_precision_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="precision=fp16 needs a CUDA device"):
        pick_dtype("fp16", torch.device("cpu"))
    with pytest.raises(ValueError, match="precision=int8: expected fp32, bf16, fp16"):
        pick_dtype("int8", torch.device("cpu"))


# --- less memory -------------------------------------------------------------------------------


def kept_bytes(unet: UNet3DConditionModel, count: int = 4) -> tuple[int, torch.Tensor]:
    """What one forward pass keeps for the backward one, without the weights; and the gradient of ``conv_in``."""
    torch.manual_seed(0)
    z, words = torch.randn(1, 5, count, LATENT, LATENT), torch.randn(1, 1, WIDTH)
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = unet(z, torch.tensor([7]), words).sample.square().mean()
    size = sum(kept.values())
    loss.backward()
    return size, unet.conv_in.weight.grad.clone()


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    plain = prepared(make_unet()).requires_grad_(True)
    ours = checkpoint_layers(prepared(make_unet()).requires_grad_(True))
    assert plain.state_dict().keys() == ours.state_dict().keys()
    (most, expected), (least, gradient) = map(kept_bytes, (plain, ours))
    assert least < 0.5 * most
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    for (name, p), q in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(q[1].grad, p.grad, rtol=1e-3, atol=1e-5, msg=name)


def peak(unet: UNet3DConditionModel) -> float:
    """MB that a forward and a backward pass over 16 frames take at most, above what the process held before."""
    z, words = torch.randn(1, 5, 16, 32, 32), torch.randn(1, 1, WIDTH)
    gc.collect()
    # What is freed goes back, so that it counts again when it is taken again.
    ctypes.CDLL(None).malloc_trim(0)
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as during:
        unet(z, torch.tensor([7]), words).sample.square().mean().backward()
    return during.megabytes - before.megabytes


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc, no malloc_trim")
def test_checkpointing_lowers_the_peak():
    """Of the process, as it is measured: the inputs of the layers and one layer's inside are left."""
    unet = prepared(make_unet()).requires_grad_(True)
    peak(checkpoint_layers(unet))  # what is allocated once
    less = min(peak(unet) for _ in range(2))
    more = min(peak(checkpoint_layers(unet, False)) for _ in range(2))
    assert 0 < less < 0.6 * more, (less, more)


def test_checkpointing_can_be_copied_and_taken_off():
    ours = checkpoint_layers(checkpoint_layers(prepared(make_unet()).requires_grad_(True)))
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        twin.down_blocks[0].resnets[0].conv1.weight.zero_()
    (size, gradient), (twins, other) = kept_bytes(ours), kept_bytes(twin)
    assert size == twins and not torch.equal(gradient, other), "a copy runs its own weights"
    assert type(copied(ours, torch.float32).transformer_in) is type(make_unet().transformer_in)
    ours.zero_grad()
    off = kept_bytes(checkpoint_layers(ours, False))
    assert off[0] > size
    torch.testing.assert_close(off[1], gradient, rtol=1e-4, atol=1e-6)


def test_fast_learning_writes_the_same_with_checkpointing(tmp_path):
    folder = save_modelscope(tmp_path)
    changes = {"sampling_steps": 1, "chunk_frames": 2, "context_frames": 4}
    learned = []
    for on in (False, True):
        model = WorldModel.from_pretrained(folder, make_memory(), gradient_checkpointing=on, **changes)
        rollout, chunk = model.imagine(model.start(frames(1), [3]), CAPTIONS[:1])
        learned.append(model.remember(rollout, chunk).memory.weights)
    assert float(learned[0].norm()) > 0
    assert float(learned[0].distance(learned[1]) / learned[0].norm()) < 1e-4


@pytest.mark.parametrize("inside", [True, False])
def test_slow_learning_at_theta_has_the_same_gradients_with_checkpointing(inside):
    """The outer loop's backward pass comes after Θ was taken off; the second computation still sees it."""
    z, t, words = torch.randn(2, 5, 3, LATENT, LATENT), torch.tensor([7, 700]), torch.randn(2, 1, WIDTH)
    found = []
    for on in (False, True):
        unet = checkpoint_layers(prepared(make_unet()).requires_grad_(True), on)
        injector = LoraInjector(unet, LoraSpec(2, 2))
        draw = torch.Generator().manual_seed(1)
        theta = injector.initial().select([0, 0])
        theta = theta.map(lambda x: x + torch.randn(x.shape, generator=draw))  # noqa: B023 (called at once)
        theta = theta.map(lambda x: x.detach().requires_grad_(True))
        with injector.applied(theta):
            loss = unet(z, t, words).sample.square().mean()
            if inside:
                loss.backward()
        with injector.applied(injector.initial() if on else None):  # another Θ is on by now
            if not inside:
                loss.backward()
        grads = [x.grad for x in theta.tensors()] + [p.grad for p in unet.parameters()]
        found.append((loss.detach(), grads))
    torch.testing.assert_close(found[1][0], found[0][0])
    for ours, plain in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)
    assert any(g.abs().max() > 1e-4 for g in found[0][1][:4])


def test_large_frames_go_through_the_autoencoder_a_few_at_a_time(tmp_path, monkeypatch):
    model = WorldModel.from_pretrained(save_modelscope(tmp_path))
    seen, passes = frames(7), []
    whole = model.autoencoder.encode(seen)
    pictures = model.autoencoder.decode(whole)
    for part in (model.autoencoder.vae.encoder, model.autoencoder.vae.decoder):
        part.register_forward_hook(lambda _, args, out: passes.append(len(out)))
    monkeypatch.setattr(autoencoder_module, "PIXELS_AT_ONCE", 3 * seen[0, ..., 0].size)
    torch.testing.assert_close(model.autoencoder.encode(seen), whole, rtol=1e-4, atol=1e-5)
    assert np.abs(model.autoencoder.decode(whole).astype(int) - pictures).max() <= 1
    assert passes == [3, 3, 1, 3, 3, 1]


# --- the benchmark -----------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_benchmark_says_that_there_is_no_gpu(capsys):
    assert full_size.main([]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: device=cuda: this torch sees no CUDA device") and "--device cpu" in line
    with pytest.raises(SystemExit):
        full_size.main(["--side", "100"])


@pytest.mark.parametrize(("capacity", "expected"), [(3, 0), (4, 4), (16, 16), (23, (18, 23)), (10_000, 256)])
def test_the_largest_chunk_is_searched_up_to_a_limit(capacity, expected):
    tried: list[int] = []

    def fits(frames: int) -> bool:
        tried.append(frames)
        return frames <= capacity

    found = full_size.largest_chunk(fits, 4)
    low, high = expected if isinstance(expected, tuple) else (expected, expected)
    assert low <= found <= high and max(tried) <= 256


def test_the_benchmark_measures_a_shrunk_model(monkeypatch, tmp_path):
    """The same code, on networks of the same classes and block types at a size that a test can afford."""
    small = ["unet.block_out_channels=[32,32,32,32]", "unet.layers_per_block=1", "unet.attention_head_dim=8",
             "unet.cross_attention_dim=16", "autoencoder.block_out_channels=[32,32,32,32]"]  # fmt: skip
    clip = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shrunk = compose("pretrain", ["model=modelscope", *(f"model.{option}" for option in small)])
    monkeypatch.setattr(full_size, "compose", lambda name, overrides: shrunk)
    monkeypatch.setattr(full_size, "CLIP", full_size.CLIP | clip)
    options = "--device cpu --precision bf16 --side 64 --frames 2 --past 1 --steps 1 --rounds 1"
    out = tmp_path / "figures.json"
    assert full_size.main([*options.split(), "--json", str(out)]) == 0
    args = full_size.parsed([*options.split()])
    figures = full_size.measure(args, torch.device("cpu"))
    assert out.is_file() and figures["largest_chunk"] is None
    assert all(v > 0 for v in figures["one_chunk"]["seconds"].values())
    assert set(figures["parameters_millions"]) == {"unet", "autoencoder", "text"}
    model = full_size.random_model(
        shrunk.model, full_size.Settings(chunk_frames=2, context_frames=3), torch.device("cpu"), torch.float32
    )
    _, chunk = model.imagine(model.start(np.zeros((1, 64, 64, 3), np.uint8), [0]), ["go"])
    assert bool(chunk.latents.isfinite().all()) and isinstance(model.autoencoder.vae, AutoencoderKL)
