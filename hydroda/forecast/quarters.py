"""Squared errors in which every quarter of a year has a say: by them models and filters are calibrated, and what is
issued is chosen."""

from collections.abc import Mapping

import numpy as np

QUARTER = 2190  # hours of a quarter of a year
PERFECT = 1e-4  # share of the variance below which an error is small enough
HARDLY = 0.02  # a difference of losses that does not count


def count(hours: int) -> int:
    """How many quarters of a year are in so many hours, at least one."""
    return max(1, round(hours / QUARTER))


def loss(errors: np.ndarray) -> np.ndarray:
    """The loss (…) of squared errors (quarter, …) over the variance of what is observed.

    The mean of two logarithms: of the mean squared error, as in the NSE, and of that of each quarter of a year,
    averaged (a Gaussian likelihood whose variance is unknown in every quarter). With the first alone one great flood
    buys its fit with all other seasons, with the second alone floods count too little; together they forecast years not
    fitted to better.
    """
    return 0.5 * (np.log(errors.mean(0) + PERFECT) + np.log(errors + PERFECT).mean(0))


def best(losses: Mapping[str, float]) -> str:
    """The first name, unless the least loss is less by a difference that counts; then the name of that."""
    usual, least = next(iter(losses)), min(losses, key=losses.__getitem__)
    return least if losses[least] < losses[usual] - HARDLY else usual
