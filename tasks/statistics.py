"""Means, ratios and shares with 95% intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
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


def crossed_interval(
    totals: ArrayLike, counts: ArrayLike, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Mean over several trainings on the same layouts, with a 95% percentile bootstrap that draws both the trainings
    and the layouts anew: ``{mean, low, high, n}``. With a few trainings it is too narrow, since their spread is
    known from as few.

    Args:
        totals: ``(trainings, layouts)`` sum of a cell's values.
        counts: how many values a cell holds; 0 where it has none.

    Raises:
        ValueError: no values.
    """
    x, n = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    if n.sum() <= 0:
        raise ValueError("no episodes, so no mean")
    means = []
    for layouts, drawn in _crossed_draws(x.shape[1], resamples, seed, len(x)):
        of = _totals(n, drawn, layouts)
        means.append(_totals(x, drawn, layouts) / np.where(of == 0, np.nan, of))
    low, high = np.nanquantile(np.concatenate(means), [0.025, 0.975])
    return {"mean": float(x.sum() / n.sum()), "low": float(low), "high": float(high), "n": int(n.sum())}


def paired_intervals(
    there: ArrayLike,
    here: ArrayLike,
    floor: ArrayLike | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, float] | None]:
    """How much greater one row is than another on the same layouts, and how many times as great, each with the
    bootstrap of :func:`crossed_interval`; the layouts are drawn together, the trainings of each row apart.

    Args:
        there: ``(trainings, layouts)`` of the one row.
        here: ``(trainings, layouts)`` of the row that it is compared with.
        floor: ``(trainings, layouts)`` of a row that is taken off both first; None takes nothing off.

    Returns:
        Difference of the means, and their ratio; None where the mean of ``here`` is not positive.
    """
    x, y = np.asarray(there, np.float64), np.asarray(here, np.float64)
    z = np.zeros((1, x.shape[1])) if floor is None else np.asarray(floor, np.float64)
    by, times = [], []
    for layouts, of_x, of_y, of_z in _crossed_draws(x.shape[1], resamples, seed, len(x), len(y), len(z)):
        off = _totals(z, of_z, layouts) / z.size
        above = _totals(x, of_x, layouts) / x.size - off
        below = _totals(y, of_y, layouts) / y.size - off
        by.append(above - below)
        times.append(np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0))
    shared = {"n": x.shape[1]}
    low, high = np.quantile(np.concatenate(by), [0.025, 0.975])
    difference = {"mean": float(x.mean() - y.mean()), "low": float(low), "high": float(high), **shared}
    if y.mean() <= z.mean():
        return difference, None
    low, high = np.quantile(np.concatenate(times), [0.025, 0.975], method="nearest")
    return difference, {
        "mean": float((x.mean() - z.mean()) / (y.mean() - z.mean())),
        "low": float(low),
        "high": float(high),
        **shared,
    }


def _totals(values: np.ndarray, trainings: np.ndarray, layouts: np.ndarray) -> np.ndarray:
    """Sum of ``(trainings, layouts)`` values over each drawn set of both: ``(draws,)``."""
    return np.take_along_axis(values[trainings].sum(1), layouts, 1).sum(1)


def _crossed_draws(
    layouts: int, resamples: int, seed: int, *trainings: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Draws of the layouts and, each apart, of the trainings."""
    apart = [_resampled(n, resamples, seed + 1 + k) for k, n in enumerate(trainings)]
    return zip(_resampled(layouts, resamples, seed), *apart, strict=True)


def _resampled(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """``(500, n)`` indices drawn with replacement, as often as it takes."""
    rng = np.random.default_rng(seed)
    return (rng.integers(n, size=(500, n)) for _ in range(resamples // 500))


def share_interval(hits: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """A share with its 95% Clopper-Pearson interval: ``{share, low, high, n}``."""
    n, k = len(hits), int(np.sum(hits))
    interval = binomtest(k, n).proportion_ci(0.95, "exact")
    return {"share": k / n, "low": float(interval.low), "high": float(interval.high), "n": n}
