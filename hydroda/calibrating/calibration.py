"""Parameters of a model from observed discharge: the open loop is fitted, one generation of a search as one batch.

The population stands on the point axis and time is cut into chunks on the catchment axis, each with months before it to
fill its stores, so that years cost the steps of one chunk.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scores import continuous
from torch import Tensor

from hydroda.calibrating.search import minimised
from hydroda.forecast import quarters
from hydroda.forecast.cycle import trajectory
from hydroda.models.model import Model
from hydroda.progress import Progress, silent

NEEDED = 30 * 24  # hours with an observation
SPIN_UP = 4400  # hours before a chunk: half a year fills all but the slowest stores
FEW = 240  # hours below which a quarter does not count
YEAR = 8760  # hours after which the weather repeats where there is none
FREE_ROWS = 2400  # rows of a batch whose arithmetic takes as long as calling the operations of a step


@dataclass(frozen=True)
class ModelFit:
    """All parameters of a model (k,) in the order of its table; its open loop (T, n), and how well that fits.

    Scores are those of the continuous run over the hours that counted.
    """

    parameters: np.ndarray
    states: Tensor
    nse: float
    kge: float
    hours: int


def fit_model(
    model: Model,
    forcing: np.ndarray,
    observed: np.ndarray,
    scored: np.ndarray,
    validation: np.ndarray | None = None,
    *,
    seed: int = 0,
    generations: int = 60,
    population: int = 96,
    progress: Progress = silent,
) -> ModelFit:
    """Fits the `role` "model" parameters; the others keep their defaults.

    Forcing (T, m) is complete, runoff `observed` (T,) [mm/h] has NaN where missing, `scored` (T,) marks the hours that
    count; those before it fill the stores. The loss is `quarters.loss`: one great flood shall not buy its fit
    with the water balance of all other seasons.

    A short record is fitted equally well by very different parameters. Hours marked by `validation` (T,) are therefore
    not searched on, but of all sets tried the one is taken whose mean loss over all hours, those included, is least.
    Raises ValueError with fewer than 30 days, or of a gauge that stands still.
    """
    targets = [_target(observed, scored, "in the calibration period", "choose a longer period")]
    if validation is not None:
        targets.append(_target(observed, validation, "to validate on", "start validation earlier"))
    chunks = [_chunks(forcing, target, population) for target in targets]
    searched = [i for i, p in enumerate(model.parameters) if p.role == "model"]
    tried: list[tuple[np.ndarray, np.ndarray]] = []

    def parameters(values: np.ndarray) -> np.ndarray:
        every = np.repeat([[p.default for p in model.parameters]], len(values), 0)
        every[:, searched] = values
        return every

    def loss(values: np.ndarray) -> np.ndarray:
        p, pairs = torch.from_numpy(parameters(values)), zip(chunks, targets, strict=True)
        losses = [quarters.loss(_square_errors(model, p, *parts) / np.nanvar(target)) for parts, target in pairs]
        tried.append((values, np.stack(losses, 1)))
        return losses[0]

    found = minimised(
        loss,
        [model.parameters[i] for i in searched],
        generations=generations,
        population=population,
        seed=seed,
        told=lambda fraction, value: progress(fraction, f"model: {np.exp(value):.3f} of the variance"),
    )
    counts = np.array([np.isfinite(target).sum() for target in targets])
    if validation is not None:
        values, losses = (np.concatenate(column) for column in zip(*tried, strict=True))
        found = values[np.nanargmin(losses @ (counts / counts.sum()))]
    best = parameters(found[None])[0]
    states = open_loop(model, best, forcing)
    return ModelFit(best, states, *_scores(runoff(model, best, states), targets[0]), int(counts[0]))


def _target(observed: np.ndarray, counted: np.ndarray, what: str, mend: str) -> np.ndarray:
    """What is to be met in the hours that count (T,), NaN in all others. Raises ValueError where that is too little."""
    target = np.where(counted, observed, np.nan)
    count = int(np.isfinite(target).sum())
    if count < NEEDED:
        raise ValueError(
            f"only {count} hours with an observation {what}, {NEEDED} ({NEEDED // 24} days) are needed; {mend}"
        )
    if not np.nanvar(target) > 0.0:
        raise ValueError(f"discharge never changes in the {count} hours {what}: a stuck gauge? choose another period")
    return target


def _weather(forcing: np.ndarray, at: np.ndarray) -> Tensor:
    """Forcing at positions `at`; before the record the weather of its first year is repeated, season after season."""
    return torch.from_numpy(forcing[np.where(at < 0, at % min(YEAR, len(forcing)), at)])


def _chunks(forcing: np.ndarray, target: np.ndarray, population: int) -> tuple[Tensor, Tensor]:
    """Forcing (T', chunk, m) and what counts of the runoff (T', chunk), NaN during the spin-up.

    The length of a chunk balances the calls of long chunks with the repeated spin-up of short ones.
    """
    inside = np.flatnonzero(np.isfinite(target))
    first, last = int(inside[0]), int(inside[-1])
    hours = last - first + 1
    count = max(1, round(hours / np.sqrt(SPIN_UP * hours * population / FREE_ROWS)))
    length = -(-hours // count)
    hour = np.arange(-SPIN_UP, length)[:, None]
    at = first + length * np.arange(count) + hour
    counts = (hour >= 0) & (at <= last)
    at = np.minimum(at, last)
    return _weather(forcing, at), torch.from_numpy(np.where(counts, target[np.maximum(at, 0)], np.nan))


def _square_errors(model: Model, p: Tensor, forcing: Tensor, target: Tensor) -> np.ndarray:
    """Mean squared error (block, k) of parameter sets (k, parameter) in every quarter of a year with observations."""
    p = p.unsqueeze(0)
    seen = torch.isfinite(target)
    first = int(torch.argmax(seen.any(1).to(torch.int8)))
    blocks = quarters.count(len(target) - first)
    length = -(-(len(target) - first) // blocks)
    total = torch.zeros(blocks, target.shape[1], p.shape[1], dtype=p.dtype)
    with torch.inference_mode():
        start = model.start(p).expand(forcing.shape[1], -1, -1)
        for i, x in enumerate(trajectory(model, start, forcing, p)):
            if i >= first:
                error = model.discharge(x, p)[..., 0] - target[i, :, None]
                total[(i - first) // length] += torch.where(seen[i, :, None], error, 0.0).square()
    count = torch.stack([part.sum(0) for part in seen[first:].split(length)])
    enough = count >= min(FEW, int(count.max()))
    return (total[enough] / count[enough].unsqueeze(-1)).numpy()


def open_loop(model: Model, parameters: np.ndarray, forcing: np.ndarray) -> Tensor:
    """States (T, n) of one continuous run, after a spin-up on the weather of the first year."""
    p = torch.from_numpy(parameters)[None, None]
    weather = _weather(forcing, np.arange(-SPIN_UP, len(forcing))).unsqueeze(1)
    with torch.inference_mode():
        path = trajectory(model, model.start(p), weather, p)
        states = torch.stack([x[0, 0] for x in path])[SPIN_UP:]
    return states.clone()


def runoff(model: Model, parameters: np.ndarray, states: Tensor) -> np.ndarray:
    """Runoff (T,) [mm/h] of states (T, n)."""
    return model.discharge(states.unsqueeze(1), torch.from_numpy(parameters)[None, None])[:, 0, 0].numpy()


def _scores(simulated: np.ndarray, observed: np.ndarray) -> tuple[float, float]:
    """NSE and KGE (Kling et al. 2012) over the hours that are observed."""
    seen = np.isfinite(observed)
    s, o = (xr.DataArray(values[seen]) for values in (simulated, observed))
    return float(continuous.nse(s, o)), float(continuous.kge(s, o, method="2012"))
