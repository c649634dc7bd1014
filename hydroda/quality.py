"""Quality control of discharge: one flag per test, one aggregate, in the QARTOD scheme, on (time, station) arrays.

Changes are judged on x = ln(q + floor), so that a limit is a factor and means the same at low and at high flow. The
flags of hour h depend on the hours h − CONTEXT … h + 1 and on nothing else: give CONTEXT hours of lead-in and a chunk
border is no border. A value that rises as never before is suspect until its right neighbour confirms it; a lone spike
fails as soon as its right neighbour is there. So a flash flood is accepted one hour after it was first seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from hydroda.schema import Variable

PASS, NOT_EVALUATED, SUSPECT, FAIL, MISSING = np.array([1, 2, 3, 4, 9], np.int8)
CONTEXT = 240  # hours a test may look back
REACH = 6  # hours within which the last value still counts as a neighbour
TESTS = {  # name: CF standard name
    "gap": "gap_test_quality_flag",
    "gross_range": "gross_range_test_quality_flag",
    "negative": "gross_range_test_quality_flag",
    "spike": "spike_test_quality_flag",
    "rise": "rate_of_change_test_quality_flag",
    "fall": "rate_of_change_test_quality_flag",
    "flat_line": "flat_line_test_quality_flag",
}


@dataclass(frozen=True)
class Limits:
    """What is believed of one gauge. Flows in m³/s, hours in h, the rest in units of x = ln(q + floor)."""

    floor: float  # flow below which relative changes mean little
    suspect_low: float
    suspect_high: float
    fail_high: float
    spike_suspect: float
    spike_fail: float
    rise: float  # per hour
    fall: float  # per hour
    flat_tolerance: float  # range of x below which a stretch is flat
    flat_level: float  # flow above which this river never stands still for long
    flat_hours: float  # flat for longer: fail; for a third of it: suspect
    flat_hours_low: float  # the same below `flat_level`, where a coarse gauge repeats its values for days


def _neighbour_free(values: np.ndarray) -> np.ndarray:
    """The smaller of each value and its successor: what a lone spike does not reach."""
    return np.fmin(values[:-1], values[1:])


def _quantile(values: np.ndarray, level: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, level)) if finite.size >= 500 else 0.0


def _runs_below(x: np.ndarray, top: float) -> np.ndarray:
    """Lengths (hours) of the stretches of repeated values that lie below `top`."""
    edges = np.flatnonzero(np.r_[True, np.diff(x) != 0, True])  # NaN differs from all
    below = x[edges[:-1]] <= top
    return np.diff(edges)[below]


def limits_from(values: np.ndarray, area_km2: float | None = None) -> Limits:
    """Limits of one gauge from its history (time,) in m³/s, robust against the faults the history itself contains.

    Every limit is a generous multiple of a high quantile and never below a fixed floor, so little history means wide
    limits. Impossible is what lies above the envelope of the world's floods, 10⁶ (A / 10⁸)^0.4 m³/s with A in km²
    (Francou and Rodier 1967, K = 6), or 50 times the largest flow seen where no area is given.
    """
    q = np.where(values >= 0, values, np.nan).astype(float)
    seen = q[np.isfinite(q)]
    if not seen.size and area_km2 is None:
        raise ValueError("limits need some discharge or the catchment area; neither was given")
    envelope = 1e6 * (area_km2 / 1e8) ** 0.4 if area_km2 is not None else 0.0
    if not seen.size:
        return Limits(1e-4 * envelope, 0.0, envelope, envelope, 0.7, 1.4, 2.3, 1.4, 0.002, 1e-3 * envelope, 72.0, 168.0)
    floor = max(0.1 * float(np.median(seen)), 0.01 * float(seen.mean()), 1e-4)
    x = np.log(q + floor)
    largest = float(np.nanmax(_neighbour_free(q))) if np.isfinite(_neighbour_free(q)).any() else float(seen.max())
    step = np.diff(x)
    spike = np.where(step[:-1] * step[1:] < 0, np.fmin(np.abs(step[:-1]), np.abs(step[1:])), 0.0 * step[1:])
    rise = _neighbour_free(x)[1:] - x[:-2]
    fall = np.fmin(x[:-3], x[1:-2]) - np.fmax(x[2:-1], x[3:])
    usual_spike = _quantile(spike, 0.999)
    level = float(np.median(seen))
    runs = _runs_below(x, np.log(level + floor))
    return Limits(
        floor=floor,
        suspect_low=0.2 * float(np.quantile(seen, 1e-4)),
        suspect_high=5.0 * largest,
        fail_high=max(envelope, 10.0 * largest) if area_km2 is not None else 50.0 * largest,
        spike_suspect=max(0.5, 3.0 * usual_spike),
        spike_fail=max(0.7, 6.0 * usual_spike),
        rise=max(1.1, 1.5 * _quantile(rise, 0.9999)),
        fall=max(0.7, 2.0 * _quantile(fall, 0.9999)),
        flat_tolerance=0.002,
        flat_level=level,
        flat_hours=72.0,
        flat_hours_low=float(np.clip(2.0 * _quantile(np.repeat(runs, runs), 0.95), 72.0, CONTEXT)),
    )


def _last(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each hour the last value before it within REACH (NaN: none) and how many hours ago that was, (T, S)."""
    hour = np.arange(len(values))[:, None]
    known = np.maximum.accumulate(np.where(np.isfinite(values), hour, -REACH - 1), axis=0)
    before = np.vstack([np.full_like(known[:1], -REACH - 1), known[:-1]])
    ago = hour - before
    near = ago <= REACH
    return np.where(near, np.take_along_axis(values, np.maximum(before, 0), axis=0), np.nan), np.where(near, ago, 1)


def _flat(x: np.ndarray, hours: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Whether x (T, S) stayed within `tolerance` (S,) over the last `hours` (S,), of which half must have a value."""
    flat = np.zeros(x.shape, bool)
    seen = np.isfinite(x)
    for n in np.unique(hours):
        columns = np.flatnonzero(hours == n)
        size, origin = int(n) + 1, int(n) // 2  # the window ends with the hour itself
        some = seen[:, columns]
        top, bottom = np.where(some, x[:, columns], -np.inf), np.where(some, x[:, columns], np.inf)
        high = maximum_filter1d(top, size, axis=0, mode="constant", cval=-np.inf, origin=origin)
        low = minimum_filter1d(bottom, size, axis=0, mode="constant", cval=np.inf, origin=origin)
        total = np.vstack([np.zeros((size, columns.size), int), np.cumsum(some, axis=0)])
        enough = total[size:] - total[: len(x)] > n / 2
        flat[:, columns] = enough & some & (high - low < tolerance[columns])
    return flat


def flags(values: np.ndarray, limits: Sequence[Limits], provisional: bool = False) -> dict[str, np.ndarray]:
    """One int8 flag per test of TESTS for discharge `values` (T, S) in m³/s, hourly, NaN = missing.

    With `provisional` every hour is judged as if it were the newest: nothing looks ahead. Without, an hour may look one
    hour ahead; the last row has none and is judged as if provisional.
    """
    if values.ndim != 2 or values.shape[1] != len(limits):
        raise ValueError(f"values have shape {values.shape}; expected (time, {len(limits)}) for {len(limits)} limits")
    lim = Limits(*np.array([astuple(one) for one in limits], float).T)
    there = np.isfinite(values)
    v = np.where(there, values, 0.0)
    verdict = {"gap": np.where(there, PASS, MISSING)}
    verdict["gross_range"] = np.select(
        [v > lim.fail_high, (v > lim.suspect_high) | (v < lim.suspect_low)], [FAIL, SUSPECT], PASS
    )
    verdict["negative"] = np.where(v < 0, FAIL, PASS)
    possible = there & (v >= 0) & (v <= lim.fail_high)
    x = np.log(np.where(possible, v, np.nan) + lim.floor)
    after = np.vstack([x[1:], np.full_like(x[:1], np.nan)])
    verdict["spike"] = _spike(x, after, lim)
    # the comparison of hour h must not start from an hour that h itself has just shown to be a spike
    last, ago = _last(np.where(verdict["spike"] == FAIL, np.nan, x))
    if provisional:
        verdict["spike"] = np.full(x.shape, NOT_EVALUATED)
    change = (x - last) / ago
    with np.errstate(invalid="ignore"):
        confirmed = (after - last > 0.5 * (x - last)) & (not provisional)
        rising = (change > lim.rise) & ~confirmed
        falling = change < -lim.fall
    unknown = np.isnan(change)
    verdict["rise"] = np.select([unknown, rising], [NOT_EVALUATED, SUSPECT], PASS)
    verdict["fall"] = np.select([unknown, falling], [NOT_EVALUATED, SUSPECT], PASS)
    verdict["flat_line"] = _flat_line(x, v, lim)
    return {name: np.where(there, flag, MISSING).astype(np.int8) for name, flag in verdict.items()}


def _spike(x: np.ndarray, after: np.ndarray, lim: Limits) -> np.ndarray:
    """Spike test: the smaller of the two opposite steps to the neighbours; failed where the level comes back, too.

    A one-hour flood peak steps down less than it stepped up; a spike returns to where it came from.
    """
    last, _ = _last(x)
    up, down = x - last, x - after
    with np.errstate(invalid="ignore"):
        size = np.where(up * down > 0, np.minimum(np.abs(up), np.abs(down)), 0.0)
        back = np.abs(after - last) < 0.5 * size
    unknown = np.isnan(up) | np.isnan(down)
    return np.select(
        [unknown, (size > lim.spike_fail) & back, size > lim.spike_suspect], [NOT_EVALUATED, FAIL, SUSPECT], PASS
    )


def _flat_line(x: np.ndarray, v: np.ndarray, lim: Limits) -> np.ndarray:
    """Flat-line test: how long a river may stand still depends on whether it should be falling."""
    high = v > lim.flat_level
    dry = (v == 0) & (lim.suspect_low == 0)  # zero is what a river that has been dry before does for weeks
    limit, limit_low = np.asarray(lim.flat_hours), np.asarray(lim.flat_hours_low)
    tolerance = np.asarray(lim.flat_tolerance)

    def flat_for(share: float) -> np.ndarray:
        hours, hours_low = np.ceil(limit / share), np.ceil(limit_low / share)
        return np.where(high, _flat(x, hours, tolerance), _flat(x, hours_low, tolerance)) & ~dry

    return np.select([np.isnan(x), flat_for(1.0), flat_for(3.0)], [NOT_EVALUATED, FAIL, SUSPECT], PASS)


def range_flags(values: np.ndarray, variable: Variable) -> np.ndarray:
    """Gross-range flag (int8, any shape) of any variable against the physically possible range of the schema."""
    with np.errstate(invalid="ignore"):
        outside = (values < variable.lower) | (values > variable.upper) | np.isinf(values)
    return np.select([np.isnan(values), outside], [MISSING, FAIL], PASS).astype(np.int8)


def aggregate(verdict: Mapping[str, np.ndarray]) -> np.ndarray:
    """The worst flag of all tests (int8): fail before suspect before pass before not evaluated before missing."""
    stack = list(verdict.values())
    result = np.full(stack[0].shape, MISSING, np.int8)
    for flag in (NOT_EVALUATED, PASS, SUSPECT, FAIL):
        for one in stack:
            result[one == flag] = flag
    return result
