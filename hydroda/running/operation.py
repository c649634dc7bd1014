"""A live cycle, from the store to the products; a group of catchments that fails does not stop the others."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydroda import domain as domains
from hydroda.domain import Domain
from hydroda.forecast import known, window
from hydroda.forecast.window import CONTEXT
from hydroda.publishing.fields import MISSING
from hydroda.running import release, restart
from hydroda.running.forecasting import Trail, advance, outlook
from hydroda.running.groups import Group, alone, grouped
from hydroda.running.release import Issued
from hydroda.running.start import begin, trailing
from hydroda.schema import LEADS, hours
from hydroda.settings import Settings
from hydroda.storage import netcdf
from hydroda.storage.store import Store
from hydroda.units import HOUR, end_of_hour, hour_number, iso, utc_now

log = logging.getLogger(__name__)
CLOCKS = np.timedelta64(2, "m")  # by which those of a scheduler and of a worker may differ


@dataclass(frozen=True)
class Done:
    """How a cycle ended: published, degraded, skipped or failed; the files that stand now; what there is to say."""

    cycle: np.datetime64
    state: str
    files: tuple[Path, ...] = ()
    message: str = ""


def run(settings: Settings, cycle: np.datetime64, *, force: bool = False, catch_up: bool = False) -> Done:
    """The forecast of one cycle from what is in the store.

    Raises lock.Busy when another run writes, ValueError for a cycle that is not due yet: it would have no observations,
    and all that is really the newest would seem old.
    """
    due = settings.cycle_at(utc_now() + CLOCKS)
    if cycle > due:
        raise ValueError(f"{iso(cycle)} is not due yet; the newest cycle is {iso(due)}")
    store = domains.store_of(settings)
    with store.lock("writer"):
        store.remove_stale_temporaries()
        path = store.product_path("fc", cycle)
        if not force and _holds_forecasts(path) and netcdf.sidecar_path(store.belief_path(cycle)).exists():
            return Done(cycle, "skipped", (path,), "is there already")
        domain = domains.load(settings)
        if lost := _lost(domain, cycle):
            return Done(cycle, "failed", (), lost)
        groups, failed = grouped(domain)
        issued = []
        for group in groups:
            made, wrong = _tried(domain, group, cycle)
            issued += made
            failed |= wrong
        if not issued:
            return Done(cycle, "failed", (), _told(failed) or "there is no catchment in the settings")
        kind = "catch_up" if catch_up else "operational"
        paths = release.write(domain, cycle, issued, failed, kind, settings.forcing.forecast)
        saved = restart.dataset([trailing(i.group, i.trail, i.ledger) for i in issued])
        netcdf.write(saved, store.belief_path(cycle), record_dim=None)
        store.retention(cycle)
        reasons = release.degraded(issued, failed, settings.forcing.forecast)
        message = ", ".join(filter(None, (*reasons, _told(failed))))
        if all((one.outlook.status == MISSING).all() for one in issued):
            return Done(cycle, "failed", tuple(paths), f"no catchment has a forecast: {message}")
        return Done(cycle, "degraded" if reasons else "published", tuple(paths), message)


def missed(settings: Settings, target: np.datetime64) -> list[np.datetime64]:
    """The cycles before a target that were not made, as `steps.missed` says."""
    store = domains.store_of(settings)
    done = store.cycles("belief", until=target)
    oldest = target - settings.cycle.catch_up_hours * HOUR
    edge = oldest - settings.cycle.window_hours * HOUR
    if not done or not _known_since(store, [catchment.id for catchment in settings.catchments], edge, target):
        return []
    return list(hours(max(done[0] + HOUR, oldest), target - HOUR))


def _known_since(store: Store, ids: Sequence[str], edge: np.datetime64, cycle: np.datetime64) -> bool:
    """Whether there is a belief, or an observation of any of these stations, of the hours from `edge` to a cycle."""
    beliefs = store.cycles("belief", until=cycle)
    return bool(beliefs and beliefs[0] >= edge) or bool(store.observations(ids, edge, cycle).sizes["record"])


def _holds_forecasts(path: Path) -> bool:
    """Whether there is a product that can be read, and a forecast of any catchment in it: an hour that failed is made
    again when it is asked for."""
    try:
        return bool(np.isfinite(netcdf.read(path)["discharge"].values).any())
    except (FileNotFoundError, KeyError, netcdf.DamagedFile):
        return False


def _lost(domain: Domain, cycle: np.datetime64) -> str:
    """Why there is nothing to go by, where neither a belief nor any observation is of the hours of the window."""
    edge, ids = cycle - domain.settings.cycle.window_hours * HOUR, [station.id for station in domain.stations]
    if _known_since(domain.store, ids, edge, cycle):
        return ""
    newest = [hour for i in ids if (hour := domain.store.newest(i)) is not None]
    ago = f"; the newest discharge is of {iso(max(newest))}, and run --cycle makes a forecast of then" if newest else ""
    return f"there are no observations from {iso(edge)} on{ago}"


def _told(failed: Mapping[str, str]) -> str:
    return "; ".join(f"{station} {why}" for station, why in failed.items())


def _tried(domain: Domain, group: Group, cycle: np.datetime64) -> tuple[list[Issued], dict[str, str]]:
    """The forecast of a group, and why there is none of some stations; where a group fails, each is tried alone."""
    try:
        return [_issue(domain, group, cycle)], {}
    except Exception as error:
        log.exception("%s: %s", iso(cycle), ", ".join(group.ids))
        if len(group.ids) == 1:
            return [], {group.ids[0]: f"{type(error).__name__}: {error}"}
    issued: list[Issued] = []
    failed: dict[str, str] = {}
    for one in alone(domain, group):
        made, wrong = _tried(domain, one, cycle)
        issued += made
        failed |= wrong
    return issued, failed


def _issue(domain: Domain, group: Group, cycle: np.datetime64) -> Issued:
    """The live forecast of a group."""
    settings = domain.settings
    start = begin(domain, group, cycle)
    stretch = hours(end_of_hour(start.moment.hour + 1) - CONTEXT * HOUR, cycle)
    records = domain.store.observations(group.ids, stretch[0], stretch[-1])
    view = window.load(records, group.places, stretch, settings.known_by(cycle))
    archive = None
    if settings.forcing.forecast == "archived":
        told = domain.store.forecasts(group.ids, cycle + HOUR, cycle + LEADS.size * HOUR)
        archive = known.forecast_table(told, group.ids)
    trail = advance(group, Trail(start.moment, None, ()), view, hour_number(stretch[0]), start.moment.hour + 1, cycle)
    row = stretch.size - 1
    lead = window.lead(view, row, settings.forcing.forecast, group.forcings, archive, settings.known_by(cycle))
    (ahead,), after = outlook(group, [trail], [lead], start.ledger)
    return Issued(group, trail, lead, ahead, after, view, row, start_kind=start.kind, start_age=start.age)
