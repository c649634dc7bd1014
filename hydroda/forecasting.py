"""One cycle after the other: assimilate a window, roll out 24 hours. Live runs, catch-up and hindcasts are this code.

A `Trail` is the window of a group as the last cycle left it. The next cycle drops its oldest hour, takes the new one,
and computes again only from the first hour of which it knows more than the last cycle did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda import choice, predictive
from hydroda.cycle import NO_FLOW, Analysis, Moment, Rollout, assimilate, rollout
from hydroda.fields import DEGRADED_FORCING, GOOD, MISSING, NO_RECENT_OBSERVATION, UNUSABLE
from hydroda.filters.beliefs import joined
from hydroda.groups import Group
from hydroda.schema import LEADS
from hydroda.units import m3_per_second
from hydroda.window import Lead, Rows

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


class Newest(NamedTuple):
    """The newest usable observation of stations in a window [m³/s], open loop and analysis of its hour, its age [h]; or
    NaN."""

    observed: np.ndarray
    open_loop: np.ndarray
    analysis: np.ndarray
    age: np.ndarray


def newest(group: Group, trail: Trail) -> Newest:
    """Of each station of a group (c,)."""
    assert trail.rows is not None
    seen = np.isfinite(trail.rows.observation)
    last = len(seen) - 1 - np.argmax(seen[::-1], axis=0)
    some, column = seen.any(0), np.arange(seen.shape[1])
    area = np.array([place.area_km2 for place in group.places])

    def then(hours: Sequence[Tensor]) -> np.ndarray:
        return m3_per_second(torch.stack(list(hours)).numpy()[last, column], area)

    observed = m3_per_second(trail.rows.observation[last, column], area)
    open_loop, analysed = then([a.open_loop for a in trail.analyses]), then([a.estimate for a in trail.analyses])
    age = len(seen) - 1.0 - last
    return Newest(*(np.where(some, part, np.nan) for part in (observed, open_loop, analysed, age)))


class Outlook(NamedTuple):
    """Discharge of the lead hours of a group (24, c) [m³/s], the spread of its logarithm, the open loop, what each is
    worth; and by which method of `choice` it was made, with the forecasts of all."""

    median: np.ndarray
    spread: np.ndarray
    open_loop: np.ndarray
    status: np.ndarray
    members: np.ndarray | None  # (24, N, c)
    method: np.ndarray
    candidates: dict[str, np.ndarray]


def outlook(group: Group, trails: Sequence[Trail], leads: Sequence[Lead]) -> list[Outlook]:
    """The forecasts from the end of some trails of a group: rolled out together, a list as long as theirs."""
    count = len(group.ids)
    moments = [trail.analyses[-1].moment for trail in trails]
    batch = group.batch if len(trails) == 1 else group.batch.rows(np.tile(np.arange(count), len(trails)))
    forcing = torch.from_numpy(np.concatenate([lead.forcing for lead in leads], axis=1))
    hours = np.repeat([moment.hour for moment in moments], count)
    beliefs = joined([moment.belief for moment in moments])
    rolled = rollout(batch, beliefs, torch.cat([moment.open_loop for moment in moments]), forcing, hours)
    return _in_cubic_metres(group, trails, leads, rolled)


def _in_cubic_metres(group: Group, trails: Sequence[Trail], leads: Sequence[Lead], rolled: Rollout) -> list[Outlook]:
    """What is issued of rollouts side by side, trail after trail."""
    area = np.array([place.area_km2 for place in group.places])

    def apart(runoff: Tensor) -> np.ndarray:
        """(24, trails · c) → (trail, 24, c) [m³/s]."""
        return m3_per_second(runoff.numpy().reshape(LEADS.size, len(trails), -1).swapaxes(0, 1), area)

    flow, open_loop = apart(rolled.median), apart(rolled.open_loop)
    networks = None if rolled.networks is None else apart(rolled.networks)
    deviation = apart(rolled.variance.sqrt())
    last = Newest(*(np.stack(part) for part in zip(*(newest(group, trail) for trail in trails), strict=True)))
    corrections = [member.correction for member in group.members]
    memory = np.array([member.residual_hours for member in group.members])
    every = choice.candidates(flow, networks, open_loop, memory, corrections, *last)
    # rain that did not come is missing in every later hour
    guessed = np.logical_or.accumulate(np.stack([lead.assumed for lead in leads]), axis=1)
    method, factor = (
        np.where(guessed, _by_lead(group, name, "none"), _by_lead(group, name, "observed"))
        for name in ("choice", "spread")
    )
    median = np.maximum(choice.picked(every, method), m3_per_second(NO_FLOW, area))
    spread = np.minimum(predictive.spread(median, deviation**2) * factor, LARGEST_SPREAD)
    status = np.where(guessed, DEGRADED_FORCING, GOOD)
    status = np.where((status == GOOD) & ~(last.age <= RECENT)[:, None], NO_RECENT_OBSERVATION, status)
    repaired = np.stack([trail.analyses[-1].repaired.numpy() for trail in trails])
    status = np.where(repaired[:, None], UNUSABLE, status)
    status = np.where(np.isfinite(median) & np.isfinite(spread), status, MISSING).astype(np.int8)
    members, count = (
        None if rolled.members is None else m3_per_second(rolled.members.numpy(), np.tile(area, len(trails))),
        area.size,
    )
    return [
        Outlook(
            median[i],
            spread[i],
            open_loop[i],
            status[i],
            None if members is None else members[..., i * count : (i + 1) * count],
            method[i],
            {name: values[i] for name, values in every.items()},
        )
        for i in range(len(trails))
    ]


def _by_lead(group: Group, name: str, forcing: str) -> np.ndarray:
    """What was found of every lead (24, c): methods, or factors on the spread; that for observed forcing where there is
    none for this one, and the filter where nothing was chosen."""
    nothing = {"observed": (choice.FILTER,) * LEADS.size}
    tables = [getattr(member, name) or nothing for member in group.members]
    return np.array([table.get(forcing, table["observed"]) for table in tables]).T
