"""Forecasts that need no filter: the baselines every forecast is measured against, fitted per station.

From the newest observation y, `age` hours before issue, its change Δ in the hour before, the open loop o of the model
and its error e = y − o at that time:

persistence     y
trend           y + (φ + … + φ^(age + lead)) Δ              (damped: Gardner & McKenzie 1985, Manag. Sci. 31, 1237)
climatology     mean of the day of the year
open_loop       o
decaying_error  o + exp(−(age + lead)/τ) e                  (National Water Model: τ = 120 min for every gauge)
ar1_error       o + m + φ^(age + lead) (e − m)
ar1_log_error   the same for log(observed + δ) − log(o + δ); with a large δ floods are not multiplied by what dry weeks
                were short of, which forecasts better on most rivers

A baseline that is better at some lead is better there: the table of scores shows all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from hydroda.schema import LEADS
from hydroda.units import HOUR

BASELINES = ("persistence", "trend", "climatology", "open_loop", "decaying_error", "ar1_error", "ar1_log_error")
NEEDED_HOURS = 30 * 24
SMOOTHING_DAYS = 15
OFFSETS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # δ over mean discharge: from an error that nearly adds to one in proportion
TAU_RANGE = (0.1, 8760.0)  # hours: the error is forgotten within the first lead hour … is a bias
LARGEST_PHI = 0.99999
NEARLY = 1.0 - 1e-6  # of a memory: two equal ones are the limit of nearly equal ones
LEAP_YEAR = np.datetime64("2000-01-01", "D")


@dataclass(frozen=True)
class Correction:
    """Fitted baselines of one station [m³/s, h]; `dataclasses.asdict` of it survives JSON."""

    climatology: tuple[float, ...]  # of the 366 days of a leap year
    decay_hours: float
    error_mean: float
    error_phi: float
    log_offset: float
    log_error_mean: float
    log_error_phi: float
    trend_phi: float = 0.0  # persistence, where an earlier version fitted


def fit(station: str, time: np.ndarray, observed: np.ndarray, open_loop: np.ndarray) -> Correction:
    """The baselines of one station from hourly series (T,) of stamps, observed and open-loop discharge; NaN is missing.

    Raises ValueError when the stamps are not hourly without gaps, or fewer than 30 days have both discharges.
    """
    observed, open_loop = np.asarray(observed, np.float64), np.asarray(open_loop, np.float64)
    if not observed.shape == open_loop.shape == time.shape:
        raise ValueError(f"{station}: {time.size} stamps, {observed.shape} observed, {open_loop.shape} open loop")
    if np.any(np.diff(time) != HOUR):
        raise ValueError(f"{station}: stamps are not hourly; fill the gaps with NaN before fitting the baselines")
    error = observed - open_loop
    count = int(np.isfinite(error).sum())
    if count < NEEDED_HOURS:
        raise ValueError(
            f"{station}: only {count} hours with observed and open-loop discharge, the error corrections need "
            f"{NEEDED_HOURS} (30 days); choose a longer calibration period"
        )
    return Correction(
        _climatology(time, observed),
        _decay_hours(error),
        *_autoregression(error),
        *_best_offset(observed, open_loop),
        _damping(observed),
    )


def restore(content: Mapping[str, Any]) -> Correction:
    """The baselines from what `dataclasses.asdict` made of them, after JSON. Raises TypeError, KeyError."""
    return Correction(**{**content, "climatology": tuple(content["climatology"])})


def apply(
    name: str,
    corrections: Sequence[Correction],
    issue: np.ndarray,
    leads: np.ndarray,
    open_loop: np.ndarray,
    observed_at_issue: np.ndarray,
    open_loop_at_issue: np.ndarray,
    age_hours: np.ndarray,
    change_at_issue: np.ndarray | float = 0.0,
) -> np.ndarray:
    """One baseline for issue times (F,), leads [h] (L,) and stations (S,): discharge (F, L, S), never negative.

    open_loop is (F, L, S). The newest observation known at issue, the open loop of the same hour, its age, and by how
    much it is above the one an hour before are (F, S). Without one (NaN) an error correction is the open loop, and
    persistence is missing; without the one before there is no trend. Raises KeyError.
    """
    observed = observed_at_issue[:, None, :]
    if name == "persistence":
        forecast = np.broadcast_to(observed, open_loop.shape)
    elif name == "trend":
        phi = np.array([c.trend_phi for c in corrections])
        steps = phi * (1.0 - phi ** (age_hours[:, None, :] + leads[:, None])) / (1.0 - phi)
        forecast = observed + steps * np.nan_to_num(np.broadcast_to(change_at_issue, observed_at_issue.shape))[:, None]
    elif name == "climatology":
        table = np.array([c.climatology for c in corrections]).T
        forecast = table[day_of_year(issue[:, None] + leads * HOUR)]
    elif name == "open_loop":
        forecast = open_loop
    elif name in BASELINES:
        hours = age_hours[:, None, :] + leads[:, None]
        corrected = _corrected(name, corrections, hours, open_loop, observed, open_loop_at_issue[:, None, :])
        known = np.isfinite(observed) & np.isfinite(open_loop_at_issue[:, None, :]) & np.isfinite(hours)
        forecast = np.where(known, corrected, open_loop)
    else:
        raise KeyError(f"there is no baseline {name!r}; there are {', '.join(BASELINES)}")
    return np.maximum(forecast, 0.0)


def left(hours: np.ndarray, memory_hours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of a residual after `hours` (…), as shares of it and of the one an hour before it, with two memories
    (…, 2) [h], the longer one first: an autoregression of second order (Box & Jenkins 1970).

    With a = exp(−1/τ₁) and b = exp(−1/τ₂) these are (a^(h+1) − b^(h+1)) / (a − b) and −a b (a^h − b^h) / (a − b). Where
    τ₂ is 0 that is exp(−h/τ₁) of the residual alone; with a second memory it goes on growing or shrinking for a while.
    Nothing is left where both are 0.
    """
    memory = np.asarray(memory_hours, float)
    a, b = np.moveaxis(np.where(memory > 0.0, np.exp(-1.0 / np.where(memory > 0.0, memory, 1.0)), 0.0), -1, 0)
    b = np.minimum(b, NEARLY * a)
    apart = np.where(a > 0.0, a - b, 1.0)
    return (a ** (hours + 1.0) - b ** (hours + 1.0)) / apart, -a * b * (a**hours - b**hours) / apart


def known(residual: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals and those an hour before, without NaN: one that is missing is zero, a missing one before the same."""
    now = np.where(np.isfinite(residual), residual, 0.0)
    return now, np.where(np.isfinite(residual) & np.isfinite(before), before, now)


def day_of_year(time: np.ndarray) -> np.ndarray:
    """0 … 365: the day in a leap year on which the hour that ends at `time` began. 1 March is 60 in every year."""
    day = (time - HOUR).astype("datetime64[D]")
    month = day.astype("datetime64[M]")
    first = LEAP_YEAR.astype("datetime64[M]") + month.astype(np.int64) % 12
    return (first.astype("datetime64[D]") - LEAP_YEAR).astype(np.int64) + (day - month).astype(np.int64)


def _corrected(
    name: str,
    corrections: Sequence[Correction],
    hours: np.ndarray,
    open_loop: np.ndarray,
    observed: np.ndarray,
    modelled: np.ndarray,
) -> np.ndarray:
    """Open loop + what is left of the error `hours` after the observation."""

    def column(field: str) -> np.ndarray:
        return np.array([getattr(c, field) for c in corrections])

    if name == "decaying_error":
        return open_loop + np.exp(-hours / column("decay_hours")) * (observed - modelled)
    if name == "ar1_error":
        mean = column("error_mean")
        return open_loop + mean + column("error_phi") ** hours * (observed - modelled - mean)
    mean, offset = column("log_error_mean"), column("log_offset")
    error = _log_error(observed, modelled, offset)
    return _with_log_error(open_loop, error, offset, mean, column("log_error_phi") ** hours)


def _log_error(observed: np.ndarray, modelled: np.ndarray, offset: np.ndarray | float) -> np.ndarray:
    return np.log((np.maximum(observed, 0.0) + offset) / (np.maximum(modelled, 0.0) + offset))


def _with_log_error(open_loop: Any, error: Any, offset: Any, mean: Any, kept: Any) -> np.ndarray:
    """The open loop with that share of the departure of an error of logarithms from its mean that is `kept`."""
    return (open_loop + offset) * np.exp(mean + kept * (error - mean)) - offset


def _climatology(time: np.ndarray, observed: np.ndarray) -> tuple[float, ...]:
    """Mean of all observations within 15 days of each day of the year; days never observed get the mean of all."""
    seen = np.isfinite(observed)
    day = day_of_year(time[seen])
    values, counts = np.bincount(day, observed[seen], 366), np.bincount(day, minlength=366)
    window = np.arange(-SMOOTHING_DAYS, SMOOTHING_DAYS + 1)
    around = (np.arange(366)[:, None] + window) % 366
    total, number = values[around].sum(axis=1), counts[around].sum(axis=1)
    mean = np.where(number > 0, total / np.maximum(number, 1), observed[seen].mean())
    return tuple(float(value) for value in mean)


def _decay_hours(error: np.ndarray) -> float:
    """The τ that minimises Σ over leads and issue times of (e(t + lead) − exp(−lead/τ) e(t))²."""
    known = np.isfinite(error)
    filled = np.where(known, error, 0.0)
    # For each lead the sum is a parabola in the weight exp(−lead/τ), so τ can be searched without the series.
    product = np.array([filled[:-lead] @ filled[lead:] for lead in LEADS])
    square = np.array([np.square(filled[:-lead]) @ known[lead:] for lead in LEADS])

    def cost(log_tau: float) -> float:
        weight = np.exp(-LEADS / np.exp(log_tau))
        return float(np.sum(np.square(weight) * square - 2 * weight * product))

    grid = np.log(np.geomspace(*TAU_RANGE, 101))
    best = int(np.argmin([cost(x) for x in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    return float(np.exp(minimize_scalar(cost, bounds=around, method="bounded", options={"xatol": 1e-6}).x))


def _damping(observed: np.ndarray) -> float:
    """The share φ of an hourly change that goes on in the next hour."""
    return _lag_one(np.diff(observed))


def _best_offset(observed: np.ndarray, open_loop: np.ndarray) -> tuple[float, float, float]:
    """Of `OFFSETS` the δ, with mean and lag-1 coefficient of the error of logarithms, that forecasts best: with the
    least mean over leads of the logarithm of the squared error, so that every lead counts alike."""
    scale = float(np.nanmean(observed)) or 1.0  # a dry river has no mean: any positive offset will do

    def tried(offset: float) -> tuple[float, tuple[float, float, float]]:
        error = _log_error(observed, open_loop, offset)
        mean, phi = _autoregression(error)
        losses = []
        for lead in LEADS:
            ahead = _with_log_error(open_loop[lead:], error[:-lead], offset, mean, phi**lead)
            square = np.square(np.maximum(ahead, 0.0) - observed[lead:])
            mean_square = np.nansum(square) / max(np.isfinite(square).sum(), 1)
            losses.append(np.log(mean_square + np.finfo(float).tiny))
        return float(np.mean(losses)), (offset, mean, phi)

    return min((tried(share * scale) for share in OFFSETS), key=lambda one: one[0])[1]


def _autoregression(error: np.ndarray) -> tuple[float, float]:
    """Mean and lag-1 coefficient of an hourly series (T,)."""
    mean = float(np.nanmean(error))
    return mean, _lag_one(error - mean)


def _lag_one(series: np.ndarray) -> float:
    """The lag-1 coefficient of an hourly series (T,), by least squares over the pairs it has; 0 without any."""
    before, after = series[:-1], series[1:]
    pairs = np.isfinite(before) & np.isfinite(after)
    square = float(before[pairs] @ before[pairs])
    phi = float(before[pairs] @ after[pairs]) / square if square > 0 else 0.0
    return min(max(phi, 0.0), LARGEST_PHI)
