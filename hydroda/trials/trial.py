"""What filters make of a twin whose truth and errors are known. Tensors only, axes (catchment, point, component)."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydroda import catalogue
from hydroda.filters.recipe import Build, Hour, System
from hydroda.forecast import batches
from hydroda.forecast.cycle import Batch, ahead
from hydroda.progress import Progress, among, silent
from hydroda.schema import LEADS
from hydroda.trials.twin import Twin, rivers

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
EVERY = 6  # hours between the forecasts that are scored


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


def builder(name: str) -> Build:
    """The filter of a name with the options of `OPTIONS`: "sigma.ukf", or with modifiers "sigma.ukf+reduce.steady".

    Raises ValueError naming what there is not.
    """
    return batches.built([(part, OPTIONS.get(part, {})) for part in catalogue.taken_apart(name, applicable())])


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
    progress: Progress = silent,
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
        try:
            scores.append(run(name, build, twin, among(progress, i, len(every), name)))
        except Exception as error:  # whatever a filter does wrong is its result
            scores.append(Score(name, {}, *(math.nan,) * 8, f"{type(error).__name__}: {error}"))
    progress(1.0, "done")
    unit = scores[0].seconds
    return tuple(replace(score, seconds=score.seconds / unit) for score in scores)


def run(name: str, build: Build, twin: Twin, told: Progress = silent) -> Score:
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
                told(i / hours, f"hour {i}")
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
