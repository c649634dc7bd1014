"""What calibration found out about a catchment, as it is kept in its parameters file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hydroda.forecast import correction, intervals
from hydroda.forecast.choice import METHODS
from hydroda.forecast.correction import Correction
from hydroda.forecast.intervals import CLASSES, Factors
from hydroda.forecast.predictive import SIDES
from hydroda.forecast.weather import Climate
from hydroda.quality import Limits
from hydroda.schema import LEADS
from hydroda.settings import Settings

FORMAT = "hydroda calibration 2"
GAUGE = "gauge"


@dataclass(frozen=True)
class Taught:
    """Networks trained for a catchment: digest of their file, and how they were found."""

    sha256: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """What a filter was tuned to: parameters of the model by name, errors by state, and of the gauge [mm/h], as (share,
    base), and the two memories [h] of the residual of an analysis in forecasts, as in `correction.left`."""

    parameters: dict[str, float]
    errors: dict[str, tuple[float, float]]
    residual_hours: tuple[float, float]


@dataclass(frozen=True)
class Calibrated:
    """One catchment. What an earlier version did not find out is None or empty."""

    station: str
    model: str
    temperature: bool
    parameters: dict[str, float]
    errors: dict[str, tuple[float, float]]  # by state, and of the gauge [mm/h], as (share, base)
    choice: dict[str, tuple[str, ...]]  # by forcing of the lead hours, the method issued at each lead (24,)
    between: tuple[float, ...]  # the flows [m³/s] between classes, as in `intervals`
    spread: dict[str, Factors]  # by forcing, factors (2, class, 24) on the spread of the filter
    limits: Limits  # what is believed of its gauge
    climate: Climate
    correction: Correction  # its baselines
    report: dict[str, Any]  # on what and how well it was calibrated; nothing is computed from it
    taught: Taught | None = None  # networks that were trained for it
    residual_hours: tuple[float, float] = (0.0, 0.0)  # memories of the residual of an analysis, as in `correction.left`
    apart: tuple[Tuned, ...] = ()  # what the filter is tuned to without each part of the record, to be judged there
    highest: float | None = None  # discharge [m³/s] of the record
    area_km2: float | None = None

    def content(self) -> dict[str, Any]:
        """For a JSON file."""
        content = {"format": FORMAT, **asdict(self)}
        if self.area_km2 is None:  # as the earlier version wrote it, so that what was made with it stays valid
            del content["area_km2"]
        return content

    def fingerprint(self, settings: Settings) -> str:
        """SHA-256 of all that a belief depends on."""
        # without what is as by default: a setting that a later version has besides makes no belief another
        how = settings.filter.model_dump(mode="json", exclude_defaults=True)
        depends_on = [self.model, self.temperature, self.parameters, self.errors, how]
        if self.taught is not None:
            depends_on.append(self.taught.sha256)
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def restore(content: Mapping[str, Any]) -> Calibrated:
    """The content of a parameters file. Raises ValueError saying what is wrong with it."""
    if content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}, expected {FORMAT!r}: calibrate again")
    try:
        own = {key: value for key, value in content.items() if key != "format"}
        own |= _tuning(own)
        own["spread"] = {name: intervals.restored(factors) for name, factors in own["spread"].items()}
        own["between"] = tuple(own["between"])
        own["choice"] = {name: tuple(methods) for name, methods in own["choice"].items()}
        own["limits"] = Limits(**own["limits"])
        climate = own["climate"]
        own["climate"] = Climate(**{**climate, "temperature": tuple(climate["temperature"])})
        own["correction"] = correction.restore(own["correction"])
        own["apart"] = tuple(Tuned(**{**each, **_tuning(each)}) for each in own.get("apart", ()))
        taught = own.get("taught")
        own["taught"] = None if taught is None else Taught(**taught)
        catchment = Calibrated(**own)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"is incomplete or foreign ({error}): calibrate again") from error
    _check_numbers(catchment)
    classes = 1 + len(catchment.between)
    shapes = {np.shape(factors) for factors in catchment.spread.values()} | {(SIDES, classes, LEADS.size)}
    if shapes != {(SIDES, CLASSES, LEADS.size)} or "observed" not in catchment.spread:
        raise ValueError(
            f"spread holds {sorted(catchment.spread)}, expected {SIDES} sides of {CLASSES} classes of 24 factors for "
            "'observed': calibrate again"
        )
    for forcing, names in catchment.choice.items():
        if len(names) != LEADS.size or not set(names) <= set(METHODS):
            raise ValueError(
                f"choice for {forcing!r} is {sorted(set(names))}, expected one of {', '.join(METHODS)} for each of the "
                f"{LEADS.size} leads: calibrate again"
            )
    return catchment


def _check_numbers(catchment: Calibrated) -> None:
    """Raises ValueError, naming the entry, for text or a list where a number belongs."""
    entries: dict[str, Any] = {
        **catchment.parameters,
        **{f"errors.{name}": pair for name, pair in catchment.errors.items()},
        **{f"limits.{name}": value for name, value in asdict(catchment.limits).items()},
        "residual_hours": catchment.residual_hours,
        "between": catchment.between,
        "highest": catchment.highest or 0.0,
        "area_km2": catchment.area_km2 or 0.0,
    }
    for name, entry in entries.items():
        values = entry if isinstance(entry, tuple) else (entry,)
        if not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"{name} is {entry!r}, expected numbers: calibrate again")


def _tuning(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a `Tuned` JSON made lists of, as pairs again; earlier versions knew of one memory or none."""
    memory = content.get("residual_hours", 0.0)
    return {
        "errors": {name: tuple(pair) for name, pair in content["errors"].items()},
        "residual_hours": tuple(memory) if isinstance(memory, list) else (float(memory), 0.0),
    }
