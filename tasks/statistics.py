"""Means, ratios and shares with 95% intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest


def mean_interval(values: Sequence[float], resamples: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Mean with a 95% percentile bootstrap over episodes: ``{mean, low, high, n}``."""
    x = np.asarray(values, np.float64)
    if not len(x):
        raise ValueError("no episodes, so no mean")
    means = np.concatenate([x[picked].mean(1) for picked in _resampled(len(x), resamples, seed)])
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(x.mean()), "low": float(low), "high": float(high), "n": len(x)}


def ratio_interval(
    above: Sequence[float], below: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Sum over sum of paired values, with a 95% percentile bootstrap over pairs: ``{mean, low, high, n}``.

    Raises:
        ValueError: no pairs, or the sum below is not positive.
    """
    x, y = np.asarray(above, np.float64), np.asarray(below, np.float64)
    if not len(x) or len(x) != len(y) or y.sum() <= 0:
        raise ValueError(f"{len(x)} over {len(y)} values with a sum of {y.sum():g}: no ratio")
    ratios = []
    for picked in _resampled(len(x), resamples, seed):
        total = y[picked].sum(1)
        ratios.append(x[picked].sum(1) / np.where(total == 0, np.nan, total))
    low, high = np.nanquantile(np.concatenate(ratios), [0.025, 0.975])
    return {"mean": float(x.sum() / y.sum()), "low": float(low), "high": float(high), "n": len(x)}


def _resampled(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """``(500, n)`` indices drawn with replacement, as often as it takes."""
    rng = np.random.default_rng(seed)
    return (rng.integers(n, size=(500, n)) for _ in range(resamples // 500))


def share_interval(hits: Sequence[bool]) -> dict[str, float]:
    """A share with its 95% Clopper-Pearson interval: ``{share, low, high, n}``."""
    n, k = len(hits), int(np.sum(hits))
    interval = binomtest(k, n).proportion_ci(0.95, "exact")
    return {"share": k / n, "low": float(interval.low), "high": float(interval.high), "n": n}
