"""One cycle after the other: assimilate a window, roll out 24 hours. Live runs, catch-up and hindcasts are this code.

A `Trail` is the window of a group as the last cycle left it. The next cycle drops its oldest hour, takes the new one,
and computes again only from the first hour of which it knows more than the last cycle did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.beliefs import joined
from hydroda.forecast import choice, intervals, predictive, window
from hydroda.forecast.choice import Newest
from hydroda.forecast.cycle import Analysis, Moment, assimilate, rollout
from hydroda.forecast.ledger import DELAY, Ledger, guarded, learned, noted
from hydroda.forecast.predictive import NO_FLOW
from hydroda.forecast.window import Lead, Rows, View
from hydroda.publishing.fields import DEGRADED_FORCING, GOOD, MISSING, NO_RECENT_OBSERVATION, UNUSABLE
from hydroda.running.groups import Group
from hydroda.units import hour_number, m3_per_second

RECENT = 6  # hours: a forecast whose newest usable observation is older says so
LARGEST_SPREAD = 3.0  # of log discharge; nothing is known beyond a factor of a hundred


@dataclass(frozen=True)
class Trail:
    """The moment before a window, what the window was computed from, and its hours."""

    base: Moment
    rows: Rows | None
    analyses: tuple[Analysis, ...]

    def moment(self, hour: int) -> Moment:
        """The moment at the end of an hour of the window, or before its first."""
        return self.base if hour == self.base.hour else self.analyses[hour - self.base.hour - 1].moment


def moved(group: Group, trail: Trail, rows: Rows, first: int) -> Trail:
    """The trail for the window that begins with the hour `first` (since 1970) and has these rows."""
    dropped = first - trail.base.hour - 1
    base, kept = trail.moment(first - 1), trail.analyses[dropped:]
    same = _same(None if trail.rows is None else Rows(*(part[dropped:] for part in trail.rows)), rows)
    start = kept[same - 1].moment if same else base
    rest = (torch.from_numpy(part[same:]) for part in rows)
    return Trail(base, rows, (*kept[:same], *assimilate(group.batch, start, *rest)))


def advance(group: Group, trail: Trail, view: View, origin: int, first: int, cycle: np.datetime64) -> Trail:
    """The trail of the window from the hour `first` to the cycle, out of a view whose row 0 is the hour `origin`."""
    rows = window.rows(view, first - origin, hour_number(cycle) - origin, group.forcings)
    return moved(group, trail, rows, first)


def _same(before: Rows | None, now: Rows) -> int:
    """How many hours of a window are as they were."""
    if before is None:
        return 0
    count = len(before.observation)
    differs = np.zeros(count, bool)
    for old, new in zip(before, now, strict=True):
        new = new[:count]
        differs |= ((old != new) & ~(np.isnan(old) & np.isnan(new))).reshape(count, -1).any(1)
    return int(np.argmax(differs)) if differs.any() else count


def newest(group: Group, trail: Trail) -> Newest:
    """What was observed last of each station of a group (c,) in the window of a trail, and what was made of it."""
    assert trail.rows is not None
    observed, doubt = trail.rows.observation, trail.rows.doubt
    last = window.last(observed, doubt)
    column, area = np.arange(last.row.size), group.area

    def then(runoff: np.ndarray, hour: np.ndarray, known: np.ndarray) -> np.ndarray:
        return np.where(known, m3_per_second(runoff[hour, column], area), np.nan)

    open_loop = torch.stack([analysis.open_loop for analysis in trail.analyses]).numpy()
    residual = observed - torch.stack([analysis.estimate for analysis in trail.analyses]).numpy()
    before, two = last.row - 1, last.some & last.sure
    return Newest(
        observed=then(observed, last.row, last.some),
        doubt=np.where(last.some, doubt[last.row, column], np.nan),
        change=then(observed, last.row, two) - then(observed, before, two),
        open_loop=then(open_loop, last.row, last.some),
        residual=then(residual, last.row, last.some),
        residual_before=then(residual, before, two),
        age=np.where(last.some, last.age, np.nan),
    )


class Prospect(NamedTuple):
    """What was rolled out for a group at one issue time, (24, c) [m³/s]: forecasts of all methods, the open loop, the
    filter's standard deviation; whether the weather was forecast, where its rain is a guess, what each hour is worth,
    members (24, N, c), networks (24, s, c); and what was observed last."""

    candidates: dict[str, np.ndarray]
    open_loop: np.ndarray
    deviation: np.ndarray
    foreseen: bool
    guessed: np.ndarray
    status: np.ndarray
    members: np.ndarray | None
    networks: np.ndarray | None
    newest: Newest


class Outlook(NamedTuple):
    """Discharge of the lead hours of a group (24, c) [m³/s], the spreads (2, 24, c) of its logarithm, the open loop,
    what each is worth; by which method of `choice` it was made, which one was chosen before the ledger was asked, and
    what share was left to the open loop in floods beyond the record; the forecasts of all and of each network
    (24, s, c), and what was observed last."""

    median: np.ndarray
    spread: np.ndarray
    open_loop: np.ndarray
    status: np.ndarray
    members: np.ndarray | None
    method: np.ndarray
    chosen: np.ndarray
    beyond: np.ndarray
    candidates: dict[str, np.ndarray]
    networks: np.ndarray | None
    newest: Newest


def outlook(
    group: Group, trails: Sequence[Trail], leads: Sequence[Lead], ledger: Ledger
) -> tuple[list[Outlook], Ledger]:
    """The forecasts from the end of the trails of consecutive cycles: a list as long as theirs, rolled out together and
    issued one after the other by what the ledger has learned until then."""
    found = []
    for trail, prospect in zip(trails, _prospects(group, trails, leads), strict=True):
        issued, ledger = _issued(group, trail, prospect, ledger)
        found.append(issued)
    return found, ledger


def _prospects(group: Group, trails: Sequence[Trail], leads: Sequence[Lead]) -> list[Prospect]:
    count, area = len(group.ids), group.area
    moments = [trail.analyses[-1].moment for trail in trails]
    batch = group.batch if len(trails) == 1 else group.batch.rows(np.tile(np.arange(count), len(trails)))
    forcing = torch.from_numpy(np.concatenate([lead.forcing for lead in leads], axis=1))
    hours = np.repeat([moment.hour for moment in moments], count)
    beliefs = joined([moment.belief for moment in moments])
    rolled = rollout(batch, beliefs, torch.cat([moment.open_loop for moment in moments]), forcing, hours)

    def apart(runoff: Tensor) -> np.ndarray:
        """(24, …, trails · c) → (trail, 24, …, c) [m³/s]."""
        return m3_per_second(np.stack(np.split(runoff.numpy(), len(trails), axis=-1)), area)

    flow, open_loop, deviation = (apart(x) for x in (rolled.median, rolled.open_loop, rolled.variance.sqrt()))
    networks, members = (None if x is None else apart(x) for x in (rolled.networks, rolled.members))
    seen = [newest(group, trail) for trail in trails]
    last = Newest(*(np.stack(part) for part in zip(*seen, strict=True)))
    memory = np.array([member.residual_hours for member in group.members])
    corrections = [member.correction for member in group.members]
    of_networks = None if networks is None else networks.mean(2)
    every = choice.candidates(flow, of_networks, open_loop, memory, corrections, last)
    # rain that did not come is missing in every later hour
    guessed = np.logical_or.accumulate(np.stack([lead.assumed for lead in leads]), axis=1)
    status = np.where(guessed, DEGRADED_FORCING, GOOD)
    status = np.where((status == GOOD) & ~(last.age <= RECENT)[:, None], NO_RECENT_OBSERVATION, status)
    repaired = np.stack([trail.analyses[-1].repaired.numpy() for trail in trails])
    status = np.where(repaired[:, None], UNUSABLE, status)
    return [
        Prospect(
            candidates={name: values[i] for name, values in every.items()},
            open_loop=open_loop[i],
            deviation=deviation[i],
            foreseen=leads[i].reference_time is not None,
            guessed=guessed[i],
            status=status[i],
            members=None if members is None else members[i],
            networks=None if networks is None else networks[i],
            newest=seen[i],
        )
        for i in range(len(trails))
    ]


def _issued(group: Group, trail: Trail, prospect: Prospect, ledger: Ledger) -> tuple[Outlook, Ledger]:
    area, members = group.area, group.members
    between = np.array([member.between for member in members])
    assert trail.rows is not None
    then = trail.rows.observation[-1 - DELAY] if len(trail.rows.observation) > DELAY else np.full(area.size, np.nan)
    ledger = learned(ledger, m3_per_second(then, area), between)
    chosen = choice.usable(prospect.candidates, _either(prospect, group.choice))
    method = choice.usable(prospect.candidates, guarded(ledger, chosen))
    highest = np.array([np.inf if member.highest is None else member.highest for member in members])
    flow = choice.blended(prospect.candidates, method)
    beyond = choice.beyond(flow, highest)
    median = np.maximum(choice.moderated(flow, prospect.candidates, beyond), m3_per_second(NO_FLOW, area))
    which = intervals.class_of(median, between)[None, None]
    by_class = _either(prospect, group.spread)  # (2, class, 24, c)
    factor, wider = (np.take_along_axis(table, which, 1)[:, 0] for table in (by_class, np.exp(ledger.widening)))
    own = predictive.spread(median, prospect.deviation**2)
    spread = np.minimum(intervals.widened(own, factor * wider), LARGEST_SPREAD)
    status = np.where(np.isfinite(median) & np.isfinite(spread).all(0), prospect.status, MISSING).astype(np.int8)
    made = Outlook(
        median=median,
        spread=spread,
        open_loop=prospect.open_loop,
        status=status,
        members=prospect.members,
        method=method,
        chosen=chosen,
        beyond=beyond,
        candidates=prospect.candidates,
        networks=prospect.networks,
        newest=prospect.newest,
    )
    return made, noted(ledger, median, spread, prospect.candidates)


def _either(prospect: Prospect, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of what was found for all leads by forcing (…, 24, c): that for no rain where the rain is a guess, for forecast
    rain where it is that."""
    return np.where(prospect.guessed, found["none"], found["archived" if prospect.foreseen else "observed"])
