"""Parameters of a model from observed discharge: the open loop is fitted, one generation of a search as one batch.

The population stands on the point axis and time is cut into chunks on the catchment axis, each with months before it to
fill its stores, so that years cost the steps of one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, OptimizeResult, differential_evolution
from scipy.stats import qmc
from torch import Tensor

from hydroda.cycle import trajectory
from hydroda.models.model import Model, from_unit, to_unit

NEEDED = 30 * 24  # hours with an observation
SPIN_UP = 4400  # hours before a chunk: half a year fills all but the slowest stores
CHUNK = 2200  # hours of a chunk that count
HOPELESS = 1e6  # loss of parameters whose discharge is not finite
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class ModelFit:
    """All parameters of a model (k,) in the order of its table, and how well its open loop fits: scores of a continuous
    run over the hours that counted."""

    parameters: np.ndarray
    nse: float
    kge: float
    hours: int


def fit_model(
    model: Model,
    forcing: np.ndarray,
    observed: np.ndarray,
    scored: np.ndarray,
    *,
    seed: int = 0,
    generations: int = 60,
    population: int = 96,
    progress: Progress = lambda fraction, text: None,
) -> ModelFit:
    """Fits the `role` "model" parameters; the others keep their defaults.

    Forcing (T, m) is complete, runoff `observed` (T,) [mm/h] has NaN where missing, `scored` (T,) marks the hours that
    count; those before it fill the stores. The loss is 1 − NSE, the mean squared error over the variance of the
    observations, minimised by differential evolution (Storn & Price 1997). Raises ValueError with fewer than 30 days.
    """
    target = np.where(scored, observed, np.nan)
    count = int(np.isfinite(target).sum())
    if count < NEEDED:
        raise ValueError(
            f"only {count} hours with an observation in the calibration period, {NEEDED} (30 days) are needed; choose "
            "a longer period"
        )
    searched = [i for i, p in enumerate(model.parameters) if p.role == "model"]
    table = [model.parameters[i] for i in searched]
    chunks = _chunks(forcing, target, scored)

    def parameters(z: np.ndarray) -> np.ndarray:
        values = np.array([p.default for p in model.parameters])
        every = np.repeat(values[None], len(z), 0)
        every[:, searched] = from_unit(table, z)
        return every

    def loss(z: np.ndarray, /) -> Any:
        value = _square_error(model, torch.from_numpy(parameters(z.T)), *chunks) / np.nanvar(target)
        return np.where(np.isfinite(value), value, HOPELESS)

    first = qmc.LatinHypercube(len(table), rng=np.random.default_rng(seed)).random(population)
    first[0] = to_unit(table, np.array([p.default for p in table]))
    done = 0

    def told(intermediate_result: OptimizeResult) -> None:
        nonlocal done
        done += 1
        progress(done / generations, f"model: NSE {1.0 - intermediate_result.fun:.3f}")

    result = differential_evolution(
        loss,
        Bounds(np.zeros(len(table)), np.ones(len(table))),
        init=first,
        maxiter=generations - 1,
        tol=0.0,
        rng=np.random.default_rng(seed),
        polish=False,
        vectorized=True,
        updating="deferred",
        callback=told,
    )
    best = parameters(result.x[None])[0]
    return ModelFit(best, *_scores(_open_loop(model, best, forcing), target), count)


def _chunks(forcing: np.ndarray, target: np.ndarray, scored: np.ndarray) -> tuple[Tensor, Tensor]:
    """Forcing (T', chunk, m) and what counts of the runoff (T', chunk), NaN during the spin-up.

    Before the first hour of the record the weather of its first hours is repeated.
    """
    inside = np.flatnonzero(scored)
    first, last = int(inside[0]), int(inside[-1])
    count = max(1, round((last - first + 1) / CHUNK))
    length = -(-(last - first + 1) // count)
    spin_up = min(SPIN_UP, 2 * len(forcing))
    at = first + length * np.arange(count) + np.arange(-spin_up, length)[:, None]
    hour = np.arange(-spin_up, length)[:, None]
    counts = (hour >= 0) & (at <= last)
    place = np.where(at < 0, at % len(forcing), np.minimum(at, last))
    return torch.from_numpy(forcing[place]), torch.from_numpy(np.where(counts, target[place], np.nan))


def _square_error(model: Model, p: Tensor, forcing: Tensor, target: Tensor) -> np.ndarray:
    """Mean squared error (k,) of parameter sets (k, parameter)."""
    p = p.unsqueeze(0)
    seen = torch.isfinite(target)
    counts = seen.any(1).tolist()
    total = torch.zeros(p.shape[1], dtype=p.dtype)
    with torch.inference_mode():
        start = model.start(p).expand(forcing.shape[1], -1, -1)
        for i, x in enumerate(trajectory(model, start, forcing, p)):
            if counts[i]:
                error = model.discharge(x, p)[..., 0] - target[i, :, None]
                total += torch.where(seen[i, :, None], error, 0.0).square().sum(0)
    return (total / seen.sum()).numpy()


def _open_loop(model: Model, parameters: np.ndarray, forcing: np.ndarray) -> np.ndarray:
    """Runoff (T,) of one continuous run."""
    p = torch.from_numpy(parameters)[None, None]
    with torch.inference_mode():
        path = trajectory(model, model.start(p), torch.from_numpy(forcing).unsqueeze(1), p)
        return torch.stack([model.discharge(x, p)[0, 0, 0] for x in path]).numpy()


def _scores(simulated: np.ndarray, observed: np.ndarray) -> tuple[float, float]:
    """NSE and KGE (Kling et al. 2012) over the hours that are observed."""
    seen = np.isfinite(observed)
    s, o = simulated[seen], observed[seen]
    nse = 1.0 - float(np.mean((s - o) ** 2) / np.var(o))
    beta, gamma = s.mean() / o.mean(), (s.std() / s.mean()) / (o.std() / o.mean())
    return nse, float(1.0 - np.sqrt((np.corrcoef(s, o)[0, 1] - 1) ** 2 + (beta - 1) ** 2 + (gamma - 1) ** 2))
