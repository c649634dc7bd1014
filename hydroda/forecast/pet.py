"""Potential evapotranspiration where a catchment has none: from temperature and latitude, else climatological."""

from functools import lru_cache

import numpy as np

DEFAULT_LATITUDE = 45.0
DEFAULT_YEARLY_SUM = 550.0  # mm, mid-latitude catchments; the model's pet_factor scales it in the calibration
SOLAR_CONSTANT = 0.0820  # MJ m⁻² min⁻¹
LATENT_HEAT = 2.45  # MJ per kg, that is per mm over a square metre


def radiation(times: np.ndarray, latitude: float | np.ndarray, longitude: float | np.ndarray = 0.0) -> np.ndarray:
    """Extraterrestrial radiation [MJ m⁻² h⁻¹] of the hours ending at `times`, which broadcast with the places.

    FAO-56, eqs 28–33 (Allen et al. 1998). The equation of time is left out (at most a quarter of an hour).
    """
    day = (times - times.astype("datetime64[Y]")).astype("timedelta64[h]").astype(float) / 24.0
    distance = 1.0 + 0.033 * np.cos(2 * np.pi * day / 365.0)
    declination = 0.409 * np.sin(2 * np.pi * day / 365.0 - 1.39)
    phi = np.deg2rad(latitude)
    hour = (times - times.astype("datetime64[D]")).astype("timedelta64[m]").astype(float) / 60.0
    # solar angle at both ends of the hour, limited to the time the sun is up
    angle = np.deg2rad(15.0 * (hour - 0.5 - 12.0) + longitude)
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1.0, 1.0))
    start = np.clip(angle - np.pi / 24, -sunset, sunset)
    end = np.clip(angle + np.pi / 24, -sunset, sunset)
    geometry = (end - start) * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * (
        np.sin(end) - np.sin(start)
    )
    return np.maximum(12 * 60 / np.pi * SOLAR_CONSTANT * distance * geometry, 0.0)


def climatological(
    times: np.ndarray, latitude: float | None, yearly_sum: float = DEFAULT_YEARLY_SUM, longitude: float | None = None
) -> np.ndarray:
    """Climatological potential evapotranspiration [mm/h] of the hours ending at `times` (T,), `yearly_sum` [mm/yr].

    The radiation of the latitude, its day half replaced by the mean of the 40 days before: the air warms later than
    the sun climbs. Without a latitude that of 45° N is taken.
    """
    table = _table(DEFAULT_LATITUDE if latitude is None else latitude, longitude or 0.0)
    hour = (times - np.timedelta64(1, "h")).astype("datetime64[h]")
    day = (hour.astype("datetime64[D]") - hour.astype("datetime64[Y]")).astype(int)
    return yearly_sum * table[np.minimum(day, 364), (hour - hour.astype("datetime64[D]")).astype(int)]


@lru_cache(maxsize=4096)
def _table(latitude: float, longitude: float) -> np.ndarray:
    """The share (365, 24) of the yearly sum that belongs to each hour of the year."""
    year = np.arange(np.datetime64("2001-01-01T01"), np.datetime64("2002-01-01T01")).astype("datetime64[ns]")
    hourly = radiation(year, latitude, longitude).reshape(365, 24)
    daily = hourly.sum(1)
    lagged = np.convolve(np.concatenate((daily[-39:], daily)), np.full(40, 1 / 40), "valid")
    table = hourly / np.maximum(daily, 1e-9)[:, None] * (0.5 * daily + 0.5 * lagged)[:, None]
    return table / table.sum()


def oudin(
    times: np.ndarray,
    temperature: np.ndarray,
    latitude: float | np.ndarray,
    longitude: float | np.ndarray | None = None,
) -> np.ndarray:
    """Potential evapotranspiration [mm/h] from the mean temperature of the past 24 h.

    Oudin et al. (2005, J. Hydrol. 303): pet = radiation / latent heat · (T + 5) / 100 where T > −5 °C, the daily sum
    spread over the day as the radiation. `temperature` (T,) or (T, places) [°C]; NaN where fewer than 12 of the 24
    hours are there.
    """
    known = np.isfinite(temperature)
    lead_in = np.zeros((23, *temperature.shape[1:]))
    padded, there = np.concatenate((lead_in, np.where(known, temperature, 0.0))), np.concatenate((lead_in, known))
    # added up hour by hour: the sum of a day must not depend on where the series begins
    total, number = (sum(x[k : k + times.size] for k in range(24)) for x in (padded, there))
    mean = np.where(number >= 12, total / np.maximum(number, 1), np.nan)
    stamps = times.reshape(-1, *(1,) * (temperature.ndim - 1))
    place = latitude, 0.0 if longitude is None else longitude
    return radiation(stamps, *place) / LATENT_HEAT * np.maximum(mean + 5.0, 0.0) / 100.0
