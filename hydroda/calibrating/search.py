"""One search for all that is calibrated: differential evolution whose generations are evaluated as batches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult, differential_evolution
from scipy.stats import qmc

from hydroda.models.model import Parameter, from_unit, to_unit

HOPELESS = 1e6  # loss of values for which there is none


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
