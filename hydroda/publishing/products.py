"""Arrays of one run to the datasets that are published: forecast, ensemble, scores; `day` makes those of a day.

Arrays are (time, station) in m³/s, members (time, realization, station); NaN is missing. What cannot be true (not
finite, negative, beyond any river) is published as missing, never as a number. `acceptance.check` says what holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from hydroda.forecast import predictive
from hydroda.publishing import fields
from hydroda.publishing.attributes import OF_A_RUN, Provenance, global_attributes
from hydroda.publishing.fields import MISSING, STATION_COORDINATES, Station, Variables
from hydroda.schema import LEADS, QUANTILES, quantile_name
from hydroda.units import HOUR, parse_utc

LARGEST_QUANTILE = 1e36  # the fill value lies above


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
    fields.expect(shape, median=median, open_loop=open_loop, status=status)
    fields.expect((predictive.SIDES, *shape), spread=spread)
    with np.errstate(invalid="ignore", over="ignore"):
        quantiles = {level: predictive.quantile(median, spread, level) for level in QUANTILES}
    usable = fields.possible(median) & (spread >= 0).all(0) & (quantiles[max(QUANTILES)] < LARGEST_QUANTILE)
    usable &= status != MISSING
    columns = fields.forecast_frame(stations, cycle)
    columns["discharge"] = fields.discharge(np.where(usable, median, np.nan), "river discharge, best estimate (median)")
    for level, values in quantiles.items():
        long_name = f"river discharge, {round(100 * level)} percent quantile of the predictive distribution"
        columns[quantile_name(level)] = fields.discharge(
            np.where(usable, values, np.nan), long_name, quantile_level=np.float64(level)
        )
    columns["discharge_open_loop"] = fields.discharge(
        np.where(fields.possible(open_loop), open_loop, np.nan),
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
        fields.expect(shape, method=methods.flags)
        columns["discharge_method"] = fields.method(np.where(usable, methods.flags, 0), methods.reasons)
        columns["discharge"].attrs["ancillary_variables"] += " discharge_method"
    return fields.dataset(columns, global_attributes("fc", cycle, columns["time"].values, columns, provenance))


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
    fields.expect((LEADS.size, max(count, 1), len(stations)), members=members)
    fields.expect((LEADS.size, len(stations)), status=status)
    usable = fields.possible(members).all(axis=1) & (status != MISSING)
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
    return fields.dataset(columns, global_attributes("ens", cycle, columns["time"].values, columns, provenance))


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
    return fields.dataset(columns, attrs | found.attrs)


def _exceedance(median: np.ndarray, spread: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Probability that discharge exceeds the threshold (station,); missing where a station has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        probability = predictive.exceedance(median, spread, threshold)
    certain = np.where(median > threshold, 1.0, 0.0)  # a law without spread is above or it is not
    return np.where(np.isnan(threshold), np.nan, np.where((spread > 0).all(0), probability, certain))
