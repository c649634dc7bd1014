"""How wide the intervals of a forecast are: the filter's own spread, times a factor for each class of flow and lead.

A filter knows when it is unsure, but not of what its model cannot do; the factors are what made nine in ten past
observations lie within the 90 % intervals, apart for low and high flows, since those of floods are wrong by other
amounts. Classes are cut at quantiles of the flow that was forecast, so that a forecast knows its class.
"""

import numpy as np
from scipy.stats import norm

from hydroda import predictive
from hydroda.predictive import NO_FLOW
from hydroda.schema import LEADS

SHARE = 0.9  # of the observations that shall lie within the intervals
CUTS = (0.2, 0.4, 0.6, 0.8, 0.95)  # quantiles of the flow that was forecast, between classes
CLASSES = len(CUTS) + 1
# the highest class is of a few floods, to which model and filter were fitted; those to come will be forecast worse
WANTED = (SHARE,) * len(CUTS) + (0.5 + SHARE / 2,)
HALF_WIDTH = float(norm.ppf(0.5 + SHARE / 2))  # of the 90 % interval, in spreads
EVIDENCE = 30  # forecasts of a class that count as much as those of all classes together
Factors = tuple[tuple[float, ...], ...]  # (class, 24)


def cuts(median: np.ndarray) -> tuple[float, ...]:
    """The flows between classes, of forecasts (24, f)."""
    return tuple(float(x) for x in np.nanquantile(median, CUTS))


def class_of(median: np.ndarray, between: np.ndarray) -> np.ndarray:
    """The class of flows (…, c) by the flows (c, 5) between classes; a flow between none is of the lowest."""
    return (median[..., None] > between).sum(-1)


def factors(median: np.ndarray, variance: np.ndarray, observed: np.ndarray, between: tuple[float, ...]) -> Factors:
    """Factors on the spread of log discharge that make 90 % intervals about medians (24, f) cover 90 %.

    That of a class with n forecasts is n / (n + 30) its own and otherwise that of all, as geometric means. Of the
    highest flows 95 % are to be covered: what is too wide of that, the hits to come will narrow (`ledger`).
    """
    median, observed = np.maximum(median, NO_FLOW), np.maximum(observed, NO_FLOW)
    miss = np.abs(np.log(observed / median)) / predictive.spread(median, variance)
    which = class_of(median, np.array(between))
    found = np.empty((CLASSES, LEADS.size))
    for lead in range(LEADS.size):
        seen = np.isfinite(miss[lead])
        every = np.quantile(miss[lead][seen], SHARE)
        for k in range(CLASSES):
            own = miss[lead][seen & (which[lead] == k)]
            weight = own.size / (own.size + EVIDENCE)
            found[k, lead] = np.quantile(own, WANTED[k]) ** weight * every ** (1.0 - weight) if own.size else every
    return tuple(map(tuple, (found / HALF_WIDTH).tolist()))
