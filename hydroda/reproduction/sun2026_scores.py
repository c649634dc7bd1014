"""Scores of `sun2026`: what is issued beside its parts and all baselines, on one common sample of forecasts."""

from dataclasses import dataclass

import numpy as np

from hydroda.choice import BOTH, FILTER, NETWORKS
from hydroda.correction import BASELINES
from hydroda.units import HOUR
from hydroda.verification import BOUNDS, DIMS, Sample

LEADS = (1, 2, 3, 6, 9, 12, 18, 24)
ISSUED = "forecast"
METHODS = (ISSUED, FILTER, NETWORKS, BOTH, *BASELINES)
CLASSICAL = (FILTER, *BASELINES)
BLOCK = 7 * 24 * HOUR  # floods and dry spells are drawn whole
DRAWS, SEED = 1000, 2026
HIGHEST = 0.05  # share of the observations that counts as high flow


@dataclass(frozen=True)
class Result:
    """Of a catchment and a forcing of the lead hours, by `LEADS`: forecasts in the sample; NSE of each method; squared
    error of what is issued over that of the best classical method, which one that is, 5 and 95 % of the ratio over
    draws of weeks; share [%] of observations within the 90 % interval, of all and of the highest."""

    catchment: str
    forcing: str
    n: tuple[int, ...]
    nse: dict[str, tuple[float, ...]]
    ratio: tuple[float, ...]
    best: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    inside: tuple[float, ...]
    inside_high: tuple[float, ...]


def scored(catchment: str, forcing: str, sample: Sample) -> Result:
    """The scores of one station."""
    at = {DIMS[1]: list(LEADS)}
    observed = sample.observed.sel(at).values
    forecasts = {str(m): sample.forecasts.sel({"method": m}).sel(at).values for m in sample.forecasts.method.values}
    forecasts[BOTH] = 0.5 * (forecasts[FILTER] + forecasts[NETWORKS])
    squares = {name: (forecasts[name] - observed) ** 2 for name in METHODS}
    errors = {name: _mean(each) for name, each in squares.items()}
    variance = _mean((observed - _mean(observed)) ** 2)
    best = best_of({name: errors[name] for name in CLASSICAL})
    against = np.stack([squares[name][:, i] for i, name in enumerate(best)], -1)
    issued = sample.observed[DIMS[0]].values
    block = (issued - issued[0]) // BLOCK
    low, high = ratio_interval(squares[ISSUED], against, block)
    inside, inside_high = coverage(observed, *(sample.bounds[name].sel(at).values for name in (BOUNDS[0], BOUNDS[-1])))
    return Result(
        catchment,
        forcing,
        tuple(int(count) for count in np.isfinite(observed).sum(0)),
        {name: _numbers(1.0 - error / variance) for name, error in errors.items()},
        _numbers(errors[ISSUED] / _mean(against)),
        best,
        _numbers(low),
        _numbers(high),
        _numbers(inside),
        _numbers(inside_high),
    )


def best_of(errors: dict[str, np.ndarray]) -> tuple[str, ...]:
    """For each lead the name of the least error (L,)."""
    names = list(errors)
    return tuple(names[i] for i in np.argmin(np.stack(list(errors.values())), 0))


def ratio_interval(
    issued: np.ndarray, against: np.ndarray, block: np.ndarray, draws: int = DRAWS, seed: int = SEED
) -> np.ndarray:
    """5 and 95 % (2, L) of the mean of squares (F, L) over that of others, when blocks (F,) are drawn with replacement.

    The others stay those of the method that was best on the whole sample.
    """
    names, place = np.unique(block, return_inverse=True)
    sums = np.zeros((2, names.size, issued.shape[1]))
    for i, squares in enumerate((issued, against)):
        np.add.at(sums[i], place, np.nan_to_num(squares))
    times = np.random.default_rng(seed).multinomial(names.size, np.full(names.size, 1.0 / names.size), draws)
    above, below = times @ sums
    return np.quantile(above / below, (0.05, 0.95), axis=0)


def coverage(observed: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share [%] of observations (F, L) within bounds, by lead (L,): of all, and of the highest 5 % of that lead."""
    inside = np.where(np.isfinite(observed), (low <= observed) & (observed <= high), np.nan)
    top = observed >= np.nanquantile(observed, 1.0 - HIGHEST, axis=0)
    return 100.0 * _mean(inside), 100.0 * _mean(np.where(top, inside, np.nan))


def _mean(values: np.ndarray) -> np.ndarray:
    """Over forecasts (F, L); NaN where there are none, as of networks that were not trained."""
    count = np.isfinite(values).sum(0)
    return np.where(count > 0, np.nansum(values, 0) / np.maximum(count, 1), np.nan)


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
