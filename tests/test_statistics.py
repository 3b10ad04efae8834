"""Intervals."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.statistics import crossed_interval, mean_interval, paired_intervals, share_interval


def test_the_bootstrap_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = mean_interval(rng.normal(1.0, 0.5, 40), resamples=1000)
        covered += interval["low"] <= 1.0 <= interval["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_clopper_pearson_at_the_ends():
    none, every = share_interval([False] * 20), share_interval([True] * 20)
    assert none["low"] == 0 and none["high"] == pytest.approx(0.1684, abs=1e-3)
    assert every["high"] == 1 and every["low"] == pytest.approx(1 - 0.1684, abs=1e-3)


def test_no_episodes_is_an_error():
    with pytest.raises(ValueError, match="no episodes"):
        mean_interval([])


def test_an_interval_over_trainings_and_layouts_covers_the_spread_of_both():
    rng = np.random.default_rng(0)
    trainings, layouts = rng.normal(0, 1, (6, 1)), rng.normal(0, 0.1, (1, 40))
    crossed = crossed_interval(trainings + layouts, np.ones((6, 40)))
    pooled = mean_interval((trainings + layouts).ravel())
    assert crossed["mean"] == pytest.approx(pooled["mean"]) and crossed["n"] == 240
    assert crossed["high"] - crossed["low"] > 3 * (pooled["high"] - pooled["low"])


def test_one_training_is_the_bootstrap_over_layouts():
    values = np.random.default_rng(0).normal(1, 0.5, 40)
    crossed, plain = crossed_interval(values[None], np.ones((1, 40))), mean_interval(values)
    assert all(crossed[k] == pytest.approx(plain[k]) for k in ("mean", "low", "high", "n"))


def test_cells_without_values_count_nowhere():
    found = crossed_interval([[0.0, 2.0], [4.0, 0.0]], [[0, 1], [2, 0]])
    assert found["mean"] == 2 and found["n"] == 3 and found["low"] == found["high"] == 2
    with pytest.raises(ValueError, match="no episodes"):
        crossed_interval([[0.0]], [[0]])


def test_a_pair_of_rows_shares_its_layouts():
    rng = np.random.default_rng(0)
    layouts = rng.uniform(1, 2, (1, 30))
    by, times = paired_intervals(2 * layouts, np.repeat(layouts, 3, 0))
    assert times is not None and times["low"] == pytest.approx(2) and times["high"] == pytest.approx(2)
    assert (
        by["mean"] == pytest.approx(layouts.mean()) and by["low"] < by["mean"] < by["high"] and by["n"] == 30
    )
    assert paired_intervals(layouts, -layouts)[1] is None
    beyond = paired_intervals(2 * layouts, layouts, 0.5 * layouts)[1]
    assert beyond is not None and beyond["low"] == pytest.approx(3) and beyond["high"] == pytest.approx(3)
    unsure = paired_intervals(layouts, layouts - layouts.mean() + 0.02)[1]
    assert unsure is not None and unsure["high"] == np.inf
