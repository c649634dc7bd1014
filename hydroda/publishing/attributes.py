"""Who, what, where, when and from which inputs: the global attributes of a product file."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr

from hydroda import __version__
from hydroda.units import HOUR, iso

NOT_SET = "not set"
UNKNOWN = "not recorded"

TITLES = {
    "fc": "hourly streamflow forecast, lead times 1 to 24 h",
    "an": "hourly streamflow analysis of one day",
    "ens": "hourly streamflow ensemble forecast, lead times 1 to 24 h",
    "verify": "scores of hourly streamflow forecasts by lead time",
}
SUMMARIES = {
    "fc": "River discharge at gauging stations for the next 24 hours: median, quantiles and exceedance probabilities "
    "of a predictive distribution, log-normal on either side of its median, from data assimilation into a "
    "rainfall-runoff model.",
    "an": "River discharge at gauging stations as estimated by data assimilation into a rainfall-runoff model, with "
    "the observations used and their quality flags.",
    "ens": "River discharge at gauging stations for the next 24 hours: members of an ensemble from data assimilation "
    "into a rainfall-runoff model.",
    "verify": "Scores of streamflow forecasts against gauge observations, by station and lead time.",
}
DEGRADED = {  # why a product is less than it could be; each is followed by the number of stations
    "forecast_missing": "no forecast came out",
    "forcing_none": "by the settings without a weather forecast",
    "forcing_missing": "weather forecast incomplete or missing",
    "obs_missing": "no observation in the last 6 h",
    "rain_missing": "rain of the last 24 h not completely known",
    "belief_reset": "state not usable and set back",
    "networks_missing": "networks not usable, the filter goes on alone",
    "method_stood_back": "another method than usual, since that has erred too much of late",
    "station_failed": "no forecast possible",
}


def in_words(reason: str) -> str:
    """A reason of `hydroda_degraded`, "obs_missing:2"."""
    name, _, count = reason.partition(":")
    words = DEGRADED.get(name, name.replace("_", " "))
    return f"{words} ({count} station{'s'[: count != '1']})" if count else words


# what is said of one run, and not of the many that are scored
OF_A_RUN = (
    "start_kind",
    "state_age_hours",
    "degraded",
    "weights_sha256",
    "state_in_sha256",
    "inputs_sha256",
    "forcing_reference_time",
)
LEVELS = {"fc": "model forecast", "an": "model analysis", "ens": "model forecast", "verify": "verification statistics"}


@dataclass(frozen=True)
class Credits:
    """Who answers for the files, from the settings; never a guess."""

    title: str = NOT_SET
    institution: str = NOT_SET
    creator_name: str = NOT_SET
    creator_email: str = NOT_SET
    creator_url: str = NOT_SET
    project: str = NOT_SET
    license: str = NOT_SET
    acknowledgement: str = NOT_SET
    references: str = NOT_SET


@dataclass(frozen=True)
class Provenance:
    """What an auditor needs to know of one run. `created`, `run_id` and `command` are all that follows the clock."""

    domain: str
    created: np.datetime64
    run_id: str
    command: str
    run_kind: str = "operational"  # of `vocabulary.RUN_KINDS`
    start_kind: str = "warm"  # of `vocabulary.START_KINDS`
    state_age_hours: float = 0.0
    degraded: tuple[str, ...] = ()
    config_sha256: str = UNKNOWN
    weights_sha256: str = UNKNOWN
    state_in_sha256: str = UNKNOWN
    inputs_sha256: str = UNKNOWN
    forcing_source: str = UNKNOWN
    forcing_reference_time: np.datetime64 | None = None
    model: str = UNKNOWN
    filter: str = UNKNOWN
    credits: Credits = Credits()


def run_id(now: np.datetime64) -> str:
    """Of the run of this process that began at a time."""
    return f"{iso(now)}-{os.getpid()}"


def global_attributes(
    kind: str, cycle: np.datetime64, times: np.ndarray, stations: Mapping[str, xr.Variable], provenance: Provenance
) -> dict[str, str | float]:
    """Every global attribute of a product of `kind` with hours that end at `times` and this station table."""
    credits = asdict(provenance.credits)
    title = credits.pop("title")
    file_kind = f"{kind}-hindcast" if provenance.run_kind == "hindcast" else kind
    forced = provenance.forcing_reference_time
    stamp = iso(cycle).replace("-", "").replace(":", "")  # 20251122T0300Z, as in the file name
    stamp = stamp[:8] if kind == "an" else stamp
    return {
        "Conventions": "CF-1.8, ACDD-1.3",
        "featureType": "timeSeries",
        "title": TITLES[kind] if title == NOT_SET else f"{title}: {TITLES[kind]}",
        "summary": SUMMARIES[kind],
        "keywords": "streamflow, river discharge, hydrology, forecast, data assimilation",
        "id": f"hydroda_{provenance.domain}_{file_kind}_{stamp}",
        "naming_authority": NOT_SET,
        **credits,
        "creator_type": "institution" if credits["institution"] != NOT_SET else NOT_SET,
        "publisher_name": credits["creator_name"],
        "publisher_email": credits["creator_email"],
        "publisher_url": credits["creator_url"],
        "source": f"hydroda {__version__}, model {provenance.model}, filter {provenance.filter}",
        "processing_level": LEVELS[kind],
        "product_version": __version__,
        "standard_name_vocabulary": "CF Standard Name Table v93",
        "comment": "A time stamp is the end of its hour, UTC. Discharge is the mean over the hour.",
        "date_created": _second(provenance.created),
        "history": f"{_second(provenance.created)} {provenance.command}",
        **time_coverage(times),
        **extent(stations["lat"].values, stations["lon"].values),
        "hydroda_product": kind,
        "hydroda_domain": provenance.domain,
        "hydroda_cycle": iso(cycle),
        "hydroda_run_kind": provenance.run_kind,
        "hydroda_start_kind": provenance.start_kind,
        "hydroda_state_age_hours": float(provenance.state_age_hours),
        "hydroda_degraded": ",".join(provenance.degraded) or "none",
        "hydroda_run_id": provenance.run_id,
        "hydroda_config_sha256": provenance.config_sha256,
        "hydroda_weights_sha256": provenance.weights_sha256,
        "hydroda_state_in_sha256": provenance.state_in_sha256,
        "hydroda_inputs_sha256": provenance.inputs_sha256,
        "hydroda_forcing_source": provenance.forcing_source,
        "hydroda_forcing_reference_time": UNKNOWN if forced is None else iso(forced),
    }


def _second(time: np.datetime64) -> str:
    return f"{np.datetime_as_string(time, unit='s')}Z"


def time_coverage(times: np.ndarray) -> dict[str, str]:
    """The ACDD time attributes: from the start of the first hour to the end of the last."""
    hours = int((times[-1] - times[0]) / HOUR) + 1
    return {
        "time_coverage_start": _second(times[0] - HOUR),
        "time_coverage_end": _second(times[-1]),
        "time_coverage_duration": f"PT{hours}H",
        "time_coverage_resolution": "PT1H",
    }


def extent(lat: np.ndarray, lon: np.ndarray) -> dict[str, str | float]:
    """The ACDD box around the stations whose position [degrees] is known, not NaN; nothing where none is."""
    placed = ~np.isnan(lat) & ~np.isnan(lon)
    if not placed.any():
        return {}
    south, north = float(lat[placed].min()), float(lat[placed].max())
    west, east = float(lon[placed].min()), float(lon[placed].max())
    corners = [(south, west), (south, east), (north, east), (north, west), (south, west)]
    outline = ", ".join(f"{y:.6f} {x:.6f}" for y, x in corners)
    flat = south == north or west == east  # one station, or several on a line: not a polygon
    return {
        "geospatial_lat_min": south,
        "geospatial_lat_max": north,
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_min": west,
        "geospatial_lon_max": east,
        "geospatial_lon_units": "degrees_east",
        "geospatial_bounds": f"LINESTRING ({outline})" if flat else f"POLYGON (({outline}))",
        "geospatial_bounds_crs": "EPSG:4326",
    }
