"""The pinhole camera: exact in both directions, and the same as MuJoCo's."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.camera import Camera


def looking_down(width: int = 80, height: int = 60, fovy: float = 40.0) -> Camera:
    """At (0.5, 0.1, 2), straight down; the picture's right is +y, its up is -x."""
    rotation = np.column_stack([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]).astype(float)
    return Camera(np.array([0.5, 0.1, 2.0]), rotation, fovy, height, width)


def test_the_middle_right_and_down() -> None:
    camera = looking_down()
    assert camera.project(np.array([0.5, 0.1, 0.0])) == pytest.approx([40, 30])
    right, down = camera.project(np.array([[0.5, 0.2, 0.0], [0.6, 0.1, 0.0]]))
    assert right[0] > 40 and right[1] == pytest.approx(30)
    assert down[1] > 30 and down[0] == pytest.approx(40)


def test_the_vertical_field_of_view_fills_the_height() -> None:
    camera = looking_down()
    edge = 2.0 * np.tan(np.deg2rad(20))
    assert camera.project(np.array([0.5 + edge, 0.1, 0.0])) == pytest.approx([40, 60])
    assert camera.metres_per_pixel(np.array([0.5, 0.1, 0.0])) == pytest.approx(2 * edge / 60)


def test_project_and_unproject_are_inverse() -> None:
    tilt = np.deg2rad(35)
    back = np.array([np.cos(tilt), 0.0, np.sin(tilt)])
    rotation = np.column_stack([[0, 1, 0], np.cross(back, [0, 1, 0]), back])
    camera = Camera(np.array([2.0, 0.0, 1.5]), rotation, 30.0, 64, 96)
    points = np.random.default_rng(0).uniform([-0.3, -0.5, 0.0], [0.6, 0.5, 0.2], (5, 7, 3))
    pixels = camera.project(points)
    assert pixels.shape == (5, 7, 2)
    np.testing.assert_allclose(camera.unproject_to_height(pixels, points[..., 2]), points, atol=1e-9)


def test_what_the_camera_cannot_see_is_nan() -> None:
    camera = looking_down()
    assert np.isnan(camera.project(np.array([0.5, 0.1, 3.0]))).all()
    assert np.isnan(camera.unproject_to_height(np.array([40.0, 30.0]), 3.0)).all()


def test_a_bigger_picture_scales_pixels() -> None:
    point = np.array([0.6, 0.25, 0.025])
    np.testing.assert_allclose(looking_down(160, 120).project(point), 2 * looking_down().project(point))


@pytest.mark.parametrize(
    "change",
    [{"rotation": np.diag([1.0, 1.0, -1.0])}, {"position": np.zeros(2)}, {"fovy": 180.0}, {"width": 0}],
)
def test_refuses_what_is_no_camera(change: dict) -> None:
    good = {"position": np.zeros(3), "rotation": np.eye(3), "fovy": 40.0, "height": 8, "width": 8}
    with pytest.raises(ValueError, match=r"expected|rotation must be"):
        Camera(**{**good, **change})


def test_it_is_the_simulators_camera() -> None:
    """A cube's pixels in MuJoCo's own picture lie in the projected cube."""
    from envs.tabletop import TabletopEnv

    env = TabletopEnv(image_size=96)
    try:
        frame, info = env.reset(seed=4)
    finally:
        env.close()
    for name, position in zip(env.task.vocabulary.objects, info["positions"], strict=False):
        channel = {"red": 0, "blue": 2}[name.split()[0]]
        chroma = frame[..., channel].astype(int) - np.delete(frame, channel, -1).max(-1)
        rows, columns = np.nonzero(chroma > 60)
        corners = np.stack(np.meshgrid(*[[-0.025, 0.025]] * 3), -1).reshape(-1, 3)
        uv = env.camera.project(position + corners)
        assert columns.min() == pytest.approx(uv[:, 0].min(), abs=1.2)
        assert columns.max() + 1 == pytest.approx(uv[:, 0].max(), abs=1.2)
        assert rows.min() == pytest.approx(uv[:, 1].min(), abs=1.2)
        assert rows.max() + 1 == pytest.approx(uv[:, 1].max(), abs=1.2)
