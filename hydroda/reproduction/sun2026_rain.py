"""Degraded rain of `sun2026`: weather forecasts made from the observed weather, as like it as those of a good model.

One draw of errors may hold a flood that never came, which then decides what is best. So forecasts of the test are made
several times: to the store of a river, what was drawn again belongs to catchments of their own, like it in all else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import brentq

from hydroda import generator
from hydroda.calibrating.history import FIRST, record_of
from hydroda.domain import store_of
from hydroda.reproduction.sun2026_plan import DAY
from hydroda.reproduction.sun2026_rows import restored
from hydroda.schema import LEADS
from hydroda.settings import Settings
from hydroda.storage import files, records
from hydroda.storage.store import Store
from hydroda.units import HOUR

SPANS = ((1, 6), (7, 12), (13, 24))  # leads [h] of a weather run at which degraded rain is described
LIKE = {(1, 12): 0.82, (13, 24): 0.70}  # correlation of forecast with observed rain by leads, of a good weather model
SIZES = (0.05, 2.0)  # of errors, among which that of a record is looked for
Likeness = tuple[tuple[float, float], ...]


def names(name: str, draws: int) -> tuple[str, ...]:
    """What a river is called in each draw of its rain; in the first by its own name."""
    return (name, *(f"{name}_{k}" for k in range(2, draws + 1)))


def degrade(
    settings: Settings, name: str, first: np.datetime64, tested: tuple[np.datetime64, np.datetime64], draws: int
) -> Likeness:
    """Puts weather forecasts made from the observed weather into the store, for issue times from `first` to the end of
    the test, with errors of the size that makes them as like the observed as `LIKE` says; and other draws of such
    errors for the test alone, each with the observations of the river under a name of its own (`names`).

    Returns correlation with the observed rain, and amount over it, at `SPANS` of leads, of the first draw. Repeated it
    changes nothing: the same weather gives the same forecasts. Raises ValueError when they cannot be kept.
    """
    store, place = store_of(settings), settings.catchment(name)
    begun, end = first - DAY, tested[1] + LEADS.size * HOUR
    record = record_of(settings, store, place, settings.model.name, begun, end)
    weather = dict(zip(record.model.forcings, record.forcing[record.scored].T, strict=True))
    rain = weather["precipitation"]
    # where nobody reads a temperature none is told
    told = ("precipitation", "temperature") if record.temperature else ("precipitation",)
    truth = generator.Sky(name, record.hours[record.scored], rain, weather.get("temperature", np.zeros_like(rain)))
    size = _size(truth, truth.time[0])
    likeness = _likeness(_forecast(store, truth, truth.time[0], size, told), truth, SPANS)
    seen = store.observations([name], FIRST, end)
    for copy in names(name, draws)[1:]:
        _append(store, copy, seen.assign_coords(station=("record", np.full(seen.sizes["record"], copy))))
        # from two days before on, or the first hours would know no run that is finished
        _forecast(store, replace(truth, station=copy), tested[0] - 2 * DAY, size, told)
    return likeness


def drawn(settings: Settings, name: str, draws: int) -> Settings:
    """The settings with a river once for each draw of its rain, each with the parameters and networks of the river."""
    store, found, place = store_of(settings), restored(settings, name), settings.catchment(name)
    for copy in names(name, draws)[1:]:
        if found.taught is not None:
            files.replace(store.weights_path(copy), store.weights_path(name).read_bytes())
        store.write_parameters(copy, replace(found, station=copy).content())
    catchments = tuple(place.model_copy(update={"id": each}) for each in names(name, draws))
    return settings.model_copy(update={"catchments": catchments})


def _forecast(
    store: Store, truth: generator.Sky, first: np.datetime64, size: float, told: Sequence[str]
) -> Mapping[str, Any]:
    """Forecasts of some variables with errors of a size, runs from `first` on, as columns, which the store keeps."""
    columns = generator.forecasts([truth], first, size)
    values = {variable: columns[variable] for variable in told}
    made = records.build(columns["station"], columns["time"], columns["known"], values, columns["reference_time"])
    _append(store, truth.station, made)
    return columns


def _append(store: Store, station: str, made: xr.Dataset) -> None:
    if problems := store.append(made).problems:
        raise ValueError(f"{station}: these records cannot be kept: {'; '.join(problems)}")


def _size(truth: generator.Sky, first: np.datetime64) -> float:
    """Times the usual errors that forecasts err by."""

    def excess(size: float) -> float:
        found = _likeness(generator.forecasts([truth], first, size), truth, LIKE)
        return float(np.mean([r for r, _ in found])) - float(np.mean(list(LIKE.values())))

    ends = [excess(size) for size in SIZES]
    if ends[0] * ends[1] >= 0.0:  # rain that comes in single hours, or in weeks
        return SIZES[int(np.abs(ends).argmin())]
    return float(brentq(excess, *SIZES, xtol=0.02))


def _likeness(columns: Mapping[str, Any], truth: generator.Sky, spans: Iterable[tuple[int, int]]) -> Likeness:
    """Correlation and amount of forecast rain (n,) against the observed of the same hours, by spans of leads [h]."""
    observed = truth.precipitation[(columns["time"] - truth.time[0]) // HOUR]
    lead = (columns["time"] - columns["reference_time"]) // HOUR
    found = []
    for shortest, longest in spans:
        some = (shortest <= lead) & (lead <= longest)
        pair = columns["precipitation"][some], observed[some]
        found.append((float(np.corrcoef(*pair)[0, 1]), float(pair[0].sum() / pair[1].sum())))
    return tuple(found)
