"""How well a pair of shares (γ, κ) of `filters.bias.two_stage` divides errors: judged by innovations, without a truth.

The innovations of a filter that knows its biases are white and of mean zero. They cannot say whose bias it was, so what
is charged must be likely too: a gauge's bias that follows every innovation is none, and neither is one of a store that
is larger than what the store does otherwise. Each is measured on a scale on which one is as bad as can be; the sum of
their squares is the loss.
"""

from typing import NamedTuple

import numpy as np

from hydroda.verifying.consistency import consistency

LAGS = 4


class Judged(NamedTuple):
    """Of each pair (k,): mean innovation over its standard deviation, root of the mean squared autocorrelation over
    `LAGS` lags, standard deviation of the gauge's bias over that of the innovations, root of the mean squared bias of a
    store over its standard deviation (of the worst store), and the loss."""

    mean: np.ndarray
    whiteness: np.ndarray
    gauge: np.ndarray
    stores: np.ndarray
    loss: np.ndarray


def judged(
    innovation: np.ndarray, normalised: np.ndarray, gauge: np.ndarray, bias: np.ndarray, stores: np.ndarray
) -> Judged:
    """Innovations d and d / √S (T, k), NaN where nothing was observed, the gauge's bias (T, k) in the unit of d, the
    bias of stores (T, k, n) and what they hold (T, k, n).

    Lags count observations, of which every column has the same.
    """
    seen = np.isfinite(normalised).any(1)
    found = consistency(normalised[seen], lags=LAGS)
    count = np.array([each.nis.count for each in found])
    mean = np.array([each.mean for each in found]) / (np.array([each.mean_error for each in found]) * np.sqrt(count))
    whiteness = np.sqrt(np.mean([np.square(each.autocorrelation) for each in found], axis=1))
    own = gauge.std(0) / np.nanstd(innovation, axis=0)
    worst = (np.sqrt(np.square(bias).mean(0)) / stores.std(0)).max(-1)
    return Judged(mean, whiteness, own, worst, mean**2 + whiteness**2 + own**2 + worst**2)
