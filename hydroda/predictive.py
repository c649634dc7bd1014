"""The predictive law of discharge: log-normal about its median.

A filter gives a mean and a variance; discharge is positive and its errors grow with it. The law used everywhere
(products, scores, alarms) is therefore log-normal with the forecast as its median and `spread`, the standard deviation
of log discharge, from the filter's variance. Arrays broadcast; NaN stays NaN.
"""

import numpy as np
from scipy.special import ndtr, ndtri

NO_FLOW = 1e-9  # mm/h, keeps the logarithm of a dry river finite


def spread(mean, variance):
    """Standard deviation of log discharge of a log-normal with this mean [m³/s] and variance [m⁶/s²].

    sigma² = log(1 + variance / mean²), the exact relation between the moments of a log-normal.
    """
    return np.sqrt(np.log1p(variance / np.square(mean)))


def quantile(median, spread, level):
    """Discharge that is not exceeded with probability `level`: median · exp(spread · Φ⁻¹(level))."""
    return median * np.exp(spread * ndtri(level))


def spread_between(lower, upper, lower_level, upper_level):
    """The spread of the law whose quantiles at two levels are given: reads a product back."""
    return np.log(upper / lower) / (ndtri(upper_level) - ndtri(lower_level))


def exceedance(median, spread, threshold):
    """Probability that discharge exceeds `threshold`."""
    return ndtr((np.log(median) - np.log(threshold)) / spread)


def crps(median, spread, observed):
    """Continuous ranked probability score [m³/s] of the log-normal law (Baran & Lerch 2015, QJRMS 141, 2289, eq. 5).

    crps = y (2 Φ(z) − 1) − 2 exp(μ + σ²/2) (Φ(z − σ) + Φ(σ/√2) − 1),  z = (log y − μ)/σ,  μ = log median.
    """
    z = (np.log(np.maximum(observed, np.finfo(float).tiny)) - np.log(median)) / spread
    mean = median * np.exp(np.square(spread) / 2)
    return observed * (2 * ndtr(z) - 1) - 2 * mean * (ndtr(z - spread) + ndtr(spread / np.sqrt(2)) - 1)
