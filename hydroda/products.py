"""Arrays of one run to the datasets that are published: forecast, ensemble, analysis of a day, scores.

Arrays are (time, station) in m³/s, members (time, realization, station); NaN is missing. What cannot be true (not
finite, negative, beyond any river) is published as missing, never as a number. `acceptance.check` says what holds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from hydroda import fields, predictive, quality
from hydroda.attributes import OF_A_RUN, Provenance, extent, global_attributes, time_coverage
from hydroda.fields import MISSING, STATION_COORDINATES, Station, Variables
from hydroda.schema import LEADS, QUANTILES, VARIABLES, SchemaError, quantile_name
from hydroda.units import HOUR, parse_utc

LARGEST = VARIABLES["discharge"].upper
LARGEST_QUANTILE = 1e36  # the fill value lies above
QC_MEANINGS = "pass not_evaluated suspect fail missing"


@dataclass(frozen=True)
class Bias:
    """An estimated bias, positive too high, and its standard error (time, station), their unit and what is biased."""

    values: np.ndarray
    standard_error: np.ndarray
    units: str
    of: str


@dataclass(frozen=True)
class Methods:
    """How each value was made: flags 1, 2, … (time, station) in the order of `choice.METHODS`, and in words why some
    stations have others than usual."""

    flags: np.ndarray
    reasons: str = ""


def forecast(
    stations: Sequence[Station],
    provenance: Provenance,
    cycle: np.datetime64,
    median: np.ndarray,
    spread: np.ndarray,
    open_loop: np.ndarray,
    status: np.ndarray,
    methods: Methods | None = None,
) -> xr.Dataset:
    """The `fc` product: 24 hours of median, quantiles, open loop, exceedance probabilities, status and methods.

    median, open_loop [m³/s] and status are (24, station), spread (standard deviations of log discharge below and above
    the median, as in `predictive`) (2, 24, station). Where median or spread is missing all of the forecast is, and its
    status is 9. Raises SchemaError for wrong shapes or thresholds.
    """
    median, spread, open_loop, status = map(np.asarray, (median, spread, open_loop, status))
    shape = (LEADS.size, len(stations))
    _expect(shape, median=median, open_loop=open_loop, status=status)
    _expect((predictive.SIDES, *shape), spread=spread)
    with np.errstate(invalid="ignore", over="ignore"):
        quantiles = {level: predictive.quantile(median, spread, level) for level in QUANTILES}
    usable = _possible(median) & (spread >= 0).all(0) & (quantiles[max(QUANTILES)] < LARGEST_QUANTILE)
    usable &= status != MISSING
    columns = fields.forecast_frame(stations, cycle)
    columns["discharge"] = fields.discharge(np.where(usable, median, np.nan), "river discharge, best estimate (median)")
    for level, values in quantiles.items():
        long_name = f"river discharge, {round(100 * level)} percent quantile of the predictive distribution"
        columns[quantile_name(level)] = fields.discharge(
            np.where(usable, values, np.nan), long_name, quantile_level=np.float64(level)
        )
    columns["discharge_open_loop"] = fields.discharge(
        np.where(_possible(open_loop), open_loop, np.nan),
        "river discharge without assimilation (open loop)",
        ancillary_variables="",  # the status is that of the forecast
    )
    thresholds = fields.threshold_table(stations)
    for k, threshold in enumerate(thresholds.values(), start=1):
        columns[f"exceedance_probability_t{k}"] = fields.quantity(
            np.where(usable, _exceedance(median, spread, threshold.values), np.nan),
            long_name=f"probability that discharge exceeds warning threshold {k}",
            units="1",
            coordinates=fields.FORECAST_COORDINATES,
            ancillary_variables="discharge_status",
        )
    columns |= thresholds
    columns["discharge_status"] = fields.status(np.where(usable, status, MISSING))
    if methods is not None:
        _expect(shape, method=methods.flags)
        columns["discharge_method"] = fields.method(np.where(usable, methods.flags, 0), methods.reasons)
        columns["discharge"].attrs["ancillary_variables"] += " discharge_method"
    return _dataset(columns, global_attributes("fc", cycle, columns["time"].values, columns, provenance))


def ensemble(
    stations: Sequence[Station],
    provenance: Provenance,
    cycle: np.datetime64,
    members: np.ndarray,
    status: np.ndarray,
) -> xr.Dataset:
    """The `ens` product from members (24, realization, station) [m³/s] and status (24, station).

    An hour of a station in which one member is missing is missing as a whole. Raises SchemaError for wrong shapes.
    """
    members, status = np.asarray(members), np.asarray(status)
    count = members.shape[1] if members.ndim == 3 else 0
    _expect((LEADS.size, max(count, 1), len(stations)), members=members)
    _expect((LEADS.size, len(stations)), status=status)
    usable = _possible(members).all(axis=1) & (status != MISSING)
    columns = fields.forecast_frame(stations, cycle)
    columns["realization"] = xr.Variable(
        "realization",
        np.arange(count, dtype=np.int32),
        {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
    )
    # CDO takes the member axis for the grid unless a two-dimensional variable comes first.
    columns["discharge_status"] = fields.status(np.where(usable, status, MISSING))
    columns["discharge"] = fields.discharge(
        np.where(usable[:, None], members, np.nan),
        "river discharge, ensemble member",
        ("time", "realization", "station"),
    )
    return _dataset(columns, global_attributes("ens", cycle, columns["time"].values, columns, provenance))


def analysis(
    stations: Sequence[Station],
    provenance: Provenance,
    times: np.ndarray,
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
    estimate, standard_error, background = map(np.asarray, (estimate, standard_error, background))
    observed, observed_qc, tests = np.asarray(observed), np.asarray(observed_qc), dict(tests or {})
    shape = (len(times), len(stations))
    _expect(shape, estimate=estimate, standard_error=standard_error, background=background)
    _expect(shape, observed=observed, observed_qc=observed_qc, **tests)
    usable = _possible(estimate) & _possible(standard_error)
    columns = {**fields.hour_axis(times), **fields.station_table(stations)}
    columns["discharge"] = fields.discharge(
        np.where(usable, estimate, np.nan),
        "river discharge, analysis",
        coordinates=STATION_COORDINATES,
        ancillary_variables="discharge_standard_error",
    )
    columns["discharge_standard_error"] = fields.discharge(
        np.where(usable, standard_error, np.nan),
        "standard error of the analysis of river discharge",
        coordinates=STATION_COORDINATES,
        ancillary_variables="",
        standard_name=f"{fields.DISCHARGE} standard_error",
        coverage_content_type="qualityInformation",
    )
    columns["discharge_background"] = fields.discharge(
        np.where(_possible(background), background, np.nan),
        "river discharge before the observation of the hour was used (background)",
        coordinates=STATION_COORDINATES,
        ancillary_variables="",
    )
    if open_loop is not None:
        _expect(shape, open_loop=open_loop)
        columns["discharge_open_loop"] = fields.discharge(
            np.where(_possible(open_loop), open_loop, np.nan),
            "river discharge without assimilation (open loop)",
            coordinates=STATION_COORDINATES,
            ancillary_variables="",
        )
    if normalised_innovation is not None:
        _expect(shape, normalised_innovation=normalised_innovation)
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
    return _dataset(columns, global_attributes("an", times[-1], columns["time"].values, columns, provenance))


def _bias(shape: tuple[int, ...], name: str, bias: Bias) -> Variables:
    """A bias and its standard error; what is not finite is missing."""
    values, error = (np.where(np.isfinite(part), part, np.nan) for part in (bias.values, bias.standard_error))
    _expect(shape, **{name: values, f"{name}_standard_error": error})
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
    possible = _possible(observed)
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


def scores(stations: Sequence[Station], provenance: Provenance, found: xr.Dataset) -> xr.Dataset:
    """The `verify` product of scores `found` as `verification.verify` gives them, for some of the stations by name.

    By lead (1 … 24 h), station and, of what is scored of every method, method. Raises SchemaError.
    """
    table = {station.id: station for station in stations}
    own = [table[name] for name in found.station.values.tolist()]
    columns: Variables = {"forecast_period": fields.lead_time("forecast_period"), **fields.station_table(own)}
    columns["method_name"] = xr.Variable("method", found["method"].values.astype(str), {"long_name": "forecast method"})
    for name, score in found.data_vars.items():
        dims = tuple(dim for dim in ("forecast_period", "station", "method") if dim in score.dims)
        coordinates = f"{STATION_COORDINATES} method_name" if "method" in dims else STATION_COORDINATES
        values = score.transpose(*dims).values
        columns[str(name)] = fields.quantity(values, dims, **score.attrs, coordinates=coordinates)
    first, last = (parse_utc(found.attrs[f"hydroda_{which}_issue"]) for which in ("first", "last"))
    valid = np.array([first + HOUR, last + LEADS.size * HOUR])
    attrs = global_attributes("verify", last, valid, columns, provenance)
    for name in OF_A_RUN:
        del attrs[f"hydroda_{name}"]
    del attrs["featureType"]  # scores are no time series
    return _dataset(columns, attrs | found.attrs)


def merge_day(previous: xr.Dataset | None, new: xr.Dataset, told: Collection[str] | None = None) -> xr.Dataset:
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
    return _dataset(
        columns, {**new.attrs, **time_coverage(times), **extent(columns["lat"].values, columns["lon"].values)}
    )


def _nothing(like: xr.Variable, sizes: Mapping[str, int]) -> xr.Variable:
    """A variable like this one for other hours and stations, all missing."""
    missing = {"i": MISSING, "f": np.nan, "U": ""}[like.dtype.kind]
    dtype = object if like.dtype.kind == "U" else like.dtype
    return xr.Variable(like.dims, np.full([sizes[str(dim)] for dim in like.dims], missing, dtype))


def _dataset(columns: Variables, attrs: Mapping[str, str | float]) -> xr.Dataset:
    """The variables in their order; what the layout calls coordinates is one."""
    ds = xr.Dataset(columns, attrs=attrs)
    return ds.set_coords([name for name in (*fields.FORECAST_COORDINATES.split(), "method_name") if name in columns])


def _possible(values: np.ndarray) -> np.ndarray:
    """True where a number can be a river discharge."""
    return (values >= 0) & (values <= LARGEST)  # NaN compares false


def _exceedance(median: np.ndarray, spread: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Probability that discharge exceeds the threshold (station,); missing where a station has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        probability = predictive.exceedance(median, spread, threshold)
    certain = np.where(median > threshold, 1.0, 0.0)  # a law without spread is above or it is not
    return np.where(np.isnan(threshold), np.nan, np.where((spread > 0).all(0), probability, certain))


def _expect(shape: tuple[int, ...], **arrays: np.ndarray) -> None:
    for name, values in arrays.items():
        if np.shape(values) != shape:
            raise SchemaError(f"{name} has shape {np.shape(values)}, expected {shape} (time, ..., station)")
