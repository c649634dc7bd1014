"""Datasets in memory as they lie on disk, and back: text, times, missing values, the checksum over all numbers."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

EPOCH = "seconds since 1970-01-01T00:00:00Z"
FILL: dict[str, Any] = {"f4": np.float32(9.96921e36), "f8": np.float64(9.969209968386869e36), "i1": np.int8(-127)}
TYPES = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u8")
DATA_HASH = "hydroda_data_sha256"


class Stored(NamedTuple):
    """A variable as it lies on disk."""

    name: str
    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any]


def stored(ds: xr.Dataset, name: str) -> Stored:
    """One variable of `ds` as it goes to disk: char arrays for text, seconds for times, fill for missing."""
    variable = ds.variables[name]
    dims, values, attrs = tuple(map(str, variable.dims)), np.asarray(variable.values), dict(variable.attrs)
    attrs.pop("_FillValue", None)
    if values.dtype.kind in "UO":
        return _text(name, dims, values, attrs)
    is_time = values.dtype.kind == "M"
    if is_time:
        missing = np.isnat(values)
        values = np.where(missing, np.nan, values.astype("datetime64[us]").astype(np.int64) / 1e6)
        if not any(name == other.attrs.get("bounds") for other in ds.variables.values()):
            attrs = {**attrs, "units": EPOCH, "calendar": "standard"}
    elif values.dtype == bool:
        values = values.astype(np.int8)
    elif values.dtype == np.int64 and "units" in attrs:
        if np.abs(values).max() > np.iinfo(np.int32).max:
            raise ValueError(f"variable {name!r}: {np.abs(values).max()} is beyond 32 bit, the integers of the format")
        values = values.astype(np.int32)
    if values.dtype.kind == "f":
        values = values.astype(variable.encoding.get("dtype", values.dtype), copy=False)
    kind = values.dtype.str[1:]
    if kind not in TYPES:
        raise TypeError(f"variable {name!r} has type {values.dtype}, which the file format does not hold")
    if kind[0] == "f" and (is_time or "units" in attrs):
        missing = np.isnan(values)
        if missing.any() and name in dims:
            raise ValueError(f"coordinate {name!r} has {int(missing.sum())} missing values")
        if missing.any() or (name not in ds.coords and not is_time):
            attrs["_FillValue"] = FILL[kind]
            values = np.where(missing, FILL[kind], values)
    elif kind == "i1":
        attrs["_FillValue"] = FILL[kind]
    return Stored(name, dims, np.asarray(values, order="C"), attrs)


def _text(name: str, dims: tuple[str, ...], values: np.ndarray, attrs: dict) -> Stored:
    """Text as UTF-8 characters along an own last dimension."""
    for value in values.flat:
        if not isinstance(value, str):
            raise TypeError(f"variable {name!r} holds {value!r}, expected text or numbers")
    encoded = np.char.encode(values.astype(str), "utf-8")
    width = max(encoded.dtype.itemsize, 1)
    letters = np.frombuffer(encoded.astype(f"S{width}").tobytes(), "S1").reshape(*values.shape, width)
    return Stored(name, (*dims, f"{name}_strlen"), letters, {**attrs, "_Encoding": "utf-8"})


def global_attrs(ds: xr.Dataset, variables: list[Stored]) -> dict:
    """The attributes of `ds`, the coordinates no variable names, and the checksum of all numbers."""
    named = {word for variable in variables for word in str(variable.attrs.get("coordinates", "")).split()}
    attrs = {key: value for key, value in ds.attrs.items() if key not in (DATA_HASH, "coordinates")}
    others = [str(name) for name in ds.coords if name not in ds.dims and name not in named]
    if others:
        attrs["coordinates"] = " ".join(others)
    return {**attrs, DATA_HASH: data_hash(variables)}


def data_hash(variables: list[Stored]) -> str:
    """SHA-256 over name, shape, type and bytes of each variable as stored."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(f"{variable.name} {variable.values.shape} {variable.values.dtype.str}".encode())
        digest.update(variable.values.tobytes())
    return digest.hexdigest()


def decode(variables: list[Stored], attrs: dict) -> xr.Dataset:
    """The dataset in memory; what a `coordinates` attribute names becomes a coordinate."""
    bounds_of = {v.attrs["bounds"]: v for v in variables if "bounds" in v.attrs}
    coordinates = set(str(attrs.pop("coordinates", "")).split())
    decoded = {}
    for variable in variables:
        coordinates.update(str(variable.attrs.get("coordinates", "")).split())
        parent = bounds_of.get(variable.name)
        units = (parent or variable).attrs.get("units", "")
        decoded[variable.name] = _decoded(variable, str(units))
    ds = xr.Dataset(decoded, attrs=attrs)
    return ds.set_coords([name for name in coordinates if name in ds.variables])


def _decoded(variable: Stored, units: str) -> xr.Variable:
    """One variable in memory: text, datetime64[ns] or numbers with NaN for missing."""
    dims, values, attrs = variable.dims, variable.values, dict(variable.attrs)
    fills = [fill for key in ("_FillValue", "missing_value") if key in attrs for fill in np.atleast_1d(attrs.pop(key))]
    if values.dtype.kind in "SO":
        attrs.pop("_Encoding", None)
        if values.dtype.kind == "S":
            width = values.shape[-1]
            values, dims = np.char.decode(values.view(f"S{width}").reshape(values.shape[:-1]), "utf-8"), dims[:-1]
        return xr.Variable(dims, values.astype(str), attrs)
    missing = np.isin(values, np.array(fills).astype(values.dtype))
    if "scale_factor" in attrs or "add_offset" in attrs:
        values = values * float(attrs.pop("scale_factor", 1.0)) + float(attrs.pop("add_offset", 0.0))
    if missing.any():  # an integer that is missing is no integer
        values = np.where(missing, np.nan, values)
    if " since " in units:
        calendar = str(attrs.pop("calendar", "standard"))
        attrs.pop("units", None)
        values = _times(values, units, calendar)
    return xr.Variable(dims, values, attrs)


def _times(values: np.ndarray, units: str, calendar: str) -> np.ndarray:
    """datetime64[ns] UTC of stored times; seconds since 1970 are exact to the microsecond."""
    if units != EPOCH:
        return xr.coding.times.decode_cf_datetime(values, units, calendar).astype("datetime64[ns]")
    missing = np.isnan(values)
    micros = np.where(missing, 0, np.round(values * 1e6)).astype(np.int64)
    return np.where(missing, np.datetime64("NaT"), micros.astype("datetime64[us]")).astype("datetime64[ns]")
