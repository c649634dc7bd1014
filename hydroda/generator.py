"""Writes the demonstration data: `python -m hydroda.generator [folder]`. All made up, see `sources.synthetic`.

Two catchments over two years, gauges with the faults of gauges, and archived weather forecasts of the last four months.
The same code and the same libraries write the same bytes.
"""

import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from hydroda.sources.synthetic import Basin, chain, gauge, normal, runoff, three_digits, uniform, weather
from hydroda.storage import files, netcdf, records
from hydroda.units import HOUR

SEED = 20
YEARS = (2022, 2023, 2024)  # the first fills the stores and is left out
ALDER = Basin("alder", 85.0)
FELL = Basin("fell", 310.0, (700.0, 1100.0, 1500.0, 2000.0), wetness=1.15, root_zone=70.0, recession=24.0, base=0.6)
BASINS = (ALDER, FELL)
FORECASTS_FROM = np.datetime64("2024-09-01T00:00", "ns")
RUN_HOURS, LEADS = 6, 36
NOT_REAL = "made up by hydroda.generator: no river, no gauge and no weather model behind it"


@dataclass(frozen=True)
class River:
    """Two years of one catchment as they were, without any gauge (T,)."""

    basin: Basin
    time: np.ndarray
    precipitation: np.ndarray
    temperature: np.ndarray
    pet: np.ndarray
    discharge: np.ndarray


@dataclass(frozen=True)
class Sky:
    """True hourly weather of a station (T,) that is to be forecast: mm/h, degC."""

    station: str
    time: np.ndarray
    precipitation: np.ndarray
    temperature: np.ndarray


@dataclass(frozen=True)
class Trouble:
    """The faults put into a record, each [first, last] hour; see data/README.md."""

    gaps: tuple[tuple[str, str], ...]
    stuck: tuple[str, str]
    late: tuple[str, str]  # all discharges of these hours arrive together after the last
    spike: str
    revised: tuple[str, str]  # first published 20 % too high, corrected five days later


TROUBLES = {
    "alder": Trouble(
        gaps=(
            ("2023-02-11T03", "2023-02-11T11"),
            ("2023-08-20T15", "2023-08-23T08"),
            ("2024-10-12T02", "2024-10-12T04"),
        ),
        stuck=("2024-01-28T05", "2024-02-02T10"),
        late=("2024-11-20T18", "2024-11-21T09"),
        spike="2024-11-09T14",
        revised=("2024-10-23T12", "2024-10-25T20"),
    ),
    "fell": Trouble(
        gaps=(("2023-03-02T00", "2023-03-06T23"), ("2024-06-15T09", "2024-06-15T17")),
        stuck=("2023-11-02T12", "2023-11-07T16"),
        late=("2024-10-31T20", "2024-11-01T10"),
        spike="2024-05-19T22",
        revised=("2023-05-30T00", "2023-06-01T23"),
    ),
}


def river(basin: Basin) -> River:
    """The truth."""
    years = chain([weather(basin, year, SEED) for year in YEARS])
    flow = runoff(basin, years)
    kept = years.time >= np.datetime64(f"{YEARS[1]}-01-01")
    mean = (years.precipitation.mean(axis=1), years.temperature.mean(axis=1), years.pet, flow)
    return River(basin, years.time[kept], *(column[kept] for column in mean))


def _between(time: np.ndarray, span: tuple[str, str]) -> np.ndarray:
    return (time >= np.datetime64(span[0])) & (time <= np.datetime64(span[1]))


def table(truth: River) -> str:
    """The CSV text of one gauge: everything that was ever received, in the order of the hours.

    `known` is empty where a value was there at its own hour. A late or corrected discharge has a row of its own.
    """
    basin, time, trouble = truth.basin, truth.time, TROUBLES[truth.basin.id]
    size = time.size
    storm = lfilter(
        [0.1], [1, -0.995], normal(size, SEED, basin.id, "areal rain")
    )  # what point gauges miss of the mean
    columns = {"precipitation": np.round(truth.precipitation * np.exp(0.18 * storm - 0.016), 1)}
    if len(basin.bands) > 1:
        columns["temperature"] = np.round(truth.temperature + 0.3 * normal(size, SEED, basin.id, "thermometer"), 1)
    columns["potential_evapotranspiration"] = np.round(truth.pet, 3)
    flow = gauge(truth.discharge, SEED, basin.id)
    stuck = _between(time, trouble.stuck)
    flow[stuck] = flow[np.argmax(stuck)]
    flow[time == np.datetime64(trouble.spike)] *= 9.0
    lost = uniform(size, SEED, basin.id, "lost") < 0.002
    for gap in trouble.gaps:
        lost |= _between(time, gap)
    flow[lost] = np.nan
    known = time.astype("datetime64[m]")
    slow = uniform(size, SEED, basin.id, "slow") < 0.01
    known[slow] += np.round(60 + 300 * uniform(size, SEED, basin.id, "delay")[slow]).astype("timedelta64[m]")
    batch = _between(time, trouble.late)
    known[batch] = time[batch].max().astype("datetime64[m]") + np.timedelta64(95, "m")
    revised = _between(time, trouble.revised)
    published = np.where(revised, three_digits(flow * 1.2), flow)
    header = ",".join(["time", *columns, "discharge", "known"])
    corrected = (time[revised].max() + 5 * 24 * HOUR).astype("datetime64[m]")
    nothing = "," * (len(columns) - 1)
    lines = [f"# {basin.id}: {NOT_REAL}", header]
    for i, hour in enumerate(time.astype("datetime64[m]")):
        weather_part = ",".join(_number(column[i]) for column in columns.values())
        if known[i] == hour:
            lines.append(f"{hour},{weather_part},{_number(published[i])},")
        else:
            lines.append(f"{hour},{weather_part},,")
            lines.append(f"{hour},{nothing},{_number(published[i])},{known[i]}")
        if revised[i]:
            lines.append(f"{hour},{nothing},{_number(flow[i])},{corrected}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """The shortest text of a number; empty for a missing one."""
    return "" if np.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".")


def forecasts(
    truths: Sequence[Sky], first: np.datetime64 = FORECASTS_FROM, error: float = 1.0
) -> dict[str, np.ndarray]:
    """Archived weather forecasts of stations with the same hours from the run of `first` on, long form: columns (n,).

    A run every 6 h, lead 1-36 h, published 3.5 to 4.2 h after its start. Rain: shifted in time, smeared, too much or
    too little by storm, and 5 to 15 % too little on the whole, all of it worse with lead time; the sizes follow the
    errors of a real ensemble mean over 24 runs (correlation 0.82 at 1-6 h, 0.71 at 13-24 h). `error` times as large.
    """
    time = truths[0].time
    starts = np.arange(first, time[-1], RUN_HOURS * HOUR)
    delay = np.round(210 + 40 * uniform(starts.size, SEED, "publication")).astype("timedelta64[m]")
    lead = np.arange(1, LEADS + 1)
    parts = []
    for run, start in enumerate(starts):
        here = int((start - time[0]) // HOUR)
        ahead = here + lead
        inside = ahead < time.size
        for truth in truths:
            address = (SEED, truth.station, run)
            drift = normal(3, *address, "drift")
            shift = error * (1.0 + lead / 24) * drift[0]
            position = np.clip(ahead + shift, 0, time.size - 1)
            width = error * (0.6 + 1.2 * lead / 24)
            rain = _smeared(truth.precipitation, position, width)
            noise = 0.25 * drift[1] + lfilter([0.5], [1, -0.85], normal(LEADS, *address, "hours")) * 0.35
            noise *= error
            growth = np.minimum((lead + 4) / 14, 1.6)
            rain = rain * np.exp(noise * np.sqrt(growth) - 0.085 * growth) * np.maximum(0.93 - 0.008 * lead, 0.82)
            rain = np.where(rain < 0.05, 0.0, rain)
            warmth = 0.4 * drift[2] + lfilter([0.3], [1, -0.9], normal(LEADS, *address, "warmth")) * np.sqrt(lead / 12)
            temperature = truth.temperature[np.minimum(ahead, time.size - 1)] + error * warmth - 0.2
            parts.append((truth.station, start, start + lead * HOUR, start + delay[run], rain, temperature, inside))
    keep = np.concatenate([part[-1] for part in parts])
    repeat = {"station": 0, "reference_time": 1, "known": 3}
    columns = {name: np.repeat(np.array([part[i] for part in parts]), LEADS)[keep] for name, i in repeat.items()}
    columns["time"] = np.concatenate([part[2] for part in parts])[keep]
    columns["precipitation"] = np.round(np.concatenate([part[4] for part in parts])[keep], 1)
    columns["temperature"] = np.round(np.concatenate([part[5] for part in parts])[keep], 1)
    return columns


def _smeared(series: np.ndarray, position: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The mean of a series around fractional positions, weighted by a bell of this width [h]."""
    reach = np.arange(-6, 7)
    place = np.round(position).astype(int)[:, None] + reach
    weight = np.exp(-0.5 * ((place - position[:, None]) / width[:, None]) ** 2)
    weight *= (place >= 0) & (place < series.size)
    return (series[np.clip(place, 0, series.size - 1)] * weight).sum(axis=1) / weight.sum(axis=1)


def write(folder: Path) -> list[Path]:
    """Writes all files into `folder` and returns their paths."""
    truths = [river(basin) for basin in BASINS]
    paths = []
    for truth in truths:
        paths.append(folder / f"{truth.basin.id}_hourly.csv.gz")
        files.replace(paths[-1], gzip.compress(table(truth).encode(), 9, mtime=0))
    columns = forecasts([Sky(t.basin.id, t.time, t.precipitation, t.temperature) for t in truths])
    values = {name: columns[name] for name in ("precipitation", "temperature")}
    ds = records.build(columns["station"], columns["time"], columns["known"], values, columns["reference_time"])
    ds.attrs = {"title": "demonstration weather forecasts", "comment": NOT_REAL}
    paths.append(folder / "weather_forecasts.nc")
    netcdf.write(ds, paths[-1], record_dim=None)
    return [*paths, netcdf.sidecar_path(paths[-1])]


if __name__ == "__main__":
    for written in write(Path(sys.argv[1] if len(sys.argv) > 1 else "data")):
        print(f"{written} {written.stat().st_size} bytes")
