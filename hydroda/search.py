"""One search and one loss for all that is calibrated: differential evolution whose generations are evaluated as
batches, and squared errors in which every quarter of a year has a say."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult, differential_evolution
from scipy.stats import qmc

from hydroda.models.model import Parameter, from_unit, to_unit

HOPELESS = 1e6  # loss of values for which there is none
QUARTER = 2190  # hours of a quarter of a year
PERFECT = 1e-4  # share of the variance below which an error is small enough


def loss_of_quarters(errors: np.ndarray) -> np.ndarray:
    """The loss (…) of squared errors (quarter, …) over the variance of what is observed.

    The mean of two logarithms: of the mean squared error, as in the NSE, and of that of each quarter of a year,
    averaged (a Gaussian likelihood whose variance is unknown in every quarter). With the first alone one great flood
    buys its fit with all other seasons, with the second alone floods count too little; together they forecast years not
    fitted to better.
    """
    return 0.5 * (np.log(errors.mean(0) + PERFECT) + np.log(errors + PERFECT).mean(0))


def minimised(
    loss: Callable[[np.ndarray], np.ndarray],
    table: Sequence[Parameter],
    *,
    generations: int,
    population: int,
    seed: int,
    told: Callable[[float, float], None],
) -> np.ndarray:
    """The values (d,) of the parameters of `table` with the least loss, (k, d) → (k,); `told` hears (fraction, loss).

    Differential evolution (Storn & Price 1997) in the unit cube. Nine in ten entries are crossed over, because the
    parameters depend on each other: with the usual seven the search is not done in 60 generations. The same seed finds
    the same.
    """
    done = 1  # the first generation is evaluated before the search calls back

    def judged(z: np.ndarray, /) -> Any:
        value = loss(from_unit(table, z.T))
        return np.where(np.isfinite(value), value, HOPELESS)

    def after(intermediate_result: OptimizeResult) -> None:
        nonlocal done
        done += 1
        told(done / generations, float(intermediate_result.fun))

    first = qmc.LatinHypercube(len(table), rng=np.random.default_rng(seed)).random(population)
    first[0] = to_unit(table, np.array([p.default for p in table]))
    result = differential_evolution(
        judged,
        Bounds(np.zeros(len(table)), np.ones(len(table))),
        init=first,
        maxiter=generations - 1,
        tol=0.0,
        rng=np.random.default_rng(seed),
        recombination=0.9,
        polish=False,
        vectorized=True,
        updating="deferred",
        callback=after,
    )
    return from_unit(table, result.x[None])[0]
