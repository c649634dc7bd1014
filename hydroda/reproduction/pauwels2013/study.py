"""The synthetic study: experiments in rows, all filters of all experiments as one batch.

The truth is the unperturbed model with a known bias added to its storages, the observation its discharge with a known
bias and a random error, once a week. The ensemble has perturbed parameters, rain and PET; every row draws the same
numbers, so that rows differ by what they assume and not by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.bias import divided_by
from hydroda.filters.ensemble import enkf
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, System
from hydroda.forecast.cycle import trajectory
from hydroda.reproduction.pauwels2013.record import (
    FLOW,
    HERE,
    MEMBERS,
    MODEL,
    SEED,
    SPIN_UP,
    Record,
    parameters,
    weather,
)

WEEK = 7  # days between observations
SIGMA = 0.1  # m³/s, error of the gauge
YEAR = 365.25  # days, the period of biases that change
STORAGE_BIAS = torch.tensor([20.0, 0.4, 0.2], dtype=torch.float64)  # mm on S, S1, S2
STORAGE_SWING = torch.tensor([10.0, 0.2, 0.1], dtype=torch.float64)
GAUGE_BIAS, GAUGE_SWING = 0.5, 0.25  # m³/s
SETTLE = 365  # days that are not scored: the ensemble spreads, the biases are found
BIASED = {1: (False, True), 2: (True, True), 3: (True, False)}  # forecast, gauge


class Row(NamedTuple):
    """One filter in one experiment: γ and κ, and whether it assimilates at all. γ = 1, κ = 0 knows of no bias."""

    experiment: int
    sinusoidal: bool
    gamma: float = 1.0
    kappa: float = 0.0
    open_loop: bool = False


class World(NamedTuple):
    """What is true and what is observed of each row: storages (T, c, 3), discharge (T, c), the gauge's bias (T, c),
    observation (T, c), NaN but once a week; all in mm and mm/h."""

    storages: Tensor
    discharge: Tensor
    gauge_bias: Tensor
    observation: Tensor


@dataclass(frozen=True)
class Run:
    """What filters made of it, each (T, c, …): storages and discharge without bias, the biases, and innovations d and
    d / √S, NaN between observations."""

    storages: Tensor
    discharge: Tensor
    bias: Tensor
    gauge: Tensor
    innovation: Tensor
    normalised: Tensor


def world(record: Record, rows: Sequence[Row], p: Tensor = MODEL.defaults) -> World:
    """The truth of each row and its weekly observations."""
    days = len(record.day)
    x = spun_up(record, p)
    base = torch.stack([each[0, 0] for each in trajectory(MODEL, x, record.forcing.unsqueeze(1), p)])
    swing = torch.sin(2.0 * np.pi * torch.arange(days, dtype=torch.float64) / YEAR)
    error = SIGMA * Noise(SEED, np.repeat(HERE, days), np.arange(days)).normal("gauge", 1)[:, 0]
    weekly = torch.arange(days) % WEEK == WEEK - 1
    parts = []
    for row in rows:
        forecast, gauge = BIASED[row.experiment]
        change = swing * row.sinusoidal
        storages = base + forecast * (STORAGE_BIAS + change.unsqueeze(-1) * STORAGE_SWING)
        flow = MODEL.discharge(storages.unsqueeze(1), p)[:, 0, 0]
        offset = gauge * (GAUGE_BIAS + change * GAUGE_SWING) * FLOW
        seen = torch.where(weekly & (not row.open_loop), flow + offset + error * FLOW, torch.nan)
        parts.append((storages, flow, offset, seen))
    return World(*(torch.stack(part, 1) for part in zip(*parts, strict=True)))


def spun_up(record: Record, p: Tensor) -> Tensor:
    """The state (1, k, 3) after a year of the first weather of the record."""
    *_, x = trajectory(MODEL, MODEL.start(p), record.forcing[:SPIN_UP].unsqueeze(1), p)
    return x


def run(record: Record, rows: Sequence[Row], observation: Tensor, size: float, p: Tensor = MODEL.defaults) -> Run:
    """The filters of all rows through the record with observations (T, c), perturbed by `size`."""
    own, rain = parameters(size, p), weather(record, size)
    made = _filter(rows, own)
    count = len(rows)
    addresses = np.repeat(HERE, count)
    kept: list[tuple[Tensor, ...]] = []
    nothing = torch.full((count,), torch.nan, dtype=torch.float64)
    with torch.inference_mode():
        x = spun_up(record, own).expand(count, -1, -1)
        first = made.init(x.mean(1, keepdim=True), torch.zeros(count, 3, 3).to(x), Noise(SEED, addresses, np.zeros(1)))
        belief = first.shifted(x - first.mean)  # every member from its own parameters
        for i, (u, y) in enumerate(zip(rain, observation, strict=True)):
            hour = Hour(u.expand(count, -1, -1), y.unsqueeze(-1), Noise(SEED, addresses, np.full(count, i + 1)))
            innovation = normalised = nothing
            if y.isnan().all():
                belief = made.forecast(belief, hour)
            else:
                belief, update = made.step(belief, hour)
                seen = update.seen[:, 0]
                innovation = torch.where(seen, update.innovation[:, 0], torch.nan)
                normalised = innovation / update.innovation_cov[:, 0, 0].sqrt()
            flow = (made.observe(belief).mean - belief.gauge[:, 0])[:, 0]
            day = belief.mean[:, 0], flow, belief.bias[:, 0], belief.gauge[:, 0, 0], innovation, normalised
            kept.append(day)
    return Run(*(torch.stack(part) for part in zip(*kept, strict=True)))


def _filter(rows: Sequence[Row], own: Tensor) -> Filter:
    """The two-stage filter of all rows over the EnKF; the model error is that of perturbed parameters and weather."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[:, None, None]

    none = torch.zeros(len(rows), 3, 1, dtype=torch.float64)
    r = torch.full((len(rows), 1, 1), (SIGMA * FLOW) ** 2, dtype=torch.float64)
    system = System(
        lambda x, u: MODEL.step(x, u, own), lambda x: MODEL.discharge(x, own), lambda mean: none, lambda y: r
    )
    build = partial(enkf, members=MEMBERS)
    return divided_by(build, column([row.gamma for row in rows]), column([row.kappa for row in rows]))(system)


def rmse(found: Run, truth: World) -> Tensor:
    """(c, 5): of S, S1, S2 [mm], of the discharge and of what the gauge reads of it [mm/h], after `SETTLE`."""
    wrong = found.discharge - truth.discharge
    read = wrong + found.gauge - truth.gauge_bias
    every = torch.cat((found.storages - truth.storages, wrong.unsqueeze(-1), read.unsqueeze(-1)), -1)
    return every[SETTLE:].square().mean(0).sqrt()
