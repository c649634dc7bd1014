"""Scores of `sun2026`: what is issued beside its parts and all baselines, on one common sample of forecasts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from hydroda.forecast.choice import BOTH, FILTER, NETWORKS
from hydroda.forecast.correction import BASELINES
from hydroda.units import HOUR
from hydroda.verifying import verification
from hydroda.verifying.verification import DIMS, Sample
from hydroda.vocabulary import LeadForcing

LEADS = (1, 2, 3, 6, 9, 12, 18, 24)
ISSUED = "forecast"
UKF_1H, ENKF, BY_SEED = "ukf_1h", "enkf", "seed_"  # rows of other deployments; a seed has its number after it
CLASSICAL = (FILTER, UKF_1H, ENKF, *BASELINES)
BLOCK = 7 * 24 * HOUR  # floods and dry spells are drawn whole
DRAWS, SEED = 1000, 2026


@dataclass(frozen=True)
class Result:
    """Of a catchment and a forcing of the lead hours, by `LEADS`: forecasts in the sample; NSE of each method; squared
    error of what is issued over that of the best classical method, which one that is, 5 and 95 % of the ratio over
    draws of weeks; the ratio in each draw of the rain; share [%] of observations within the 90 % interval, of all and
    of the highest."""

    catchment: str
    forcing: LeadForcing
    n: tuple[int, ...]
    nse: dict[str, tuple[float, ...]]
    ratio: tuple[float, ...]
    best: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    by_draw: tuple[tuple[float, ...], ...]
    inside: tuple[float, ...]
    inside_high: tuple[float, ...]


def pooled(samples: Sequence[Sample]) -> Sample:
    """Samples of the same hours, one for each draw of the rain, as one: one after the other."""

    def joined(parts: Iterable[xr.DataArray]) -> xr.DataArray:
        return xr.concat(list(parts), DIMS[0], join="exact", coords="minimal", compat="equals")

    first = samples[0]
    return Sample(
        joined(each.forecasts for each in samples),
        joined(each.observed for each in samples),
        {name: joined(each.bounds[name] for each in samples) for name in first.bounds},
        {name: sum((each.counts[name] for each in samples[1:]), count) for name, count in first.counts.items()},
        None if first.networks is None else joined(each.networks for each in samples if each.networks is not None),
    )


def scored(catchment: str, forcing: LeadForcing, sample: Sample, rows: Mapping[str, xr.DataArray]) -> Result:
    """The scores of one station, beside `rows` of other deployments (F, 24), where all of them have a forecast.

    Forecasts of the networks are the mean of those seed by seed where there are such rows: networks that validation
    chose at no lead do not run in a deployment.
    """
    at = {DIMS[1]: list(LEADS)}
    seen = sample.observed.sel(at)
    seen = seen.where(sum((row.sel(at) for row in rows.values()), seen).notnull())
    observed, theirs = seen.values, {name: row.sel(at).values for name, row in rows.items()}
    own = {str(m): sample.forecasts.sel({"method": m}).sel(at).values for m in sample.forecasts.method.values}
    squares = {name: (values - observed) ** 2 for name, values in _ordered(own, theirs).items()}
    errors = {name: _mean(each) for name, each in squares.items()}
    variance = _mean((observed - _mean(observed)) ** 2)
    best = best_of({name: error for name, error in errors.items() if name in CLASSICAL})
    against = np.stack([squares[name][:, i] for i, name in enumerate(best)], -1)
    issued = seen[DIMS[0]].values
    block = (issued - issued[0]) // BLOCK  # a week is drawn with all draws of its rain
    draws = int((issued == issued[0]).sum())
    parts = zip(np.split(squares[ISSUED], draws), np.split(against, draws), strict=True)
    low, high = ratio_interval(squares[ISSUED], against, block)
    hits = verification.interval_scores({name: bound.sel(at) for name, bound in sample.bounds.items()}, seen)
    return Result(
        catchment,
        forcing,
        tuple(int(count) for count in np.isfinite(observed).sum(0)),
        {name: _numbers(1.0 - error / variance) for name, error in errors.items()},
        _numbers(errors[ISSUED] / _mean(against)),
        best,
        _numbers(low),
        _numbers(high),
        tuple(_numbers(_mean(one) / _mean(other)) for one, other in parts),
        _numbers(hits["coverage_90"].values),
        _numbers(hits["coverage_90_high"].values),
    )


def _ordered(own: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All forecasts in the order of the tables: what is issued, filters, networks, the mean of both, baselines."""
    seeds = [values for name, values in rows.items() if name.startswith(BY_SEED)]
    networks = np.mean(seeds, 0) if seeds else own[NETWORKS]
    filters = {name: values for name, values in rows.items() if name in CLASSICAL}
    return {
        ISSUED: own[ISSUED],
        FILTER: own[FILTER],
        **filters,
        NETWORKS: networks,
        **{name: values for name, values in rows.items() if name not in filters},
        BOTH: 0.5 * (own[FILTER] + networks),
        **{name: own[name] for name in BASELINES},
    }


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


def _mean(values: np.ndarray) -> np.ndarray:
    """Over forecasts (F, L); NaN where there are none, as of networks that were not trained."""
    count = np.isfinite(values).sum(0)
    return np.where(count > 0, np.nansum(values, 0) / np.maximum(count, 1), np.nan)


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
