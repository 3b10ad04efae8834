"""The locator against ground truth: drawn cubes, and the simulator's own frames."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from planner.locate import IN_FULL_VIEW, LEAST_VISIBLE, CubeLocator, outline
from tasks import Episode, Segment
from tasks.camera import Camera

NAMES = ("red cube", "blue cube")
TABLE, WHITE = (170, 160, 135), (205, 205, 210)
SHADES = {"red cube": [(191, 22, 22), (165, 20, 20)], "blue cube": [(22, 44, 191), (20, 38, 165)]}
CORNERS = np.array(list(product((-1, 1), repeat=3))) * 0.025


@pytest.fixture(scope="module")
def camera() -> Camera:
    tilt = np.deg2rad(50)
    back = np.array([np.cos(tilt), 0.0, np.sin(tilt)])
    rotation = np.column_stack([[0, 1, 0], np.cross(back, [0, 1, 0]), back])
    return Camera(np.array([0.54, 0, 0.03]) + 3 * back, rotation, 8.417, 64, 64)


def draw(camera: Camera, cubes: dict[str, tuple[float, float]], cover: tuple | None = None) -> np.ndarray:
    """``(64, 64, 3)`` uint8: cubes as their lit top and darker outline, drawn 16 times finer."""
    fine = 16
    image = Image.new("RGB", (camera.width * fine, camera.height * fine), TABLE)
    pen = ImageDraw.Draw(image)
    for name, (x, y) in cubes.items():
        corners = camera.project(np.array([x, y, 0.025]) + CORNERS) * fine
        top, side = SHADES[name]
        faces = [(corners[[4, 5, 7, 6]], side), (corners[[1, 3, 7, 5]], top)]
        for face, shade in faces:
            pen.polygon([tuple(p) for p in face], fill=shade)
    if cover:
        pen.rectangle([v * fine for v in cover], fill=WHITE)
    return np.array(image.resize((camera.width, camera.height), Image.Resampling.BOX))


def scenes(camera: Camera, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    places = []
    while len(places) < count:
        xy = rng.uniform([0.39, -0.2], [0.69, 0.2], (2, 2))
        if np.linalg.norm(xy[0] - xy[1]) > 0.1:
            places.append(xy)
    frames = np.array([draw(camera, dict(zip(NAMES, map(tuple, p), strict=True))) for p in places])
    return frames, np.array(places)


def errors_mm(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found[..., :2] - true[..., :2], axis=-1) * 1000


def test_drawn_cubes_within_five_millimetres(camera: Camera) -> None:
    frames, places = scenes(camera, 60)
    sight = CubeLocator(camera, NAMES).sight(frames)
    assert sight.positions.shape == (60, 2, 3)
    assert (sight.positions[..., 2] == 0.025).all()
    assert errors_mm(sight.positions, places).max() < 5
    assert sight.visible.min() > 0.8 and sight.confidence.min() > 0.8


@pytest.mark.parametrize("change", ["blur", "noise", "dark", "bright", "warm"])
def test_bad_pictures_still_within_six_millimetres(camera: Camera, change: str) -> None:
    frames, places = scenes(camera, 30)
    if change == "blur":
        frames = np.array([Image.fromarray(f).filter(ImageFilter.GaussianBlur(1.5)) for f in frames])
    else:
        noise = np.random.default_rng(0).normal(0, 12, frames.shape) if change == "noise" else 0.0
        gain = {"noise": 1.0, "dark": 0.6, "bright": 1.25, "warm": np.array([1.1, 1.0, 0.85])}[change]
        frames = np.clip(frames * gain + noise, 0, 255).astype(np.uint8)
    assert errors_mm(CubeLocator(camera, NAMES).locate(frames), places).max() < 6


def test_a_missing_cube_is_nan_and_a_half_hidden_one_says_so(camera: Camera) -> None:
    u, v = camera.project(np.array([0.5, 0.1, 0.025]))
    frames = np.array([
        draw(camera, {"red cube": (0.5, 0.1)}),
        draw(camera, {"red cube": (0.5, 0.1), "blue cube": (0.6, -0.1)}, (u, v - 8, u + 8, v + 8)),
        draw(camera, {"red cube": (0.5, 0.1), "blue cube": (0.6, -0.1)}, (u - 6, v - 8, u + 8, v + 8)),
        draw(camera, {}),
    ])  # fmt: skip
    sight = CubeLocator(camera, NAMES).sight(frames)
    assert np.isnan(sight.positions[0, 1]).all() and sight.confidence[0, 1] == 0
    assert np.isfinite(sight.positions[1]).all()
    assert 0.3 < sight.visible[1, 0] < 0.7 and sight.confidence[1, 0] < 0.7 < sight.confidence[1, 1]
    assert np.isnan(sight.positions[2, 0]).all() and np.isfinite(sight.positions[2, 1]).all()
    assert np.isnan(sight.positions[3]).all() and (sight.confidence[3] == 0).all()


def test_two_blobs_of_one_colour_lower_the_confidence(camera: Camera) -> None:
    one, two = draw(camera, {"red cube": (0.5, 0.15)}), draw(camera, {"red cube": (0.5, -0.15)})
    both = np.where(abs(two.astype(int) - TABLE).sum(-1, keepdims=True) > 30, two, one)
    sight = CubeLocator(camera, NAMES).sight(np.array([one, both]))
    assert sight.confidence[0, 0] > 0.85
    assert sight.confidence[1, 0] < 0.6


def test_the_simulators_frames_within_five_millimetres() -> None:
    from envs.tabletop import TabletopEnv

    env = TabletopEnv()
    try:
        seen = [env.reset(seed=seed) for seed in range(40, 60)]
    finally:
        env.close()
    locator = CubeLocator(env.camera, env.task.vocabulary.objects)
    true = np.array([info["positions"][:2] for _, info in seen])
    errors = errors_mm(locator.locate(np.array([frame for frame, _ in seen])), true)
    assert errors.max() < 5 and np.median(errors) < 2


def test_a_half_hidden_cube_counts_as_not_seen() -> None:
    """Imagined: the red cube goes to the left and comes back, but the hand hides a part of it at the end."""
    from envs.tabletop import TabletopEnv
    from planner.loop import Running, score_located

    env = TabletopEnv()
    try:
        layout = env.task.layout(0, {"red cube": "left"})
        moved = layout.starts.copy()
        moved[0] = env.task.place("left")
        there, _ = env.reset(seed=0, options={"layout": replace(layout, starts=moved)})
        start, _ = env.reset(seed=0, options={"layout": layout})
        x, y, _ = layout.start("red cube")
        hidden, _, _, _, info = env.step(np.array([x + 0.06, y, 0.08, 1, 0, 0, 0, 1], np.float32))
    finally:
        env.close()
    locator = CubeLocator(env.camera, env.task.vocabulary.objects)
    seen = locator.sight(hidden[None])
    bias = errors_mm(seen.positions[0, 0], info["positions"][0])
    assert LEAST_VISIBLE < seen.visible[0, 0] < IN_FULL_VIEW < seen.visible[0, 1] and 5 < bias < 20
    running = Running(env, layout, layout.plan, [start], [layout.starts])
    outward = np.linalg.norm(moved[0] - layout.starts[0])
    for before_last, last, shown in ((there, start, True), (there, hidden, False), (start, hidden, False)):
        imagined = np.stack([start] * 5 + [there] * 10 + [before_last, last])
        located, score = score_located(env.task, imagined, running, locator)
        assert np.isfinite(located[-1]).all(-1).tolist() == [shown, True]
        assert score.displaced["red cube"] is shown and score.success is shown
        assert score.distance == pytest.approx(0 if shown else outward, abs=0.01), (
            "also seen near home, then lost"
        )
    frames, places = np.stack([start] * 4 + [hidden]), np.repeat(info["positions"][None], 5, 0)
    segments = (Segment(0, 4, layout.plan[1].text),)
    e = Episode(frames, np.zeros((4, 8), np.float32), segments, places.astype(np.float32), env.names)
    assert np.isnan(locator.errors(e, frames)).tolist() == [
        False,
        False,
        True,
        False,
    ]  # what is scored is validated
    assert np.isnan(locator.chunk_error(e, segments[0], layout.plan[1], frames[1:]))


def test_outline_of_a_square() -> None:
    middle, area = outline(np.array([[0, 0], [2, 0], [2, 2], [0, 2], [1, 1], [1, 0]], float))
    assert middle == pytest.approx([1, 1]) and area == pytest.approx(4)


def test_refuses_wrong_frames_and_colours(camera: Camera) -> None:
    locator = CubeLocator(camera, NAMES)
    with pytest.raises(ValueError, match="expected"):
        locator.locate(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="expected"):
        locator.locate(np.zeros((1, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="expected one of"):
        CubeLocator(camera, ("pink cube",))
    with pytest.raises(ValueError, match="expected one of"):
        CubeLocator(camera, NAMES, ("red", "red"))
    assert locator.locate(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 2, 3)
