"""Intervals."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.statistics import mean_interval, share_interval


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
