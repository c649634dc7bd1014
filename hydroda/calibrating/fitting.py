"""Calibration of one catchment from the store: its gauge, its weather, its model, its baselines, its filter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hydroda.calibrating import judging, stretches, tuning
from hydroda.calibrating.calibration import ModelFit, fit_model, runoff
from hydroda.calibrating.history import Record, record_of
from hydroda.calibrating.judging import Judged
from hydroda.forecast import choice, correction, quarters
from hydroda.forecast.batches import batch as batch_of
from hydroda.forecast.batches import build_filter
from hydroda.forecast.calibrated import GAUGE, Calibrated, Tuned
from hydroda.forecast.correction import Correction
from hydroda.forecast.cycle import Levels
from hydroda.models.model import Model
from hydroda.progress import Progress, among
from hydroda.schema import LEADS
from hydroda.settings import Catchment, Settings
from hydroda.storage.store import Store
from hydroda.units import iso, m3_per_second

SHOWN = (1, 3, 6, 12, 24)


@dataclass(frozen=True)
class Effort:
    """How long to search: generations × population of the model, and of the filter."""

    model: tuple[int, int] = (80, 96)
    filter: tuple[int, int] = (42, 40)


QUICK = Effort((8, 24), (3, 12))  # enough to see that everything works, not to forecast well


class Fitted(NamedTuple):
    """A model fitted to a record: its name, the record with the weather it needs, its parameters and open loop, the
    baselines beside that; and the loss of the open loop with its last error carried on, mean of leads and hours."""

    name: str
    record: Record
    model: ModelFit
    baselines: Correction
    loss: float


def fit(
    settings: Settings,
    store: Store,
    catchment: Catchment,
    start: np.datetime64,
    end: np.datetime64,
    effort: Effort,
    progress: Progress,
    validation: np.datetime64 | None = None,
) -> Calibrated:
    """The calibration of a catchment on the hours from `start` to `end`; what lies before is used to fill the stores.

    No model is searched on the hours from `validation` on, but its parameters are chosen by them too, and so is the
    model among those of the settings. Baselines and error levels of the filter are few and are fitted to all hours.
    Raises ValueError, naming the catchment, when the period holds too little.
    """
    names = (settings.model.name, *settings.model.alternatives)
    records = [record_of(settings, store, catchment, name, start, end) for name in names]
    models = among(progress, 0, 2, "models")
    try:
        tried = [
            _fitted(settings, catchment, name, record, validation, effort.model, among(models, i, len(names), name))
            for i, (name, record) in enumerate(zip(names, records, strict=True))
        ]
        own = _chosen(tried)
        record = own.record
        past = stretches.past(record.forcing, record.observed, own.model.states, record.scored)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    search = partial(tuned, settings, record.model, own.model.parameters)
    whole, *others = _tuned_apart(search, past, effort.filter, lambda f, text: progress(0.5 + 0.45 * f, text))
    found = Calibrated(
        station=catchment.id,
        model=own.name,
        temperature=record.temperature,
        **vars(whole),
        apart=tuple(others),
        choice={},
        between=(),
        spread={},
        limits=record.limits,
        climate=record.climate,
        correction=own.baselines,
        report={},
        area_km2=catchment.area_km2,
    )
    batch = batch_of(judging.apart(found), settings)
    best = judging.judged(batch, past, found, catchment.area_km2, archived=record.archived)
    losses = {each.name: each.loss for each in tried}
    progress(1.0, "done")
    report = _report(settings, start, validation, end, own.model, best) | {"models_tried": losses}
    return replace(best.applied(found), report=report)


def _fitted(
    settings: Settings,
    catchment: Catchment,
    name: str,
    record: Record,
    validation: np.datetime64 | None,
    effort: tuple[int, int],
    progress: Progress,
) -> Fitted:
    unseen = None if validation is None else record.hours >= validation
    searched = record.scored if unseen is None else record.scored & ~unseen
    generations, population = effort
    model = fit_model(
        record.model,
        record.forcing,
        record.observed,
        searched,
        unseen,
        seed=settings.filter.seed,
        generations=generations,
        population=population,
        progress=progress,
    )
    open_loop = runoff(record.model, model.parameters, model.states)
    flows = (m3_per_second(flow[record.scored], catchment.area_km2) for flow in (record.observed, open_loop))
    baselines = correction.fit(catchment.id, record.hours[record.scored], *flows)
    judged = [searched] if unseen is None else [searched, unseen]
    losses = [_carried_on(record, open_loop, baselines, some) for some in judged]
    loss = float(np.average(losses, weights=[some.sum() for some in judged]))
    return Fitted(name, record, model, baselines, loss)


def _carried_on(record: Record, open_loop: np.ndarray, baselines: Correction, some: np.ndarray) -> float:
    """Mean loss of leads of the open loop (T,) with its last error carried on, from `some` hours (T,) on."""
    issue = np.flatnonzero(some)
    issue = issue[issue < open_loop.size - LEADS.size]
    at = issue[:, None] + LEADS
    newest = record.observed[issue, None], open_loop[issue, None], np.zeros((issue.size, 1))
    ahead = open_loop[at][..., None]
    made = correction.apply("decaying_error", [baselines], record.hours[issue], LEADS, ahead, *newest)
    square = (made[..., 0] - record.observed[at]) ** 2 / np.nanvar(record.observed[record.scored])
    parts = np.array_split(square, quarters.count(issue.size))
    errors = np.stack([np.nanmean(part, 0) for part in parts if np.isfinite(part).any(0).all()])
    return float(quarters.loss(errors).mean())


def _chosen(tried: Sequence[Fitted]) -> Fitted:
    """The first, unless the forecasts of another err clearly less."""
    named = {each.name: each for each in tried}
    return named[quarters.best({name: each.loss for name, each in named.items()})]


def _tuned_apart(
    search: Callable[[stretches.Past, tuple[int, int], Progress], Tuned],
    past: stretches.Past,
    effort: tuple[int, int],
    progress: Progress,
) -> list[Tuned]:
    """What a `search` tunes the filter to on the whole record, and without each part of it, if there are as many.

    The filter runs with the first; judged by that it would seem better than it is, and than networks that are judged in
    hours they were not trained on. The others are searched half as long.
    """
    count = stretches.PARTS if np.unique(past.parts).size == stretches.PARTS else 0
    found = [search(past, effort, among(progress, 0, 2, "whole record"))]
    generations, population = effort
    half, later = (max(generations // 2, 1), population), among(progress, 1, 2, "apart")
    for part in range(count):
        told = among(later, part, count, f"without part {part + 1}")
        found.append(search(past.without(part), half, told))
    return found


def tuned(
    settings: Settings,
    model: Model,
    parameters: np.ndarray,
    past: stretches.Past,
    effort: tuple[int, int],
    progress: Progress,
    leads: Sequence[int] = tuning.EVERY_LEAD,
    memories: np.ndarray = tuning.MEMORIES,
) -> Tuned:
    """What the filter of the settings forecasts best with for `leads` [h], among generations × population, and among
    `memories` of the residual as in `tuning`."""
    build = build_filter(settings)
    generations, population = effort
    levels = tuning.tune(
        model,
        build,
        parameters,
        past,
        seed=settings.filter.seed,
        generations=generations,
        population=population,
        leads=leads,
        memories=memories,
        progress=progress,
    )
    levels = tuning.sized(model, build, parameters, past, levels)
    batch = tuning.rows(model, build, parameters, past, levels[None])
    found = tuning.squares(batch, past, stretches.analyses(batch, past, stretches.EVERY))
    long, short = tuning.residual_memory(found, past.variance, leads, memories)[0][0].tolist()
    own = dict(zip((p.name for p in model.parameters), batch.parameters[0, 0].tolist(), strict=True))
    return Tuned(own, _errors(model, batch.levels), (long, short))


def _errors(model: Model, levels: Levels) -> dict[str, tuple[float, float]]:
    """The error levels of a batch of one by name."""
    states = zip(levels.state_share[0, 0].tolist(), levels.state_base[0, 0].tolist(), strict=True)
    pairs = {state.name: pair for state, pair in zip(model.states, states, strict=True)}
    return pairs | {GAUGE: (levels.gauge_share[0, 0].item(), levels.gauge_base[0, 0].item())}


def _report(
    settings: Settings,
    start: np.datetime64,
    validation: np.datetime64 | None,
    end: np.datetime64,
    fitted: ModelFit,
    found: Judged,
) -> dict[str, Any]:
    def nse(errors: np.ndarray) -> dict[str, float]:
        """By lead [h], from what share of the variance is in error, by parts (part, 24)."""
        return {str(lead): 1.0 - float(errors.mean(0)[lead - 1]) for lead in SHOWN}

    return {
        "start": iso(start),
        "validation": None if validation is None else iso(validation),
        "end": iso(end),
        "hours": fitted.hours,
        "filter": settings.filter.name,
        "nse": fitted.nse,
        "kge": fitted.kge,
        "forecast_nse": nse(found.issued),
        "filter_nse": nse(found.errors[choice.FILTER]),
        "decaying_error_nse": nse(found.errors["decaying_error"]),
    }


def summary(found: Calibrated) -> str:
    """What was found, in words."""
    said = found.report
    skill = ", ".join(f"{lead} h {nse:.3f}" for lead, nse in said["forecast_nse"].items())
    issued = choice.in_words(found.choice["observed"])
    snow = " with snow" if found.temperature else ""
    return (
        f"{found.station}: {said['hours']} hours from {said['start']} to {said['end']}; {found.model}{snow} alone "
        f"NSE {said['nse']:.3f}, KGE {said['kge']:.3f}{_instead(found)}; forecasts ({issued}, the filter being "
        f"{said['filter']}) NSE {skill} (the filter tuned without the hours it is judged in; with observed rain)"
    )


def _instead(found: Calibrated) -> str:
    """How much more the models err that were not taken, in words; nothing where no other was tried."""
    tried = dict(found.report["models_tried"])
    own = tried.pop(found.model)
    more = {name: 100.0 * np.expm1(loss - own) for name, loss in tried.items()}
    said = [f"{name} errs {abs(share):.1f} % {'more' if share > 0 else 'less'}" for name, share in more.items()]
    return f" (without a filter {', '.join(said)})" if said else ""
