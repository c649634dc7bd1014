"""Where a run starts from: the newest stored belief that fits, an older one, or a model that is spun up."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hydroda.domain import Domain
from hydroda.filters.beliefs import joined
from hydroda.forecast import ledger, window
from hydroda.forecast.cycle import Moment, assimilate, trajectory
from hydroda.forecast.ledger import Ledger
from hydroda.forecast.window import CONTEXT
from hydroda.running import restart
from hydroda.running.forecasting import Trail
from hydroda.running.groups import Group
from hydroda.running.restart import Saved, picked
from hydroda.schema import hours as hours_between
from hydroda.storage import netcdf
from hydroda.units import HOUR, end_of_hour, hour_number

log = logging.getLogger(__name__)
SETTLE = 720  # hours a filter runs at a cold start before the window, of those the spin-up has
REPLAY = 720  # hours between an old state and the window beyond which a new start is better


class Start(NamedTuple):
    """Where a group starts: the moment at the hour before the window, how it was found, hours from it to the cycle, and
    what the ledger says until then."""

    moment: Moment
    kind: str  # of `vocabulary.START_KINDS`
    age: int
    ledger: Ledger


class _Stored(NamedTuple):
    """What is stored of one station."""

    moment: Moment
    ledger: Ledger


def begin(domain: Domain, group: Group, cycle: np.datetime64, kind: str = "belief") -> Start:
    """The moment `window_hours` before `cycle` from which the window of a group is assimilated.

    Stations with no belief that fits (none there, damaged, made with other parameters, too old) start cold.
    """
    edge = hour_number(cycle) - domain.settings.cycle.window_hours
    found = _stored(domain, group, cycle, edge, kind)
    warm = [i for i in range(len(group.ids)) if i in found]
    parts: list[tuple[list[int], Moment]] = []
    for hour in sorted({found[i].moment.hour for i in warm}):
        some = [i for i in warm if found[i].moment.hour == hour]
        moment = _together([found[i].moment for i in some])
        parts.append((some, _assimilated(domain, group, some, moment, edge, cycle)))
    cold = [i for i in range(len(group.ids)) if i not in found]
    if cold:
        parts.append((cold, _spun_up(domain, group, cold, edge, cycle)))
    order = np.argsort([i for some, _ in parts for i in some])
    together = _together([moment for _, moment in parts])
    ledgers = [found[i].ledger if i in found else ledger.empty(1) for i in range(len(group.ids))]
    oldest = min([found[i].moment.hour for i in warm], default=edge)
    how = "cold" if cold else "older_state" if oldest < edge else "warm"
    return Start(picked(together, order.tolist()), how, hour_number(cycle) - oldest, ledger.joined(ledgers))


def trailing(group: Group, trail: Trail, after: Ledger) -> Saved:
    """What the next cycle starts from: the moment at the end of the first hour of this window, and the ledger."""
    return Saved(group.ids, group.fingerprints, trail.moment(trail.base.hour + 1), after)


def _together(moments: Sequence[Moment]) -> Moment:
    """Moments of the same hour as one."""
    return Moment(moments[0].hour, joined([m.belief for m in moments]), torch.cat([m.open_loop for m in moments]))


def _stored(domain: Domain, group: Group, cycle: np.datetime64, edge: int, kind: str) -> dict[int, _Stored]:
    """For each position of a group the newest stored moment that fits, and its ledger."""
    wanted = {(name, mark): i for i, (name, mark) in enumerate(zip(group.ids, group.fingerprints, strict=True))}
    found: dict[int, _Stored] = {}
    for earlier in domain.store.cycles(kind, until=cycle - HOUR):
        if hour_number(earlier) < edge - REPLAY or len(found) == len(wanted):
            break
        path = domain.store.belief_path(earlier, kind)
        try:
            saved = restart.groups_of(netcdf.read(path))
        except (netcdf.DamagedFile, ValueError, KeyError, OSError) as error:
            log.warning("belief %s not used (%s); an older one is", path, error)
            continue
        for part in saved:
            if not edge - REPLAY <= part.moment.hour <= edge:
                continue
            for row, key in enumerate(zip(part.stations, part.fingerprints, strict=True)):
                if key in wanted and wanted[key] not in found:
                    own = ledger.skipped(ledger.picked(part.ledger, [row]), int((cycle - earlier) / HOUR) - 1)
                    found[wanted[key]] = _Stored(picked(part.moment, [row]), own)
    return found


def _assimilated(
    domain: Domain, group: Group, some: list[int], moment: Moment, edge: int, cycle: np.datetime64
) -> Moment:
    """A moment of some stations, brought to the hour `edge` with what is known at `cycle`."""
    if moment.hour == edge:
        return moment
    places = [group.places[i] for i in some]
    first, last = end_of_hour(moment.hour + 1), end_of_hour(edge)
    stretch = hours_between(first - CONTEXT * HOUR, last)
    records = domain.store.observations([place.id for place in places], stretch[0], stretch[-1])
    seen = window.load(records, places, stretch, domain.settings.known_by(cycle))
    rows = window.rows(seen, CONTEXT, stretch.size - 1, group.forcings)
    inputs = (torch.from_numpy(part) for part in rows)
    for analysis in assimilate(group.batch.rows(np.array(some)), moment, *inputs):
        moment = analysis.moment
    return moment


def _spun_up(domain: Domain, group: Group, some: list[int], edge: int, cycle: np.datetime64) -> Moment:
    """A cold start: the open loop from a plausible state over the spin-up, the filter over the end of it.

    Before the first rain that was ever reported it rains as much as on average; a model started dry stays dry for long.
    """
    places = [group.places[i] for i in some]
    batch = group.batch.rows(np.array(some))
    spin_up = domain.settings.cycle.spin_up_hours
    settle = min(SETTLE, spin_up)
    stretch = hours_between(end_of_hour(edge - spin_up + 1), end_of_hour(edge - settle))
    x = batch.model.start(batch.parameters)
    if stretch.size:
        records = domain.store.observations([place.id for place in places], stretch[0], stretch[-1])
        seen = window.load(records, places, stretch, domain.settings.known_by(cycle))
        rain = seen.forcing["precipitation"]
        early = np.logical_and.accumulate(seen.rain_assumed, axis=0)
        usual = np.where(early.all(0), 0.0, np.where(early, 0.0, rain).sum(0) / np.maximum((~early).sum(0), 1))
        seen.forcing["precipitation"][:] = np.where(early, usual, rain)
        forcing = torch.from_numpy(np.stack([seen.forcing[name] for name in group.forcings], axis=-1))
        with torch.inference_mode():
            for state in trajectory(batch.model, x, forcing, batch.parameters):
                x = state
    moment = Moment(edge - settle, batch.believe(x, edge - settle), x)
    return _assimilated(domain, group, some, moment, edge, cycle)
