"""Does a filter know its own error? Statistics of innovations: their size, their mean, and whether they are white.

A filter whose error levels are right has innovations that are independent, of mean zero and of the variance it says.
Arrays (time, station) of anything numpy reads, NaN where nothing was observed. Needs neither a filter nor torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, chdtri, ndtri

LAGS = 24  # h, a day of them
ENOUGH = 30  # innovations; below, the laws of large numbers that the bounds rest on do not hold


@dataclass(frozen=True)
class Square:
    """A mean normalised square of `count` cycles, its expectation, and what it lies within in a consistent filter."""

    mean: float
    expected: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Consistency:
    """What the innovations of a station say of its filter.

    `nis`, their mean square, within chi-square bounds; their mean, and its standard error √(variance / count); the
    autocorrelation about that mean at lags 1, 2, …, NaN where no pair is that far apart, each within ± `bound` of zero
    if they are white; `ljung_box`, the probability of autocorrelations as large as that in white noise. `level` is the
    probability of each bound.
    """

    station: str
    nis: Square
    mean: float
    mean_error: float
    autocorrelation: tuple[float, ...]
    bound: float
    ljung_box: float
    level: float

    @property
    def biased(self) -> bool:
        """Whether the mean is further from zero than chance takes it."""
        return abs(self.mean) > _two_sided(self.level) * self.mean_error

    @property
    def white(self) -> bool:
        """Whether the autocorrelations may be chance."""
        return not self.ljung_box < 1 - self.level

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words. A consistent filter shows each of three problems with probability 1 − level."""
        nis, found = self.nis, []
        if nis.count < ENOUGH:
            return (f"{nis.count} innovations are too few to judge, {ENOUGH} are needed",)
        if not nis.low <= nis.mean <= nis.high:
            ratio = np.sqrt(nis.mean)
            size = f"{ratio:.3g} times larger" if ratio > 1 else f"{1 / max(ratio, 1e-9):.3g} times smaller"
            expected = f"NIS {nis.mean:.3g}, expected {nis.low:.3g}-{nis.high:.3g}"
            found.append(f"innovations are {size} than their error says ({expected})")
        if self.biased:
            error = f"{self.mean_error:.2g}"
            found.append(f"innovations are biased: their mean is {self.mean:+.2g} standard deviations, error {error}")
        if not self.white:
            lag = int(np.nanargmax(np.abs(self.autocorrelation)))
            largest = f"{self.autocorrelation[lag]:+.2f} at lag {lag + 1}, bound {self.bound:.2g}"
            found.append(f"innovations are not white: autocorrelation {largest} (Ljung-Box p = {self.ljung_box:.2g})")
        return tuple(found)


def consistency(
    normalised: ArrayLike, stations: Sequence[str] | None = None, *, lags: int = LAGS, level: float = 0.95
) -> tuple[Consistency, ...]:
    """The statistics of each station from normalised innovations d / √S (time, station), NaN where missing.

    `stations` names them, by default 0, 1, …; the lags are in time steps, which must be evenly spaced (put NaN in a
    gap). Autocorrelations average over the pairs that are there; with none missing this is the test of Ljung & Box
    (1978). NIS is the mean of d² / S, of expectation one (Bar-Shalom et al. 2001,
    §5.4). Raises ValueError for an array of
    another shape, names that are not as many as stations, no lag, or a level outside (0, 1).
    """
    z = np.asarray(normalised, dtype=float)
    if z.ndim != 2:
        raise ValueError(f"consistency needs innovations (time, station), these have shape {z.shape}")
    names = [str(i) for i in range(z.shape[1])] if stations is None else list(stations)
    if len(names) != z.shape[1]:
        raise ValueError(f"consistency: {len(names)} names for {z.shape[1]} stations")
    if lags < 1:
        raise ValueError(f"consistency: lags is {lags}, it must be 1 or more")
    return tuple(_station(name, z[:, i], lags, _checked(level)) for i, name in enumerate(names))


def mean_square(squares: ArrayLike, freedom: ArrayLike, *, level: float = 0.95) -> Square:
    """The mean of normalised squares (K,), NaN where missing, and its two-sided bounds (Bar-Shalom et al. 2001, §5.4).

    The sum of independent dᵀ S⁻¹ d is χ² with Σ `freedom` degrees, the number q observed in each cycle, one for all or
    (K,); so K · mean lies within its quantiles. For the NIS of several gauges, of which some may be missing. Raises
    ValueError for a level outside (0, 1).
    """
    values = np.asarray(squares, dtype=float)
    there = np.isfinite(values)
    count = int(there.sum())
    tail = (1 - _checked(level)) / 2
    if not count:
        return Square(np.nan, np.nan, np.nan, np.nan, 0)
    total = float(np.broadcast_to(np.asarray(freedom, dtype=float), values.shape)[there].sum())
    # chdtri inverts the upper tail
    low, high = float(chdtri(total, 1 - tail)), float(chdtri(total, tail))
    return Square(float(values[there].mean()), total / count, low / count, high / count, count)


def nees(error: ArrayLike, cov: ArrayLike, *, level: float = 0.95) -> Square:
    """Normalised estimation error squared eᵀ P⁻¹ e, of expectation n, from errors (K, n) = estimate − truth and the
    covariances (K, n, n) they should have; cycles with NaN do not count.

    Needs a truth. Errors of successive hours are not independent, innovations are: take the K errors from independent
    twins, or the bounds are too narrow. Raises numpy.linalg.LinAlgError for a singular covariance, ValueError for a
    level outside (0, 1).
    """
    e, p = np.asarray(error, dtype=float), np.asarray(cov, dtype=float)
    there = np.isfinite(e).all(-1) & np.isfinite(p).all((-2, -1))
    e, p = e[there], p[there]
    squares = (e * np.linalg.solve(p, e[..., None])[..., 0]).sum(-1)
    return mean_square(squares, e.shape[-1], level=level)


def desroziers(
    background_departure: ArrayLike, analysis_departure: ArrayLike, *, window: int | None = None, floor: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Error variances R of the gauge and H P Hᵀ of its prediction, each (T − window + 1, station), from departures.

    With dᵇ = y − h(xᶠ), dᵃ = y − h(xᵃ), both (T, station): R = mean dᵃ dᵇ and H P Hᵀ = mean (dᵇ − dᵃ) dᵇ (Desroziers
    et al. 2005, eqs 1–3), in the squared unit of the departures, over every `window` successive steps (by default all
    of them). One scalar gauge a column; hours where either is NaN do not count; a window with none gives NaN. An
    estimate is at least `floor` times the mean of (dᵇ)², being otherwise possibly negative. They are true only where
    the filter's gain is: with a wrong one their sum is right and their ratio that of the filter. Raises ValueError for
    a window that the record does not hold and shapes that differ.
    """
    before, after = (np.asarray(d, dtype=float) for d in (background_departure, analysis_departure))
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(f"desroziers needs two arrays (time, station), got {before.shape} and {after.shape}")
    length = len(before) if window is None else window
    if not 1 <= length <= len(before):
        raise ValueError(f"desroziers: a window of {length} steps in a record of {len(before)}")
    there = np.isfinite(before) & np.isfinite(after)
    before, after = np.where(there, before, 0.0), np.where(there, after, 0.0)

    def summed(values: np.ndarray) -> np.ndarray:
        total = np.concatenate((np.zeros_like(values[:1]), values.cumsum(0)))
        return total[length:] - total[:-length]

    count = summed(there.astype(float))
    divisor = np.where(count > 0, count, np.nan)
    least = floor * summed(before**2) / divisor
    return (
        np.maximum(summed(after * before) / divisor, least),
        np.maximum(summed((before - after) * before) / divisor, least),
    )


def _station(name: str, z: np.ndarray, lags: int, level: float) -> Consistency:
    """The statistics of one series (time,)."""
    there = np.isfinite(z)
    nis = mean_square(z**2, 1.0, level=level)
    count = nis.count
    mean = float(z[there].mean()) if count else np.nan
    centred = np.where(there, z - mean, 0.0)
    variance = float((centred**2).sum() / count) if count else np.nan
    found, box, degrees = [], 0.0, 0
    for lag in range(1, lags + 1):
        pairs = int((there[lag:] & there[:-lag]).sum())
        if not pairs or not variance > 0.0:
            found.append(np.nan)
            continue
        found.append(float((centred[lag:] * centred[:-lag]).sum() / pairs / variance))
        # with none missing pairs = K − lag and this is K (K + 2) r² / (K − lag), r being the sum over K, not the pairs
        box += found[-1] ** 2 * pairs * (count + 2) / count
        degrees += 1
    probability = float(chdtrc(degrees, box)) if degrees else np.nan
    error, bound = (a / np.sqrt(count) if count else np.nan for a in (np.sqrt(variance), _two_sided(level)))
    return Consistency(name, nis, mean, float(error), tuple(found), float(bound), probability, level)


def _two_sided(level: float) -> float:
    """The standard normal quantile that bounds `level` of it on either side, 1.96 for 0.95."""
    return float(ndtri((1 + level) / 2))


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"consistency: level is {level}, it must lie between 0 and 1")
    return level
