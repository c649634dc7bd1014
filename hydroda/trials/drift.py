"""What an error of a gauge does to forecasts, and what a filter that estimates it makes of it: a trial on stored data.

The record of a station is assimilated hour by hour, as it is and with the gauge reading wrong from an hour on, by the
filter of the settings and by the same beside which the bias of the gauge is estimated. Forecasts have the observed
weather and are judged by the gauge as it is. Nothing of the deployment changes.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda import domain as domains
from hydroda.filters.beliefs import Belief, joined
from hydroda.filters.bias import two_stage
from hydroda.forecast import window
from hydroda.forecast.cycle import Batch, Moment, assimilate, rollout, trajectory
from hydroda.progress import Progress, among
from hydroda.running.groups import grouped
from hydroda.schema import LEADS, hours
from hydroda.settings import Settings
from hydroda.units import HOUR, hour_number, m3_per_second

EVERY = 6  # hours between forecasts that are judged
ROWS = 4096  # forecasts rolled out together
TELL = 240  # hours between words of how far it is
PLAIN, AWARE = "filter of the settings", "with the gauge's bias estimated"
RIGHT, WRONG = ", gauge right", ", gauge wrong"
OPEN_LOOP = "open loop"


@dataclass(frozen=True)
class Trial:
    """Root mean squared error (24,) [m³/s] by lead of forecasts issued after `at`, by name; and for every hour (T,) the
    gauge's bias found over the discharge, its standard error, and the bias found where the gauge is right."""

    station: str
    hours: np.ndarray
    at: np.datetime64
    error: float
    rmse: dict[str, np.ndarray]
    share: np.ndarray
    share_error: np.ndarray
    share_right: np.ndarray


def tried(
    settings: Settings,
    station: str,
    start: np.datetime64,
    end: np.datetime64,
    at: np.datetime64,
    *,
    error: float,
    state_fraction: float,
    gauge_ratio: float,
    relative: bool,
    progress: Progress,
) -> Trial:
    """The trial from `start` to `end` with the gauge wrong by the share `error` from `at` on.

    Raises ValueError for a station that is not calibrated, an `at` outside the period and shares that make no sense.
    """
    if not start < at < end:
        raise ValueError(f"the gauge is to go wrong at {at}, which is not between {start} and {end}")
    domain = domains.load(settings)
    groups, lacking = grouped(domain)
    found = [group for group in groups if station in group.ids]
    if not found:
        raise ValueError(f"{station} {lacking.get(station, 'is not in the settings')}")
    group, place = found[0], found[0].ids.index(station)
    stretch = hours(start - settings.cycle.spin_up_hours * HOUR, end)
    records = domain.store.observations([station], stretch[0], stretch[-1])
    rows = window.rows(window.load(records, [group.places[place]], stretch, None), 0, stretch.size - 1, group.forcings)
    forcing, doubt = torch.from_numpy(rows.forcing).expand(-1, 2, -1), torch.from_numpy(rows.doubt).expand(-1, 2)
    right = rows.observation
    wrong = np.where(stretch[:, None] >= at, (1.0 + error) * right, right)
    observation = torch.from_numpy(np.concatenate((right, wrong), 1))
    first, turn = (int(np.searchsorted(stretch, time)) for time in (start, at))
    plain = group.batch.rows(np.array([place, place]))
    aware = replace(
        plain,
        build=two_stage(plain.build, state_fraction=state_fraction, gauge_ratio=gauge_ratio, relative=relative),
    )
    area = group.places[place].area_km2
    rmse: dict[str, np.ndarray] = {}
    for i, (name, batch) in enumerate({PLAIN: plain, AWARE: aware}.items()):
        run = _run(batch, stretch, first, turn, forcing, observation, doubt, among(progress, i, 2, name))
        every = np.array(run.issued)
        valid = right[every[None] + LEADS[:, None], 0]
        median, unaided = _rolled(batch, every, run.beliefs, run.open_loops, forcing, hour_number(stretch[0]))
        for k, gauge in enumerate((RIGHT, WRONG)):
            rmse[name + gauge] = m3_per_second(_error(median[..., k], valid), area)
        rmse[OPEN_LOOP] = m3_per_second(_error(unaided[..., 0], valid), area)
    held = np.stack(run.shares)  # those of the last, which alone estimates a bias
    progress(1.0, "done")
    return Trial(station, stretch[first:], at, error, rmse, held[:, 0, 1], held[:, 1, 1], held[:, 0, 0])


class Run(NamedTuple):
    """Beliefs and open loops of the hours from which a forecast is judged, with these positions in the record; and for
    every hour the bias of each gauge and its standard error over the discharge (2, gauge), where a filter finds any."""

    issued: list[int]
    beliefs: list[Belief]
    open_loops: list[Tensor]
    shares: list[np.ndarray]


def _run(
    batch: Batch,
    stretch: np.ndarray,
    first: int,
    turn: int,
    forcing: Tensor,
    observation: Tensor,
    doubt: Tensor,
    progress: Progress,
) -> Run:
    """The record assimilated from position `first` on, by a model that ran until then; forecasts are from `turn` on."""
    x, begin = batch.model.start(batch.parameters), hour_number(stretch[first]) - 1
    with torch.inference_mode():
        for state in trajectory(batch.model, x, forcing[:first], batch.parameters):
            x = state
        begun = Moment(begin, batch.believe(x, begin), x)
    run = Run([], [], [], [])
    for hour, analysis in enumerate(
        assimilate(batch, begun, forcing[first:], observation[first:], doubt[first:]), first
    ):
        if hour % TELL == 0:
            progress(0.9 * (hour - first) / (stretch.size - first), "hour by hour")
        if analysis.biases is not None:
            flow = analysis.estimate.clamp(min=1e-9)
            run.shares.append(np.stack([(part / flow).numpy() for part in analysis.biases[:2]]))
        if hour >= turn and hour % EVERY == 0 and hour + LEADS.size < stretch.size:
            run.issued.append(hour)
            run.beliefs.append(analysis.moment.belief)
            run.open_loops.append(analysis.moment.open_loop)
    return run


def _rolled(
    batch: Batch, issued: np.ndarray, beliefs: list[Belief], open_loops: list[Tensor], forcing: Tensor, origin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Runoff (24, issue, 2) [mm/h] of the forecasts and of the open loop."""
    parts = []
    for some in np.array_split(np.arange(issued.size), -(-2 * issued.size // ROWS)):
        rows = batch.rows(np.tile([0, 1], some.size))
        weather = torch.stack([forcing[issued[some] + lead].flatten(0, 1) for lead in LEADS])
        hour = np.repeat(origin + issued[some], 2)
        held = joined([beliefs[i] for i in some])
        found = rollout(rows, held, torch.cat([open_loops[i] for i in some]), weather, hour)
        parts.append([part.reshape(LEADS.size, -1, 2).numpy() for part in (found.median, found.open_loop)])
    median, unaided = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
    return median, unaided


def _error(forecast: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Root mean squared error (24,) of forecasts (24, issue)."""
    return np.sqrt(np.nanmean((forecast - valid) ** 2, axis=1))
