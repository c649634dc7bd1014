"""The page of the newest cycle out of the store: what `report` shows, found, read and written."""

import logging
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda import domain as domains
from hydroda.domain import Domain
from hydroda.forecast import known
from hydroda.pages import drawing, figures, report
from hydroda.pages.figures import PAST
from hydroda.publishing import fields
from hydroda.publishing.fields import MISSING
from hydroda.schema import LEADS, hours
from hydroda.settings import Settings
from hydroda.storage import files, netcdf
from hydroda.units import HOUR, iso
from hydroda.verifying import scoring

log = logging.getLogger(__name__)
SHOWN = (1, 3, 6, 12, 24)
ENOUGH = 100  # forecasts a score must rest on to be shown
SCORES = "verify*/*/*/*/*.nc"


def write(settings: Settings, now: np.datetime64) -> Path:
    """Writes the page of the newest published cycle. Raises FileNotFoundError when there is none."""
    domain = domains.load(settings)
    forecast, _ = _newest(domain)
    cycle = forecast.forecast_reference_time.values[()]
    page = report.page(forecast, _past(domain, cycle), _rain(domain, cycle), _scores(domain), now, domain.lacking)
    path = domain.store.folder / "report.html"
    files.replace(path, page.encode())
    return path


def draw(settings: Settings) -> list[Path]:
    """Writes the hydrograph of every station of the newest published cycle. Raises FileNotFoundError."""
    domain = domains.load(settings)
    forecast, _ = _newest(domain)
    cycle = forecast.forecast_reference_time.values[()]
    past, rain = _past(domain, cycle), _rain(domain, cycle)
    paths = []
    for i, station in enumerate(forecast.station_id.values.tolist()):  # the settings may have others by now
        seen, fallen = fields.of(past, "station", station), fields.of(rain, "station_id", station)
        figure = figures.hydrograph(forecast.isel(station=i), seen, fallen)
        paths.append(domain.store.folder / f"hydrograph_{station}.png")
        files.replace(paths[-1], drawing.png(figure))
    return paths


def table(settings: Settings) -> str:
    """The newest published forecast in a few lines. Raises FileNotFoundError."""
    forecast, path = _newest(domains.load(settings))
    cycle = forecast.forecast_reference_time.values[()]
    at = np.searchsorted(forecast.forecast_period.values, SHOWN)
    lines = [
        f"discharge [m3/s] forecast at {iso(cycle)}, best estimate and 90 % interval",
        " " * 10 + "".join(f"{f'+{lead} h':>22}" for lead in SHOWN),
    ]
    for i, station in enumerate(forecast["station_id"].values):
        best, low, high = (forecast[f"discharge{q}"].values[at, i] for q in ("", "_q05", "_q95"))
        cells = (f"{b:.3g} ({a:.3g} - {c:.3g})" for b, a, c in zip(best, low, high, strict=True))
        lines.append(f"{station:10}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join([*lines, f"forecast  {path}"])


def _newest(domain: Domain) -> tuple[xr.Dataset, Path]:
    for cycle in domain.store.cycles("fc"):
        path = domain.store.product_path("fc", cycle)
        try:
            return netcdf.read(path), path
        except netcdf.DamagedFile as damage:
            log.warning("%s; an older forecast is shown", damage)
    raise FileNotFoundError(f"{domain.store.folder}: there is no forecast that can be read; hydroda run makes one")


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
    named = [
        part.swap_dims(station="station_id")[[name for name in varying if name in part]].reset_coords(drop=True)
        for part in parts
    ]
    together = xr.concat(named, "time", join="outer")
    flags = {name: together[name].fillna(MISSING) for name in varying if str(name).startswith("discharge_observed_")}
    ids = together["station_id"].values
    return together.assign(flags).rename(station_id="station").assign_coords(station_id=("station", ids))


def _rain(domain: Domain, cycle: np.datetime64) -> xr.DataArray:
    """Rain [mm/h] of the past, and of the lead hours as forecast by the cycle."""
    ids = [station.id for station in domain.stations]
    past, ahead = hours(cycle - PAST, cycle), cycle + LEADS * HOUR
    records = domain.store.observations(ids, past[0], past[-1])
    until = domain.settings.known_by(cycle)
    seen = known.in_range(known.as_known(records, ids, past, until)["precipitation"], "precipitation")
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
    """Those of the newest day until which there are scores that can be read and rest on enough forecasts to say
    anything; of several, those that rest on most."""
    days: dict[str, dict[str, Path]] = {}
    for path in sorted(domain.store.folder.glob(SCORES)):
        kind, _, until = path.stem.removeprefix("hydroda_").rpartition("_")
        days.setdefault(until[:8], {})[kind] = path  # the last of a day
    for day in sorted(days, reverse=True):
        found = [scores for path in days[day].values() if (scores := _read(path)) is not None]
        best = max(found, key=lambda scores: int(scores.attrs["hydroda_issue_times"]), default=None)
        if best is not None and int(best.attrs["hydroda_issue_times"]) >= ENOUGH:
            return best
    return None


def _read(path: Path) -> xr.Dataset | None:
    try:
        return scoring.read(path)
    except (netcdf.DamagedFile, FileNotFoundError):
        return None
