"""What was known when: the hourly arrays a cycle may look at, out of records with all their versions. No files.

A hindcast of many cycles starts with the values that were there in time, `as_known(..., hours + cut_off)`, and applies
the `late` ones as its clock passes them; so a cycle costs what changed and not what is stored.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from hydroda import quality
from hydroda.schema import VARIABLES
from hydroda.storage.records import NAMES, repeats
from hydroda.units import HOUR


class Changes(NamedTuple):
    """Values that became known late, in the order they did; positions in `hours`, `stations` and NAMES."""

    known: np.ndarray  # (k,) datetime64[ns]
    hour: np.ndarray
    station: np.ndarray
    variable: np.ndarray
    value: np.ndarray


def _cells(
    records: xr.Dataset, stations: Sequence[str], hours: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions of the records that lie in hours × stations, their hour, their station)."""
    if len(hours) > 1 and not (np.diff(hours) == HOUR).all():
        raise ValueError(f"hours are not consecutive between {hours[0]} and {hours[-1]}")
    names = np.asarray(stations, dtype=str)
    order = np.argsort(names)
    place = np.minimum(np.searchsorted(names[order], records["station"].values), len(names) - 1)
    station = order[place]
    hour = (records["time"].values - hours[0]) // HOUR
    inside = np.flatnonzero((names[station] == records["station"].values) & (hour >= 0) & (hour < len(hours)))
    return inside, hour[inside].astype(int), station[inside]


def as_known(
    records: xr.Dataset, stations: Sequence[str], hours: np.ndarray, at: np.datetime64 | np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """For each variable the newest version (time, station) known by `at`: a time, one per hour (T,), or None = ever."""
    row, hour, station = _cells(records, stations, hours)
    known = records["known"].values[row]
    if at is not None:
        by = known <= (at[hour] if isinstance(at, np.ndarray) and at.ndim else at)
        row, hour, station, known = row[by], hour[by], station[by], known[by]
    order = np.argsort(known, kind="stable")
    row, hour, station = row[order], hour[order], station[order]
    result = {}
    for name in NAMES:
        result[name] = np.full((len(hours), len(stations)), np.nan)
        if name in records:
            value = records[name].values[row]
            said = np.isfinite(value)
            result[name][hour[said], station[said]] = value[said]  # NumPy: of repeated indices the last one counts
    return result


def late(records: xr.Dataset, stations: Sequence[str], hours: np.ndarray, cut_off: np.timedelta64) -> Changes:
    """What became known after its own hour + `cut_off`, sorted by known time; values said again unchanged are left out.

    With `as_known(records, stations, hours, hours + cut_off)` as a start, `replay` gives what was known at any cut-off.
    """
    row, hour, station = _cells(records, stations, hours)
    parts = []
    for code, name in enumerate(NAMES):
        if name not in records:
            continue
        value = records[name].values[row]
        said = np.flatnonzero(np.isfinite(value))
        known = records["known"].values[row]
        order = said[np.lexsort([known[said], hour[said], station[said]])]
        repeated = repeats(hour[order], station[order], value[order])
        keep = order[~repeated & (known[order] > hours[hour[order]] + cut_off)]
        parts.append(Changes(known[keep], hour[keep], station[keep], np.full(keep.size, code), value[keep]))
    together = Changes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(together.known, kind="stable")
    return Changes(*(column[order] for column in together))


def replay(
    values: Mapping[str, np.ndarray], changes: Changes, after: np.datetime64, until: np.datetime64
) -> int | None:
    """Writes the changes known in (`after`, `until`] into `values`, in place; the first hour touched, or None."""
    start, stop = np.searchsorted(changes.known, [after, until], side="right")
    for i in range(start, stop):
        values[NAMES[changes.variable[i]]][changes.hour[i], changes.station[i]] = changes.value[i]
    return int(changes.hour[start:stop].min()) if stop > start else None


def in_range(values: np.ndarray, name: str) -> np.ndarray:
    """Values of a variable of the schema, NaN where they are not physically possible: a sentinel is no weather."""
    return np.where(quality.range_flags(values, VARIABLES[name]) == quality.FAIL, np.nan, values)


class ForecastTable(NamedTuple):
    """Weather forecasts sorted by valid hour, run and known time, so that a cycle looks at its own hours only."""

    stations: tuple[str, ...]
    time: np.ndarray  # (n,)
    reference: np.ndarray
    known: np.ndarray
    station: np.ndarray  # position in `stations`
    values: dict[str, np.ndarray]


def forecast_table(records: xr.Dataset, stations: Sequence[str]) -> ForecastTable:
    """Forecast records of `stations`, ready for `newest_forecast`; what no weather can be is left out, so that an older
    run speaks for it."""
    names = np.asarray(stations, dtype=str)
    by_name = np.argsort(names)
    place = by_name[np.minimum(np.searchsorted(names[by_name], records["station"].values), len(names) - 1)]
    row = np.flatnonzero(names[place] == records["station"].values)
    stamps = [records[name].values[row] for name in ("known", "reference_time", "time")]
    order = np.lexsort(stamps)
    known, reference, time = (stamp[order] for stamp in stamps)
    values = {name: in_range(records[name].values[row][order], name) for name in NAMES if name in records}
    return ForecastTable(tuple(stations), time, reference, known, place[row][order], values)


def newest_forecast(
    table: ForecastTable, hours: np.ndarray, at: np.datetime64
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """For each hour the value of the newest run that covers it and was known by `at`, and the start of that run.

    Two dicts variable -> (time, station); NaN and NaT where no run covers the hour.
    """
    start, stop = np.searchsorted(table.time, [hours[0], hours[-1] + np.timedelta64(1, "ns")])
    row = start + np.flatnonzero(table.known[start:stop] <= at)
    hour = ((table.time[row] - hours[0]) // HOUR).astype(int)
    shape = (len(hours), len(table.stations))
    values, references = {}, {}
    for name in NAMES:
        values[name] = np.full(shape, np.nan)
        references[name] = np.full(shape, np.datetime64("NaT"), "datetime64[ns]")
        if name in table.values:
            said = np.isfinite(table.values[name][row])
            cell = hour[said], table.station[row[said]]
            values[name][cell] = table.values[name][row[said]]
            references[name][cell] = table.reference[row[said]]
    return values, references
