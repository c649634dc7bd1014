"""The variables of a product file, each with its CF attributes: station table, time axis, discharge, flags."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from hydroda.forecast.choice import METHODS
from hydroda.schema import LEADS, VARIABLES, SchemaError, check_station_id
from hydroda.units import HOUR

DISCHARGE = VARIABLES["discharge"].standard_name
FLAG_VALUES = np.array([1, 2, 3, 4, 9], np.int8)
METHOD_FLAGS = np.arange(len(METHODS) + 1, dtype=np.int8)
METHOD_ATTRIBUTES = {
    "long_name": "method of the forecast value; around a lead at which it changes, both have a share",
    "units": "1",
    "flag_values": METHOD_FLAGS,
    "flag_meanings": " ".join(("none", *METHODS)),
}
GOOD, NO_RECENT_OBSERVATION, DEGRADED_FORCING, UNUSABLE, MISSING = FLAG_VALUES
STATUS_MEANINGS = "good no_recent_observation degraded_forcing unusable missing"
STATION_COORDINATES = "lat lon station_id station_name"
FORECAST_COORDINATES = f"forecast_reference_time forecast_period {STATION_COORDINATES}"

Variables = dict[str, xr.Variable]
LARGEST = VARIABLES["discharge"].upper


@dataclass(frozen=True)
class Station:
    """A gauge: degrees (WGS 84), metres, km²; warning thresholds rise [m³/s]. None and () say: not known."""

    id: str
    area_km2: float
    name: str = ""
    lat: float | None = None
    lon: float | None = None
    elevation: float | None = None
    thresholds: tuple[float, ...] = ()


def station_table(stations: Sequence[Station]) -> dict[str, xr.Variable]:
    """The variables along `station`: id, name, position, altitude, area; a position nobody knows is missing (NaN).

    Raises SchemaError for a bad or repeated id and for an area that is not positive.
    """
    ids = [check_station_id(station.id) for station in stations]
    if len(set(ids)) < len(ids):
        raise SchemaError(f"stations repeat: {sorted({i for i in ids if ids.count(i) > 1})}")
    for station in stations:
        if not station.area_km2 > 0:
            raise SchemaError(f"station {station.id!r}: area {station.area_km2} km2 is not positive")

    def column(values: Sequence[float | None], **attrs: str) -> xr.Variable:
        attrs["coverage_content_type"] = "referenceInformation"
        return xr.Variable("station", np.array(values, np.float64), attrs)

    return {
        "station_id": xr.Variable(
            "station",
            np.array(ids),
            {"standard_name": "platform_id", "long_name": "station identifier", "cf_role": "timeseries_id"},
        ),
        "station_name": xr.Variable(
            "station",
            np.array([station.name or station.id for station in stations]),
            {"standard_name": "platform_name", "long_name": "station name"},
        ),
        "lat": column(
            [s.lat for s in stations], standard_name="latitude", long_name="station latitude", units="degrees_north"
        ),
        "lon": column(
            [s.lon for s in stations], standard_name="longitude", long_name="station longitude", units="degrees_east"
        ),
        "station_altitude": column(
            [s.elevation for s in stations],
            standard_name="surface_altitude",
            long_name="altitude of the station",
            units="m",
        ),
        "catchment_area": column([s.area_km2 for s in stations], long_name="upstream catchment area", units="km2"),
        "crs": xr.Variable(
            (),
            np.int32(0),
            {
                "grid_mapping_name": "latitude_longitude",
                "long_name": "WGS 84",
                "longitude_of_prime_meridian": 0.0,
                "semi_major_axis": 6378137.0,
                "inverse_flattening": 298.257223563,
                "epsg_code": "EPSG:4326",
            },
        ),
    }


def of(data: Any, dim: str, station: str) -> Any:
    """Dataset or array of one station along a dimension `dim`; None where there is none."""
    place = np.flatnonzero([] if data is None else data.station_id.values == station)
    return data.isel({dim: int(place[0])}) if place.size else None


def levels(forecast: xr.Dataset) -> list[int]:
    """The numbers of the warning levels of a forecast, 1 for the lowest."""
    found = (re.fullmatch(r"threshold_t(\d+)", str(name)) for name in forecast.variables)
    return sorted(int(match[1]) for match in found if match)


def threshold_table(stations: Sequence[Station]) -> dict[str, xr.Variable]:
    """`threshold_t1` … along `station`, NaN where a station has fewer; empty where none has any.

    Raises SchemaError for thresholds that do not rise or are not positive.
    """
    for station in stations:
        levels = np.array([0.0, *station.thresholds])
        if not np.all(np.diff(levels) > 0):
            raise SchemaError(f"station {station.id!r}: thresholds {station.thresholds} must be positive and rise")
    table = {}
    for k in range(max((len(station.thresholds) for station in stations), default=0)):
        values = [s.thresholds[k] if k < len(s.thresholds) else np.nan for s in stations]
        attrs = {
            "standard_name": DISCHARGE,
            "long_name": f"warning threshold {k + 1}",
            "units": VARIABLES["discharge"].units,
            "coverage_content_type": "referenceInformation",
        }
        table[f"threshold_t{k + 1}"] = xr.Variable("station", np.array(values), attrs)
    return table


def hour_axis(times: np.ndarray) -> Variables:
    """The time axis of hours that end at `times` (datetime64), with their bounds."""
    ends = np.asarray(times).astype("datetime64[ns]")
    attrs = {
        "standard_name": "time",
        "long_name": "valid time, end of the averaging hour",
        "axis": "T",
        "bounds": "time_bnds",
    }
    return {
        "time": xr.Variable("time", ends, attrs),
        "time_bnds": xr.Variable(("time", "nv"), np.stack([ends - HOUR, ends], axis=1)),
    }


def lead_time(dim: str) -> xr.Variable:
    """1 … 24 h along `dim`."""
    attrs = {"standard_name": "forecast_period", "long_name": "lead time", "units": "hours"}
    return xr.Variable(dim, LEADS.astype(np.float64), attrs)


def forecast_frame(stations: Sequence[Station], cycle: np.datetime64) -> Variables:
    """Coordinates of a product of the 24 hours after `cycle`."""
    reference = {"standard_name": "forecast_reference_time", "long_name": "cycle time (observation cut-off)"}
    return {
        **hour_axis(cycle + LEADS * HOUR),
        **station_table(stations),
        "forecast_reference_time": xr.Variable((), cycle.astype("datetime64[ns]"), reference),
        "forecast_period": lead_time("time"),
    }


def quantity(values: np.ndarray, dims: tuple[str, ...] = ("time", "station"), **attrs: Any) -> xr.Variable:
    """Numbers as float32, counts as int32; an attribute "" is left out."""
    told = {"coverage_content_type": "modelResult", **attrs, "grid_mapping": "crs"}
    kept = np.asarray(values, np.int32 if np.asarray(values).dtype.kind == "i" else np.float32)
    return xr.Variable(dims, kept, {k: v for k, v in told.items() if not _empty(v)})


def _empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def discharge(
    values: np.ndarray, long_name: str, dims: tuple[str, ...] = ("time", "station"), **attrs: Any
) -> xr.Variable:
    """Discharge [m³/s] as forecast, unless `attrs` name other coordinates and flags."""
    usual = {
        "standard_name": DISCHARGE,
        "long_name": long_name,
        "units": VARIABLES["discharge"].units,
        "cell_methods": "time: mean",
        "coordinates": FORECAST_COORDINATES,
        "ancillary_variables": "discharge_status",
    }
    return quantity(values, dims, **(usual | attrs))


def flag(values: np.ndarray, meanings: str, coordinates: str, **attrs: str) -> xr.Variable:
    """Flags 1, 2, 3, 4, 9 (time, station). Raises SchemaError for any other."""
    strange = np.setdiff1d(values, FLAG_VALUES)
    if strange.size:
        raise SchemaError(f"{attrs['long_name']}: flags {strange.tolist()}, allowed are {FLAG_VALUES.tolist()}")
    told = {
        **attrs,
        "units": "1",
        "flag_values": FLAG_VALUES,
        "flag_meanings": meanings,
        "coverage_content_type": "qualityInformation",
        "coordinates": coordinates,
        "grid_mapping": "crs",
    }
    return xr.Variable(("time", "station"), np.asarray(values, np.int8), told)


def method(values: np.ndarray, reasons: str) -> xr.Variable:
    """By which method each forecast value was made: 0 none, 1, 2, … those of `choice`."""
    told = METHOD_ATTRIBUTES | {
        "coverage_content_type": "auxiliaryInformation",
        "coordinates": FORECAST_COORDINATES,
        "grid_mapping": "crs",
    }
    if reasons:
        told["comment"] = reasons
    return xr.Variable(("time", "station"), np.asarray(values, np.int8), told)


def status(values: np.ndarray) -> xr.Variable:
    """What each forecast value is worth."""
    return flag(
        values,
        STATUS_MEANINGS,
        FORECAST_COORDINATES,
        standard_name="quality_flag",
        long_name="status of the forecast value",
    )


def dataset(columns: Variables, attrs: Mapping[str, str | float]) -> xr.Dataset:
    """The variables in their order; what the layout calls coordinates is one."""
    ds = xr.Dataset(columns, attrs=attrs)
    return ds.set_coords([name for name in (*FORECAST_COORDINATES.split(), "method_name") if name in columns])


def possible(values: np.ndarray) -> np.ndarray:
    """True where a number can be a river discharge."""
    return (values >= 0) & (values <= LARGEST)  # NaN compares false


def expect(shape: tuple[int, ...], **arrays: np.ndarray) -> None:
    """Raises SchemaError, naming the array, for one of another shape."""
    for name, values in arrays.items():
        if np.shape(values) != shape:
            raise SchemaError(f"{name} has shape {np.shape(values)}, expected {shape} (time, ..., station)")
