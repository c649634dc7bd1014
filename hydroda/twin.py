"""Twin experiments: truth and observations drawn from a model with known errors, and what each filter makes of them.

What a filter is told is true here, which it never is of a river: the model, its parameters and the size of all errors.
So differences between filters are those of their mathematics alone. Tensors only, axes (catchment, point, component).
"""

import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydroda import catalogue, cycle
from hydroda.cycle import Batch, Levels, ahead, trajectory
from hydroda.filters.algebra import root
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Hour, System
from hydroda.filters.sigma import ukf
from hydroda.models.hbv import hourly
from hydroda.models.model import from_unit, to_unit
from hydroda.schema import LEADS
from hydroda.sources.synthetic import Basin, chain, uniform, weather

REFERENCE = "sigma.ukf"
LINEAR = ("linear.kalman",)  # made for linear systems only
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"ensemble.{name}": {"members": 40} for name in ("enkf", "etkf", "estkf", "denkf", "ensrf", "letkf")},
    **{f"particle.{name}": {"members": 500} for name in ("bootstrap", "variance_minimising")},
    **{f"reduced.{name}": {"rank": 4} for name in ("rrsqrt", "seek", "seik")},
    **{f"mixed.{name}": {"rank": 3, "members": 20} for name in ("poenkf", "coffee")},
    "joint.parameters": {"names": "fast_rate"},
    "coloured.remembered": {"gauge_hours": 3.0},
    "reduce.inflated": {"to_prior_spread": 0.3},
    "reduce.steady": {"warm_up": 480},
}
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
EVERY = 6  # hours between the forecasts that are scored
FLOW = "discharge"
Progress = Callable[[float, str], None]


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


@dataclass(frozen=True)
class Score:
    """How a filter did; numbers are NaN where it failed, and `problem` says why.

    RMSE over that of the open loop: of the analysis of each of the `states` and of the discharge, and of the discharge
    forecast 24 h ahead under the true rain; catchments count by their errors relative to their water. `spread` is the
    standard deviation a filter says over the error it makes, of the discharge one hour ahead, `nis` the mean normalised
    innovation squared; both are one in a consistent filter. Log-likelihood and model runs are those of an hour
    (observed, and any); `seconds` of processor time of the usual hour over that of the UKF in the same run;
    `discarded` the mean share of variance a truncation left out, NaN where there is none.
    """

    name: str
    states: dict[str, float]
    discharge: float
    lead: float
    spread: float
    nis: float
    log_likelihood: float
    runs: float
    seconds: float
    discarded: float
    problem: str = ""


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


def builder(name: str) -> Build:
    """The filter of a name with the options of `OPTIONS`: "sigma.ukf", or with modifiers "sigma.ukf+reduce.steady".

    Raises ValueError naming what there is not.
    """

    def function(part: str) -> Callable[..., Any]:
        family, _, own = part.partition(".")
        return getattr(importlib.import_module(f"hydroda.filters.{family}"), own)

    plain, *modifiers = name.split("+")
    known = {"filter": applicable(), "modifier": sorted(catalogue.modifiers())}
    for part, what in ((plain, "filter"), *((m, "modifier") for m in modifiers)):
        if part not in known[what]:
            raise ValueError(f"there is no {what} {part!r} to try; {catalogue.closest(part, known[what])}")
    build: Build = partial(function(plain), **OPTIONS.get(plain, {}))
    for modifier in modifiers:
        build = function(modifier)(build, **OPTIONS.get(modifier, {}))
    return build


def applicable() -> list[str]:
    """The names of all filters that work on a model of a river, the reference first."""
    names = [name for name, choice in catalogue.filters().items() if not choice.required and name not in LINEAR]
    return sorted(names, key=lambda name: (name != REFERENCE, name))


def compare(
    names: Sequence[str] = (),
    twin: Twin | None = None,
    *,
    days: int = 90,
    builds: Callable[[str], Build] = builder,
    progress: Progress = lambda fraction, text: None,
) -> tuple[Score, ...]:
    """The scores of filters on a twin, in the order of their names, the UKF before all.

    Without a twin on `rivers` of so many days, without names all filters that apply. A filter that fails has a score
    that says why, and does not stop the others. Raises ValueError for a name that there is not, before any filter runs.
    """
    every = list(dict.fromkeys((REFERENCE, *(names or applicable()))))
    made = {name: builds(name) for name in every}
    progress(0.0, "drawing a truth")
    twin = twin or rivers(days=days)
    scores: list[Score] = []
    for i, (name, build) in enumerate(made.items()):
        progress(i / len(every), name)

        def told(done: float, i: int = i, name: str = name) -> None:
            progress((i + done) / len(every), name)

        try:
            scores.append(run(name, build, twin, told))
        except Exception as error:  # whatever a filter does wrong is its result
            scores.append(Score(name, {}, *(math.nan,) * 8, f"{type(error).__name__}: {error}"))
    progress(1.0, "done")
    unit = scores[0].seconds
    return tuple(replace(score, seconds=score.seconds / unit) for score in scores)


def run(name: str, build: Build, twin: Twin, told: Callable[[float], None] = lambda done: None) -> Score:
    """The score of one filter, its `seconds` those of the processor for an hour.

    Raises RuntimeError naming catchment and hour when a belief is not finite.
    """
    counts: list[int] = []
    batch = replace(twin.batch, build=lambda system: build(_counted(system, counts)))
    (c, _, n), hours, settle = twin.start.shape, twin.forcing.shape[0], twin.settle
    kept, taken = [], []
    with torch.inference_mode():
        belief = batch.believe(twin.start, twin.hour)
        for i, (u, y) in enumerate(zip(twin.forcing.unsqueeze(2), twin.observation.unsqueeze(-1), strict=True)):
            hour = Hour(u, y, batch.noise(np.full(c, twin.hour + 1 + i)))
            begun = time.process_time()
            belief, update = batch.filter.step(belief, hour)
            taken.append(time.process_time() - begun)
            mean = belief.mean
            fine = torch.isfinite(mean).flatten(1).all(1)
            if not fine.all():
                raise RuntimeError(
                    f"no finite state after {i + 1} hours, catchments {(~fine).nonzero()[:, 0].tolist()}"
                )
            if i % 240 == 0:
                told(i / hours)
            if i >= settle:
                likelihood = torch.where(update.seen[:, 0], update.log_likelihood, torch.nan)
                left_out = getattr(belief, "discarded", torch.full((c,), torch.nan))
                expected, said = update.predicted.mean[:, 0], update.predicted.cov[:, 0, 0]
                kept.append((mean, expected, said, update.nis, likelihood, left_out))
        runs = sum(counts) / hours
        mean, expected, said, nis, likelihood, left_out = (torch.stack(each) for each in zip(*kept, strict=True))
        see = batch.filter.system.see
        flow = torch.stack([see(each)[:, 0, 0] for each in mean])
        lead = _ahead(batch, twin, mean)
    truth, real = twin.truth[settle:], twin.discharge[settle:]
    states = _ratio(_square(mean[:, :, 0, :n], truth), _square(twin.open_loop[settle:], truth), truth)
    unaided = _square(twin.open_loop_discharge[settle:], real)
    return Score(
        name,
        {state.name: float(ratio) for state, ratio in zip(batch.model.states, states, strict=True)},
        float(_ratio(_square(flow, real), unaided, real)),
        lead,
        float(_ratio(said.mean(0), _square(expected, real), real)),
        float(nis.nanmean()),
        float(likelihood.nanmean()),
        runs,
        float(np.median(taken)),
        float(left_out.mean()),
    )


def _ahead(batch: Batch, twin: Twin, analysed: Tensor) -> float:
    """RMSE over that of the open loop of discharge 24 h after analyses (T, c, 1, n), under the true rain."""
    count, c = analysed.shape[:2]
    lead = LEADS.size
    at = torch.arange(0, count - lead, EVERY)
    rows = batch.rows(np.tile(np.arange(c), at.numel()))
    weather = torch.stack([twin.forcing[twin.settle + at + 1 + j].flatten(0, 1) for j in range(lead)])
    *_, flow = ahead(rows.filter.system, analysed[at].flatten(0, 1), weather)
    valid = twin.settle + at + lead
    real = twin.discharge[valid]
    return float(_ratio(_square(flow.reshape(-1, c), real), _square(twin.open_loop_discharge[valid], real), real))


def _square(a: Tensor, b: Tensor) -> Tensor:
    """The mean square (c, …) over hours (T, c, …) of a difference."""
    return (a - b).square().mean(0)


def _ratio(a: Tensor, b: Tensor, truth: Tensor) -> Tensor:
    """The root of mean squares a over b (c, …), both relative to the square of the truth (T, c, …) before catchments
    are put together, so that none decides because its river is large."""
    size = truth.square().mean(0)
    return ((a / size).mean(0) / (b / size).mean(0)).sqrt()


def _counted(system: System, counts: list[int]) -> System:
    """The same system, which writes down how many points of a catchment its model moves."""

    def counting(move: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def moved(points: Tensor, *others: Tensor) -> Tensor:
            counts.append(points.shape[1])
            return move(points, *others)

        return moved

    unknowns = system.unknowns and replace(system.unknowns, move=counting(system.unknowns.move))
    return replace(system, move=counting(system.move), unknowns=unknowns)
