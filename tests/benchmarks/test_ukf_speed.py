"""How long a year of the hourly flow computes, against the reference filter run catchment by catchment.

A cycle is one hour of `sigma.ukf` on `hbv.hourly` (six states, thirteen points) and a deterministic rollout of 24 hours
from its analysis; rollouts are made for many issue times at once, as a hindcast does. The reference is filterpy's
UnscentedKalmanFilter with the same equations written for one point, in the same process: once in numpy, as one writes
them for it, and once in plain floats, the fastest it can be in Python. Neither is run for the whole year: each size is
timed over the hours in SIZES and scaled to 8,760, filterpy is timed over SAMPLE hours of SAMPLED catchments and scaled
to all. Time is that of the processor with one thread, the best of REPEATS taken in turn, as others may use the machine
at the same time.

    pytest -m slow -s tests/benchmarks/test_ukf_speed.py
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from filterpy.kalman import JulierSigmaPoints, UnscentedKalmanFilter, unscented_transform

from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Hour, System
from hydroda.filters.sigma import ukf
from hydroda.models.hbv import FAST_REFERENCE, TINY, hourly
from hydroda.models.inputs import LARGEST_LOG_ERROR

YEAR = 8760
LEADS = 24
SIZES = {1: 1000, 100: 1000, 1000: 240}  # catchments: hours that are timed
SAMPLED, SAMPLE = 3, 100  # catchments and hours of the reference
REPEATS = 3
POINTS = 16384  # points of a rollout that the model moves at once
KAPPA = 1.0
MODEL = hourly()
N = len(MODEL.states)
SHARE = torch.tensor([0.01, 0.01, 0.02, 0.02, 0.02, 0.0], dtype=torch.float64)  # of the content, as in operation
BASE = torch.tensor([0.1, 0.05, 0.01, 0.001, 0.001, 0.05], dtype=torch.float64)
GAUGE_SHARE, GAUGE_BASE = 0.1, 1e-3

pytestmark = pytest.mark.slow


def world(catchments: int, hours: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parameters (c, 1, k), forcing (hours + LEADS, c, m) and runoff (hours, c) that the model itself made from it."""
    random = np.random.default_rng(5)
    p = MODEL.defaults * torch.from_numpy(random.uniform(0.9, 1.1, (catchments, 1, len(MODEL.parameters))))
    wet = random.random((hours + LEADS, catchments)) < 0.15
    forcing = torch.from_numpy(np.stack((wet * random.exponential(1.5, wet.shape), np.full(wet.shape, 0.08)), -1))
    x, runoff = MODEL.start(p), []
    for u in forcing[:hours]:
        x = MODEL.step(x, u.unsqueeze(1), p)
        runoff.append(MODEL.discharge(x, p)[:, 0, 0])
    return p, forcing, torch.stack(runoff) * torch.from_numpy(random.lognormal(0.0, 0.1, (hours, catchments)))


def system(p: torch.Tensor) -> System:
    return System(
        lambda x, u: MODEL.step(x, u, p),
        lambda x: MODEL.discharge(x, p),
        lambda mean: torch.diag_embed((SHARE * mean.clamp(min=0.0) + BASE)[:, 0]),
        lambda y: torch.diag_embed((GAUGE_SHARE * y.clamp(min=0.0) + GAUGE_BASE).square()),
    )


@torch.inference_mode()
def cycles(p: torch.Tensor, forcing: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Analyses (hours, c, n) and the runoff of their rollouts (hours, LEADS, c)."""
    catchments, hours = p.shape[0], observation.shape[0]
    made, mean = ukf(system(p), kappa=KAPPA), MODEL.start(p)
    addresses = np.arange(catchments)
    belief = made.init(mean, torch.diag_embed(BASE.square()).expand(catchments, -1, -1), Noise(0, addresses, addresses))
    many = max(1, POINTS // catchments)
    analyses, rollouts = [], []
    for first in range(0, hours, many):
        issued = range(first, min(first + many, hours))
        for k in issued:
            noise = Noise(0, addresses, np.full(catchments, k))
            belief, _ = made.step(belief, Hour(forcing[k].unsqueeze(1), observation[k].unsqueeze(-1), noise))
            analyses.append(belief.mean)
        x, leads = torch.cat(analyses[first:], 1), []  # issue times are points of a catchment
        for lead in range(1, LEADS + 1):
            x = MODEL.step(x, forcing[first + lead : first + lead + len(issued)].transpose(0, 1), p)
            leads.append(MODEL.discharge(x, p)[..., 0].T)
        rollouts.append(torch.stack(leads, 1))
    return torch.stack(analyses)[:, :, 0], torch.cat(rollouts)


def one_point(
    p: list[float], exp: Any, expm1: Any, low: Any, high: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Step and discharge of the model for one point, with the functions of `math` or of numpy."""
    capacity, b, lam, pe, beta, alpha, k1, k2, psi, routing, factor, pet_factor, memory = p
    slow_loss, error_kept = -expm1(-k1), exp(-1 / memory)
    route_kept, route_out = exp(-1 / routing), expm1(1 / routing)

    def step(x: Any, rain: float, pet: float) -> list[float]:
        soil, slow, fast, first, second, error = x
        rain *= factor * exp(low(high(error, -LARGEST_LOG_ERROR), LARGEST_LOG_ERROR))
        soil, slow, fast = low(high(soil, 0.0), capacity), high(slow, 0.0), high(fast, 0.0)
        space = capacity - soil
        infiltration = low(high(space / capacity, TINY) ** b * rain, space)
        excess = rain - infiltration
        soil += infiltration
        filling = soil / capacity
        soil -= low(pet * pet_factor * low(filling / lam, 1.0), soil)
        percolation = low(pe * -expm1(-beta * filling), soil)
        to_fast = low(alpha * filling, 1.0) * excess
        slow += excess - to_fast + percolation
        fast += to_fast
        slow_out = slow * slow_loss
        fast_kept = fast * exp(-k2 * high(fast / FAST_REFERENCE, TINY) ** (psi - 1.0))
        water = slow_out + fast - fast_kept
        content = water + high(first, 0.0)
        first = content * route_kept
        second = (content - first + high(second, 0.0)) * route_kept
        return [soil - percolation, slow - slow_out, fast_kept, first, second, error * error_kept]

    return step, lambda x: high(x[4], 0.0) * route_out


def reference(
    p: torch.Tensor, forcing: torch.Tensor, observation: torch.Tensor, plain: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `cycles` by filterpy, for one catchment, the model in plain floats or in numpy: (hours, n), (hours,
    LEADS)."""
    kind = (math.exp, math.expm1, min, max) if plain else (np.exp, np.expm1, np.minimum, np.maximum)
    step, see = one_point(p.flatten().tolist(), *kind)
    share, base = SHARE.numpy(), BASE.numpy()

    def moved(sigmas, wm, wc, q, *_):  # the model error is that of the mean of the forecast
        mean, cov = unscented_transform(sigmas, wm, wc)
        return mean, cov + np.diag((share * np.maximum(mean, 0.0) + base) ** 2)

    def moved_point(x, dt, rain, pet):
        return step(x.tolist() if plain else x, rain, pet)

    made = UnscentedKalmanFilter(N, 1, 1.0, lambda x: [see(x)], moved_point, JulierSigmaPoints(N, KAPPA))
    made.x, made.P = MODEL.start(p).numpy().reshape(-1), np.diag(base**2)
    weather = forcing.reshape(-1, forcing.shape[-1]).tolist()
    analyses, rollouts = [], []
    for k, y in enumerate(observation.flatten().tolist()):
        rain, pet = weather[k]
        made.predict(rain=rain, pet=pet, UT=moved)
        made.update(np.array([y]), R=(GAUGE_SHARE * y + GAUGE_BASE) ** 2)
        analyses.append(made.x)
        x, leads = made.x.tolist() if plain else made.x, []
        for rain, pet in weather[k + 1 : k + 1 + LEADS]:
            x = step(x, rain, pet) if plain else np.array(step(x, rain, pet))
            leads.append(see(x))
        rollouts.append(leads)
    return np.array(analyses), np.array(rollouts)


def seconds(functions: list[Callable[[], object]]) -> list[float]:
    """Of each function the best of a few, taken in turn."""
    best = [math.inf] * len(functions)
    for _ in range(REPEATS):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            best[i] = min(best[i], time.process_time() - start)
    return best


def test_a_year_of_hourly_cycles():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    p, forcing, runoff = world(SAMPLED, SAMPLE)
    analyses, rollouts = cycles(p, forcing, runoff)
    rows = [slice(i, i + 1) for i in range(SAMPLED)]
    for i, row in enumerate(rows):
        for plain in (True, False):
            expected = reference(p[row], forcing[:, row], runoff[:, row], plain)
            np.testing.assert_allclose(analyses[:, i], expected[0], rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(rollouts[:, :, i], expected[1], rtol=1e-8, atol=1e-10)

    def looped(plain: bool) -> None:
        for row in rows:
            reference(p[row], forcing[:, row], runoff[:, row], plain)

    worlds = [world(catchments, hours) for catchments, hours in SIZES.items()]
    *loops, one, hundred, thousand = seconds(
        [partial(looped, False), partial(looped, True), *(partial(cycles, *parts) for parts in worlds)]
    )
    numpy, floats = (spent / (SAMPLED * SAMPLE) for spent in loops)
    print(
        f"\nfilterpy, an hour of a catchment with rollout: {numpy * 1e3:.2f} ms in numpy, {floats * 1e3:.2f} in floats"
    )
    ratios = []
    for (catchments, hours), taken in zip(SIZES.items(), (one, hundred, thousand), strict=True):
        ratios += [base * catchments * hours / taken for base in (numpy, floats)]
        print(
            f"{catchments:5d} catchments: {hours / taken:6.0f} hours/s, {taken / hours * YEAR:6.1f} s a year; filterpy "
            f"{numpy * catchments * YEAR:8.0f} s in numpy, ratio {ratios[-2]:6.1f}; "
            f"{floats * catchments * YEAR:6.0f} s in floats, ratio {ratios[-1]:6.1f}"
        )
    torch.set_num_threads(threads)
    assert all(math.isfinite(ratio) for ratio in ratios)
