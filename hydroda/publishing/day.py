"""The analysis of a day as it is published: estimates, observations with their quality, biases.

One file that grows hour by hour. Arrays are (time, station) in m³/s; NaN is missing. What cannot be true is published
as missing, never as a number.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from hydroda import quality
from hydroda.publishing import fields
from hydroda.publishing.attributes import Provenance, extent, global_attributes, time_coverage
from hydroda.publishing.fields import MISSING, STATION_COORDINATES, Station, Variables
from hydroda.schema import SchemaError

QC_MEANINGS = "pass not_evaluated suspect fail missing"


@dataclass(frozen=True)
class Bias:
    """An estimated bias, positive too high, and its standard error (time, station), their unit and what is biased."""

    values: np.ndarray
    standard_error: np.ndarray
    units: str
    of: str


def analysis(
    stations: Sequence[Station],
    provenance: Provenance,
    times: np.ndarray,
    *,
    estimate: np.ndarray,
    standard_error: np.ndarray,
    background: np.ndarray,
    observed: np.ndarray,
    observed_qc: np.ndarray,
    tests: Mapping[str, np.ndarray] | None = None,
    open_loop: np.ndarray | None = None,
    normalised_innovation: np.ndarray | None = None,
    biases: Mapping[str, Bias] | None = None,
) -> xr.Dataset:
    """The `an` product for the hours that end at `times` (datetime64, rising; the last one is the cycle).

    All arrays are (time, station), discharge in m³/s; `tests` holds the flags of single quality tests by name, `biases`
    those the filter estimates by the name of their variable. An observation that cannot be true is withheld and its
    flag says fail. Raises SchemaError for wrong shapes or flags.
    """
    observed, observed_qc, tests = np.asarray(observed), np.asarray(observed_qc), dict(tests or {})
    shape = (len(times), len(stations))
    fields.expect(shape, observed=observed, observed_qc=observed_qc, **tests)
    columns = {**fields.hour_axis(times), **fields.station_table(stations)}

    def flow(name: str, values: np.ndarray, usable: np.ndarray, long_name: str, **attrs: str) -> None:
        told: dict[str, Any] = {"coordinates": STATION_COORDINATES, "ancillary_variables": "", **attrs}
        columns[name] = fields.discharge(np.where(usable, values, np.nan), long_name, **told)

    fields.expect(shape, estimate=estimate, standard_error=standard_error, background=background)
    usable = fields.possible(estimate) & fields.possible(standard_error)
    error = "discharge_standard_error"
    flow("discharge", estimate, usable, "river discharge, analysis", ancillary_variables=error)
    flow(
        error,
        standard_error,
        usable,
        "standard error of the analysis of river discharge",
        standard_name=f"{fields.DISCHARGE} standard_error",
        coverage_content_type="qualityInformation",
    )
    before = "river discharge before the observation of the hour was used (background)"
    flow("discharge_background", background, fields.possible(background), before)
    if open_loop is not None:
        fields.expect(shape, open_loop=open_loop)
        unaided = "river discharge without assimilation (open loop)"
        flow("discharge_open_loop", open_loop, fields.possible(open_loop), unaided)
    if normalised_innovation is not None:
        fields.expect(shape, normalised_innovation=normalised_innovation)
        columns["normalised_innovation"] = fields.quantity(
            normalised_innovation,
            long_name="observation less background over the standard deviation the filter expects of it; its square is "
            "the normalised innovation squared (NIS)",
            units="1",
            coordinates=STATION_COORDINATES,
            coverage_content_type="qualityInformation",
        )
    for name, bias in (biases or {}).items():
        columns |= _bias(shape, name, bias)
    columns |= _observation(observed, observed_qc, tests)
    return fields.dataset(columns, global_attributes("an", times[-1], columns["time"].values, columns, provenance))


def _bias(shape: tuple[int, ...], name: str, bias: Bias) -> Variables:
    """A bias and its standard error; what is not finite is missing."""
    values, error = (np.where(np.isfinite(part), part, np.nan) for part in (bias.values, bias.standard_error))
    fields.expect(shape, **{name: values, f"{name}_standard_error": error})
    return {
        name: fields.quantity(
            values,
            long_name=f"estimated bias of {bias.of}, positive where too high",
            units=bias.units,
            coordinates=STATION_COORDINATES,
            ancillary_variables=f"{name}_standard_error",
        ),
        f"{name}_standard_error": fields.quantity(
            error,
            long_name=f"standard error of the estimated bias of {bias.of}",
            units=bias.units,
            coordinates=STATION_COORDINATES,
            coverage_content_type="qualityInformation",
        ),
    }


def _observation(observed: np.ndarray, observed_qc: np.ndarray, tests: Mapping[str, np.ndarray]) -> Variables:
    """What was observed, where it can be true, and the flags of it."""
    possible = fields.possible(observed)
    absent = np.isnan(observed) | (observed_qc == quality.MISSING)
    flags = {"qc": np.where(absent, quality.MISSING, np.where(possible, observed_qc, quality.FAIL)), **tests}
    columns: Variables = {}
    columns["discharge_observed"] = fields.discharge(
        np.where(possible & ~absent, observed, np.nan),
        "river discharge, observed",
        coordinates=STATION_COORDINATES,
        ancillary_variables=" ".join(f"discharge_observed_{test}" for test in flags),
        coverage_content_type="physicalMeasurement",
    )
    for test, values in flags.items():
        columns[f"discharge_observed_{test}"] = fields.flag(
            values,
            QC_MEANINGS,
            STATION_COORDINATES,
            standard_name="aggregate_quality_flag" if test == "qc" else quality.TESTS[test],
            long_name=f"quality of observed discharge: {'all tests' if test == 'qc' else test.replace('_', ' ')}",
        )
    return columns


def merged(previous: xr.Dataset | None, new: xr.Dataset, told: Collection[str] | None = None) -> xr.Dataset:
    """The `an` file of a day: hours and stations of both; an hour of a station is that of `new` where it has one
    and tells of the station (of all, or of those `told`).

    Attributes are those of `new`, extents those of both. Raises SchemaError when the hours are not of one UTC day.
    """
    ids = dict.fromkeys(map(str, new["station_id"].values))
    parts = [new]
    if previous is not None:
        before = list(map(str, previous["station_id"].values))
        heard = [told is None or station in told or station not in before for station in ids]
        parts = [previous, new.isel(station=heard)]
        ids |= dict.fromkeys(before)
    times = np.unique(np.concatenate([part.time.values for part in parts]))
    days = np.unique(times.astype("datetime64[D]"))
    if days.size > 1:
        raise SchemaError(f"an analysis file holds one UTC day, found hours of {' and '.join(map(str, days))}")
    column_of = {station: i for i, station in enumerate(ids)}
    sizes = {"time": times.size, "station": len(ids)}
    columns = fields.hour_axis(times)
    for name in dict.fromkeys(str(name) for part in reversed(parts) for name in part.variables):
        if name in columns:
            continue
        for part in (part for part in parts if name in part.variables):
            held = part.variables[name]
            if name not in columns:
                columns[name] = _nothing(held, sizes)
            places = {
                "time": np.searchsorted(times, part.time.values),
                "station": np.array([column_of[str(station)] for station in part.station_id.values]),
            }
            columns[name].values[np.ix_(*(places[str(dim)] for dim in held.dims))] = held.values
            columns[name].attrs = dict(held.attrs)
    for name, column in columns.items():
        if column.dtype == object:
            columns[name] = xr.Variable(column.dims, column.values.astype(str), column.attrs)
    return fields.dataset(
        columns, {**new.attrs, **time_coverage(times), **extent(columns["lat"].values, columns["lon"].values)}
    )


def _nothing(like: xr.Variable, sizes: Mapping[str, int]) -> xr.Variable:
    """A variable like this one for other hours and stations, all missing."""
    missing = {"i": MISSING, "f": np.nan, "U": ""}[like.dtype.kind]
    dtype = object if like.dtype.kind == "U" else like.dtype
    return xr.Variable(like.dims, np.full([sizes[str(dim)] for dim in like.dims], missing, dtype))
