"""Calibration of one catchment from the store: its gauge, its weather, its model, its baselines, its filter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hydroda import choice, correction, judging, known, quality, reforecasts, stretches, tuning, window
from hydroda.calibrated import GAUGE, Calibrated, Tuned
from hydroda.calibration import ModelFit, fit_model, runoff
from hydroda.correction import Correction
from hydroda.cycle import Levels
from hydroda.groups import batch as batch_of
from hydroda.groups import build_filter, build_model
from hydroda.judging import Judged
from hydroda.models.model import Model
from hydroda.progress import Progress, among
from hydroda.quality import Limits
from hydroda.schema import hours
from hydroda.settings import Catchment, Settings
from hydroda.store import Store
from hydroda.units import HOUR, HOURS_PER_YEAR, floor_hour, iso, m3_per_second
from hydroda.weather import Climate
from hydroda.window import Place

ENOUGH = 0.5  # share of the hours a variable must have to be built upon
FIRST = np.datetime64("1800-01-01", "ns")
SHOWN = (1, 3, 6, 12, 24)


@dataclass(frozen=True)
class Effort:
    """How long to search: generations × population of the model, and of the filter."""

    model: tuple[int, int] = (80, 96)
    filter: tuple[int, int] = (42, 40)


class Record(NamedTuple):
    """What a catchment is calibrated on: hours (T,), those that count, forcing (T, m), runoff (T,) with NaN.

    And what is believed of its gauge and of its weather.
    """

    hours: np.ndarray
    scored: np.ndarray
    forcing: np.ndarray
    observed: np.ndarray
    model: Model
    temperature: bool
    limits: Limits
    climate: Climate
    archived: stretches.Weather | None


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

    The model is not searched on the hours from `validation` on, but its parameters are chosen by them too. Baselines
    and error levels of the filter are few and are fitted to all hours.
    Raises ValueError, naming the catchment, when the period holds too little.
    """
    record = record_of(settings, store, catchment, start, end)
    unseen = None if validation is None else record.hours >= validation
    counted = record.scored if unseen is None else record.scored & ~unseen
    generations, population = effort.model
    try:
        fitted = fit_model(
            record.model,
            record.forcing,
            record.observed,
            counted,
            unseen,
            seed=settings.filter.seed,
            generations=generations,
            population=population,
            progress=lambda fraction, text: progress(0.5 * fraction, text),
        )
        open_loop = runoff(record.model, fitted.parameters, fitted.states)
        scored = record.scored
        baselines = _baselines(catchment, record.hours[scored], record.observed[scored], open_loop[scored])
        past = stretches.past(record.forcing, record.observed, fitted.states, scored)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    search = partial(tuned, settings, record.model, fitted.parameters)
    whole, *others = _tuned_apart(search, past, effort.filter, lambda f, text: progress(0.5 + 0.45 * f, text))
    found = Calibrated(
        station=catchment.id,
        model=settings.model.name,
        temperature=record.temperature,
        **vars(whole),
        apart=tuple(others),
        choice={},
        between=(),
        spread={},
        limits=record.limits,
        climate=record.climate,
        correction=baselines,
        report={},
    )
    own = batch_of(judging.apart(found), settings)
    best = judging.judged(own, past, found, catchment.area_km2, archived=record.archived)
    progress(1.0, "done")
    return replace(
        found,
        choice=best.choice,
        between=best.between,
        spread=best.spread,
        report=_report(settings, start, validation, end, fitted, best),
    )


def record_of(
    settings: Settings, store: Store, catchment: Catchment, start: np.datetime64, end: np.datetime64
) -> Record:
    """What is stored of a catchment until `end`, of which the hours from `start` on count."""
    records = store.observations([catchment.id], FIRST, end)
    if not records.sizes["record"]:
        raise ValueError(
            f"{catchment.id}: there are no observations until {iso(end)}; hydroda add-catchment brings some"
        )
    first = max(records["time"].values.min(), start - settings.cycle.spin_up_hours * HOUR)
    stretch = hours(floor_hour(first), end)
    values = known.as_known(records, [catchment.id], stretch)
    limits = quality.limits_from(values["discharge"][:, 0], catchment.area_km2)
    climate, temperature = _climate(catchment, stretch, values)
    view = window.view([Place(catchment.id, catchment.area_km2, limits, climate)], stretch, values)
    model = build_model(settings.model.name, temperature)
    rows = window.rows(view, 0, stretch.size - 1, model.forcings)
    scored = stretch >= start
    archived = reforecasts.weather(settings, store, view, model.forcings)
    own = rows.forcing[:, 0], rows.observation[:, 0], model, temperature, limits, climate
    return Record(stretch, scored, *own, archived)


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
) -> Tuned:
    """What the filter of the settings forecasts best with for `leads` [h], among generations × population."""
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
        progress=progress,
    )
    levels = tuning.sized(model, build, parameters, past, levels)
    batch = tuning.rows(model, build, parameters, past, levels[None])
    found = tuning.squares(batch, past, stretches.analyses(batch, past, stretches.EVERY))
    long, short = tuning.residual_memory(found, past.variance, leads)[0][0].tolist()
    own = dict(zip((p.name for p in model.parameters), batch.parameters[0, 0].tolist(), strict=True))
    return Tuned(own, _errors(model, batch.levels), (long, short))


def _climate(catchment: Catchment, stretch: np.ndarray, values: dict[str, np.ndarray]) -> tuple[Climate, bool]:
    """What the record says of the weather, and whether there is temperature."""
    share = {name: float(np.isfinite(column).mean()) for name, column in values.items()}
    warm = share["temperature"] >= ENOUGH
    yearly, source = catchment.pet_mm_per_year, "climatological"
    if share["pet"] >= ENOUGH:
        yearly, source = float(np.nanmean(values["pet"])) * HOURS_PER_YEAR, "given"
    elif warm and catchment.lat is not None:
        source = "oudin"
    months: tuple[float, ...] = ()
    if warm:
        month = stretch.astype("datetime64[M]").astype(int) % 12
        warmth = values["temperature"][:, 0]
        usual = float(np.nanmean(warmth))
        means = (np.nanmean(warmth[month == m]) if np.isfinite(warmth[month == m]).any() else usual for m in range(12))
        months = tuple(float(mean) for mean in means)
    return Climate(catchment.lat, catchment.lon, source, max(yearly, 1.0), months), warm


def _baselines(catchment: Catchment, time: np.ndarray, observed: np.ndarray, open_loop: np.ndarray) -> Correction:
    flows = (m3_per_second(runoff, catchment.area_km2) for runoff in (observed, open_loop))
    return correction.fit(catchment.id, time, *flows)


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
    issued = choice.told(found.choice["observed"])
    snow = " with snow" if found.temperature else ""
    return (
        f"{found.station}: {said['hours']} hours from {said['start']} to {said['end']}; {found.model}{snow} alone "
        f"NSE {said['nse']:.3f}, KGE {said['kge']:.3f}; forecasts ({issued}, the filter being "
        f"{said['filter']}) NSE {skill} (the filter tuned without the hours it is judged in; with observed rain)"
    )
