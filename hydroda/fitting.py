"""Calibration of one catchment from the store: its gauge, its weather, its model, its baselines, its filter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hydroda import choice, correction, intervals, known, quality, reforecasts, tuning, window
from hydroda.calibrated import GAUGE, Calibrated
from hydroda.calibration import ModelFit, fit_model, runoff
from hydroda.correction import Correction
from hydroda.cycle import Batch
from hydroda.groups import build_filter, build_model
from hydroda.intervals import Factors
from hydroda.models.model import Model
from hydroda.progress import Progress
from hydroda.quality import Limits
from hydroda.schema import LEADS, hours
from hydroda.settings import Catchment, Settings
from hydroda.store import Store
from hydroda.units import HOUR, floor_hour, iso, m3_per_second
from hydroda.weather import Climate
from hydroda.window import Place

ENOUGH = 0.5  # share of the hours a variable must have to be built upon
HOURS_PER_YEAR = 8766.0
FIRST = np.datetime64("1800-01-01", "ns")
SHOWN = (1, 3, 6, 12, 24)
TOLD = 1440.0  # hours with weather forecasts that are enough to decide what is issued with such
PROVEN = 2 * HOURS_PER_YEAR  # of validation before networks are issued without the filter; one year may mislead


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
    archived: tuning.Weather | None


class Judged(NamedTuple):
    """What is issued at each lead, by forcing of the lead hours; the flows [m³/s] between classes, and factors on the
    spread of each, likewise; and with the weather as observed the mean squared errors (24,) [mm²/h²] of all methods."""

    choice: dict[str, tuple[str, ...]]
    between: tuple[float, ...]
    spread: dict[str, Factors]
    errors: dict[str, np.ndarray]

    @property
    def issued(self) -> np.ndarray:
        """The errors of what is issued."""
        return np.array([self.errors[name][i] for i, name in enumerate(self.choice["observed"])])


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
        past = tuning.past(record.forcing, record.observed, fitted.states, scored)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    baseline = _square_errors(baselines, record, open_loop, catchment.area_km2)
    batch, memory = tuned(
        settings,
        record.model,
        fitted.parameters,
        past,
        effort.filter,
        lambda fraction, text: progress(0.5 + 0.45 * fraction, text),
    )
    found = judged(batch, past, baselines, catchment.area_km2, memory, archived=record.archived)
    progress(1.0, "done")
    names, own = [p.name for p in record.model.parameters], batch.parameters[0, 0].tolist()
    return Calibrated(
        station=catchment.id,
        model=settings.model.name,
        temperature=record.temperature,
        parameters=dict(zip(names, own, strict=True)),
        errors=errors_of(record.model, batch.levels),
        choice=found.choice,
        between=found.between,
        spread=found.spread,
        limits=record.limits,
        climate=record.climate,
        correction=baselines,
        residual_hours=memory,
        report=_report(settings, start, validation, end, fitted, found, baseline, record.observed[scored]),
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


def tuned(
    settings: Settings,
    model: Model,
    parameters: np.ndarray,
    past: tuning.Past,
    effort: tuple[int, int],
    progress: Progress,
    leads: Sequence[int] = tuning.EVERY_LEAD,
) -> tuple[Batch, float]:
    """The filter of the settings with the error levels that are best for `leads` [h] among generations × population, a
    row for each stretch, and the memory [h] of residuals."""
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
    found = tuning.squares(batch, past, tuning.analyses(batch, past, tuning.EVERY)[0])
    return batch, float(tuning.residual_memory(found, past.variance, leads)[0][0])


def judged(
    batch: Batch,
    past: tuning.Past,
    fitted: Correction,
    area: float,
    residual_hours: float,
    held: np.ndarray | None = None,
    archived: tuning.Weather | None = None,
) -> Judged:
    """What a catchment, with a row of the batch for every stretch of its past, forecasts best with.

    Forecasts issued in all hours choose the method, or those in the hours (T,) `held` back from a network, by its
    number, which then speaks for all; -1 is for none. A method other than the filter must be better in both halves of
    them. Networks are not chosen without the filter by less than two years. Widths are of all. Of `archived` weather
    there must be two months to decide by, else what is found for the observed holds.
    """
    dry = past.forcing.clone()
    dry[:, batch.model.forcings.index("precipitation")] = 0.0
    kinds = {"observed": lambda at: past.forcing[at], "none": lambda at: dry[at]}
    if archived is not None:
        kinds["archived"] = archived
    moments, _ = tuning.analyses(batch, past, tuning.EVERY)
    names, spread, errors = {}, {}, {}
    between: tuple[float, ...] = ()
    for weather, forcing in kinds.items():
        found = tuning.told(tuning.forecasts(batch, past, moments, forcing))
        every = candidates(found, fitted, area, residual_hours, held)
        asked = np.ones(found.issue.size, bool) if held is None else held[found.issue] >= 0
        if weather == "archived" and asked.sum() * tuning.EVERY < TOLD:
            continue
        later = found.issue > np.median(found.issue[asked])
        square = {name: (values - found.observed) ** 2 for name, values in every.items()}
        halves = {
            name: np.stack([np.nanmean(values[:, asked & part], 1) for part in (~later, later)])
            for name, values in square.items()
        }
        if asked.sum() * tuning.EVERY < PROVEN:
            halves.pop(choice.NETWORKS, None)
        names[weather] = choice.best(halves)
        issued = choice.picked(every, np.array(names[weather])[:, None])
        between = between or intervals.cuts(issued)
        spread[weather] = intervals.factors(issued, found.variance, found.observed, between)
        errors[weather] = {name: np.nanmean(values[:, asked], 1) for name, values in square.items()}
    return Judged(names, tuple(m3_per_second(np.array(between), area)), spread, errors["observed"])


def candidates(
    found: tuning.Forecasts, fitted: Correction, area: float, residual_hours: float, held: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All forecasts that could be issued, (24, f) [mm/h] by method; that of networks is their mean, or that of the one
    that an hour (T,) was `held` back from."""

    def discharge(runoff: np.ndarray) -> np.ndarray:
        return m3_per_second(runoff, area).T[..., None]

    at_issue = (found.observed_at_issue, found.open_loop_at_issue, found.analysis)
    observed, open_loop, analysis = (m3_per_second(flow[:, None], area) for flow in at_issue)
    networks = None if found.of_networks is None else _networks(found.of_networks, found.issue, held)
    every = choice.candidates(
        discharge(found.of_filter),
        None if networks is None else discharge(networks),
        discharge(found.open_loop),
        np.array([residual_hours]),
        [fitted],
        observed,
        open_loop,
        analysis,
        np.zeros((found.issue.size, 1)),
    )
    return {name: values[..., 0].T / m3_per_second(1.0, area) for name, values in every.items()}


def _networks(each: np.ndarray, issue: np.ndarray, held: np.ndarray | None) -> np.ndarray:
    """The mean (24, f) of networks (24, s, f), or that to which the hour of issue (f,) was new."""
    mean = each.mean(1)
    if held is None:
        return mean
    own = np.take_along_axis(each, np.maximum(held[issue], 0)[None, None], 1)[:, 0]
    return np.where(held[issue] >= 0, own, mean)


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


def _square_errors(fitted: Correction, record: Record, open_loop: np.ndarray, area: float) -> np.ndarray:
    """Mean squared error (24,) [mm²/h²] of the open loop with decaying error, which a filter has to beat."""
    issue = np.flatnonzero(record.scored)[: -LEADS.size]
    forecast = corrected("decaying_error", fitted, record, open_loop, area, issue)
    return np.nanmean((forecast - record.observed[issue[:, None] + LEADS]) ** 2, axis=0)


def corrected(
    name: str, fitted: Correction, record: Record, open_loop: np.ndarray, area: float, issue: np.ndarray
) -> np.ndarray:
    """Forecasts (issue, 24) [mm/h] of a baseline from hours (issue,) of a record and the open loop (T,) of it."""
    time, observed = record.hours, record.observed
    ahead = issue[:, None] + LEADS
    forecast = correction.apply(
        name,
        [fitted],
        time[issue],
        LEADS,
        m3_per_second(open_loop[ahead], area)[..., None],
        m3_per_second(observed[issue], area)[:, None],
        m3_per_second(open_loop[issue], area)[:, None],
        np.zeros((issue.size, 1)),
    )[..., 0]
    return forecast / m3_per_second(1.0, area)


def errors_of(model: Model, levels: Any) -> dict[str, tuple[float, float]]:
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
    baseline: np.ndarray,
    observed: np.ndarray,
) -> dict[str, Any]:
    variance = float(np.nanvar(observed))
    return {
        "start": iso(start),
        "validation": None if validation is None else iso(validation),
        "end": iso(end),
        "hours": fitted.hours,
        "filter": settings.filter.name,
        "nse": fitted.nse,
        "kge": fitted.kge,
        "forecast_nse": {str(lead): 1.0 - float(found.issued[lead - 1]) / variance for lead in SHOWN},
        "filter_nse": {str(lead): 1.0 - float(found.errors[choice.FILTER][lead - 1]) / variance for lead in SHOWN},
        "decaying_error_nse": {str(lead): 1.0 - float(baseline[lead - 1]) / variance for lead in SHOWN},
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
        f"{said['filter']}) NSE {skill} (on the hours they were fitted to, with observed rain)"
    )
