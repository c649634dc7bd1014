"""What holds of every product, said before it gets its name and again by whoever doubts a file."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.publishing import fields
from hydroda.publishing.attributes import OF_A_RUN
from hydroda.publishing.fields import DISCHARGE, FLAG_VALUES, METHOD_FLAGS, MISSING
from hydroda.quality import FAIL
from hydroda.schema import LEADS, QUANTILES, STATION_ID, quantile_name
from hydroda.storage import netcdf
from hydroda.units import HOUR, iso
from hydroda.vocabulary import RUN_KINDS, START_KINDS

PROVENANCE = ("cycle", "run_kind", "run_id", "config_sha256", "forcing_source")
REQUIRED = ("Conventions", "title", "id", "date_created", "history", *(f"hydroda_{name}" for name in PROVENANCE))
QUANTILE_NAMES = tuple(quantile_name(level) for level in QUANTILES)


class ProductError(ValueError):
    """A product breaks an invariant; the message says which, where, and everything else that is wrong."""


def check(product: xr.Dataset | Path) -> xr.Dataset:
    """The dataset (of a file), if it keeps every invariant of its kind. Raises ProductError, DamagedFile."""
    ds = netcdf.read(product) if isinstance(product, Path) else product
    kind = ds.attrs.get("hydroda_product")
    if kind not in CHECKS:
        raise ProductError(f"attribute hydroda_product is {kind!r}, expected one of {', '.join(CHECKS)}")
    problems = [*_attributes(ds), *_stations(ds)]
    problems += [problem for look in CHECKS[kind] for problem in look(ds)] if not problems else []
    if problems:
        raise ProductError(f"{ds.attrs.get('id', kind)}: " + "; ".join(problems))
    return ds


def _attributes(ds: xr.Dataset) -> Iterator[str]:
    required = REQUIRED
    if ds.attrs["hydroda_product"] != "verify":
        required += tuple(f"hydroda_{name}" for name in OF_A_RUN)
    absent = [name for name in required if name not in ds.attrs]
    if absent:
        yield f"global attributes lack {', '.join(absent)}"
        return
    for name, allowed in (("hydroda_run_kind", RUN_KINDS), ("hydroda_start_kind", START_KINDS)):
        if name in required and ds.attrs[name] not in allowed:
            yield f"{name} is {ds.attrs[name]!r}, allowed are {', '.join(allowed)}"


def _stations(ds: xr.Dataset) -> Iterator[str]:
    for name in ("station_id", "lat", "lon", "catchment_area"):
        if name not in ds.variables:
            yield f"there is no variable {name}"
            return
    ids = [str(station) for station in ds.station_id.values]
    if len(set(ids)) < len(ids):
        yield f"station ids repeat: {sorted({i for i in ids if ids.count(i) > 1})}"
    for station in ids:
        if not STATION_ID.match(station):
            yield f"station id {station!r} is not usable"


def _hours(ds: xr.Dataset) -> Iterator[str]:
    """Stamps are full hours that rise, with bounds of one hour before them."""
    times = ds.time.values
    if not np.all(np.diff(times) > np.timedelta64(0)):
        yield "time does not rise"
    if np.any(times != times.astype("datetime64[h]")):
        yield "time holds stamps that are not full hours"
    if not np.array_equal(ds.time_bnds.values, np.stack([times - HOUR, times], axis=1)):
        yield "time_bnds are not the hours that end at time"


def _leads(ds: xr.Dataset) -> Iterator[str]:
    """Lead k is time minus reference time."""
    if not np.array_equal(ds.forecast_period.values, LEADS):
        yield f"forecast_period is {ds.forecast_period.values.tolist()}, expected 1 to 24"
    elif not np.array_equal(ds.time.values, ds.forecast_reference_time.values + LEADS * HOUR):
        yield f"time is not forecast_reference_time {iso(ds.forecast_reference_time.values[()])} plus forecast_period"


def _numbers(ds: xr.Dataset) -> Iterator[str]:
    """Data are float32, counts int32, finite or missing; discharge is not negative; probabilities lie in [0, 1]; flags
    are known."""
    for name, variable in ds.data_vars.items():
        if variable.attrs.get("units") is None or variable.dims == ("station",):
            continue
        values = variable.values
        if "flag_values" in variable.attrs:
            flags = METHOD_FLAGS if name == "discharge_method" else FLAG_VALUES
            yield from _where(ds, name, ~np.isin(values, flags), f"is no flag of {flags.tolist()}")
            continue
        if values.dtype not in (np.float32, np.int32):
            yield f"{name} is {values.dtype}, expected float32, or int32 where it counts"
        yield from _where(ds, name, np.isinf(values), "is infinite")
        if variable.attrs.get("standard_name", "").startswith(DISCHARGE) and "time" in variable.dims:
            yield from _where(ds, name, values < 0, "is negative")
        if str(name).startswith("exceedance_probability"):
            yield from _where(ds, name, (values < 0) | (values > 1), "is not in [0, 1]")


def _forecast(ds: xr.Dataset) -> Iterator[str]:
    """Quantiles rise, the best estimate is the median, and status 9 stands exactly where data are missing."""
    missing = ds.discharge_status.values == MISSING
    for name in ("discharge", *QUANTILE_NAMES):
        yield from _where(ds, name, np.isnan(ds[name].values) != missing, "is missing without status 9, or the reverse")
    for lower, upper in pairwise(QUANTILE_NAMES):
        yield from _where(ds, upper, ds[upper].values < ds[lower].values, f"is below {lower}")
    differs = ~missing & (ds.discharge.values != ds.discharge_q50.values)
    yield from _where(ds, "discharge", differs, "is not discharge_q50")
    yield from _exceedance(ds, missing)


def _exceedance(ds: xr.Dataset, missing: np.ndarray) -> Iterator[str]:
    """A probability for each threshold, and none that rises from one threshold to the next."""
    levels = fields.levels(ds)
    for k in levels:
        name, threshold = f"exceedance_probability_t{k}", ds[f"threshold_t{k}"].values
        if name not in ds.variables:
            yield f"threshold_t{k} has no {name}"
            continue
        absent = missing | np.isnan(threshold)
        yield from _where(
            ds, name, np.isnan(ds[name].values) != absent, "is missing where it should not be, or the reverse"
        )
        if k - 1 in levels:
            lower = f"exceedance_probability_t{k - 1}"
            yield from _where(ds, name, ds[name].values > ds[lower].values, f"is above {lower}")
            if np.any(threshold <= ds[f"threshold_t{k - 1}"].values):
                yield f"threshold_t{k} is not above threshold_t{k - 1}"


def _members(ds: xr.Dataset) -> Iterator[str]:
    """Members are complete exactly where the status is not 9, and status is defined before them (CDO)."""
    missing = (ds.discharge_status.values == MISSING)[:, None]
    yield from _where(
        ds, "discharge", np.isnan(ds.discharge.values) != missing, "is missing without status 9, or the reverse"
    )
    names = list(ds.variables)
    if names.index("discharge_status") > names.index("discharge"):
        yield "discharge_status must be defined before discharge"


def _analysis(ds: xr.Dataset) -> Iterator[str]:
    """One UTC day; an analysis has its standard error; an observation is missing exactly where its flag says so."""
    if np.unique(ds.time.values.astype("datetime64[D]")).size != 1:
        yield f"hours of more than one UTC day: {iso(ds.time.values[0])} to {iso(ds.time.values[-1])}"
    lacking = np.isnan(ds.discharge.values) != np.isnan(ds.discharge_standard_error.values)
    yield from _where(ds, "discharge_standard_error", lacking, "is missing where discharge is not, or the reverse")
    flag, absent = ds.discharge_observed_qc.values, np.isnan(ds.discharge_observed.values)
    yield from _where(
        ds, "discharge_observed", absent & ~np.isin(flag, (FAIL, MISSING)), "is missing under a good flag"
    )
    yield from _where(ds, "discharge_observed", ~absent & (flag == MISSING), "is there under the flag missing")


def _where(ds: xr.Dataset, name: object, bad: np.ndarray, what: str) -> Iterator[str]:
    """The first place where a variable is wrong, and at how many."""
    if not bad.any():
        return
    at = dict(zip(ds[name].dims, np.argwhere(bad)[0].tolist(), strict=True))
    station = f" station {ds.station_id.values[at['station']]}" if "station" in at else ""
    time = f" at {iso(ds.time.values[at['time']])}" if "time" in at else ""
    value = ds[name].values[tuple(at.values())]
    yield f"{name} {what}:{station}{time}, value {value} ({int(bad.sum())} such)"


CHECKS: dict[str, tuple[Callable[[xr.Dataset], Iterator[str]], ...]] = {
    "fc": (_hours, _leads, _numbers, _forecast),
    "ens": (_hours, _leads, _numbers, _members),
    "an": (_hours, _numbers, _analysis),
    "verify": (_numbers,),
}
