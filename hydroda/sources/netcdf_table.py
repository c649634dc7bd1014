"""The one reader of NetCDF data from outside, in one of two forms.

Series: variables over (time, station), the ids in `station_id` or `station`, as CF time series have them. Long: all
variables over one dimension, with `time`, `station`, and `known` and `reference_time` where there are any; the form for
weather forecasts. A variable is found by our name or by its CF standard name, and its unit must be in the table UNITS:
a unit is converted because somebody wrote down how, never because a library thinks it fits.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.schema import VARIABLES
from hydroda.sources.intake import Refused, assumed_known, tidy
from hydroda.storage import netcdf, records
from hydroda.storage.records import Gauge

NAMES = {
    "precipitation": {"precipitation", "lwe_precipitation_rate", "precipitation_flux", "rainfall_rate"},
    "temperature": {"temperature", "air_temperature"},
    "pet": {"pet", "potential_evapotranspiration", "water_potential_evaporation_flux"},
    "discharge": {"discharge", "water_volume_transport_in_river_channel"},
}
_WATER = {
    **dict.fromkeys(("mm h-1", "mm/h", "mm hr-1", "mm/hr", "mm hour-1", "kg m-2 h-1"), (1.0, 0.0)),
    **dict.fromkeys(("kg m-2 s-1", "mm s-1", "mm/s"), (3600.0, 0.0)),
    **dict.fromkeys(("m s-1", "m/s"), (3.6e6, 0.0)),
}
UNITS = {  # per variable: unit -> (factor, offset) to ours
    "precipitation": _WATER,
    "pet": _WATER,
    "temperature": {
        **dict.fromkeys(("degC", "°C", "celsius", "Celsius", "degree_Celsius", "degrees_Celsius", "deg_C"), (1.0, 0.0)),
        **dict.fromkeys(("K", "kelvin", "Kelvin"), (1.0, -273.15)),
        **dict.fromkeys(("degF", "°F", "fahrenheit", "degree_Fahrenheit"), (5 / 9, -160 / 9)),
    },
    "discharge": {
        **dict.fromkeys(("m3 s-1", "m3/s", "m^3/s", "m^3 s-1", "m³/s", "m³ s-1", "m**3 s**-1"), (1.0, 0.0)),
        **dict.fromkeys(("L s-1", "l s-1", "l/s", "L/s"), (1e-3, 0.0)),
        **dict.fromkeys(("ft3 s-1", "ft3/s", "ft^3/s", "ft^3 s-1", "cfs"), (0.028316846592, 0.0)),
    },
}
HOURLY_SUMS = ("mm", "kg m-2")  # amounts, taken as mm/h only where cell_methods says "time: sum"


def load(
    path: Path,
    gauges: Sequence[Gauge],
    now: np.datetime64,
    *,
    known: np.datetime64 | None = None,
    delay: np.timedelta64 | None = None,
) -> xr.Dataset:
    """The records in a file; opening happens in a child process where no checksum vouches for it. Raises Refused."""
    try:
        content = netcdf.read(path)
    except netcdf.DamagedFile as damage:
        raise Refused(f"{path.name}: {damage.why}") from damage
    return from_dataset(content, path.name, gauges, now, known=known, delay=delay)


def from_dataset(
    ds: xr.Dataset,
    name: str,
    gauges: Sequence[Gauge],
    now: np.datetime64,
    *,
    known: np.datetime64 | None = None,
    delay: np.timedelta64 | None = None,
) -> xr.Dataset:
    """The records in a dataset of one of the two forms; `name` for messages. Raises Refused.

    Values without `known` became known at `known`, or, if that is None, at their own hour (forecasts: the start of the
    run + `delay`).
    """
    found = {wanted: _find(ds, wanted) for wanted in VARIABLES}
    values = {wanted: _converted(variable, wanted, name) for wanted, variable in found.items() if variable is not None}
    if not values:
        raise Refused(f"{name}: has none of {', '.join(VARIABLES)} (by name or CF standard name)")
    if "time" not in ds.variables or not np.issubdtype(ds["time"].dtype, np.datetime64):
        raise Refused(f"{name}: has no variable 'time' with units '… since …'")
    ids = next((ds[key] for key in ("station_id", "station") if key in ds.variables), None)
    if ids is None or ids.dtype.kind != "U":
        raise Refused(f"{name}: has no station ids: expected text in 'station_id' or 'station'")
    columns = {"time": ds["time"], "station": ids, **values}
    columns |= {key: ds[key] for key in ("known", "reference_time") if key in ds.variables}
    dims = {dim for column in columns.values() for dim in column.dims}
    if len(dims) > 2 or (len(dims) == 2 and (ds["time"].ndim, ids.ndim) != (1, 1)):
        raise Refused(
            f"{name}: has the dimensions {', '.join(map(str, dims))}; expected (time, station) or one for all"
        )
    flat = {key: column.variable for key, column in columns.items()}
    together = dict(zip(flat, xr.broadcast(*(xr.DataArray(v.values, dims=v.dims) for v in flat.values())), strict=True))
    order = [*ds["time"].dims, *(dim for dim in dims if dim not in ds["time"].dims)]
    row = {key: column.transpose(*order).values.ravel() for key, column in together.items()}
    reference = row.get("reference_time")
    if "known" not in row:
        row["known"] = assumed_known(row["time"], reference, known, delay, name)
    stampless = np.isnat(row["time"]) | np.isnat(row["known"])
    if stampless.any():
        raise Refused(f"{name}: {int(stampless.sum())} values have no time or no known time")
    attrs = {"known_assumed": 1} if known is None and "known" not in ds.variables else {}
    data = {key: row[key] for key in values}
    rows = records.build(row["station"], row["time"], row["known"], data, reference, read_at=now, **attrs)
    return tidy(rows, gauges, now, name, lambda i: f"value {i}")


def _find(ds: xr.Dataset, wanted: str) -> xr.DataArray | None:
    """The variable called `wanted`, else the only one with a fitting standard name."""
    for variable in ds.data_vars.values():
        if variable.name in NAMES[wanted]:
            return variable
    fitting = [v for v in ds.data_vars.values() if v.attrs.get("standard_name") in NAMES[wanted]]
    return fitting[0] if len(fitting) == 1 else None


def _converted(variable: xr.DataArray, wanted: str, name: str) -> xr.DataArray:
    """The variable in our unit. Raises Refused where UNITS does not say how."""
    unit = str(variable.attrs.get("units", "")).strip()
    table = dict(UNITS[wanted])
    if "time: sum" in str(variable.attrs.get("cell_methods", "")):
        table |= dict.fromkeys(HOURLY_SUMS, (1.0, 0.0))
    if unit not in table:
        found = f"is in {unit!r}" if unit else "has no units"
        raise Refused(
            f"{name}: variable {variable.name!r} {found}, expected {VARIABLES[wanted].units!r} (or one of "
            f"{', '.join(sorted(set(table) - {VARIABLES[wanted].units}))}); units are never guessed"
        )
    factor, offset = table[unit]
    return variable.astype(float) * factor + offset
