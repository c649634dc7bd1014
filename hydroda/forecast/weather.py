"""The weather a model runs on: complete hourly forcing out of series with gaps. NumPy only, (time, station) arrays.

A missing temperature is that of the same hour of the last two days, else of the month; missing evapotranspiration
follows from temperature or from the climate of the station. Rain nobody reported is no rain; `assumed` says where.
Every value depends on its own hour and the CONTEXT before it, so a chunk border is no border.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hydroda.forecast import pet

CONTEXT = 72  # hours a value may look back: two days for temperature, one more for the mean of a day
DAYS = (24, 48)
MILD = 10.0  # °C, where nothing at all is known of temperature


@dataclass(frozen=True)
class Climate:
    """What is known of the weather at a station beforehand, and where its evapotranspiration comes from.

    Degrees, mm per year; mean temperature of the twelve months [°C], () where there is none.
    """

    lat: float | None = None
    lon: float | None = None
    pet_from: str = "climatological"  # given, oudin, climatological
    pet_mm_per_year: float = pet.DEFAULT_YEARLY_SUM
    temperature: tuple[float, ...] = ()


class Weather(NamedTuple):
    """Complete forcing by name, (T, S) each; `assumed` (T, S) marks hours whose rain is a guess."""

    values: dict[str, np.ndarray]
    assumed: np.ndarray


def complete(hours: np.ndarray, values: Mapping[str, np.ndarray], climates: Sequence[Climate]) -> Weather:
    """Forcing of all stations for consecutive `hours` (T,) from series (T, S) with NaN: mm/h, °C."""
    rain = values["precipitation"]
    assumed = ~np.isfinite(rain)
    warmth = _temperature(hours, values["temperature"], climates)
    loss = _pet(hours, values["pet"], warmth, climates)
    filled = {"precipitation": np.where(assumed, 0.0, np.maximum(rain, 0.0)), "temperature": warmth, "pet": loss}
    return Weather(filled, assumed)


def _temperature(hours: np.ndarray, given: np.ndarray, climates: Sequence[Climate]) -> np.ndarray:
    filled = given.copy()
    for lag in DAYS:
        before = np.full_like(given, np.nan)
        before[lag:] = given[:-lag]
        filled = np.where(np.isfinite(filled), filled, before)
    if np.isfinite(filled).all():
        return filled
    month = hours.astype("datetime64[M]").astype(int) % 12
    usual = np.array([climate.temperature or (MILD,) * 12 for climate in climates]).T[month]
    return np.where(np.isfinite(filled), filled, usual)


def _pet(hours: np.ndarray, given: np.ndarray, warmth: np.ndarray, climates: Sequence[Climate]) -> np.ndarray:
    columns = [pet.climatological(hours, c.lat, c.pet_mm_per_year, c.lon) for c in climates]
    loss = np.stack(columns, axis=1)
    by_warmth = [i for i, c in enumerate(climates) if c.pet_from == "oudin"]
    if by_warmth:
        lat, lon = (np.array([getattr(climates[i], name) or 0.0 for i in by_warmth]) for name in ("lat", "lon"))
        told = pet.oudin(hours, warmth[:, by_warmth], lat, lon)
        # in the first hours of a record the day before is not known
        loss[:, by_warmth] = np.where(np.isfinite(told), told, loss[:, by_warmth])
    has = [c.pet_from == "given" for c in climates]
    return np.maximum(np.where(np.isfinite(given) & has, given, loss), 0.0)
