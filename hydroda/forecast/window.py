"""What a run may look at: records to complete forcing and judged observations, hour by hour as they became known.

A `View` holds the hours of one stretch for stations in one order; `learn` moves its clock. An observation is judged as
the newest of its time (`newest`) or with its right neighbour known (`settled`); a row of a window is settled except the
last. What a view says of the hours before its clock is what a live run at that clock would see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from hydroda import quality
from hydroda.forecast import known, weather
from hydroda.forecast.known import Changes, ForecastTable
from hydroda.forecast.weather import Climate
from hydroda.quality import FAIL, MISSING, SUSPECT, Limits
from hydroda.schema import LEADS, VARIABLES
from hydroda.units import HOUR, mm_per_hour

CONTEXT = max(quality.CONTEXT, weather.CONTEXT)  # hours before the first row that its values may depend on
DOUBT = 9.0  # factor on the error variance of a suspect observation: three times the error
WEATHER = ("precipitation", "temperature", "pet")


@dataclass(frozen=True)
class Place:
    """What a window needs to know of a station."""

    id: str
    area_km2: float
    limits: Limits
    climate: Climate


@dataclass(frozen=True)
class View:
    """Hours (T,) of stations; values as known by its clock, what quality control makes of each hour when those after it
    are known too (`settled`) and when it is the newest (`newest`), and the forcing made of them.

    All are by name, arrays (T, S); `rain_assumed` (T, S) marks guessed rain. Discharge is m³/s.
    """

    places: tuple[Place, ...]
    hours: np.ndarray
    values: dict[str, np.ndarray]
    settled: dict[str, np.ndarray]
    newest: dict[str, np.ndarray]
    forcing: dict[str, np.ndarray]
    rain_assumed: np.ndarray


class Rows(NamedTuple):
    """Hours of a window: forcing, runoff [mm/h] with NaN where missing or failed, a factor on its error variance."""

    forcing: np.ndarray  # (W, S, m)
    observation: np.ndarray  # (W, S)
    doubt: np.ndarray  # (W, S)


class Last(NamedTuple):
    """The newest usable observation of each station (S,) in a window: its row, its age [h] at the end of the window,
    whether there is one at all, and whether neither it nor that of the hour before is doubted."""

    row: np.ndarray
    age: np.ndarray
    some: np.ndarray
    sure: np.ndarray


class Lead(NamedTuple):
    """Forcing (24, S, m) of the lead hours, where its rain is a guess (24, S), and the oldest weather run in it."""

    forcing: np.ndarray
    assumed: np.ndarray
    reference_time: np.datetime64 | None


def view(places: Sequence[Place], hours: np.ndarray, values: Mapping[str, np.ndarray]) -> View:
    """The view of consecutive `hours` (T,) from values (T, S) by variable, NaN where missing."""
    kept = {name: np.array(values[name], float) for name in VARIABLES}
    kept |= {name: known.in_range(kept[name], name) for name in WEATHER}
    shape = kept["discharge"].shape
    tests = {name: np.full(shape, MISSING, np.int8) for name in (*quality.TESTS, "qc")}
    empty = View(
        tuple(places),
        hours,
        kept,
        tests,
        {name: flags.copy() for name, flags in tests.items()},
        {name: np.zeros(shape) for name in WEATHER},
        np.ones(shape, bool),
    )
    _refresh(empty, 0, hours.size)
    return empty


def learn(view: View, changes: Changes, after: np.datetime64, until: np.datetime64) -> None:
    """Moves the clock of a view from `after` to `until`: the changes known in between take effect, in place."""
    start, stop = np.searchsorted(changes.known, [after, until], side="right")
    if stop > start:
        known.replay(view.values, changes, after, until)
        touched = changes.hour[start:stop]
        _refresh(view, int(touched.min()) - 1, int(touched.max()) + CONTEXT + 1)


def _refresh(view: View, first: int, stop: int) -> None:
    """Judges rows first … stop − 1 anew and completes their forcing."""
    first, stop = max(first, 0), min(stop, view.hours.size)
    limits = [place.limits for place in view.places]
    start, end = max(first - quality.CONTEXT, 0), min(stop + 1, view.hours.size)  # one hour ahead settles a value
    discharge = view.values["discharge"][start:end]
    for target, provisional in ((view.settled, False), (view.newest, True)):
        verdict = quality.flags(discharge, limits, provisional)
        verdict["qc"] = quality.aggregate(verdict)
        for name, flags in verdict.items():
            target[name][first:stop] = flags[first - start : stop - start]
    start = max(first - weather.CONTEXT, 0)
    part = {name: view.values[name][start:stop] for name in WEATHER}
    done = weather.complete(view.hours[start:stop], part, [place.climate for place in view.places])
    for name in WEATHER:
        view.forcing[name][first:stop] = done.values[name][first - start :]
    view.rain_assumed[first:stop] = done.assumed[first - start :]


def flags(view: View, name: str, first: int, last: int) -> np.ndarray:
    """Flags (W, S) of one test, or of all together ("qc"), for the window of rows first … last."""
    return np.concatenate((view.settled[name][first:last], view.newest[name][last : last + 1]))


def judged(view: View, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Discharge (W, S) [m³/s] of the window of rows first … last, whose last hour is the newest, NaN where missing or
    failed, and the factor on its error variance by which it is doubted."""
    qc = flags(view, "qc", first, last)
    discharge = view.values["discharge"][first : last + 1]
    usable = np.isfinite(discharge) & (qc != FAIL) & (qc != MISSING)
    return np.where(usable, discharge, np.nan), np.where(qc == SUSPECT, DOUBT, 1.0)


def rows(view: View, first: int, last: int, forcings: Sequence[str]) -> Rows:
    """The window of rows first … last, whose last hour is the newest."""
    discharge, doubt = judged(view, first, last)
    runoff = mm_per_hour(discharge, np.array([place.area_km2 for place in view.places]))
    forcing = np.stack([view.forcing[name][first : last + 1] for name in forcings], axis=-1)
    return Rows(forcing, runoff, doubt)


def last(observation: np.ndarray, doubt: np.ndarray) -> Last:
    """Where the newest of observations (W, S) stand, NaN where missing, with the doubt of each (W, S)."""
    seen = np.isfinite(observation)
    row, column = len(seen) - 1 - np.argmax(seen[::-1], axis=0), np.arange(seen.shape[1])
    sure = (row > 0) & (doubt[row, column] == 1.0) & (doubt[row - 1, column] == 1.0)
    return Last(row, len(seen) - 1.0 - row, seen.any(0), sure)


def lead(
    view: View, row: int, kind: str, forcings: Sequence[str], archive: ForecastTable | None, known_by: np.datetime64
) -> Lead:
    """The forcing of the 24 hours after `row`: as observed (if the view knows), none, or as forecast by `known_by`.

    None is no rain, and the temperature of the day before.
    """
    if kind == "observed":
        after = slice(row + 1, row + 1 + LEADS.size)
        forcing = np.stack([view.forcing[name][after] for name in forcings], axis=-1)
        return Lead(forcing, view.rain_assumed[after], None)
    hours = view.hours[row] + LEADS * HOUR
    told = {name: np.full((LEADS.size, len(view.places)), np.nan) for name in WEATHER}
    reference = None
    if kind == "archived" and archive is not None:
        told, references = known.newest_forecast(archive, hours, known_by)
        runs = references["precipitation"]
        reference = None if np.isnat(runs).all() else np.nanmin(runs)
    start = max(row + 1 - weather.CONTEXT, 0)
    values = {name: np.concatenate((view.values[name][start : row + 1], told[name])) for name in WEATHER}
    together = np.concatenate((view.hours[start : row + 1], hours))
    done = weather.complete(together, values, [place.climate for place in view.places])
    forcing = np.stack([done.values[name][-LEADS.size :] for name in forcings], axis=-1)
    return Lead(forcing, done.assumed[-LEADS.size :], reference)


def load(
    records: xr.Dataset, places: Sequence[Place], hours: np.ndarray, at: np.datetime64 | np.ndarray | None
) -> View:
    """The view of records as known by `at`: a time, one for each hour (T,), or None for ever."""
    return view(places, hours, known.as_known(records, [place.id for place in places], hours, at))
