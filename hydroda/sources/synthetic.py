"""Made-up weather and rivers, for the demonstration data and the tests. Nothing here was measured anywhere.

Weather: storms of a region arrive at random, more often in winter; each brings rain cells of random length and strength
(a cluster of rectangular pulses, as in Rodriguez-Iturbe et al. 1987), every catchment its share of them. Rivers: a
variable contributing area with exponential storage (after Beven and Kirkby 1979), a root zone, snow in elevation bands,
and a cascade of channel reaches with kinematic storage, Q ~ S^(5/3). That is on purpose another structure than the
models of this package: they must not be tested against themselves.

All numbers are a function of (seed, catchment id, year), so it does not matter which hours are asked for. Only uniform
random numbers are drawn and transformed here, so another version of NumPy does not change the data.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xarray as xr
from scipy.signal import lfilter
from scipy.special import gammaincinv, ndtri

from hydroda.storage import records
from hydroda.storage.records import Gauge
from hydroda.units import m3_per_second, utc_now

SUBSTEPS = 4
REACHES = 3


@dataclass(frozen=True)
class Basin:
    """A made-up catchment. Depths mm, rates mm/h, temperatures degC, heights m."""

    id: str
    area_km2: float
    bands: tuple[float, ...] = (150.0,)  # mean heights of parts of equal area
    wetness: float = 1.0  # factor on the rain of the region
    root_zone: float = 90.0
    recession: float = 18.0  # deficit that halves the base flow, divided by ln 2
    base: float = 0.55  # base flow without deficit
    contributing: float = 0.75  # share of the area that is saturated without deficit
    reach_hours: float = 1.8  # time of travel through a reach at 1 mm/h


@dataclass(frozen=True)
class Weather:
    """True hourly means over the bands (T, B), rain and snow together, and potential evapotranspiration (T,)."""

    time: np.ndarray  # (T,) datetime64[ns]
    precipitation: np.ndarray
    temperature: np.ndarray
    pet: np.ndarray


def uniform(size: int, *address: int | str) -> np.ndarray:
    """Uniform random numbers (size,) that belong to an address of whole numbers and words."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in address]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words))).random(size)


def normal(size: int, *address: int | str) -> np.ndarray:
    """Standard normal random numbers (size,) of an address."""
    return ndtri(np.clip(uniform(size, *address), 1e-12, 1 - 1e-12))


def hours_of(year: int) -> np.ndarray:
    """The ends of all hours of a year: its first is 00:00 of 1 January (the hour before midnight)."""
    start, end = (np.datetime64(f"{y}-01-01", "h") for y in (year, year + 1))
    return np.arange(start, end).astype("datetime64[ns]")


def _cells(year: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rain cells of the region: start [h], length [h], strength [mm/h], storm, and whether the storm is convective."""
    n = 260
    gaps = -np.log1p(-uniform(n, seed, year, "gaps"))
    start = np.cumsum(gaps) * 62.0  # h between storms, thinned by season below
    warm = 0.5 - 0.5 * np.cos(2 * np.pi * (start / 8766.0 - 0.04))
    convective = uniform(n, seed, year, "kind") < 0.75 * warm**2
    kept = (start < 8784) & (uniform(n, seed, year, "season") < 1.0 - 0.35 * warm)
    long = np.where(convective, 5.0, 17.0) * gammaincinv(2.0, uniform(n, seed, year, "length")) / 2.0
    strength = np.where(convective, 2.6, 0.62) * gammaincinv(2.0, uniform(n, seed, year, "strength")) / 2.0
    count = np.maximum(1, np.round(long / np.where(convective, 0.8, 0.75))).astype(int) * kept
    storm = np.repeat(np.arange(n), count)
    place = start[storm] + long[storm] * uniform(storm.size, seed, year, "place")
    length = np.where(convective[storm], 0.9, 2.2) * -np.log1p(-uniform(storm.size, seed, year, "cell length"))
    rain = strength[storm] * gammaincinv(1.3, uniform(storm.size, seed, year, "cell strength")) / 1.3
    return place, np.clip(length, 0.2, 12.0), rain, storm, convective[storm]


def _rain(basin: Basin, year: int, seed: int, size: int) -> np.ndarray:
    """Hourly rain of the catchment (size,), mm/h: its share of the cells of the region."""
    start, length, strength, storm, convective = _cells(year, seed)
    share = np.exp(0.35 * normal(storm.max() + 1, seed, year, basin.id, "storm share"))[storm]
    share *= np.exp(np.where(convective, 0.5, 0.3) * normal(storm.size, seed, year, basin.id, "cell share"))
    share *= uniform(storm.size, seed, year, basin.id, "hit") < np.where(convective, 0.55, 0.9)
    start = start + 2.0 * uniform(storm.max() + 1, seed, year, basin.id, "delay")[storm]
    edges = np.arange(size + 1.0)
    total = np.zeros(size + 1)
    for begin, hours, rate in zip(start, length, basin.wetness * 0.46 * strength * share, strict=True):
        first = max(int(begin), 0)
        last = min(int(begin + hours) + 2, size + 1)
        total[first:last] += rate * np.clip(edges[first:last] - begin, 0.0, hours)
        total[last:] += rate * hours
    return np.diff(total)


def _slow(basin_id: str, year: int, seed: int, name: str, memory: float, size: int) -> np.ndarray:
    """A normal process (size,) with unit variance and a memory in hours that goes on over the turn of the year."""
    noise = np.concatenate(
        [normal(8784, seed, y, basin_id, name)[: 8784 if y == year else 1000] for y in (year - 1, year)]
    )
    phi = math.exp(-1.0 / memory)
    return lfilter([math.sqrt(1 - phi**2)], [1, -phi], noise)[1000 : 1000 + size]


@lru_cache(maxsize=32)
def weather(basin: Basin, year: int, seed: int = 0) -> Weather:
    """The true weather of one year."""
    time = hours_of(year)
    size = time.size
    day = (time - time[0]) / np.timedelta64(1, "D")
    clock = 2 * np.pi * (day % 1.0)
    rain = _rain(basin, year, seed, size)
    wet = lfilter([0.08], [1, -0.92], (rain > 0.1).astype(float))
    season = -np.cos(2 * np.pi * (day - 22) / 365.25)
    anomaly = 3.2 * _slow("region", year, seed, "temperature", 70.0, size)
    sea_level = 11.8 + 7.0 * season + anomaly - (1.0 + 2.0 * season) * wet
    daily = (3.6 + 1.6 * season) * (1 - 0.7 * wet) * -np.cos(clock - 0.6)
    heights = np.array(basin.bands)
    temperature = (sea_level + daily)[:, None] - 0.0065 * heights
    sun = np.maximum(np.sin(clock - np.pi / 2), 0.0) * np.pi
    yearly = np.maximum(0.068 + 0.062 * season + 0.003 * anomaly, 0.004)
    pet = yearly * sun * (1 - 0.6 * wet) * (1 - 0.0002 * heights.mean())
    gradient = 1 + 0.0004 * (heights - heights.mean())
    return Weather(time, rain[:, None] * gradient, temperature, np.maximum(pet, 0.0))


def chain(parts: Sequence[Weather]) -> Weather:
    """Years one after the other."""
    names = ("time", "precipitation", "temperature", "pet")
    return Weather(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def runoff(basin: Basin, forcing: Weather) -> np.ndarray:
    """True discharge (T,), m³/s, mean of the hour; the first months depend on the arbitrary start."""
    bands = [_band(basin, forcing, i) for i in range(len(basin.bands))]
    inflow = np.mean(bands, axis=0)
    scale = basin.reach_hours * (basin.area_km2 / 100.0) ** 0.3
    storage = [scale * 0.05**0.6] * REACHES
    out = np.empty(inflow.size)
    step = 1.0 / SUBSTEPS
    for i, depth in enumerate(inflow.tolist()):
        total = 0.0
        for _ in range(SUBSTEPS):
            flow = depth
            for j in range(REACHES):
                content = storage[j] + flow * step
                flow = min((storage[j] / scale) ** (5 / 3), 0.9 * content / step)  # kinematic: Q = (S / k)^(5/3)
                storage[j] = content - flow * step
            total += flow
        out[i] = total * step
    return m3_per_second(out, basin.area_km2)


def _band(basin: Basin, forcing: Weather, band: int) -> np.ndarray:
    """Water [mm/h] that reaches the channels from one elevation band (T,)."""
    out = np.empty(forcing.time.size)
    snow, liquid, canopy, root, deficit, hill = 0.0, 0.0, 0.0, 0.7 * basin.root_zone, 2.0 * basin.recession, 0.0
    day = ((forcing.time - forcing.time[0]) / np.timedelta64(1, "D")).tolist()
    columns = (forcing.precipitation[:, band].tolist(), forcing.temperature[:, band].tolist(), forcing.pet.tolist())
    for i, (water, warmth, evaporation) in enumerate(zip(*columns, strict=True)):
        frozen = min(max((2.0 - warmth) / 2.5, 0.0), 1.0) * water
        factor = 0.14 - 0.06 * math.cos(2 * math.pi * (day[i] - 10) / 365.25)  # mm/h per K: the sun is higher in June
        melt = min(snow, factor * max(warmth, 0.0))
        snow += frozen - melt
        liquid += water - frozen + melt
        rain = max(liquid - 0.08 * snow, 0.0)
        liquid -= rain
        canopy += rain
        through = max(canopy - 1.5, 0.0)
        canopy -= through
        wet = min(canopy, evaporation)
        canopy -= wet
        if snow > 5.0:
            evaporation *= 0.2
        root -= max(evaporation - wet, 0.0) * min(1.0, root / (0.6 * basin.root_zone))
        saturated = min(basin.contributing * math.exp(-deficit / (1.1 * basin.recession)), 0.95)
        quick = saturated * through + 0.3 * max((1 - saturated) * (through - 9.0), 0.0)
        root += through - quick
        recharge = (through - quick) * min(root / basin.root_zone, 1.0) ** 3
        root -= recharge
        excess = max(root - basin.root_zone, 0.0)
        root -= excess
        base = basin.base * math.exp(-deficit / basin.recession)
        deficit += base - recharge - excess
        if deficit < 0.0:  # return flow
            quick -= deficit
            deficit = 0.0
        hill += quick
        flow = min(0.05 * hill ** (5 / 3), 0.3 * hill)  # sheet flow, kinematic as well
        hill -= flow
        out[i] = flow + base
    return out


def gauge(flow: np.ndarray, *address: int | str) -> np.ndarray:
    """What a gauge makes of a true discharge (T,): an error that lasts, more of it at high flow, and three digits."""
    years = -(-flow.size // 8784)
    white = normal(years * 8784, *address, "white")[: flow.size]
    lasting = lfilter([math.sqrt(1 - 0.998**2)], [1, -0.998], normal(years * 8784, *address, "lasting")[: flow.size])
    share = 0.02 + 0.03 * np.sqrt(flow / flow.max())
    return three_digits(flow * np.exp(share * lasting + 0.12 * share * white))


def three_digits(flow: np.ndarray) -> np.ndarray:
    """Rounded to three digits, and to a litre per second."""
    step = 10.0 ** np.clip(np.floor(np.log10(np.maximum(flow, 1e-3))) - 2, -3, 6)
    return np.round(np.round(flow / step) * step, 3)


@lru_cache(maxsize=32)
def _year(basin: Basin, year: int, seed: int) -> tuple[Weather, np.ndarray]:
    """Weather and gauged discharge of one year; the year before it fills the stores."""
    both = chain([weather(basin, y, seed) for y in (year - 1, year)])
    this = weather(basin, year, seed)
    return this, gauge(runoff(basin, both)[-this.time.size :], seed, year, basin.id)


def read(
    start: np.datetime64,
    end: np.datetime64,
    catchments: Sequence[Gauge],
    *,
    seed: int = 0,
    now: np.datetime64 | None = None,
) -> xr.Dataset:
    """Made-up observations of all four variables for the hours `start` … `end` that lie before `now`, known at once."""
    now = utc_now() if now is None else now
    last = min(end, now)
    parts = []
    for catchment in catchments:
        basin = Basin(catchment.id, catchment.area_km2)
        for year in range(int(str(start)[:4]), int(str(last)[:4]) + 1):
            truth, flow = _year(basin, year, seed)
            inside = (truth.time >= start) & (truth.time <= last)
            time = truth.time[inside]
            values = {
                "precipitation": np.round(truth.precipitation[inside].mean(axis=1), 2),
                "temperature": np.round(truth.temperature[inside].mean(axis=1), 1),
                "pet": np.round(truth.pet[inside], 3),
                "discharge": flow[inside],
            }
            parts.append(records.build([catchment.id] * time.size, time, time, values))
    return records.join(parts, "observations").assign_attrs(read_at=now)
