"""A record in stretches that are run side by side, each from the open loop with days to settle: what a filter analyses
there, and what it forecasts from that.

Hundreds of thousands of forecasts of one catchment, or of many candidates for it, take seconds. Filters are tuned by
them, methods judged, networks begun.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.beliefs import joined
from hydroda.filters.recipe import Hour
from hydroda.forecast.cycle import Batch, Moment, rollout
from hydroda.schema import LEADS

SETTLE = 240  # hours a stretch runs before its forecasts count
STRETCH = 720  # hours of a stretch that count
PARTS = 3  # of a record, in each of which a filter is judged that was tuned to the others
EVERY = 3  # hours between the forecasts that are scored
ROWS = 8192  # forecasts made side by side
Weather = Callable[[Tensor], Tensor]  # positions (24, f) of the lead hours of forecasts → their forcing (24, f, m)


@dataclass(frozen=True)
class Past:
    """A calibration record: forcing (T, m), runoff (T,) [mm/h] with NaN, open-loop states (T, n) after each hour, and
    the positions (s,) of the first forecast of each stretch: one after the other from `offset` and some whole stretches
    on, but for the last."""

    forcing: Tensor
    observed: Tensor
    states: Tensor
    starts: np.ndarray
    offset: int = 0

    @property
    def variance(self) -> float:
        """Of the observed runoff [mm²/h²]."""
        return float(np.nanvar(self.observed.numpy()))

    @property
    def parts(self) -> np.ndarray:
        """To which of `PARTS` parts each stretch (s,) belongs: in turn, so that all have all seasons. The last, which
        may overlap the one before, belongs to the part of that: in no hour are forecasts issued for two parts."""
        return (self.starts - self.offset) // STRETCH % PARTS

    def without(self, part: int) -> "Past":
        """The same without the stretches of a part."""
        return replace(self, starts=self.starts[self.parts != part])

    def since(self, hour: int) -> "Past":
        """The same without the stretches that would settle before a position. Raises ValueError when none is left."""
        starts = self.starts[self.starts >= hour + SETTLE]
        if not starts.size:
            raise ValueError(f"there is no stretch of {SETTLE + STRETCH + LEADS.size} hours to judge forecasts in")
        return replace(self, starts=starts)

    def hours(self, offsets: np.ndarray) -> Tensor:
        """Positions (offset, stretch)."""
        return torch.from_numpy(offsets[:, None] + self.starts)


def past(forcing: np.ndarray, observed: np.ndarray, states: Tensor, scored: np.ndarray) -> Past:
    """The record cut into stretches that cover the `scored` hours (T,). Raises ValueError when they are too few."""
    inside = np.flatnonzero(scored)
    first, last = inside[0] + SETTLE, inside[-1] - LEADS.size - STRETCH
    if last < first:
        raise ValueError(
            f"{inside.size} hours to tune a filter on, {SETTLE + STRETCH + LEADS.size} (42 days) are needed; choose a "
            "longer calibration period"
        )
    starts = np.unique(np.append(np.arange(first, last, STRETCH), last))
    return Past(torch.from_numpy(forcing), torch.from_numpy(observed), states, starts, int(first) % STRETCH)


class Analyses(NamedTuple):
    """Some moments of all stretches, their hour being that of the stretch; and of every hour the normalised innovations
    squared (hour, row), and beginning with the hour before the first the residuals, observation less analysis
    (1 + hour, row) [mm/h]. NaN where nothing was observed."""

    moments: Sequence[Moment]
    nis: Tensor
    residual: np.ndarray


def analyses(batch: Batch, past: Past, every: int) -> Analyses:
    """Those of a batch, with moments every `every` hours; its rows are the stretches of one candidate after those of
    another, as many times as there are candidates.
    """
    times = batch.parameters.shape[0] // past.starts.size
    at = past.hours(np.arange(-SETTLE + 1, STRETCH))
    forcing, observed = past.forcing[at].repeat(1, times, 1), past.observed[at].repeat(1, times)
    x = past.states[at[0] - 1].repeat(times, 1).unsqueeze(1)
    moments, nis, residual = [], [], []
    with torch.inference_mode():
        belief = batch.believe(x, 0)
        hours = np.zeros(x.shape[0], np.int64)
        for i, u in enumerate(forcing):
            hour = Hour(u.unsqueeze(1), observed[i].unsqueeze(-1), batch.noise(hours + i))
            belief, update = batch.filter.step(belief, hour)
            offset = i - SETTLE + 1
            if offset >= -1:
                residual.append(observed[i] - batch.filter.system.see(belief.mean)[:, 0, 0])
            if offset >= 0:
                nis.append(update.nis)
                if offset % every == 0:
                    moments.append(Moment(offset, belief, past.states[at[i]].repeat(times, 1).unsqueeze(1)))
    return Analyses(moments, torch.stack(nis), torch.stack(residual).numpy())


def issues(
    batch: Batch, past: Past, found: Analyses
) -> Iterator[tuple[Batch, Moment, np.ndarray, tuple[np.ndarray, np.ndarray], Tensor]]:
    """Moments side by side, as many as make a good batch: the rows, the moments as one, the hour each is of, residuals
    (row,) of these hours and those before, and the positions (24, row) of their lead hours."""
    count = batch.parameters.shape[0]
    times = count // past.starts.size
    size = max(1, ROWS // count)
    for i in range(0, len(found.moments), size):
        some = found.moments[i : i + size]
        hours = np.array([moment.hour for moment in some])
        at = np.tile(past.starts, times) + hours[:, None] + LEADS[:, None, None]
        wider = batch.rows(np.tile(np.arange(count), len(some)))
        open_loop = torch.cat([moment.open_loop for moment in some])
        every = Moment(0, joined([moment.belief for moment in some]), open_loop)
        residual = found.residual[hours + 1].ravel(), found.residual[hours].ravel()
        yield wider, every, np.repeat(hours, count), residual, torch.from_numpy(at.reshape(LEADS.size, -1))


class Forecasts(NamedTuple):
    """Forecasts (24, f) of one catchment [mm/h]: the filter's with their variance, those (24, s, f) of networks beside
    it where there are any, the open loop; what was observed (24, f), NaN where missing; the positions (f,) they are
    issued at, and there (f,) what is observed, its change in the last hour, the open loop, and the residuals of the
    analysis and of that an hour before; and of which stretch they are."""

    of_filter: np.ndarray
    variance: np.ndarray
    of_networks: np.ndarray | None
    open_loop: np.ndarray
    observed: np.ndarray
    issue: np.ndarray
    observed_at_issue: np.ndarray
    change_at_issue: np.ndarray
    open_loop_at_issue: np.ndarray
    residual: np.ndarray
    residual_before: np.ndarray
    stretch: np.ndarray


def forecasts(batch: Batch, past: Past, found: Analyses, weather: Weather) -> Forecasts:
    """Those of a batch of one candidate from the moments of its analyses, with some weather in the lead hours."""
    parts, of_networks = [], []
    for wider, moment, hours, residuals, at in issues(batch, past, found):
        ahead = rollout(wider, moment.belief, moment.open_loop, weather(at), hours)
        issue = at[0] - 1
        if ahead.networks is not None:
            of_networks.append(ahead.networks)
        parts.append(
            (
                ahead.median,
                ahead.variance,
                ahead.open_loop,
                past.observed[at],
                issue,
                past.observed[issue],
                past.observed[issue] - past.observed[issue - 1],
                wider.system.see(moment.open_loop)[:, 0, 0],
                *(torch.from_numpy(residual) for residual in residuals),
                torch.arange(issue.numel()) % past.starts.size,
            )
        )
    of_filter, variance, *rest = (torch.cat(each, -1).numpy() for each in zip(*parts, strict=True))
    return Forecasts(of_filter, variance, torch.cat(of_networks, 2).numpy() if of_networks else None, *rest)


def with_weather(found: Forecasts) -> Forecasts:
    """Those of which the weather of all lead hours is known."""
    some = np.isfinite(found.open_loop).all(0)
    kept: list[Any] = [None if part is None else part[..., some] for part in found]
    return Forecasts(*kept)
