"""What a catchment forecasts best with: every method that could be issued, judged in hours it was not tuned to."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hydroda.calibrating import stretches
from hydroda.forecast import choice, intervals, quarters
from hydroda.forecast.calibrated import Calibrated
from hydroda.forecast.correction import Correction
from hydroda.forecast.cycle import Batch
from hydroda.forecast.intervals import Factors
from hydroda.units import HOURS_PER_YEAR, m3_per_second

TOLD = 1440.0  # hours with weather forecasts that are enough to decide what is issued with such
PROVEN = 2 * HOURS_PER_YEAR  # hours of judgement before networks are issued without the filter; one year may mislead


class Judged(NamedTuple):
    """What is issued at each lead, by forcing of the lead hours; the flows [m³/s] between classes, and factors on the
    spread of each, likewise; the highest discharge [m³/s] of the past; and with the weather as observed the mean
    squared errors (part, 24) of all methods in parts of the past, over the variance of what was observed."""

    choice: dict[str, tuple[str, ...]]
    between: tuple[float, ...]
    spread: dict[str, Factors]
    highest: float
    errors: dict[str, np.ndarray]

    @property
    def issued(self) -> np.ndarray:
        """The errors (part, 24) of what is issued."""
        return np.stack([self.errors[name][:, i] for i, name in enumerate(self.choice["observed"])], -1)

    def applied(self, found: Calibrated) -> Calibrated:
        """The calibration that forecasts so."""
        return replace(found, choice=self.choice, between=self.between, spread=self.spread, highest=self.highest)


def apart(found: Calibrated) -> list[Calibrated]:
    """The calibration with the filter as it is tuned without each part of the record, if it was; else itself."""
    return [replace(found, **vars(own)) for own in found.apart] or [found]


def parts(found: Calibrated, past: stretches.Past) -> np.ndarray:
    """Which of `apart` each stretch (s,) of the past is judged with."""
    return past.parts % len(apart(found))


def judged(
    batch: Batch,
    past: stretches.Past,
    found: Calibrated,
    area: float,
    held: np.ndarray | None = None,
    archived: stretches.Weather | None = None,
) -> Judged:
    """What a catchment of `area` [km²] forecasts best with; `batch` has one row for each of `apart(found)`.

    Each stretch of the past is run with the filter as it is tuned without that part of the record. Forecasts issued in
    all hours choose the method, or those in the hours (T,) `held` back from a network, by its number, which then speaks
    for all; -1 is for none. Operation takes the mean of networks, whose squared error is less than that of one by their
    variance (Krogh & Vedelsby 1995). Networks are not chosen without the filter by less than two years. Widths are of
    all. Of `archived` weather there must be two months to decide by, else what is found for the observed holds.
    """
    dry = past.forcing.clone()
    dry[:, batch.model.forcings.index("precipitation")] = 0.0
    kinds = {"observed": lambda at: past.forcing[at], "none": lambda at: dry[at]}
    if archived is not None:
        kinds["archived"] = archived
    part = parts(found, past)
    batch, memory = batch.rows(part), np.array([each.residual_hours for each in apart(found)])[part]
    analysed = stretches.analyses(batch, past, stretches.EVERY)
    names, spread, errors = {}, {}, {}
    between: tuple[float, ...] = ()
    highest = float(np.nanmax(past.observed))
    for weather, forcing in kinds.items():
        made = stretches.with_weather(stretches.forecasts(batch, past, analysed, forcing))
        every = candidates(made, found.correction, area, memory[made.stretch], held)
        asked = np.isfinite(made.observed).any(0) & (True if held is None else held[made.issue] >= 0)
        if weather == "archived" and asked.sum() * stretches.EVERY < TOLD:
            continue
        by_part = _errors(every, made, asked, past.variance, alone=held is not None)
        proven = asked.sum() * stretches.EVERY >= PROVEN
        names[weather] = choice.best({name: e for name, e in by_part.items() if proven or name != choice.NETWORKS})
        flow = choice.blended(every, np.array(names[weather])[:, None])
        issued = choice.moderated(flow, every, choice.beyond(flow, highest))
        between = between or intervals.cuts(issued)
        spread[weather] = intervals.factors(issued, made.variance, made.observed, between)
        errors[weather] = by_part
    flows = tuple(m3_per_second(np.array(between), area))
    return Judged(names, flows, spread, float(m3_per_second(highest, area)), errors["observed"])


def _errors(
    every: dict[str, np.ndarray], made: stretches.Forecasts, asked: np.ndarray, variance: float, alone: bool
) -> dict[str, np.ndarray]:
    """Mean squared errors (part, 24) over the variance of what was observed, by method, of forecasts (24, f) of `every`
    method that are `asked` for (f,). Where one network `alone` speaks for all, as it does in the hours held back from
    it, the variance of networks is taken off: their mean errs less by that."""
    square = {name: (values - made.observed) ** 2 / variance for name, values in every.items()}
    if alone and made.of_networks is not None:
        diversity = made.of_networks.var(1) / variance
        for name, share in choice.OF_NETWORKS.items():
            square[name] -= share**2 * diversity
    times = _times(made.observed, made.issue, asked)
    return {
        name: np.stack([np.nanmean(values[:, some], 1).clip(min=0.0) for some in times])
        for name, values in square.items()
    }


def _times(observed: np.ndarray, issue: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
    """Which forecasts (f,) that are `asked` for are of each quarter of a year by their issue (f,), or half of less; of
    those in which anything was observed (24, f)."""
    first, span = issue[asked].min(), np.ptp(issue[asked]) + 1
    count = max(2, quarters.count(span))
    part = (issue - first) * count // span
    every = [asked & (part == k) for k in range(count)]
    return [some for some in every if np.isfinite(observed[:, some]).any(1).all()]


def candidates(
    found: stretches.Forecasts,
    fitted: Correction,
    area: float,
    residual_hours: np.ndarray,
    held: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """All forecasts that could be issued, (24, f) [mm/h] by method, with memories (f, 2) [h] of the residual of each;
    that of networks is their mean, or that of the one that an hour (T,) was `held` back from."""

    def discharge(runoff: np.ndarray) -> np.ndarray:
        return m3_per_second(runoff, area).T[..., None]

    def column(flow: np.ndarray) -> np.ndarray:
        return m3_per_second(flow[:, None], area)

    newest = choice.Newest(
        observed=column(found.observed_at_issue),
        doubt=np.ones((found.issue.size, 1)),
        change=column(found.change_at_issue),
        open_loop=column(found.open_loop_at_issue),
        residual=column(found.residual),
        residual_before=column(found.residual_before),
        age=np.zeros((found.issue.size, 1)),
    )
    networks = None if found.of_networks is None else _networks(found.of_networks, found.issue, held)
    every = choice.candidates(
        discharge(found.of_filter),
        None if networks is None else discharge(networks),
        discharge(found.open_loop),
        residual_hours[:, None, None],
        [fitted],
        newest,
    )
    return {name: values[..., 0].T / m3_per_second(1.0, area) for name, values in every.items()}


def _networks(each: np.ndarray, issue: np.ndarray, held: np.ndarray | None) -> np.ndarray:
    """The mean (24, f) of networks (24, s, f), or that to which the hour of issue (f,) was new."""
    mean = each.mean(1)
    if held is None:
        return mean
    own = np.take_along_axis(each, np.maximum(held[issue], 0)[None, None], 1)[:, 0]
    return np.where(held[issue] >= 0, own, mean)
