"""What is stored of a catchment until an hour, as models are calibrated on it and networks trained."""

from typing import NamedTuple

import numpy as np

from hydroda import quality
from hydroda.calibrating import reforecasts, stretches
from hydroda.forecast import known, window
from hydroda.forecast.batches import build_model
from hydroda.forecast.weather import Climate
from hydroda.forecast.window import Place
from hydroda.models.model import Model
from hydroda.quality import Limits
from hydroda.schema import hours
from hydroda.settings import Catchment, Settings
from hydroda.storage.store import Store
from hydroda.units import HOUR, HOURS_PER_YEAR, floor_hour, iso

ENOUGH = 0.5  # share of the hours a variable must have to be built upon
FIRST = np.datetime64("1800-01-01", "ns")


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


def record_of(
    settings: Settings, store: Store, catchment: Catchment, model: str, start: np.datetime64, end: np.datetime64
) -> Record:
    """What is stored of a catchment until `end`, of which the hours from `start` on count, with the weather that a
    model "family.name" needs. Raises ValueError when there are no observations, or hardly any of precipitation."""
    records = store.observations([catchment.id], FIRST, end)
    if not records.sizes["record"]:
        raise ValueError(
            f"{catchment.id}: there are no observations until {iso(end)}; hydroda add-catchment brings some"
        )
    first = max(records["time"].values.min(), start - settings.cycle.spin_up_hours * HOUR)
    stretch = hours(floor_hour(first), end)
    values = known.as_known(records, [catchment.id], stretch)
    limits = quality.limits_from(values["discharge"][:, 0], catchment.area_km2)
    weather = {name: known.in_range(values[name], name) for name in window.WEATHER}
    if (share := float(np.isfinite(weather["precipitation"]).mean())) < ENOUGH:
        raise ValueError(
            f"{catchment.id}: only {share:.0%} of the hours from {iso(stretch[0])} to {iso(end)} have precipitation, "
            f"{ENOUGH:.0%} are needed: add its precipitation, or choose a period that has it"
        )
    climate, temperature = _climate(catchment, stretch, weather)
    view = window.view([Place(catchment.id, catchment.area_km2, limits, climate)], stretch, values)
    built = build_model(model, temperature)
    rows = window.rows(view, 0, stretch.size - 1, built.forcings)
    scored = stretch >= start
    archived = reforecasts.weather(settings, store, view, built.forcings)
    own = rows.forcing[:, 0], rows.observation[:, 0], built, temperature, limits, climate
    return Record(stretch, scored, *own, archived)


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
