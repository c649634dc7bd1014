"""What became of past forecasts: intervals that widen after misses, and methods that stand back after errors.

A `Ledger` stands beside the belief of a group and moves on with every cycle. The observation of an hour is held against
all forecasts of that hour a few hours later, when most gauges have reported; one that has not by then does not count.
Arrays are by catchment, the last axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from hydroda.forecast import intervals
from hydroda.forecast.choice import BOTH, FILTER, METHODS, NETWORKS, TREND, WITH_TREND, span
from hydroda.forecast.predictive import SIDES
from hydroda.schema import LEADS

DELAY = 6  # hours until an observation is asked for
KEPT = DELAY + LEADS.size  # cycles whose forecasts are still wanted
STEP = 0.0175  # of the logarithm of a spread, for a miss on its side and nineteen that are none
SHARED = 1 / 7  # of a step is taken by the other classes too: a year has few floods to learn from
# bounds of the factor on the spread that calibration found, so that a side without misses does not shrink to nothing
REACH = (0.2, 10.0)
MEMORY = 1440.0  # hours, e-folding time of past errors
ENOUGH = 480.0  # hours of forecasts that make an error a reason
CLEARLY = 2.0  # times the squared error of another, where a method stands back; one flood makes 1.2 of nothing
WATCHED = np.array((1, 3, 6, 12, 24))  # leads at which methods are compared
NEAREST = np.abs(LEADS[:, None] - WATCHED).argmin(1)  # for each lead, the one of these that speaks for it
LADDER = (WITH_TREND, TREND, BOTH, NETWORKS, FILTER, "ar1_log_error", "ar1_error", "decaying_error", "open_loop")


@dataclass(frozen=True)
class Ledger:
    """After a cycle: median (KEPT, 24, c) and spreads (KEPT, 2, 24, c) of what was issued in the last cycles, the
    forecasts of all methods at some leads (KEPT, method, 5, c), NaN where there were none; sums of squared errors
    [m⁶/s²] of these and of their weights (method, 5, c), which fade; logarithms of what spreads are multiplied by (2,
    class, 24, c)."""

    median: np.ndarray
    spread: np.ndarray
    forecasts: np.ndarray
    squares: np.ndarray
    weights: np.ndarray
    widening: np.ndarray


def empty(count: int) -> Ledger:
    """That of catchments whose first forecasts are about to be issued."""
    median = np.full((KEPT, LEADS.size, count), np.nan, np.float32)
    spread = np.full((KEPT, SIDES, LEADS.size, count), np.nan, np.float32)
    methods = (len(METHODS), WATCHED.size, count)
    forecasts = np.full((KEPT, *methods), np.nan, np.float32)
    widening = np.zeros((SIDES, intervals.CLASSES, LEADS.size, count))
    return Ledger(median, spread, forecasts, np.zeros(methods), np.zeros(methods), widening)


def picked(ledger: Ledger, index: Sequence[int]) -> Ledger:
    """That of the catchments at these positions."""
    return Ledger(*(getattr(ledger, field.name)[..., index] for field in fields(Ledger)))


def joined(ledgers: Sequence[Ledger]) -> Ledger:
    """Those of several sets of catchments as one."""
    return Ledger(*(np.concatenate([getattr(x, field.name) for x in ledgers], -1) for field in fields(Ledger)))


def skipped(ledger: Ledger, cycles: int) -> Ledger:
    """After so many cycles without a forecast."""
    kept = {}
    for name in ("median", "spread", "forecasts"):
        before = getattr(ledger, name)
        kept[name] = np.full_like(before, np.nan)
        kept[name][: max(KEPT - cycles, 0)] = before[cycles:]
    return replace(ledger, **kept)


def learned(ledger: Ledger, observed: np.ndarray, between: np.ndarray) -> Ledger:
    """With the discharge (c,) observed `DELAY` hours before the cycle about to be issued, NaN where none was.

    A miss widens the intervals of its class of flow (flows `between` (c, 5)) and lead on its side, nineteen others
    narrow them by as much, so that in the long run one in twenty lies below and one above (adaptive conformal
    inference, Gibbs & Candès 2021). A little of that goes to the other classes of the lead.
    """
    issued, lead = KEPT - DELAY - LEADS, np.arange(LEADS.size)  # the forecast for a lead was issued so long before
    median, spread = ledger.median[issued, lead], ledger.spread[issued, :, lead].swapaxes(0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.log(observed / median)
        miss = np.stack((-error, error)) > spread * intervals.HALF_WIDTH
    known = np.isfinite(median) & np.isfinite(observed)
    step = STEP * np.where(known, miss - intervals.TAIL, 0.0)
    here = np.arange(intervals.CLASSES)[:, None, None] == intervals.class_of(median, between)
    issued, watched = KEPT - DELAY - WATCHED, np.arange(WATCHED.size)
    square = (ledger.forecasts[issued, :, watched].swapaxes(0, 1) - observed) ** 2
    there, fading = np.isfinite(square), np.exp(-1.0 / MEMORY)
    return replace(
        ledger,
        squares=fading * ledger.squares + np.where(there, square, 0.0),
        weights=fading * ledger.weights + there,
        widening=np.clip(ledger.widening + np.where(here, 1.0, SHARED) * step[:, None], *np.log(REACH)),
    )


def noted(ledger: Ledger, median: np.ndarray, spread: np.ndarray, candidates: Mapping[str, np.ndarray]) -> Ledger:
    """With the median (24, c) and spreads (2, 24, c) that were issued, and what would have been by every method."""
    nothing = np.full_like(median, np.nan)
    every = np.stack([candidates.get(name, nothing)[WATCHED - 1] for name in METHODS])
    new = {"median": median, "spread": spread, "forecasts": every}
    kept = {name: np.concatenate((getattr(ledger, name)[1:], x[None].astype(np.float32))) for name, x in new.items()}
    return replace(ledger, **kept)


def swaps_in_words(chosen: np.ndarray, method: np.ndarray) -> list[str]:
    """Why each catchment has other methods (24, c) than those chosen; empty where it has not."""
    told = []
    for before, after in zip(chosen.T, method.T, strict=True):
        at = np.flatnonzero(before != after)
        names = " and ".join(dict.fromkeys(f"{after[i]} instead of {before[i]}" for i in at)).replace("_", " ")
        told.append(f"{names} {span(at)}, which erred less of late" if at.size else "")
    return told


def guarded(ledger: Ledger, method: np.ndarray) -> np.ndarray:
    """The methods (24, c) to issue instead of those chosen.

    A method whose squared error of late was twice that of one further down the ladder, from trend, mean and networks
    over filter and corrections to the open loop, leaves it to the best of these.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(ledger.weights >= ENOUGH, ledger.squares / ledger.weights, np.nan)
    error = error[[METHODS.index(name) for name in LADDER]][:, NEAREST]  # (step, 24, c)
    found = method.copy()
    for step, name in enumerate(LADDER[:-1]):
        below = np.where(np.isnan(error[step + 1 :]), np.inf, error[step + 1 :])
        best = below.argmin(0)
        stands_back = (method == name) & (error[step] > CLEARLY * below.min(0))
        found = np.where(stands_back, np.array(LADDER)[step + 1 + best], found)
    return found
