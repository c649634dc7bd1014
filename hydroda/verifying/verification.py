"""Scores of archived forecasts by station and lead, beside those of the baselines, all on one common sample.

An archive holds forecasts of many issue times, dims (forecast_reference_time, forecast_period, station), as hindcasts
write them; `observed` is discharge (time, station) that passed quality control. A forecast counts at a lead only if
the verifying observation, all its quantiles and every baseline are there: methods never compete on different hours.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scores import continuous

from hydroda import __version__
from hydroda.forecast import correction, predictive
from hydroda.forecast.choice import FILTER, NETWORKS
from hydroda.forecast.correction import BASELINES, Correction
from hydroda.publishing.attributes import UNKNOWN
from hydroda.schema import QUANTILES, quantile_name
from hydroda.units import HOUR, iso

EACH = "discharge_network"  # of an archive: the forecasts of every network, (issue time, lead, network, station)
AGE, CHANGE = TOLD = ("observation_age", "observed_change_at_issue")  # not in archives of earlier versions
OWN = (FILTER, NETWORKS)  # parts of a forecast, scored beside it where an archive has them and they are not all of it
METHODS = ("forecast", *BASELINES)
LABELS = {
    "forecast": "forecast",
    FILTER: "filter alone",
    NETWORKS: "networks alone",
    "persistence": "persistence",
    "trend": "persistence + trend",
    "climatology": "climatology",
    "open_loop": "open loop",
    "decaying_error": "open loop + decaying error",
    "ar1_error": "open loop + AR(1)",
    "ar1_log_error": "open loop + AR(1) of log",
}
FORCINGS = {
    "observed": "as observed later (perfect foresight, not what a forecast can do)",
    "none": "none (no rain)",
    "archived": "weather forecasts as they were available",
}
SHOWN = (1, 2, 3, 6, 9, 12, 18, 24)
HIGHEST = 0.05  # share of the observations of a lead that are high flow
BOUNDS = [quantile_name(level) for level in (0.05, 0.25, 0.75, 0.95)]
SERIES = ("discharge", *BOUNDS, "discharge_open_loop", "observed_at_issue", "open_loop_at_issue")
# In xarray `sel(method=…)` means something else, so methods are selected with a dict.
DIMS = ("forecast_reference_time", "forecast_period", "station")
SAME = ("domain", "forcing", "model", "filter")


@dataclass(frozen=True)
class Score:
    """What a score is: its unit, its meaning, its value for a perfect forecast (NaN where none is perfect)."""

    units: str
    long_name: str
    perfect: float = np.nan


M3S = "m3 s-1"
BY_METHOD = {
    "nse": Score("1", "Nash-Sutcliffe efficiency about the mean of the observations of that lead", 1.0),
    "kge": Score("1", "Kling-Gupta efficiency as modified by Kling et al. (2012)", 1.0),
    "rmse": Score(M3S, "root mean square error", 0.0),
    "mae": Score(M3S, "mean absolute error", 0.0),
    "bias": Score(M3S, "mean of forecast minus observation", 0.0),
    "pbias": Score("percent", "bias as a share of the mean observation", 0.0),
    "crps": Score(M3S, "continuous ranked probability score; of a single value its mean absolute error", 0.0),
    "persistence_skill": Score("1", "1 - mean square error over that of persistence", 1.0),
}
OF_FORECAST = {
    "coverage_90": Score("percent", "share of observations within the 5 and 95 percent quantiles"),
    "coverage_90_high": Score(
        "percent",
        "share within the 5 and 95 percent quantiles of the highest observations of that lead, those that reach the 95 "
        "percent quantile of the scored period",
    ),
    "coverage_50": Score("percent", "share of observations within the 25 and 75 percent quantiles"),
    "width_90": Score(M3S, "mean distance of the 5 and 95 percent quantiles"),
    "width_50": Score(M3S, "mean distance of the 25 and 75 percent quantiles"),
}
COUNTS = {
    "n": Score("1", "number of forecasts in the common sample"),
    "n_unobserved": Score("1", "number of forecasts left out because the verifying observation is missing"),
    "n_incomplete": Score("1", "number of forecasts left out because they or a baseline are missing"),
}


class Sample(NamedTuple):
    """Of one station, NaN outside of the common sample: forecasts (method, F, L), observations (F, L) and bounds of
    intervals by name (F, L), m³/s; the `COUNTS` (L,); and forecasts of each network there is (network, F, L)."""

    forecasts: xr.DataArray
    observed: xr.DataArray
    bounds: dict[str, xr.DataArray]
    counts: dict[str, xr.DataArray]
    networks: xr.DataArray | None


def verify(archives: Iterable[xr.Dataset], observed: xr.DataArray, corrections: Mapping[str, Correction]) -> xr.Dataset:
    """Scores (method, forecast_period, station) of all archives together; of the intervals without method.

    `observed_at_issue` of an archive is what was known at issue time, `open_loop_at_issue` the open loop of the same
    hour, `observation_age` [h] (taken as 0 where there is none) how old it was, `observed_change_at_issue` by how much
    it was above the one an hour before (taken as 0). `products.scores` makes a product of the result, `named` turns it
    back. Raises ValueError when archives do not belong together or hold nothing, KeyError for a station without
    observations or baselines.
    """
    archive = pool(archives)
    if archive.sizes["forecast_reference_time"] < 2:
        raise ValueError("one forecast alone has no score; make more of them")
    stations = [str(station) for station in archive.station.values]
    for what, known in (("observed discharge", observed.station.values.tolist()), ("fitted baselines", corrections)):
        lacking = [station for station in stations if station not in known]
        if lacking:
            raise KeyError(f"no {what} for {', '.join(lacking)}, which the archive has forecasts for")
    own = tuple(name for name in OWN if _tells(archive, f"discharge_{name}"))
    parts = [_scores(common_sample(archive, observed, s, corrections[s], own), s) for s in stations]
    scores = xr.concat(parts, "station")[[*BY_METHOD, *OF_FORECAST, *COUNTS]].assign_coords(station=stations)
    first, last = archive.forecast_reference_time.values[[0, -1]]
    for name, score in {**BY_METHOD, **OF_FORECAST, **COUNTS}.items():
        scores[name].attrs = {"long_name": score.long_name, "units": score.units}
    return scores.assign_attrs(_attributes(archive.attrs, first, last, archive.sizes["forecast_reference_time"]))


def named(product: xr.Dataset) -> xr.Dataset:
    """The scores of a `verify` product by station id and name of method, as `verify` gives them."""
    if "station_id" not in product.variables:
        return product  # of an earlier version
    scores = product.swap_dims(station="station_id", method="method_name").reset_coords(drop=True)
    own = scores[[*BY_METHOD, *OF_FORECAST, *COUNTS]].rename(station_id="station", method_name="method")
    leads = own.forecast_period.values.astype(int)
    return own.assign_coords(forecast_period=leads).transpose("method", "forecast_period", "station")


def pool(archives: Iterable[xr.Dataset]) -> xr.Dataset:
    """All archives as one, by rising issue time; a station that one of them lacks is missing there.

    Raises ValueError when there is none, an issue time repeats, or domain, forcing, model or filter differ.
    """
    archives, kept, first = list(archives), [], None
    parts = (*(f"discharge_{name}" for name in OWN), EACH)
    own = [name for name in parts if all(name in archive for archive in archives)]
    for archive in archives:
        told = {key: str(archive.attrs.get(key, UNKNOWN)) for key in SAME}
        first = first or told
        for key in SAME:
            if told[key] != first[key]:
                raise ValueError(f"archives differ in {key}: {first[key]!r} and {told[key]!r}; verify them apart")
        series = [*SERIES, *own, *(name for name in TOLD if name in archive)]
        kept.append(archive[series].drop_attrs(deep=False))
    if first is None:
        raise ValueError("no archives to verify: make hindcasts of the period first")
    pooled = kept[0] if len(kept) == 1 else xr.concat(kept, "forecast_reference_time", join="outer")
    pooled = pooled.sortby("forecast_reference_time").assign_attrs(first)
    issue = pooled.indexes["forecast_reference_time"]
    if issue.size == 0:
        raise ValueError("the archives hold no forecasts in this period")
    if issue.has_duplicates:
        twice = issue[issue.duplicated()][0]
        raise ValueError(f"the archives hold the forecast of {iso(np.datetime64(twice))} more than once")
    return pooled


def _tells(archive: xr.Dataset, name: str) -> bool:
    """Whether a part of the forecast is there and not all of it."""
    return name in archive and bool((archive[name].notnull() & (archive[name] != archive["discharge"])).any())


def _verifying(archive: xr.Dataset, observed: xr.DataArray) -> xr.DataArray:
    """Observations (F, L) of one station at the valid times of the archive; missing where there is no record."""
    issue, lead = archive.forecast_reference_time, archive.forecast_period
    valid = issue.values[:, None] + lead.values.astype(np.int64) * HOUR
    place = observed.indexes["time"].get_indexer(valid.ravel()).reshape(valid.shape)
    values = np.where(place >= 0, observed.values[place], np.nan)
    return xr.DataArray(values, {issue.name: issue.values, lead.name: lead.values}, DIMS[:2])


def common_sample(
    archive: xr.Dataset, observed: xr.DataArray, station: str, fitted: Correction, own: Sequence[str] = OWN
) -> Sample:
    """What is scored of a station in a pooled archive: its forecast, the parts of it called `own`, all baselines."""
    archive, seen = archive.sel(station=[station]), _verifying(archive, observed.sel(station=station))
    bounds = {name: archive[name].squeeze("station", drop=True).astype(np.float64) for name in BOUNDS}
    forecasts = _methods(archive, fitted, own)
    there = forecasts.notnull()
    elsewhere = ~there.any(DIMS[:2]) & forecasts["method"].isin(own)  # another station has networks, this one has not
    complete = (there | elsewhere).all("method") & np.logical_and.reduce([b.notnull() for b in bounds.values()])
    known = seen.notnull()
    common = complete & known
    counts = {
        "n": common.sum(DIMS[0]),
        "n_unobserved": (~known).sum(DIMS[0]),
        "n_incomplete": (known & ~complete).sum(DIMS[0]),
    }
    bounds = {name: bound.where(common) for name, bound in bounds.items()}
    each = archive[EACH].squeeze("station", drop=True).where(common) if EACH in archive else None
    return Sample(forecasts.where(common), seen.where(common), bounds, counts, each)


def _scores(found: Sample, station: str) -> xr.Dataset:
    """All scores of one station."""
    forecasts, observed, bounds, counts, _ = found
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # An empty sample and a river that never changes have no score: NaN says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        values = {**_point_scores(forecasts, observed), **interval_scores(bounds, observed)}
        single = abs(forecasts - observed)
        law = _crps(forecasts.sel({"method": "forecast"}, drop=True), bounds, observed)
        values["crps"] = single.where(single["method"] != "forecast", law).mean(DIMS[0])
    scores = xr.Dataset(values)
    scores = scores.where(np.isfinite(scores)).assign({name: count.astype(np.int32) for name, count in counts.items()})
    return scores.transpose("method", "forecast_period").expand_dims(station=[station], axis=-1)


def _methods(archive: xr.Dataset, fitted: Correction, own: Sequence[str]) -> xr.DataArray:
    """Forecast, parts of it and baselines of one station, (method, F, L)."""
    names = [*SERIES, *(f"discharge_{name}" for name in own)]
    arrays = {name: archive[name].transpose(*DIMS, missing_dims="ignore").values.astype(np.float64) for name in names}
    age, change = (archive[name].values if name in archive else 0.0 for name in TOLD)
    baselines = [
        correction.apply(
            name,
            [fitted],
            archive.forecast_reference_time.values,
            archive.forecast_period.values.astype(np.int64),
            arrays["discharge_open_loop"],
            arrays["observed_at_issue"],
            arrays["open_loop_at_issue"],
            np.broadcast_to(age, arrays["observed_at_issue"].shape),
            change,
        )
        for name in BASELINES
    ]
    coords = {"method": ["forecast", *own, *BASELINES], **{dim: archive[dim].values for dim in DIMS[:2]}}
    parts = [arrays["discharge"], *(arrays[f"discharge_{name}"] for name in own)]
    return xr.DataArray(np.stack([*parts, *baselines])[..., 0], coords, ("method", *DIMS[:2]))


def _point_scores(forecasts: xr.DataArray, observed: xr.DataArray) -> dict[str, xr.DataArray]:
    by: dict[str, Any] = {"preserve_dims": ["method", "forecast_period"]}
    square = continuous.mse(forecasts, observed, **by)
    return {
        "nse": continuous.nse(forecasts, observed, **by),
        "kge": continuous.kge(forecasts, observed, method="2012", **by),
        "rmse": np.sqrt(square),
        "mae": continuous.mae(forecasts, observed, **by),
        "bias": continuous.additive_bias(forecasts, observed, **by),
        "pbias": continuous.pbias(forecasts, observed, **by),
        "persistence_skill": 1 - square / square.sel({"method": "persistence"}, drop=True),
    }


def interval_scores(bounds: Mapping[str, xr.DataArray], observed: xr.DataArray) -> dict[str, xr.DataArray]:
    """The scores `OF_FORECAST` (L,) of bounds (F, L) of intervals by name, where something was observed (F, L)."""
    values = {}
    q05, q25, q75, q95 = (bounds[name] for name in BOUNDS)
    for share, low, high in (("90", q05, q95), ("50", q25, q75)):
        inside = 100.0 * ((low <= observed) & (observed <= high)).where(observed.notnull())
        values[f"coverage_{share}"] = inside.mean(DIMS[0])
        values[f"width_{share}"] = (high - low).mean(DIMS[0])
        if share == "90":
            top = observed >= observed.quantile(1.0 - HIGHEST, DIMS[0]).drop_vars("quantile")
            values["coverage_90_high"] = inside.where(top).mean(DIMS[0])
    return values


def _crps(median: xr.DataArray, bounds: Mapping[str, xr.DataArray], observed: xr.DataArray) -> xr.DataArray:
    """Of the law with these quantiles; one without spread on either side is a single value."""
    lower, upper = (bounds[name].transpose(*median.dims).values for name in (BOUNDS[0], BOUNDS[-1]))
    spread = predictive.spreads(median.values, lower, upper, min(QUANTILES), max(QUANTILES))
    score = predictive.crps(median.values, spread, observed.transpose(*median.dims).values)
    return xr.where((spread > 0.0).all(0), score, np.abs(median - observed))


def _attributes(told: Mapping[str, str], first: np.datetime64, last: np.datetime64, count: int) -> dict[str, Any]:
    return {
        "source": f"hydroda {__version__}, model {told['model']}, filter {told['filter']}",
        "references": "Kling et al. (2012) J. Hydrol. 424, 264; Baran and Lerch (2015) QJRMS 141, 2289",
        "comment": "All methods are scored on the forecasts for which all of them and the observation are there.",
        **{f"hydroda_{key}": value for key, value in told.items()},
        "hydroda_first_issue": iso(first),
        "hydroda_last_issue": iso(last),
        "hydroda_issue_times": count,
    }
