"""How wide the intervals of a forecast are: the filter's own spread, times factors for each class of flow and lead, one
below the median and one above.

A filter knows when it is unsure, but not of what its model cannot do; the factors are what left one in twenty past
observations below the 90 % intervals and one in twenty above, apart for low and high flows, since those of floods are
wrong by other amounts. Classes are cut at quantiles of the flow that was forecast, so that a forecast knows its class.
"""

from typing import Any

import numpy as np
from scipy.stats import norm

from hydroda.forecast import predictive
from hydroda.forecast.choice import near_leads
from hydroda.forecast.predictive import NO_FLOW, SIDES
from hydroda.schema import LEADS

SHARE = 0.9  # of the observations that shall lie within the intervals
TAIL = 0.5 * (1.0 - SHARE)  # of them that shall lie below, and above
CUTS = (0.2, 0.4, 0.6, 0.8, 0.95)  # quantiles of the flow that was forecast, between classes
CLASSES = len(CUTS) + 1
# the two highest classes are of a few floods, to which model and filter were fitted; those to come are forecast worse
TAILS = (TAIL,) * (CLASSES - 2) + (0.5 * TAIL,) * 2
HALF_WIDTH = float(norm.ppf(1.0 - TAIL))  # of the 90 % interval, in spreads
NARROWEST = 0.1  # spreads of the filter, where nearly all that was observed lies on one side
EVIDENCE = 30  # forecasts of a class that count as much as those of all classes together
Factors = tuple[tuple[tuple[float, ...], ...], ...]  # (side, class, 24)


def cuts(median: np.ndarray) -> tuple[float, ...]:
    """The flows between classes, of forecasts (24, f)."""
    return tuple(float(x) for x in np.nanquantile(median, CUTS))


def class_of(median: np.ndarray, between: np.ndarray) -> np.ndarray:
    """The class of flows (…, c) by the flows (c, 5) between classes; a flow between none is of the lowest."""
    return (median[..., None] > between).sum(-1)


def widened(spread: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Spreads (…, 24, c) of the filter times factors (2, …, 24, c), as geometric means over the leads around: where a
    river leaves a class of flow its interval does not jump."""
    return np.exp(near_leads(np.log(spread * factor)))


def factors(median: np.ndarray, variance: np.ndarray, observed: np.ndarray, between: tuple[float, ...]) -> Factors:
    """Factors on the spread of log discharge that leave 5 % below 90 % intervals about medians (24, f), and 5 % above.

    Those of a class with n forecasts are n / (n + 30) its own and otherwise those of all, as geometric means. Of the
    two highest classes half as many are left out; what is too wide of that, the hits to come will narrow (`ledger`).
    """
    median, observed = np.maximum(median, NO_FLOW), np.maximum(observed, NO_FLOW)
    error = np.log(observed / median) / predictive.spread(median, variance)
    which = class_of(median, np.array(between))
    found = np.empty((SIDES, CLASSES, LEADS.size))
    for lead in range(LEADS.size):
        seen = np.isfinite(error[lead])
        for side, beyond in enumerate((-error[lead], error[lead])):
            every = _quantile(beyond[seen], TAIL)
            for k in range(CLASSES):
                own = beyond[seen & (which[lead] == k)]
                weight = own.size / (own.size + EVIDENCE)
                found[side, k, lead] = every ** (1.0 - weight) * (_quantile(own, TAILS[k]) ** weight if own.size else 1)
    return _tuples((found / HALF_WIDTH).tolist())


def restored(content: Any) -> Factors:
    """The factors from a JSON file; earlier versions had the same on both sides. Raises TypeError, ValueError."""
    return _tuples(content if np.ndim(content) == 3 else [content] * SIDES)


def _quantile(beyond: np.ndarray, tail: float) -> float:
    return max(float(np.quantile(beyond, 1.0 - tail)), NARROWEST)


def _tuples(values: Any) -> Factors:
    return tuple(tuple(map(tuple, side)) for side in values)
