"""Products become files in an order that shows no reader anything half done: data, checksum, then the pointers."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hydroda.publishing.acceptance import ProductError, check
from hydroda.publishing.fields import FLAG_VALUES, STATUS_MEANINGS
from hydroda.storage import files, netcdf
from hydroda.units import HOUR, iso, parse_utc

log = logging.getLogger(__name__)
ALERT_PROBABILITY = 0.5  # a warning level counts as reached when exceeding it is at least this probable at some lead
STATUS_NAMES = dict(zip(FLAG_VALUES.tolist(), STATUS_MEANINGS.split(), strict=True))


def publish(products: Mapping[Path, xr.Dataset]) -> dict[Path, str]:
    """Checks every product, then writes them in the order given; returns the SHA-256 of each file.

    Nothing is written when one of them is wrong (ProductError), or is a hindcast where an operational file stands. What
    stands there and cannot be read is replaced.
    """
    for path, ds in products.items():
        check(ds)
        if ds.attrs["hydroda_run_kind"] == "hindcast" and path.exists():
            try:
                standing = netcdf.read(path).attrs.get("hydroda_run_kind")
            except netcdf.DamagedFile as damage:
                log.warning("%s; it is made again", damage)
                continue
            if standing != "hindcast":
                raise ProductError(
                    f"{path} is {standing}; a hindcast does not replace it: write it under another kind or root, or "
                    "remove the file first"
                )
    return {
        path: netcdf.write(ds, path, record_dim="time" if "time" in ds.dims else None) for path, ds in products.items()
    }


def announce(
    products: Mapping[Path, xr.Dataset],
    digests: Mapping[Path, str],
    pointer: Path,
    last_observed: Mapping[str, np.datetime64],
) -> bool:
    """Lets `pointer` (latest.json) and the `.geojson` beside it tell of these published products of one cycle.

    Returns False, and leaves both as they are, when they already tell of a later cycle. `last_observed` holds the time
    of the newest observation by station. Needs the `fc` product (KeyError).
    """
    by_kind = {ds.attrs["hydroda_product"]: (path, ds) for path, ds in products.items()}
    forecast = by_kind["fc"][1]
    if _announced(pointer) > forecast.forecast_reference_time.values:
        return False
    entries = {
        kind: {
            "path": Path(os.path.relpath(path, pointer.parent)).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": digests[path],
        }
        for kind, (path, _) in by_kind.items()
    }
    current = by_kind["an"][1] if "an" in by_kind else None
    points = {
        "type": "FeatureCollection",
        "features": [
            _feature(forecast, current, i, last_observed.get(str(station)))
            for i, station in enumerate(forecast.station_id.values)
        ],
    }
    files.replace(pointer.with_suffix(".geojson"), _json(points))
    files.replace(pointer, _json({**_summary(forecast), "files": entries}))
    return True


def _announced(pointer: Path) -> np.datetime64:
    """The cycle a pointer tells of; the beginning of time where there is none or it cannot be read."""
    try:
        return parse_utc(json.loads(pointer.read_text(encoding="utf-8"))["cycle"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return np.datetime64(0, "ns")


def _summary(forecast: xr.Dataset) -> dict[str, Any]:
    """What a monitor wants to know of a cycle: a station counts by the worst status of its hours."""
    worst = forecast.discharge_status.values.max(axis=0).tolist()
    told = ["domain", "cycle", "run_kind", "start_kind", "degraded", "run_id"]
    return {
        **{name: forecast.attrs[f"hydroda_{name}"] for name in told},
        "date_created": forecast.attrs["date_created"],
        "status": STATUS_NAMES[max(worst)],
        "stations": {name: worst.count(value) for value, name in STATUS_NAMES.items()},
    }


def _feature(
    forecast: xr.Dataset, current: xr.Dataset | None, i: int, observed: np.datetime64 | None
) -> dict[str, Any]:
    """One station of the map; null is "not known"."""
    station, cycle = str(forecast.station_id.values[i]), forecast.forecast_reference_time.values[()]
    flows, lat, lon = forecast.discharge.values[:, i], float(forecast.lat.values[i]), float(forecast.lon.values[i])
    peak = None if np.isnan(flows).all() else int(np.nanargmax(flows))
    reached = {}
    for name in forecast.data_vars:
        if str(name).startswith("exceedance_probability_t"):
            values = forecast[name].values[:, i]
            reached[str(name)] = None if np.isnan(values).all() else float(np.nanmax(values))
    levels = [k for k, p in enumerate(reached.values(), start=1) if p is not None and p >= ALERT_PROBABILITY]
    return {
        "type": "Feature",
        "id": station,
        "geometry": None
        if np.isnan(lat) or np.isnan(lon)
        else {"type": "Point", "coordinates": [round((lon + 180) % 360 - 180, 6), round(lat, 6)]},
        "properties": {
            "station_id": station,
            "station_name": str(forecast.station_name.values[i]),
            "cycle": iso(cycle),
            "status": STATUS_NAMES[int(forecast.discharge_status.values[:, i].max())],
            "discharge_now": None if current is None else _now(current, station, cycle),
            "discharge_max_24h": None if peak is None else _short(flows[peak]),
            "discharge_max_24h_time": None if peak is None else iso(forecast.time.values[peak]),
            **{name: None if p is None else _short(p) for name, p in reached.items()},
            "alert_level": None if all(p is None for p in reached.values()) else max(levels, default=0),
            "data_age_hours": None if observed is None else _short((cycle - observed) / HOUR),
        },
    }


def _now(current: xr.Dataset, station: str, cycle: np.datetime64) -> float | None:
    """The analysis of the cycle's hour at one station."""
    value = current.discharge.values[np.ix_(current.time.values == cycle, current.station_id.values == station)]
    return _short(value.item()) if value.size and np.isfinite(value).all() else None


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def _json(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()
