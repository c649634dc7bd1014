"""HBV on the discharge of the Zwalm, by particle swarm as in the paper, differential evolution, and CMA-ES.

All three see the same loss in the same unit cube, a generation of parameter sets as one batch, and as many model runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.calibrating.search import HOPELESS, minimised
from hydroda.forecast.cycle import trajectory
from hydroda.models.model import from_unit, to_unit
from hydroda.reproduction.pauwels2013.record import MODEL, SPIN_UP, Record

INERTIA, PULL = 0.7298, 1.4962  # Clerc & Kennedy (2002)
STEEPEST = 0.8  # share of the fast store that a day at capacity may drain; beyond, the explicit step overshoots
# with a larger ψ a flood beyond the capacity overshoots likewise
TABLE = tuple(replace(p, upper=1.5) if p.name == "fast_shape" else p for p in MODEL.parameters)
Loss = Callable[[np.ndarray], np.ndarray]


class Searched(NamedTuple):
    """What a search found: parameters (1, 1, k), 1 − NSE, and the best so far after so many model runs; or why not."""

    parameters: Tensor
    loss: float
    runs: np.ndarray
    best: np.ndarray
    problem: str = ""


def loss_of(record: Record) -> Loss:
    """1 − NSE of daily discharge of parameter sets (k, parameter): years side by side, each filled by that before."""
    years = len(record.day) // SPIN_UP - 1
    at = np.arange(2 * SPIN_UP)[:, None] + SPIN_UP * np.arange(years)
    forcing, target = record.forcing[at], record.observed[at]
    target[:SPIN_UP] = np.nan
    variance = np.nanvar(target)
    aim, seen = torch.from_numpy(target).unsqueeze(-1), torch.from_numpy(np.isfinite(target)).unsqueeze(-1)

    def loss(values: np.ndarray) -> np.ndarray:
        p = torch.from_numpy(values).unsqueeze(0)
        total = torch.zeros(years, len(values), dtype=p.dtype)
        with torch.inference_mode():
            start = MODEL.start(p).expand(years, -1, -1)
            for i, x in enumerate(trajectory(MODEL, start, forcing, p)):
                if i >= SPIN_UP:
                    total += torch.where(seen[i], MODEL.discharge(x, p)[..., 0] - aim[i], 0.0).square()
        *_, rate, capacity, shape = values.T
        drained = 24.0 * rate * shape / capacity
        return np.where(drained < STEEPEST, (total.sum(0) / seen.sum() / variance).numpy(), HOPELESS)

    return loss


def swarm(loss: Loss, generations: int, population: int, seed: int) -> None:
    """Particle swarm with constriction (Kennedy & Eberhart 1995; Clerc & Kennedy 2002); walls stop a particle."""
    random = np.random.default_rng(seed)
    z = random.random((population, len(TABLE)))
    z[0] = to_unit(TABLE, np.array([p.default for p in TABLE]))
    speed = random.uniform(-0.1, 0.1, z.shape)
    own, value = z.copy(), loss(z)
    for _ in range(generations - 1):
        leader = own[np.argmin(value)]
        speed = INERTIA * speed
        speed += PULL * random.random(z.shape) * (own - z) + PULL * random.random(z.shape) * (leader - z)
        moved = np.clip(z + speed, 0.0, 1.0)
        z, speed = moved, np.where(moved == z + speed, speed, 0.0)
        now = loss(z)
        better = now < value
        own[better], value[better] = z[better], now[better]


def evolution(loss: Loss, generations: int, population: int, seed: int) -> None:
    """Differential evolution as `hydroda calibrate` has it."""
    minimised(
        lambda values: loss(to_unit(TABLE, values)),
        TABLE,
        generations=generations,
        population=population,
        seed=seed,
        told=lambda fraction, value: None,
    )


def cma_es(loss: Loss, generations: int, population: int, seed: int) -> None:
    """CMA-ES (Hansen 2016) by its author's package. Raises ImportError where that is not installed."""
    import cma

    options = {"bounds": [0.0, 1.0], "popsize": population, "seed": seed + 1, "verbose": -9}
    found = cma.CMAEvolutionStrategy(to_unit(TABLE, np.array([p.default for p in TABLE])), 0.25, options)
    for _ in range(generations):
        z = found.ask()
        found.tell(z, loss(np.array(z)).tolist())


SEARCHES: Mapping[str, Callable[[Loss, int, int, int], None]] = {
    "particle swarm": swarm,
    "differential evolution": evolution,
    "CMA-ES": cma_es,
}


def compared(record: Record, *, generations: int = 60, population: int = 60, seed: int = 0) -> dict[str, Searched]:
    """What each search finds on a record with the same number of model runs."""
    judge = loss_of(record)
    found = {}
    for name, search in SEARCHES.items():
        tried: list[tuple[np.ndarray, np.ndarray]] = []

        def loss(z: np.ndarray, tried: list[tuple[np.ndarray, np.ndarray]] = tried) -> np.ndarray:
            value = judge(from_unit(TABLE, z))
            value = np.where(np.isfinite(value), value, HOPELESS)
            tried.append((np.array(z), value.copy()))  # a search may go on writing into its own
            return value

        try:
            search(loss, generations, population, seed)
        except ImportError as error:
            found[name] = Searched(MODEL.defaults, np.nan, np.zeros(0), np.zeros(0), f"not installed ({error})")
            continue
        points, values = (np.concatenate(part) for part in zip(*tried, strict=True))
        best = from_unit(TABLE, points[None, np.argmin(values)])
        sizes = np.cumsum([len(value) for _, value in tried])
        path = np.minimum.accumulate([value.min() for _, value in tried])
        found[name] = Searched(torch.from_numpy(best).reshape(1, 1, -1), float(values.min()), sizes, path)
    return found
