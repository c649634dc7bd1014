"""Twins of rivers: truth and observations drawn from a model with known errors; what filters make of them: `trial`.

What a filter is told is true here, which it never is of a river: the model, its parameters and the size of all errors.
So differences between filters are those of their mathematics alone. Tensors only, axes (catchment, point, component).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.algebra import root
from hydroda.filters.noise import Noise
from hydroda.filters.sigma import ukf
from hydroda.forecast import cycle
from hydroda.forecast.cycle import Batch, Levels, trajectory
from hydroda.models.hbv import hourly
from hydroda.models.model import from_unit, to_unit
from hydroda.sources.synthetic import Basin, chain, uniform, weather

ERRORS = {  # share, base of the hourly model error, as in `cycle.Levels`
    "soil": (0.002, 0.05),
    "slow": (0.01, 0.02),
    "fast": (0.04, 0.002),
    "routing_1": (0.03, 0.002),
    "routing_2": (0.01, 0.002),
    "rain_error": (0.0, 0.08),
}
GAUGE = (0.05, 0.002)
BETWEEN = 0.16  # how far parameters of catchments lie from the defaults, as a share of their interval, at most
GAPS, GAP = 0.05, 12  # share of observations that are missing, hours of a gap
YEAR, SPIN_UP, BEFORE = 2001, 123, 120  # weather of which year, days of it before the truth begins, those that are run


@dataclass(frozen=True)
class Twin:
    """A truth of T hours after `hour` (since 1970), and what was observed of it; the first `settle` are not scored.

    `batch` holds model, parameters and errors, its filter is any; `start` (c, 1, n) is the state that is believed in.
    Forcing (T, c, m), truth and open loop as states (T, c, n) and discharge (T, c) [mm/h], observation (T, c) [mm/h]
    with NaN in the gaps.
    """

    batch: Batch
    hour: int
    settle: int
    start: Tensor
    forcing: Tensor
    truth: Tensor
    discharge: Tensor
    observation: Tensor
    open_loop: Tensor
    open_loop_discharge: Tensor


def drawn(batch: Batch, start: Tensor, forcing: Tensor, *, hour: int = 0, settle: int = 0, gaps: float = GAPS) -> Twin:
    """A truth that starts and moves with the errors the system of a batch admits, and hourly observations of it.

    x_k = M(x_{k−1}, u_k) + Q^½ ν_k with Q of M(x_{k−1}, u_k), y_k = h(x_k) + R^½ ε_k, for forcing (T, c, m) and a
    `start` (c, 1, n) from which the truth deviates as much as a cold start believes. The errors are those a filter
    reckons with: a store may fall below zero, which the model takes for empty. A share `gaps` is missing, `GAP` hours
    at a time.
    """
    system, hours, (c, _, n) = batch.system, forcing.shape[0], start.shape
    numbers = Noise(batch.seed, np.tile(batch.addresses, hours), np.repeat(hour + 1 + np.arange(hours), c))
    errors = numbers.normal("twin model error", 1, n).reshape(hours, c, 1, n)
    gauge = numbers.normal("twin gauge error", 1).reshape(hours, c)
    begun = (numbers.uniform("twin gap", 1).reshape(hours, c) < -math.log1p(-gaps) / GAP).double()
    missing = torch.nn.functional.max_pool1d(torch.nn.functional.pad(begun.T, (GAP - 1, 0)), GAP, 1).T > 0
    own = replace(batch, build=ukf)
    first = batch.noise(np.full(c, hour)).normal("twin start", 1, n)
    with torch.inference_mode():
        x = start + first @ root(own.believe(start, hour).cov).mT
        states, flows, open_loop = [], [], list(trajectory(batch.model, start, forcing, batch.parameters))
        for u, e in zip(forcing.unsqueeze(2), errors, strict=True):
            x = system.move(x, u)
            x = x + e @ system.model_error(x).mT
            states.append(x)
            flows.append(system.see(x)[:, 0])
        flow = torch.stack(flows)
        deviation = system.observation_error(flow).sqrt()[..., 0, 0]
        observation = torch.where(missing, torch.nan, flow[..., 0] + deviation * gauge)
        background = torch.stack([system.see(each)[:, 0, 0] for each in open_loop])
    truth, without = (torch.stack(each)[:, :, 0] for each in (states, open_loop))
    return Twin(batch, hour, settle, start, forcing, truth, flow[..., 0], observation, without, background)


def rivers(
    catchments: int = 8, days: int = 90, *, settle: int = 30, size: float = 1.0, gaps: float = GAPS, seed: int = 0
) -> Twin:
    """The hourly HBV model of made-up catchments under made-up weather from 1 May on, scored for so many days after
    `settle` days from 1 September on.

    Parameters lie around the defaults, no two catchments have the same weather, all errors are `size` times the usual.
    Raises ValueError for less than a catchment or two days.
    """
    if catchments < 1 or days < 2 or settle < 0 or size < 0:
        raise ValueError(f"twin: {catchments} catchments, {days} days, {settle} to settle, errors of size {size}")
    model = hourly()
    ids = [f"twin {i + 1}" for i in range(catchments)]
    table = model.parameters
    z = np.stack([uniform(len(table), seed, name, "parameters") for name in ids])
    z = to_unit(table, np.array([p.default for p in table])) + BETWEEN * (2.0 * z - 1.0)
    p = torch.from_numpy(from_unit(table, z)).unsqueeze(1)
    state = torch.tensor([ERRORS[s.name] for s in model.states], dtype=torch.float64) * size
    levels = Levels(
        *(each.expand(catchments, 1, -1) for each in state.T), *(torch.full((catchments, 1), g * size) for g in GAUGE)
    )
    batch = cycle.batch(model, p, levels, ukf, ids, seed)
    begin = (SPIN_UP + BEFORE) * 24
    hours = begin + (settle + days) * 24
    years = range(YEAR, YEAR + 1 + hours // 8760)
    wetness = 0.7 + 0.5 * uniform(catchments, seed, "wetness")
    forcing = []
    for name, wet in zip(ids, wetness.tolist(), strict=True):
        whole = chain([weather(Basin(name, 100.0, wetness=wet), year, seed) for year in years])
        forcing.append(np.stack([whole.precipitation.mean(1), whole.pet], -1)[SPIN_UP * 24 : hours])
    u = torch.from_numpy(np.stack(forcing, 1))
    with torch.inference_mode():
        *_, x = trajectory(model, model.start(p), u[: BEFORE * 24], p)
    first = (np.datetime64(f"{YEAR}-01-01T00") - np.datetime64(0, "h")).astype(int) + begin
    return drawn(batch, x, u[BEFORE * 24 :], hour=int(first), settle=settle * 24, gaps=gaps)
