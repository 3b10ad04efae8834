"""Figures as text."""

from __future__ import annotations

from planner.figures import bounds, interval
from tasks.statistics import mean_interval, share_interval


def test_one_episode_gives_a_share_an_interval_and_a_mean_none():
    one, two = mean_interval([0.25]), mean_interval([0.25, 0.25])
    assert interval(one) == "0.250 [–]" and bounds(one) == "[–]"
    assert interval(two) == "0.250 [0.250, 0.250]" and interval(None) == "–"
    assert interval(share_interval([True]), "share", ".0%") == "100% [3%, 100%]"
