"""The datasets of the package: variables, units, time rules, and the check that says what is wrong with one.

*Records* are what a source returns and the store keeps: one dimension `record`, along it `station`, `time` (end of the
hour the value is valid for), `known` (when the value became known) and any of `VARIABLES`. A weather forecast has
`reference_time` too. NaN means "this record says nothing about the variable".
"""

import re
from dataclasses import dataclass

import numpy as np
import xarray as xr

from hydroda.units import HOUR

STATION_ID = re.compile(r"^[a-z0-9][a-z0-9_-]{0,31}$")
LEADS = np.arange(1, 25)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Variable:
    """One physical quantity outside the numerics: its name, unit and the range beyond which a value is impossible."""

    name: str
    units: str
    long_name: str
    standard_name: str
    lower: float
    upper: float


VARIABLES = {
    v.name: v
    for v in (
        Variable("precipitation", "mm h-1", "precipitation of the hour", "lwe_precipitation_rate", 0.0, 400.0),
        Variable("temperature", "degC", "air temperature, mean of the hour", "air_temperature", -90.0, 60.0),
        Variable(
            "pet", "mm h-1", "potential evapotranspiration of the hour", "water_potential_evaporation_flux", 0.0, 3.0
        ),
        Variable(
            "discharge",
            "m3 s-1",
            "river discharge, mean of the hour",
            "water_volume_transport_in_river_channel",
            0.0,
            500_000.0,
        ),
    )
}


class SchemaError(ValueError):
    """A dataset does not keep the contract; the message names the field, what was found and what was expected."""


def quantile_name(level: float) -> str:
    """`discharge_q05` for 0.05."""
    return f"discharge_q{round(100 * level):02d}"


def check_station_id(station: str) -> str:
    """The id itself, if it may become part of a file name.

    Raises SchemaError otherwise: ids become paths, so they are ASCII, lower case and without separators.
    """
    if not STATION_ID.match(station):
        raise SchemaError(
            f"station id {station!r} is not usable: 1 to 32 of a-z, 0-9, '_' and '-', starting with a letter or digit"
        )
    return station


def check_records(records: xr.Dataset) -> xr.Dataset:
    """The records themselves, if they keep the contract of the module docstring.

    Raises SchemaError naming the field. Values outside the physical range are a matter of quality, not of the schema.
    """
    forecasts = records.attrs.get("kind") == "forecasts"
    required = ["station", "time", "known"] + (["reference_time"] if forecasts else [])
    for name in required:
        if name not in records.variables:
            raise SchemaError(f"records lack {name!r}; they have {sorted(map(str, records.variables))}")
        if records[name].dims != ("record",):
            raise SchemaError(f"records: {name!r} has dimensions {records[name].dims}, expected ('record',)")
    for name in required[1:]:
        stamps = records[name].values
        if not np.issubdtype(stamps.dtype, np.datetime64):
            raise SchemaError(f"records: {name!r} is {stamps.dtype}, expected datetime64 in UTC")
        if np.isnat(stamps).any():
            raise SchemaError(f"records: {name!r} has {int(np.isnat(stamps).sum())} missing stamps")
    off = records.time.values.astype("datetime64[ns]") - records.time.values.astype("datetime64[h]") != np.timedelta64(
        0
    )
    if off.any():
        raise SchemaError(
            f"records: time {records.time.values[off][0]} of station {records.station.values[off][0]} is not a full "
            "hour; stamps mark the end of their hour"
        )
    values = [str(name) for name in records.data_vars if name not in required]
    if not values:
        raise SchemaError(f"records carry no value; expected at least one of {', '.join(VARIABLES)}")
    for name in values:
        if name not in VARIABLES:
            raise SchemaError(f"records: unknown variable {name!r}; known are {', '.join(VARIABLES)}")
        expected, found = VARIABLES[name].units, records[name].attrs.get("units")
        if found != expected:
            raise SchemaError(f"records: {name!r} is in {found!r}, expected {expected!r}; convert it in the source")
    for station in np.unique(records.station.values):
        check_station_id(str(station))
    return records


def hours(start: np.datetime64, end: np.datetime64) -> np.ndarray:
    """Every hour from `start` to `end`, both included where they are full hours, datetime64[ns]."""
    return np.arange(start, end + np.timedelta64(1, "ns"), HOUR).astype("datetime64[ns]")


def months(hours: np.ndarray) -> list[np.ndarray]:
    """Hours (n,), rising, cut at the turns of the months; no part where there are none."""
    if not hours.size:
        return []
    month = hours.astype("datetime64[M]")
    return np.split(hours, np.flatnonzero(month[1:] != month[:-1]) + 1)
