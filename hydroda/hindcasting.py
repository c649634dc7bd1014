"""Forecasts of past hours as they would have been made then, month by month, kept in one archive per month.

Hour by hour the trail of every group moves on, so no hour is assimilated twice unless later news demand it; the
forecasts of many hours are rolled out together. A month whose archive is there, made of the same inputs, is skipped.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hydroda import __version__, choice, fields, known, netcdf, predictive, release, restart, window
from hydroda import domain as domains
from hydroda.domain import Domain
from hydroda.fields import METHOD_ATTRIBUTES
from hydroda.forecasting import Outlook, Trail, advance, outlook
from hydroda.groups import Group, grouped
from hydroda.known import Changes, ForecastTable
from hydroda.ledger import Ledger
from hydroda.progress import Progress, silent
from hydroda.records import ALWAYS
from hydroda.release import Issued
from hydroda.schema import LEADS, QUANTILES, VARIABLES, hours, months, quantile_name
from hydroda.settings import Settings
from hydroda.start import begin, trailing
from hydroda.units import HOUR, floor_hour, hour_number, iso
from hydroda.verification import AGE, CHANGE, DIMS, EACH, OWN
from hydroda.window import CONTEXT, Lead, View

log = logging.getLogger(__name__)
METHOD = "discharge_method"  # by which each value was issued
BELIEF = "belief-hindcast"  # of each forcing its own, since ledgers differ
ROWS = 8192  # forecasts rolled out together
INPUTS = "hydroda_inputs_sha256"


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
    archive: ForecastTable
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
    ValueError when no catchment can be forecast or a time is not a full hour, lock.Busy.
    """
    for time in (start, end):
        if time != floor_hour(time):
            raise ValueError(f"{iso(time)} is not a full hour; the nearest one before it is {iso(floor_hour(time))}")
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
    path, attrs = domain.store.archive_path(forcing, cycles[0]), _attributes(domain, forcing)
    inputs = _inputs(domain, groups, cycles[0])
    belief = domain.store.belief_path(cycles[-1], f"{BELIEF}-{forcing}")
    standing = _standing(path, attrs)
    fresh = standing is not None and standing.attrs.get(INPUTS, inputs) == inputs  # earlier versions did not say
    complete = standing is not None and fresh and np.isin(cycles, standing[DIMS[0]].values).all()
    if complete and not products and netcdf.sidecar_path(belief).exists():
        told(cycles.size, cycles[-1])
        return path, []
    runs = [_enter(domain, group, cycles, forcing, before[i] if before else None) for i, group in enumerate(groups)]
    waiting: list[Waiting] = [[] for _ in runs]
    columns = _columns(domain, cycles, max(0 if n is None else n.seeds for n in (g.batch.networks for g in groups)))
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
    dataset = _dataset(domain, cycles, columns, attrs | {INPUTS: inputs})
    netcdf.write(dataset if standing is None else _merged(standing, dataset), path, record_dim=DIMS[0])
    saved = [trailing(run.group, run.trail, run.ledger) for run in runs]
    netcdf.write(restart.dataset(saved), belief, record_dim=None)
    return path, runs


def _enter(domain: Domain, group: Group, cycles: np.ndarray, forcing: str, before: Run | None) -> Run:
    """A group at the beginning of a month, on its way already or from the start that a live run would find."""
    if before is None:
        start = begin(domain, group, cycles[0], f"{BELIEF}-{forcing}")
        trail, ledger, kind, age = Trail(start.moment, None, ()), start.ledger, start.kind, start.age
    else:
        trail, ledger, kind, age = before.trail, before.ledger, before.start_kind, before.start_age
    first = cycles[0] - (domain.settings.cycle.window_hours + CONTEXT) * HOUR
    stretch = hours(first, cycles[-1] + LEADS.size * HOUR)
    records = domain.store.observations(group.ids, stretch[0], stretch[-1])
    told = domain.store.forecasts(group.ids, cycles[0] + HOUR, stretch[-1])
    return Run(
        group=group,
        trail=trail,
        ledger=ledger,
        start_kind=kind,
        start_age=age,
        view=window.load(records, group.places, stretch, stretch + domain.settings.cut_off),
        changes=known.late(records, group.ids, stretch, domain.settings.cut_off),
        later=window.load(records, group.places, stretch, None),
        archive=known.forecast_table(told, group.ids),
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
    return window.lead(seen, hour_number(cycle) - run.origin, forcing, run.group.forcings, run.archive, run.clock)


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
        _fill(columns, place, run.group.columns, ahead)
    return issued, replace(run, ledger=ledger)


def _fill(columns: dict[str, np.ndarray], place: int, at: np.ndarray, ahead: Outlook) -> None:
    columns["discharge"][place][:, at] = ahead.median
    columns["discharge_open_loop"][place][:, at] = ahead.open_loop
    columns[METHOD][place][:, at] = choice.flags(ahead.method)
    for name in OWN:
        if name in ahead.candidates:
            columns[f"discharge_{name}"][place][:, at] = ahead.candidates[name]
    if ahead.networks is not None:
        columns[EACH][place][:, : ahead.networks.shape[1], at] = ahead.networks
    for level in QUANTILES:
        columns[quantile_name(level)][place][:, at] = predictive.quantile(ahead.median, ahead.spread, level)
    columns["observed_at_issue"][place, at] = ahead.newest.observed
    columns[CHANGE][place, at] = ahead.newest.change
    columns["open_loop_at_issue"][place, at] = ahead.newest.open_loop
    columns[AGE][place, at] = ahead.newest.age


def _columns(domain: Domain, cycles: np.ndarray, networks: int) -> dict[str, np.ndarray]:
    """What an archive holds, missing yet; of each of so many networks too."""
    ahead = (cycles.size, LEADS.size, len(domain.stations))
    each = {EACH: np.full((*ahead[:2], networks, ahead[2]), np.nan, np.float32)} if networks else {}
    names = ("discharge", *map(quantile_name, QUANTILES), "discharge_open_loop", *(f"discharge_{name}" for name in OWN))
    at_issue = ("observed_at_issue", CHANGE, "open_loop_at_issue", AGE)
    return (
        {name: np.full(ahead, np.nan, np.float32) for name in names}
        | {name: np.full((ahead[0], ahead[2]), np.nan, np.float32) for name in at_issue}
        | {METHOD: np.zeros(ahead, np.int8)}
        | each
    )


def _dataset(domain: Domain, cycles: np.ndarray, columns: dict[str, np.ndarray], attrs: dict[str, str]) -> xr.Dataset:
    axes = {2: (DIMS[0], DIMS[2]), 3: DIMS, 4: (*DIMS[:2], "network", DIMS[2])}
    data = {name: (axes[values.ndim], values, _described(name)) for name, values in columns.items()}
    ids = np.array([station.id for station in domain.stations])
    coords: dict[str, Any] = {
        DIMS[0]: (DIMS[0], cycles, {"standard_name": "forecast_reference_time", "long_name": "issue time"}),
        DIMS[1]: (DIMS[1], LEADS, fields.lead_time(DIMS[1]).attrs),
        DIMS[2]: (DIMS[2], ids, {"standard_name": "platform_id", "long_name": "station identifier"}),
    }
    if EACH in columns:
        number = 1 + np.arange(columns[EACH].shape[2], dtype=np.int32)
        coords["network"] = "network", number, {"long_name": "number of the network", "units": "1"}
    told = {
        "Conventions": "CF-1.8",
        "institution": domain.credits.institution,
        "source": f"hydroda {__version__}, model {attrs['model']}, filter {attrs['filter']}",
        "history": f"hindcasts by hydroda {__version__}",
        "comment": "Discharge is the mean over the hour that ends forecast_period after forecast_reference_time, UTC.",
    }
    return xr.Dataset(data, coords, told | attrs)


def _described(name: str) -> dict[str, Any]:
    """The attributes of a variable of an archive."""
    if name == METHOD:
        return METHOD_ATTRIBUTES
    if name == AGE:
        return {"long_name": "age of the newest observation at issue time", "units": "hours"}
    words = name.replace("_at_issue", " at issue time").replace("discharge_q", "quantile of discharge, percent ")
    return {
        "long_name": words.replace("_", " "),
        "standard_name": fields.DISCHARGE,
        "units": VARIABLES["discharge"].units,
    }


def _merged(standing: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """Both, by rising issue time; of an hour in both the new one."""
    others = ~np.isin(standing[DIMS[0]].values, new[DIMS[0]].values)
    kept = standing.isel({DIMS[0]: others})
    return xr.concat([kept, new], DIMS[0], join="exact").sortby(DIMS[0]).assign_attrs(new.attrs)


def _attributes(domain: Domain, forcing: str) -> dict[str, str]:
    """What an archive was made with; one made with something else is made again."""
    settings = domain.settings
    members = [member.content() for member in domain.members]
    weights = hashlib.sha256(json.dumps(members, sort_keys=True).encode())
    return {
        "title": "hindcasts of hourly streamflow for verification",
        "domain": settings.deployment.domain,
        "forcing": forcing,
        "model": domain.models,
        "filter": settings.filter.name,
        "hydroda_config_sha256": settings.sha256,
        "hydroda_weights_sha256": weights.hexdigest(),
    }


def _inputs(domain: Domain, groups: Sequence[Group], cycle: np.datetime64) -> str:
    """SHA-256 of what is stored of the month of a cycle, from its first window to its last lead hour."""
    month = cycle.astype("datetime64[M]")
    first = month.astype("datetime64[ns]") - (domain.settings.cycle.window_hours + CONTEXT) * HOUR
    last = (month + 1).astype("datetime64[ns]") + LEADS.size * HOUR
    ids, digest = [name for group in groups for name in group.ids], hashlib.sha256()
    for records in (domain.store.observations(ids, first, last), domain.store.forecasts(ids, first, last)):
        for column in records.variables.values():
            values = column.values
            digest.update("\n".join(values).encode() if values.dtype.kind == "U" else values.tobytes())
    return digest.hexdigest()


def _standing(path: Path, attrs: dict[str, str]) -> xr.Dataset | None:
    """The archive that is there, if it was made with the same settings and parameters."""
    try:
        standing = netcdf.read(path)
    except FileNotFoundError:
        return None
    except netcdf.DamagedFile as damage:
        log.warning("%s; the month is made again", damage)
        return None
    same = all(str(standing.attrs.get(key)) == value for key, value in attrs.items())
    return standing if same and CHANGE in standing else None  # there is none in those of earlier versions
