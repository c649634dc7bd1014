"""A learned gain of one catchment, from the store: training, what it is measured against, its share of forecasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda import fitting, gains, training, tuning
from hydroda.calibrated import Calibrated
from hydroda.calibration import open_loop, runoff
from hydroda.correction import BASELINES, Correction
from hydroda.cycle import Batch, Moment
from hydroda.filters import lstm
from hydroda.filters.lstm import with_networks
from hydroda.filters.networks import Trained
from hydroda.filters.recipe import Filter
from hydroda.fitting import Record
from hydroda.gains import Past, Reference
from hydroda.groups import batch as batch_of
from hydroda.losses import Series
from hydroda.progress import Progress
from hydroda.schema import LEADS
from hydroda.settings import Catchment, Settings
from hydroda.store import Store
from hydroda.training import Plan, Task

SHARES = (0.0, 0.5, 1.0)  # of the networks in a forecast; weights fitted to a year or two are no better than a half
DECAY = 1e-2  # of weights, in a step of rate one
EVERY = 25  # steps between validations


@dataclass(frozen=True)
class Effort:
    """How long to train: networks, steps of Adam, windows in each, rate at the beginning."""

    networks: int = 3
    steps: int = 300
    windows: int = 24
    rate: float = 3e-3


@dataclass(frozen=True)
class Lesson:
    """What was learned: weights (network, …), their share in forecasts, factors on the spread of these, and of every
    share its mean squared error over that of the best classical forecast, in validation, by lead."""

    weights: Mapping[str, Tensor]
    share: float
    spread: dict[str, tuple[float, ...]]
    ratios: dict[float, np.ndarray]
    skipped: int

    def report(self) -> dict[str, Any]:
        """What is kept beside the weights."""
        means = {f"{share:g}": round(float(each.mean()), 4) for share, each in self.ratios.items()}
        return {"validation_ratio_by_share": means, "gradients_skipped": self.skipped}

    def summary(self, station: str) -> str:
        """What was found, in words."""
        told = ", ".join(f"{100 * share:.0f} % networks {each.mean():.3f}" for share, each in self.ratios.items())
        took = f"networks get {100 * self.share:.0f} % of the forecast" if self.share else "the filter goes on alone"
        return f"{station}: square error over that of the best classical forecast in validation: {told}; {took}"


def learn(
    settings: Settings,
    store: Store,
    catchment: Catchment,
    found: Calibrated,
    start: np.datetime64,
    validation: np.datetime64,
    end: np.datetime64,
    effort: Effort,
    checkpoint: Path,
    progress: Progress,
) -> Lesson:
    """The learned gain of a calibrated catchment, trained from `start` to `validation` and judged from there to `end`.

    The share of the networks in its forecasts is a half, all or nothing, whichever has the least error in validation;
    a half must be better than nothing in both halves of it. Raises ValueError, naming the catchment, when a period is
    too short.
    """
    record = fitting.record_of(settings, store, catchment, start, end)
    batch = batch_of([found], settings)
    parameters = batch.parameters[0, 0].numpy()
    states = open_loop(record.model, parameters, record.forcing)
    unseen = record.scored & (record.hours >= validation)
    hours = np.flatnonzero(unseen)
    if not hours.size:
        raise ValueError(f"{catchment.id}: there is nothing to validate on; end later than validation starts")
    middle = record.hours >= record.hours[hours[hours.size // 2]]
    parts = (record.scored & ~unseen, unseen & ~middle, unseen & middle)
    area = catchment.area_km2
    try:
        taught, *halves = (_stretch(record, states, batch, found.correction, part, area) for part in parts)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    analysed = states.clone()
    for part in (taught, *halves):
        for moment in part.moments:
            analysed[part.known.starts + moment.hour] = moment.belief.mean[:, 0, : states.shape[1]]
    past = Past(torch.from_numpy(record.forcing), torch.from_numpy(record.observed), analysed)
    goal, bar = _reference([taught]), _reference(halves)
    nets, seed = effort.networks, settings.filter.seed
    first, last = (int(hour) for hour in np.flatnonzero(parts[0])[[0, -1]])
    series, rows = gains.windows(past, batch, first, last, nets, seed)
    held = gains.chunks(past, batch, int(hours[0]), int(hours[-1]))
    stores = batch.system.stores
    assert stores is not None
    scales = lstm.scales(states[parts[0]], past.observed[parts[0]], stores)

    def build(weights: Mapping[str, Tensor], some: Series) -> Filter:
        every = batch.rows(np.zeros(len(some.parameters), np.int64))
        return lstm.lstm_gain(every.system, weights=weights)

    every = torch.arange(held.mean.shape[0]).expand(nets, -1)
    teaching, judging = gains.teaching(goal, nets), gains.judging(bar.runoff, nets)
    task = Task(build, teaching, judging, series, rows, held, every)
    lengths, rates = ((0, gains.LENGTH),), (effort.rate, effort.rate / 20)
    plan = Plan(effort.steps, effort.windows, gains.LENGTH, lengths, rates, DECAY, every=EVERY, patience=6, seed=seed)
    begun = lstm.initial(scales, stores, range(seed, seed + nets))
    weights, state = training.train(begun, task, plan, checkpoint, lambda f, text: progress(0.9 * f, text))
    ratios = {}
    for share in SHARES:
        beside = _beside(batch, weights, share)
        errors = [_errors(_rows(beside, part.known), part.known) for part in halves]
        ratios[share] = np.concatenate(errors) / bar.runoff.numpy()  # (half, 24)
    best = min(SHARES, key=lambda share: float(ratios[share].mean()))
    if best > 0.0 and not (ratios[best].mean(1) < ratios[0.0].mean(1)).all():
        best = 0.0
    spread, _ = fitting.judged(_rows(_beside(batch, weights, best), taught.known), taught.known)
    means = {share: each.mean(0) for share, each in ratios.items()}
    return Lesson(weights, best, spread, means, int(state.skipped.sum()))


class _Stretch(NamedTuple):
    """Part of a record as for tuning, the analyses of all its hours, and the mean squared errors (2, 24) of classical
    forecasts by name, of runoff and of its root."""

    known: tuning.Past
    moments: list[Moment]
    errors: dict[str, np.ndarray]


def _stretch(
    record: Record, states: Tensor, batch: Batch, fitted: Correction, part: np.ndarray, area: float
) -> _Stretch:
    known = tuning.past(record.forcing, record.observed, states, part)
    rows = _rows(batch, known)
    moments, _ = tuning.analyses(rows, known, 1)
    scored = moments[:: tuning.EVERY]
    issue = np.concatenate([known.starts + moment.hour for moment in scored])
    real = record.observed[issue[:, None] + LEADS]
    flow = runoff(record.model, batch.parameters[0, 0].numpy(), states)
    own = [tuning.squared_errors(rows, known, scored, of) for of in (torch.clone, gains.root)]
    errors = {"filter": np.concatenate(own)}
    for name in BASELINES:
        forecast = fitting.corrected(name, fitted, record, flow, area, issue)
        errors[name] = np.stack([np.nanmean((of(forecast) - of(real)) ** 2, 0) for of in (np.abs, np.sqrt)])
    return _Stretch(known, moments, errors)


def _reference(parts: Sequence[_Stretch]) -> Reference:
    """The least error of all classical forecasts, for every lead."""
    names = parts[0].errors
    mean = [np.mean([part.errors[name] for part in parts], axis=0) for name in names]
    return Reference(*torch.from_numpy(np.min(mean, axis=0)))


def _beside(batch: Batch, weights: Mapping[str, Tensor], share: float) -> Batch:
    """A batch of one with its networks."""
    every = {name: tensor.unsqueeze(0) for name, tensor in weights.items()}
    trained = Trained(every, torch.full((1, 1), share, dtype=torch.float64))
    return replace(batch, build=with_networks(batch.build), networks=trained)


def _rows(batch: Batch, known: tuning.Past) -> Batch:
    """The catchment once for every stretch."""
    return batch.rows(np.zeros(known.starts.size, np.int64))


def _errors(rows: Batch, known: tuning.Past) -> np.ndarray:
    return tuning.squared_errors(rows, known, tuning.analyses(rows, known, tuning.EVERY)[0])
