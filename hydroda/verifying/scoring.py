"""Scores of a period out of the store: hindcasts or what was really published, against what was observed in the end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda import domain as domains
from hydroda.domain import Domain
from hydroda.forecast import known, window
from hydroda.forecast.window import CONTEXT, View
from hydroda.publishing import products, publish
from hydroda.publishing.attributes import Provenance, run_id
from hydroda.quality import FAIL
from hydroda.schema import LEADS, hours, months
from hydroda.settings import Settings
from hydroda.storage import netcdf
from hydroda.storage.records import ALWAYS
from hydroda.units import HOUR, iso, utc_now
from hydroda.verifying import verification
from hydroda.verifying.verification import AGE, CHANGE, DIMS, Sample
from hydroda.vocabulary import LEAD_FORCINGS

FIELDS = [name for name in verification.SERIES if not name.endswith("at_issue")]


def verify(
    settings: Settings, start: np.datetime64, end: np.datetime64, *, kind: str = "hindcast", forcing: str | None = None
) -> Path:
    """The file of scores of the forecasts issued from `start` to `end`; of periods that end alike, one of each length.
    Of operational ones that follow each other from hour to hour old ones go as old beliefs do.

    Raises ValueError when there are none, or no catchment is calibrated.
    """
    domain, days = domains.load(settings), -(-int((end - start) / HOUR) // 24)
    fitted = {member.station: member.correction for member in domain.members}
    if not fitted:
        raise ValueError("no catchment is calibrated, so there are no baselines to compare with")
    if kind == "operational":
        archives, label = [_published(domain, start, end)], f"verify-operational-{days}d"
    else:
        forcing = forcing or _only_forcing(domain, start, end)
        archives, label = _archives(domain, start, end, forcing), f"verify-hindcast-{forcing}-{days}d"
    archives = [archive.sel(station=[s for s in archive.station.values if s in fitted]) for archive in archives]
    scores = verification.verify(archives, _observed(domain, start, end), fitted)
    path = domain.store.product_path(label, end)
    product = products.scores(domain.stations, _provenance(domain, kind, scores), scores)
    publish.publish({path: product.assign_attrs(id=path.stem)})
    if kind == "operational":
        domain.store.retention(end, kind=label)
    return path


def _provenance(domain: Domain, kind: str, scores: xr.Dataset) -> Provenance:
    now, settings = utc_now(), domain.settings
    return Provenance(
        domain=settings.deployment.domain,
        created=now,
        run_id=run_id(now),
        command="hydroda verify",
        run_kind=kind,
        config_sha256=settings.sha256,
        forcing_source=scores.attrs["hydroda_forcing"],
        model=scores.attrs["hydroda_model"],
        filter=scores.attrs["hydroda_filter"],
        credits=domain.credits,
    )


def read(path: Path) -> xr.Dataset:
    """The scores of a file, stations and methods by name. Raises DamagedFile."""
    return verification.named(netcdf.read(path))


def samples(settings: Settings, start: np.datetime64, end: np.datetime64, forcing: str) -> dict[str, Sample]:
    """What is scored of each calibrated station in the hindcasts with one forcing. Raises ValueError for none."""
    domain = domains.load(settings)
    archive = verification.pool(_archives(domain, start, end, forcing))
    observed = _observed(domain, start, end)
    return {m.station: verification.common_sample(archive, observed, m.station, m.correction) for m in domain.members}


def _archives(domain: Domain, start: np.datetime64, end: np.datetime64, forcing: str) -> list[xr.Dataset]:
    parts = []
    for cycles in months(hours(start, end)):
        path = domain.store.archive_path(forcing, cycles[0])
        if path.exists():
            archive = netcdf.read(path)
            parts.append(archive.sel({DIMS[0]: np.isin(archive[DIMS[0]].values, cycles)}))
    if not parts:
        raise ValueError(
            f"there are no hindcasts with {forcing} forcing from {iso(start)} to {iso(end)}; make them first: "
            f"hydroda hindcast {iso(start)} {iso(end)} --forcing {forcing}"
        )
    return parts


def _only_forcing(domain: Domain, start: np.datetime64, end: np.datetime64) -> str:
    """The one forcing there are hindcasts with."""
    firsts = [cycles[0] for cycles in months(hours(start, end))]
    found = [f for f in LEAD_FORCINGS if any(domain.store.archive_path(f, first).exists() for first in firsts)]
    if len(found) > 1:
        raise ValueError(f"there are hindcasts with {' and '.join(found)} forcing; say which: --forcing {found[0]}")
    return found[0] if found else "observed"


def _observed(domain: Domain, start: np.datetime64, end: np.datetime64) -> xr.DataArray:
    """Discharge (time, station) of all valid times, as known in the end, without what failed quality control."""
    stretch = hours(start - CONTEXT * HOUR, end + LEADS.size * HOUR)
    ids = [member.station for member in domain.members]
    view = window.load(domain.store.observations(ids, stretch[0], stretch[-1]), domain.places, stretch, None)
    values = np.where(view.settled["qc"] == FAIL, np.nan, view.values["discharge"])
    return xr.DataArray(values, {"time": stretch, "station": ids}, ("time", "station"))


def _published(domain: Domain, start: np.datetime64, end: np.datetime64) -> xr.Dataset:
    """What was published in a period, in the form of an archive of hindcasts."""
    store = domain.store
    cycles = sorted(cycle for cycle in store.cycles("fc", until=end) if cycle >= start)
    if not cycles:
        raise ValueError(f"no forecasts were published from {iso(start)} to {iso(end)}")
    names = [station.id for station in domain.stations]
    parts = []
    for cycle in cycles:
        try:
            forecast = netcdf.read(store.product_path("fc", cycle))
        except netcdf.DamagedFile:
            continue
        one = forecast.swap_dims(time=DIMS[1], station="station_id")[FIELDS].reset_coords(drop=True)
        one = one.rename(station_id="station").assign_coords({DIMS[1]: LEADS}).reindex(station=names)
        parts.append(one.expand_dims({DIMS[0]: [cycle]}))
    if not parts:
        raise ValueError(f"none of the {len(cycles)} forecasts from {iso(start)} to {iso(end)} can be read")
    archive = xr.concat(parts, DIMS[0], join="exact")
    at_issue = {name: np.full((len(parts), len(names)), np.nan) for name in ("observed", "change", "open_loop", "age")}
    kept = archive[DIMS[0]].values
    length = domain.settings.cycle.window_hours
    stretch = hours(kept[0] - (length + CONTEXT) * HOUR, kept[-1])
    ids, cut_off = [place.id for place in domain.places], domain.settings.cut_off
    records = store.observations(ids, stretch[0], stretch[-1])
    view = window.load(records, domain.places, stretch, stretch + cut_off)
    changes = known.late(records, ids, stretch, cut_off)
    clock: np.datetime64 = ALWAYS
    open_loop = _open_loop(domain, ids, stretch)
    for i, cycle in enumerate(kept):
        until = domain.settings.known_by(cycle)
        window.learn(view, changes, clock, until)
        clock = until
        row = int((cycle - stretch[0]) / HOUR)
        for name, values in _at_issue(view, open_loop, row - length + 1, row).items():
            at_issue[name][i, domain.columns] = values
    dims = DIMS[0], DIMS[2]
    settings = domain.settings
    columns = {
        "observed_at_issue": (dims, at_issue["observed"]),
        CHANGE: (dims, at_issue["change"]),
        "open_loop_at_issue": (dims, at_issue["open_loop"]),
        AGE: (dims, at_issue["age"]),
    }
    return archive.assign(columns).assign_attrs(
        domain=settings.deployment.domain,
        forcing="as published",
        model=domain.models,
        filter=settings.filter.name,
    )


def _open_loop(domain: Domain, stations: Sequence[str], stretch: np.ndarray) -> np.ndarray:
    """Open loop (T, c) from the analyses of the days, missing where there are none."""
    values = np.full((stretch.size, len(stations)), np.nan)
    for day in np.unique(stretch.astype("datetime64[D]")):
        try:
            an = netcdf.read(domain.store.product_path("an", day.astype("datetime64[ns]")))
        except (FileNotFoundError, netcdf.DamagedFile):
            continue
        table = an.discharge_open_loop.swap_dims(station="station_id").reset_coords(drop=True)
        table = table.reindex(station_id=list(stations))
        inside = np.isin(table.time.values, stretch)
        rows = ((table.time.values[inside] - stretch[0]) / HOUR).astype(int)
        values[rows] = table.values[inside]
    return values


def _at_issue(view: View, open_loop: np.ndarray, first: int, row: int) -> dict[str, np.ndarray]:
    """What was known at the end of the window of rows first … row: the newest usable observation that has an open loop,
    that open loop, the change in the hour before, and its age, as a forecast was told it."""
    discharge, doubt = window.judged(view, first, row)
    modelled, column = open_loop[first : row + 1], np.arange(open_loop.shape[1])
    last = window.last(np.where(np.isfinite(modelled), discharge, np.nan), doubt)
    before = np.where(last.sure, discharge[last.row - 1, column], np.nan)
    found = {
        "observed": discharge[last.row, column],
        "change": discharge[last.row, column] - before,
        "open_loop": modelled[last.row, column],
        "age": last.age,
    }
    return {name: np.where(last.some, values, np.nan) for name, values in found.items()}
