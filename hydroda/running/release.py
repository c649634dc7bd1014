"""What a cycle came to, all groups of catchments together, as files: of live runs and of hindcasts alike."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from hydroda.domain import Domain
from hydroda.forecast import choice, ledger, window
from hydroda.forecast.ledger import Ledger
from hydroda.forecast.window import Lead, View
from hydroda.publishing import day, gauge_bias, products, publish
from hydroda.publishing.attributes import Provenance, run_id
from hydroda.publishing.fields import MISSING
from hydroda.running import restart
from hydroda.running.forecasting import RECENT, Outlook, Trail
from hydroda.running.groups import Group
from hydroda.schema import VARIABLES, hours
from hydroda.storage import netcdf
from hydroda.units import HOUR, end_of_hour, hour_number, iso, m3_per_second, utc_now
from hydroda.vocabulary import START_KINDS

log = logging.getLogger(__name__)
DAY = 24 * HOUR


class Issued(NamedTuple):
    """What one cycle came to for one group."""

    group: Group
    trail: Trail
    lead: Lead
    outlook: Outlook
    ledger: Ledger
    view: View
    row: int  # of the cycle in the view
    start_kind: str
    start_age: int


def degraded(issued: Sequence[Issued], failed: Mapping[str, str], forcing: str) -> tuple[str, ...]:
    """Why the products of a cycle are less than they could be."""
    unseen = sum(int((~(i.outlook.newest.age <= RECENT)).sum()) for i in issued)
    blind = sum(int(i.lead.assumed.any(0).sum()) for i in issued)
    dry = sum(int(i.view.rain_assumed[i.row - 23 : i.row + 1].any(0).sum()) for i in issued)
    back = sum(int((i.outlook.method != i.outlook.chosen).any(0).sum()) for i in issued)
    reset = sum(int(i.trail.analyses[-1].repaired.sum()) for i in issued)
    lost = sum(int((i.outlook.status == MISSING).any(0).sum()) for i in issued)
    counts = {
        "forecast_missing": lost,
        "forcing_none" if forcing == "none" else "forcing_missing": blind,
        "obs_missing": unseen,
        "rain_missing": dry,
        "belief_reset": reset,
        "networks_missing": sum(len(i.group.blind) for i in issued),
        "method_stood_back": back,
        "station_failed": len(failed),
    }
    return tuple(f"{name}:{count}" for name, count in counts.items() if count)


def write(
    domain: Domain,
    cycle: np.datetime64,
    issued: Sequence[Issued],
    failed: Mapping[str, str],
    run_kind: str,
    forcing: str,
    *,
    day_too: bool = True,
) -> list[Path]:
    """Publishes the products of a cycle and returns their paths, the forecast first."""
    store, suffix = domain.store, "-hindcast" if run_kind == "hindcast" else ""
    provenance = _provenance(domain, issued, failed, run_kind, forcing)
    spread = _columns(domain, [(i.group, i.outlook.spread) for i in issued])
    median = _columns(domain, [(i.group, i.outlook.median) for i in issued])
    open_loop = _columns(domain, [(i.group, i.outlook.open_loop) for i in issued])
    status = _columns(domain, [(i.group, i.outlook.status) for i in issued], MISSING)
    method = _columns(domain, [(i.group, choice.flags(i.outlook.method)) for i in issued], 0)
    datasets: dict[Path, xr.Dataset] = {}
    fc = store.product_path(f"fc{suffix}", cycle)
    datasets[fc] = products.forecast(
        domain.stations,
        provenance,
        cycle,
        median,
        spread,
        open_loop,
        status,
        products.Methods(method, _reasons(issued)),
    )
    members = [(i.group, i.outlook.members) for i in issued if i.outlook.members is not None]
    if members:
        ens = _columns(domain, members)
        path = store.product_path(f"ens{suffix}", cycle)
        datasets[path] = products.ensemble(domain.stations, provenance, cycle, ens, status)
    an = store.product_path(f"an{suffix}", cycle)
    if day_too:
        datasets[an] = day.merged(
            _standing(an), _analysis(domain, cycle, issued, provenance), [name for i in issued for name in i.group.ids]
        )
        before = store.product_path(f"an{suffix}", cycle - DAY)
        lasting = (_standing(before), datasets[an]) if gauge_bias.NAME in datasets[an] else ()
        for warning in gauge_bias.outside(*lasting):
            log.warning("%s: %s", iso(cycle), warning)
    digests = publish.publish(datasets)
    if not suffix:
        publish.announce(datasets, digests, store.latest_path(), _last_observed(cycle, issued))
    return list(datasets)


def _reasons(issued: Sequence[Issued]) -> str:
    """Which catchments are forecast otherwise than chosen at calibration, and why."""
    parts = {
        "stood back": [ledger.swaps_in_words(i.outlook.chosen, i.outlook.method) for i in issued],
        "near or beyond the highest flow on record": [choice.share_in_words(i.outlook.beyond) for i in issued],
    }
    return ". ".join(f"{what}: {told}" for what, whys in parts.items() if (told := _each(issued, whys)))


def _each(issued: Sequence[Issued], reasons: Sequence[Sequence[str]]) -> str:
    """The reasons that there are, each after its station."""
    every = (zip(i.group.ids, whys, strict=True) for i, whys in zip(issued, reasons, strict=True))
    return "; ".join(f"{station} {why}" for group in every for station, why in group if why)


def _columns(domain: Domain, parts: Sequence[tuple[Group, np.ndarray]], missing: float = np.nan) -> np.ndarray:
    """Arrays (…, c) of groups as one (…, station) in the order of the domain."""
    like = parts[0][1]
    whole = np.full((*like.shape[:-1], len(domain.stations)), missing, like.dtype)
    for group, values in parts:
        whole[..., group.columns] = values
    return whole


def _analysis(domain: Domain, cycle: np.datetime64, issued: Sequence[Issued], provenance: Provenance) -> xr.Dataset:
    """The hours of the day so far that the window holds."""
    start = max(hour_number(cycle.astype("datetime64[D]")), *(i.trail.base.hour + 1 for i in issued))
    count = hour_number(cycle) - start + 1
    shape = (count, len(domain.stations))
    values = {name: np.full(shape, np.nan) for name in ("estimate", "standard_error", "background", "open_loop")}
    observed, ratio = np.full(shape, np.nan), np.full(shape, np.nan)
    tests = {name: np.full(shape, MISSING, np.int8) for name in issued[0].view.settled}
    for i in issued:
        columns = i.group.columns
        for name, whole in values.items():
            runoff = np.stack([getattr(analysis, name).numpy() for analysis in i.trail.analyses[-count:]])
            whole[:, columns] = m3_per_second(runoff, domain.area[columns])
        ratio[:, columns] = np.stack([a.normalised_innovation.numpy() for a in i.trail.analyses[-count:]])
        observed[:, columns] = i.view.values["discharge"][i.row - count + 1 : i.row + 1]
        for name, whole in tests.items():
            whole[:, columns] = window.flags(i.view, name, i.row - count + 1, i.row)
    qc = tests.pop("qc")
    return day.analysis(
        domain.stations,
        provenance,
        hours(end_of_hour(start), cycle),
        observed=observed,
        observed_qc=qc,
        tests=tests,
        normalised_innovation=ratio,
        biases=_biases(domain, issued, count),
        **values,
    )


def _biases(domain: Domain, issued: Sequence[Issued], count: int) -> dict[str, day.Bias]:
    """The biases that filters estimate, in the last hours of their windows, by variable."""
    shape = count, len(domain.stations)
    found: dict[str, day.Bias] = {}

    def put(name: str, units: str, of: str, columns: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        own = found.setdefault(name, day.Bias(np.full(shape, np.nan), np.full(shape, np.nan), units, of))
        for whole, values in zip((own.values, own.standard_error), zip(*parts, strict=True), strict=True):
            whole[:, columns] = np.stack(values)

    for i in issued:
        held = [a.biases for a in i.trail.analyses[-count:] if a.biases is not None]
        columns, area = i.group.columns, domain.area[i.group.columns]
        if any(bool(b.gauge_error.any()) for b in held):
            parts = [(m3_per_second(b.gauge.numpy(), area), m3_per_second(b.gauge_error.numpy(), area)) for b in held]
            put(gauge_bias.NAME, VARIABLES["discharge"].units, "the discharge that the gauge reads", columns, parts)
        if any(bool(b.state_errors.any()) for b in held):
            for k, state in enumerate(i.group.batch.model.states):
                parts = [(b.states[:, k].numpy(), b.state_errors[:, k].numpy()) for b in held]
                put(f"{state.name}_bias", state.unit, f"the forecast of {state.long_name}", columns, parts)
    return found


def _standing(path: Path) -> xr.Dataset | None:
    """The analysis of the day as it is, None where there is none that can be read."""
    try:
        return netcdf.read(path)
    except FileNotFoundError:
        return None
    except netcdf.DamagedFile as damage:
        log.warning("%s; it is made again from the window", damage)
        return None


def _last_observed(cycle: np.datetime64, issued: Sequence[Issued]) -> dict[str, np.datetime64]:
    last: dict[str, np.datetime64] = {}
    for i in issued:
        age = i.outlook.newest.age
        last |= {name: cycle - int(a) * HOUR for name, a in zip(i.group.ids, age, strict=True) if np.isfinite(a)}
    return last


def _provenance(
    domain: Domain, issued: Sequence[Issued], failed: Mapping[str, str], run_kind: str, forcing: str
) -> Provenance:
    settings, now = domain.settings, utc_now()
    inputs, states = hashlib.sha256(), hashlib.sha256()
    for i in issued:
        states.update(restart.digest(i.trail.base).encode())
        for part in (*(i.trail.rows or ()), i.lead.forcing):
            inputs.update(np.ascontiguousarray(part).tobytes())
    kinds = {i.start_kind for i in issued}
    references = [i.lead.reference_time for i in issued if i.lead.reference_time is not None]
    return Provenance(
        domain=settings.deployment.domain,
        created=now,
        run_id=run_id(now),
        command=f"hydroda {'hindcast' if run_kind == 'hindcast' else 'run'}",
        run_kind=run_kind,
        start_kind=min(kinds, key=START_KINDS.index),
        state_age_hours=max(i.start_age for i in issued),
        degraded=degraded(issued, failed, forcing),
        config_sha256=settings.sha256,
        weights_sha256=hashlib.sha256("".join(f for i in issued for f in i.group.fingerprints).encode()).hexdigest(),
        state_in_sha256=states.hexdigest(),
        inputs_sha256=inputs.hexdigest(),
        forcing_source=forcing,
        forcing_reference_time=min(references, default=None),
        model=domain.models,
        filter=settings.filter.name,
        credits=domain.credits,
    )
