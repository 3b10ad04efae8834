"""Means and shares with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest


def mean_interval(values: Sequence[float], resamples: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Mean with a 95% percentile bootstrap over episodes: ``{mean, low, high, n}``."""
    x = np.asarray(values, np.float64)
    if not len(x):
        raise ValueError("no episodes, so no mean")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [x[rng.integers(len(x), size=(500, len(x)))].mean(1) for _ in range(resamples // 500)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(x.mean()), "low": float(low), "high": float(high), "n": len(x)}


def share_interval(hits: Sequence[bool]) -> dict[str, float]:
    """A share with its 95% Clopper-Pearson interval: ``{share, low, high, n}``."""
    n, k = len(hits), int(np.sum(hits))
    interval = binomtest(k, n).proportion_ci(0.95, "exact")
    return {"share": k / n, "low": float(interval.low), "high": float(interval.high), "n": n}
