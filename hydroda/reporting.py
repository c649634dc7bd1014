"""The page of the newest cycle out of the store: what `report` shows, found, read and written."""

from pathlib import Path

import numpy as np
import xarray as xr

from hydroda import domain as domains
from hydroda import files, known, netcdf, report
from hydroda.domain import Domain
from hydroda.fields import MISSING
from hydroda.figures import PAST
from hydroda.schema import LEADS, hours
from hydroda.settings import Settings
from hydroda.units import HOUR

SCORES = "verify*/*/*/*/*.nc"


def write(settings: Settings, now: np.datetime64) -> Path:
    """Writes the page of the newest published cycle. Raises FileNotFoundError when there is none."""
    domain = domains.load(settings)
    cycles = domain.store.cycles("fc")
    if not cycles:
        raise FileNotFoundError(f"{domain.store.folder}: no forecast was published yet; hydroda run makes one")
    cycle = cycles[0]
    forecast = netcdf.read(domain.store.product_path("fc", cycle))
    page = report.page(forecast, _past(domain, cycle), _rain(domain, cycle), _scores(domain), now)
    path = domain.store.folder / "report.html"
    files.replace(path, page.encode())
    return path


def _past(domain: Domain, cycle: np.datetime64) -> xr.Dataset | None:
    """The analyses of the days the hydrographs show."""
    first = (cycle - PAST).astype("datetime64[D]")
    days = np.arange(first, cycle.astype("datetime64[D]") + 1).astype("datetime64[ns]")
    parts = []
    for day in days:
        try:
            parts.append(netcdf.read(domain.store.product_path("an", day)))
        except (FileNotFoundError, netcdf.DamagedFile):
            continue
    if not parts:
        return None
    varying = [name for name in parts[-1].data_vars if parts[-1][name].dims == ("time", "station")]
    named = [part.swap_dims(station="station_id")[varying].reset_coords(drop=True) for part in parts]
    together = xr.concat(named, "time", join="outer")
    flags = {name: together[name].fillna(MISSING) for name in varying if str(name).startswith("discharge_observed_")}
    ids = together["station_id"].values
    return together.assign(flags).rename(station_id="station").assign_coords(station_id=("station", ids))


def _rain(domain: Domain, cycle: np.datetime64) -> xr.DataArray | None:
    """Rain [mm/h] of the past, and of the lead hours as forecast by the cycle."""
    ids = [station.id for station in domain.stations]
    past, ahead = hours(cycle - PAST, cycle), cycle + LEADS * HOUR
    records = domain.store.observations(ids, past[0], past[-1])
    until = domain.settings.known_by(cycle)
    seen = known.as_known(records, ids, past, until)["precipitation"]
    told = known.forecast_table(domain.store.forecasts(ids, ahead[0], ahead[-1]), ids)
    coming = known.newest_forecast(told, ahead, until)[0]["precipitation"]
    if domain.settings.forcing.forecast == "none":
        coming = np.full_like(coming, np.nan)
    return xr.DataArray(
        np.concatenate((seen, coming)),
        {"time": np.concatenate((past, ahead)), "station_id": ids},
        ("time", "station_id"),
    )


def _scores(domain: Domain) -> xr.Dataset | None:
    """The newest scores that can be read."""
    found = sorted(domain.store.folder.glob(SCORES), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        try:
            return netcdf.read(path)
        except (netcdf.DamagedFile, FileNotFoundError):
            continue
    return None
