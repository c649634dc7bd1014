"""The predictive law of discharge: log-normal on either side of its median.

A filter gives a mean and a variance; discharge is positive and its errors grow with it. But a flood that no rain told
of exceeds its forecast by more than one that did not come falls short of it. The law used everywhere (products, scores,
alarms) is therefore that of median · exp(σ z), z standard normal, with one spread σ below the median and another above
it. (The two-piece normal law, Wallis 2014, Stat. Sci. 29, 106, is cut at its mode; this one at its median, which is
what is forecast.) Spreads are (2, …), that below first; arrays broadcast and NaN stays NaN.
"""

import numpy as np
from scipy.special import ndtr, ndtri

SIDES = 2  # of the median: below and above
NO_FLOW = 1e-9  # mm/h, keeps the logarithm of a dry river finite


def spread(mean, variance):
    """Standard deviation of log discharge of a log-normal with this mean [m³/s] and variance [m⁶/s²].

    sigma² = log(1 + variance / mean²), the exact relation between the moments of a log-normal.
    """
    return np.sqrt(np.log1p(variance / np.square(mean)))


def quantile(median, spread, level):
    """Discharge that is not exceeded with probability `level`, one for all: median · exp(σ Φ⁻¹(level))."""
    return median * np.exp(spread[0 if level < 0.5 else 1] * ndtri(level))


def spreads(median, lower, upper, lower_level, upper_level):
    """The spreads (2, …) of the law whose median and quantiles at two levels are given: reads a product back."""
    return np.stack((np.log(lower / median) / ndtri(lower_level), np.log(upper / median) / ndtri(upper_level)))


def exceedance(median, spread, threshold):
    """Probability that discharge exceeds `threshold`."""
    above = np.log(median) - np.log(threshold)
    return ndtr(above / np.where(above > 0.0, spread[0], spread[1]))


def crps(median, spread, observed):
    """Continuous ranked probability score [m³/s], ∫ (F(x) − [x ≥ y])² dx.

    With one spread σ it is that of the log-normal law (Baran & Lerch 2015, QJRMS 141, 2289, eq. 5),

        y (2 Φ(z) − 1) − 2 m exp(σ²/2) (Φ(z − σ) + Φ(σ/√2) − 1),  z = log(y/m)/σ,  m the median.

    The integral beyond the median, on the side where y is not, is m U(σ) above and −m U(−σ) below it, with
    U(σ) = exp(σ²/2) (Φ(σ) − Φ(σ/√2)²) − ¼; so the score is that with the spread of the side of y, less this part of it,
    and that of the other spread instead.
    """
    below, above = spread
    high = observed >= median
    own = np.where(high, above, below)
    z = (np.log(np.maximum(observed, np.finfo(float).tiny)) - np.log(median)) / own
    mean = median * np.exp(np.square(own) / 2)
    score = observed * (2 * ndtr(z) - 1) - 2 * mean * (ndtr(z - own) + ndtr(own / np.sqrt(2)) - 1)
    return score + median * np.where(high, _beyond(-above) - _beyond(-below), _beyond(above) - _beyond(below))


def _beyond(sigma):
    """U(σ) of `crps`."""
    return np.exp(np.square(sigma) / 2) * (ndtr(sigma) - np.square(ndtr(sigma / np.sqrt(2)))) - 0.25
