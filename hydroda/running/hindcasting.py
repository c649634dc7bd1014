"""Forecasts of past hours as they would have been made then, month by month, kept in one archive per month.

Hour by hour the trail of every group moves on, so no hour is assimilated twice unless later news demand it; the
forecasts of many hours are rolled out together. A month whose archive is there, made of the same inputs, is skipped.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda import domain as domains
from hydroda.domain import Domain
from hydroda.forecast import known, window
from hydroda.forecast.known import Changes, ForecastTable
from hydroda.forecast.ledger import Ledger
from hydroda.forecast.window import CONTEXT, Lead, View
from hydroda.progress import Progress, silent
from hydroda.running import archive, release, restart
from hydroda.running.forecasting import Outlook, Trail, advance, outlook
from hydroda.running.groups import Group, grouped
from hydroda.running.release import Issued
from hydroda.running.start import begin, trailing
from hydroda.schema import LEADS, hours, months
from hydroda.settings import Settings
from hydroda.storage import netcdf
from hydroda.storage.records import ALWAYS
from hydroda.units import HOUR, check_period, hour_number, iso
from hydroda.verifying.verification import DIMS

log = logging.getLogger(__name__)
BELIEF = "belief-hindcast"  # of each forcing its own, since ledgers differ
ROWS = 8192  # forecasts rolled out together


@dataclass(frozen=True)
class Run:
    """A group on its way through a month: where it stands, how it started, and what it may see by its clock.

    The ledger is that of the newest forecast rolled out, which may lie behind the trail.
    """

    group: Group
    trail: Trail
    ledger: Ledger
    start_kind: str
    start_age: int
    view: View
    changes: Changes
    later: View  # the same hours as they were known in the end
    weather: ForecastTable
    origin: int  # hour of the first row of the views
    clock: np.datetime64 = ALWAYS


Waiting = list[tuple[int, Trail, Lead]]  # forecasts to be rolled out together: position of the cycle, window, weather


def hindcast(
    settings: Settings,
    start: np.datetime64,
    end: np.datetime64,
    *,
    forcing: str = "observed",
    products: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """The archives (one a month) of the forecasts of every hour from `start` to `end`; also their product files.

    `forcing` of the lead hours: observed, none or archived. Live products and beliefs are not touched. Raises
    ValueError when no catchment can be forecast, and of a period as `units.check_period`; lock.Busy.
    """
    check_period(start, end)
    domain = domains.load(settings)
    groups, lacking = grouped(domain)
    if not groups:
        raise ValueError("; ".join(f"{name} {why}" for name, why in lacking.items()) or "there is no catchment")
    for name, why in lacking.items():
        log.warning("%s %s", name, why)
    domain = replace(domain, lacking=lacking)
    total = hour_number(end) - hour_number(start) + 1
    paths: list[Path] = []
    with domain.store.lock("hindcast"):
        domain.store.remove_stale_temporaries()
        runs: list[Run] = []
        for cycles in months(hours(start, end)):

            def told(count: int, cycle: np.datetime64, first: np.datetime64 = cycles[0]) -> None:
                progress((hour_number(first) - hour_number(start) + count) / total, iso(cycle))

            path, runs = _month(domain, groups, cycles, forcing, products, runs, told)
            paths.append(path)
    return paths


def _month(
    domain: Domain,
    groups: Sequence[Group],
    cycles: np.ndarray,
    forcing: str,
    products: bool,
    before: Sequence[Run],
    told: Callable[[int, np.datetime64], None],
) -> tuple[Path, list[Run]]:
    """The archive of a month, and where its groups stand after it; if it was there, nowhere: the store knows."""
    path, attrs = domain.store.archive_path(forcing, cycles[0]), archive.attributes(domain, groups, forcing)
    records = archive.stored(domain, groups, cycles[0])
    inputs = archive.inputs(domain, records, forcing, cycles[0])
    belief = domain.store.belief_path(cycles[-1], f"{BELIEF}-{forcing}")
    standing = archive.standing(path, attrs)
    fresh = standing is not None and standing.attrs[archive.INPUTS] == inputs
    complete = standing is not None and fresh and np.isin(cycles, standing[DIMS[0]].values).all()
    if complete and not products and netcdf.sidecar_path(belief).exists():
        told(cycles.size, cycles[-1])
        return path, []
    begun: Sequence[Run | None] = before or [None] * len(groups)
    runs = [_enter(domain, g, cycles, forcing, run, *records) for g, run in zip(groups, begun, strict=True)]
    waiting: list[Waiting] = [[] for _ in runs]
    networks = max(0 if n is None else n.seeds for n in (group.batch.networks for group in groups))
    columns = archive.columns(domain, cycles, networks)
    for place, cycle in enumerate(cycles):
        runs = [_moved(domain, run, cycle) for run in runs]
        for run, queue in zip(runs, waiting, strict=True):
            queue.append((place, run.trail, _lead(run, cycle, forcing)))
        if products:
            runs = _publish(domain, cycle, cycles[-1], runs, waiting, columns, forcing)
        for i, (run, queue) in enumerate(zip(runs, waiting, strict=True)):
            if len(queue) * len(run.group.ids) >= ROWS or (queue and cycle == cycles[-1]):
                _, runs[i] = _roll_out(run, queue, columns)
        told(place + 1, cycle)
    dataset = archive.dataset(domain, cycles, columns, attrs | {archive.INPUTS: inputs})
    netcdf.write(dataset if standing is None else archive.merged(standing, dataset, fresh), path, record_dim=DIMS[0])
    saved = [trailing(run.group, run.trail, run.ledger) for run in runs]
    netcdf.write(restart.dataset(saved), belief, record_dim=None)
    return path, runs


def _enter(
    domain: Domain,
    group: Group,
    cycles: np.ndarray,
    forcing: str,
    before: Run | None,
    records: xr.Dataset,
    told: xr.Dataset,
) -> Run:
    """A group at the beginning of a month, on its way already or from the start that a live run would find, with the
    observations and weather forecasts of the month."""
    if before is None:
        start = begin(domain, group, cycles[0], f"{BELIEF}-{forcing}")
        trail, ledger, kind, age = Trail(start.moment, None, ()), start.ledger, start.kind, start.age
    else:
        trail, ledger, kind, age = before.trail, before.ledger, before.start_kind, before.start_age
    first = cycles[0] - (domain.settings.cycle.window_hours + CONTEXT) * HOUR
    stretch = hours(first, cycles[-1] + LEADS.size * HOUR)
    return Run(
        group=group,
        trail=trail,
        ledger=ledger,
        start_kind=kind,
        start_age=age,
        view=window.load(records, group.places, stretch, stretch + domain.settings.cut_off),
        changes=known.late(records, group.ids, stretch, domain.settings.cut_off),
        later=window.load(records, group.places, stretch, None),
        weather=known.forecast_table(told, group.ids),
        origin=hour_number(stretch[0]),
    )


def _moved(domain: Domain, run: Run, cycle: np.datetime64) -> Run:
    """A group with its window moved to a cycle and its clock to the cut-off of that."""
    settings, until = domain.settings, domain.settings.known_by(cycle)
    window.learn(run.view, run.changes, run.clock, until)
    first = max(run.trail.base.hour + 1, hour_number(cycle) - settings.cycle.window_hours + 1)
    trail = advance(run.group, run.trail, run.view, run.origin, first, cycle)
    return replace(run, trail=trail, clock=until)


def _lead(run: Run, cycle: np.datetime64, forcing: str) -> Lead:
    seen = run.later if forcing == "observed" else run.view
    return window.lead(seen, hour_number(cycle) - run.origin, forcing, run.group.forcings, run.weather, run.clock)


def _publish(
    domain: Domain,
    cycle: np.datetime64,
    last: np.datetime64,
    runs: Sequence[Run],
    waiting: Sequence[Waiting],
    columns: dict[str, np.ndarray],
    forcing: str,
) -> list[Run]:
    """The product files of a cycle, the analysis at the end of each day; rolled out alone, as a live run does it."""
    issued, moved = [], []
    for run, queue in zip(runs, waiting, strict=True):
        _, trail, lead = queue[0]
        (ahead,), run = _roll_out(run, queue, columns)
        issued.append(
            Issued(
                group=run.group,
                trail=trail,
                lead=lead,
                outlook=ahead,
                ledger=run.ledger,
                view=run.view,
                row=hour_number(cycle) - run.origin,
                start_kind=run.start_kind,
                start_age=run.start_age,
            )
        )
        moved.append(replace(run, start_kind="warm", start_age=domain.settings.cycle.window_hours))
    of_day = cycle == last or (cycle + HOUR).astype("datetime64[D]") != cycle.astype("datetime64[D]")
    release.write(domain, cycle, issued, domain.lacking, "hindcast", forcing, day_too=of_day)
    return moved


def _roll_out(run: Run, queue: Waiting, columns: dict[str, np.ndarray]) -> tuple[list[Outlook], Run]:
    """The forecasts that wait, together, also into the columns of the archive, and the run with its ledger after."""
    places, trails, leads = zip(*queue, strict=True)
    queue.clear()
    issued, ledger = outlook(run.group, trails, leads, run.ledger)
    for place, ahead in zip(places, issued, strict=True):
        archive.fill(columns, place, run.group.columns, ahead)
    return issued, replace(run, ledger=ledger)
