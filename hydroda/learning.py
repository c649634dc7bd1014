"""Networks for catchments, from the store: training, what it is measured against, what is issued then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda import choice, designs, fitting, gains, training, tuning
from hydroda.calibrated import Calibrated
from hydroda.calibration import open_loop
from hydroda.cycle import Batch, Moment
from hydroda.designs import Design
from hydroda.filters import guided
from hydroda.filters.networks import FIXED
from hydroda.filters.recipe import Filter
from hydroda.fitting import Judged, Record
from hydroda.gains import Past, Reference
from hydroda.groups import batch as batch_of
from hydroda.losses import Series, joined
from hydroda.progress import Progress
from hydroda.settings import Catchment, Settings
from hydroda.store import Store
from hydroda.training import Plan, Task

DECAY = 1e-2  # of weights, in a step of rate one
EVERY = 25  # steps between validations


@dataclass(frozen=True)
class Effort:
    """How to train: networks, steps of Adam, windows in each, rate at the beginning, the leads [h] that count, and
    whether each network learns parameters of the model too."""

    networks: int = 3
    steps: int = 300
    windows: int = 24
    rate: float = 3e-3
    leads: tuple[int, ...] = tuning.EVERY_LEAD
    parameters: bool = False


@dataclass(frozen=True)
class Lesson:
    """What was learned: networks of which design, their weights (network, …), how forecasts with and without them did
    in hours they were not trained on, the mean squared errors (24,) of the best classical forecast there, and how many
    gradients were skipped."""

    design: str
    weights: Mapping[str, Tensor]
    judged: Judged
    classical: np.ndarray
    skipped: int

    @property
    def ratios(self) -> dict[str, float]:
        """Of every method, the mean over leads of its squared error over that of the best classical forecast."""
        every = self.judged.errors | {"issued": self.judged.issued}
        return {name: round(float((each / self.classical).mean()), 4) for name, each in every.items()}

    def report(self) -> dict[str, Any]:
        """What is kept beside the weights."""
        return {"design": self.design, "validation_ratios": self.ratios, "gradients_skipped": self.skipped}

    def summary(self, station: str) -> str:
        """What was found, in words."""
        shown = (choice.FILTER, choice.NETWORKS, choice.BOTH, "issued")
        told = ", ".join(f"{name.replace('_', ' ')} {self.ratios[name]:.3f}" for name in shown)
        issued = choice.told(self.judged.choice["observed"])
        return (
            f"{station}: square error over that of the best classical forecast in validation, mean of all leads: "
            f"{told}; issued: {issued}"
        )


class Pupil(NamedTuple):
    """A calibrated catchment, the first hour it is taught, the first it is judged on, and the last."""

    catchment: Catchment
    found: Calibrated
    start: np.datetime64
    validation: np.datetime64
    end: np.datetime64


def learn(
    settings: Settings,
    store: Store,
    pupils: Sequence[Pupil],
    others: Sequence[Pupil],
    effort: Effort,
    design: str,
    checkpoint: Path,
    progress: Progress,
) -> list[Lesson]:
    """Networks of a design (see `designs`), the same for all pupils, trained on them and judged for each, and for
    `others` they are not trained on, in the hours from validation on; in this order.

    Where there are several catchments the networks are told static attributes of each. Validation decides at which
    leads they, their mean with the filter, or something else is issued. Raises ValueError, naming the catchment, when a
    period is too short or the model of one is not that of the first.
    """
    kind = designs.design(design)
    for pupil in (*pupils, *others):
        if (pupil.found.model, pupil.found.temperature) != (pupils[0].found.model, pupils[0].found.temperature):
            raise ValueError(
                f"{pupil.catchment.id} has not the model of {pupils[0].catchment.id} (with snow or without), and no "
                "networks can be of both; train it apart"
            )
    every = [_prepared(settings, store, pupil, several=len(pupils) + len(others) > 1) for pupil in (*pupils, *others)]
    taught = every[: len(pupils)]
    nets, seed = effort.networks, settings.filter.seed
    task = _task(settings, taught, kind, effort)
    stores, first = taught[0].batch.system.stores, pupils[0]
    assert stores is not None
    lengths, rates = ((0, gains.LENGTH),), (effort.rate, effort.rate / 20)
    plan = Plan(effort.steps, effort.windows, gains.LENGTH, lengths, rates, DECAY, every=EVERY, patience=6, seed=seed)
    begun = kind.initial(taught[0].scales, stores, range(seed, seed + nets), first.found.residual_hours)
    if effort.parameters:
        begun[guided.PARAMETERS] = torch.zeros(nets, taught[0].batch.parameters.shape[-1], dtype=torch.float64)
    weights, state = training.train(begun, task, plan, checkpoint, lambda f, text: progress(0.9 * f, text))
    skipped = int(state.skipped.sum())
    lessons = []
    for one in every:
        own = {f"{FIXED}{name}": value.expand(nets, -1) for name, value in one.scales.items()}
        lessons.append(_judged(one, design, {**weights, **own}, skipped))
    return lessons


class _Prepared(NamedTuple):
    """A pupil with its record: the open loop (T, n), which hours are for validation, its batch, the analyses to begin
    windows with, what its classical forecasts reach in both parts, and the scales of its networks."""

    pupil: Pupil
    record: Record
    states: Tensor
    unseen: np.ndarray
    batch: Batch
    past: Past
    goal: np.ndarray
    bar: np.ndarray
    scales: dict[str, Tensor]


def _prepared(settings: Settings, store: Store, pupil: Pupil, *, several: bool) -> _Prepared:
    catchment, found = pupil.catchment, pupil.found
    record = fitting.record_of(settings, store, catchment, pupil.start, pupil.end)
    batch = batch_of([found], settings)
    states = open_loop(record.model, batch.parameters[0, 0].numpy(), record.forcing)
    unseen = record.scored & (record.hours >= pupil.validation)
    if not unseen.any():
        raise ValueError(f"{catchment.id}: there is nothing to validate on; end later than validation starts")
    parts = (record.scored & ~unseen, unseen)
    try:
        taught, untaught = (_stretch(record, states, batch, found, part, catchment.area_km2) for part in parts)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    analysed = states.clone()
    for part in (taught, untaught):
        for moment in part.moments:
            analysed[part.known.starts + moment.hour] = moment.belief.mean[:, 0, : states.shape[1]]
    past = Past(torch.from_numpy(record.forcing), torch.from_numpy(record.observed), analysed)
    assert batch.system.stores is not None
    flow = past.observed[parts[0]]
    scales = guided.scales(states[parts[0]], flow, batch.system.stores)
    if several:
        rain = past.forcing[parts[0]][:, record.model.forcings.index("precipitation")]
        scales["attributes"] = guided.attributes(catchment.area_km2, rain, flow)
    goal, bar = (np.min(list(part.errors.values()), axis=0) for part in (taught, untaught))
    return _Prepared(pupil, record, states, unseen, batch, past, goal, bar, scales)


def _task(settings: Settings, taught: Sequence[_Prepared], kind: Design, effort: Effort) -> Task:
    """What networks learn from the records of all pupils, each catchment as likely as another."""
    nets, seed = effort.networks, settings.filter.seed
    series, rows, held, before = [], [], [], 0
    for one in taught:
        hours, last = (np.flatnonzero(part) for part in (one.record.scored & ~one.unseen, one.unseen))
        windows, own = gains.windows(one.past, one.batch, int(hours[0]), int(hours[-1]), nets, seed)
        series.append(windows)
        rows.append(own + before)
        before += len(windows.mean)
        held.append(gains.chunks(one.past, one.batch, int(last[0]), int(last[-1])))
    goal = Reference(
        *(torch.from_numpy(np.stack(each, -1)) for each in zip(*(one.goal for one in taught), strict=True))
    )
    bar = torch.from_numpy(np.stack([one.bar[0] for one in taught], -1))
    whole = batch_of([one.pupil.found for one in taught], settings)
    learned = kind.learned(whole.build)
    scales = {f"{FIXED}{name}": torch.cat([one.scales[name] for one in taught]) for name in taught[0].scales}

    def build(weights: Mapping[str, Tensor], some: Series) -> Filter:
        place = some.place.expand(len(some.mean))
        own = weights if len(taught) == 1 else {**weights, **{name: value[place] for name, value in scales.items()}}
        return learned(whole.rows(place.numpy()).system, weights=own)

    every = joined(held)
    all_of_them = torch.arange(len(every.mean)).expand(nets, -1)
    teaching, judging = gains.teaching(goal, nets, effort.leads), gains.judging(bar, nets, effort.leads)
    return Task(build, teaching, judging, joined(series), torch.cat(rows, 1), every, all_of_them)


def _judged(one: _Prepared, design: str, weights: Mapping[str, Tensor], skipped: int) -> Lesson:
    found, record = one.pupil.found, one.record
    whole = tuning.past(record.forcing, record.observed, one.states, record.scored)
    rows = _rows(designs.beside(one.batch, design, [weights]), whole)
    area = one.pupil.catchment.area_km2
    judged = fitting.judged(rows, whole, found.correction, area, found.residual_hours, one.unseen, record.archived)
    return Lesson(design, weights, judged, one.bar[0], skipped)


class _Stretch(NamedTuple):
    """Part of a record as for tuning, the analyses of all its hours, and the mean squared errors (2, 24) of classical
    forecasts by name, of runoff and of its root."""

    known: tuning.Past
    moments: list[Moment]
    errors: dict[str, np.ndarray]


def _stretch(
    record: Record, states: Tensor, batch: Batch, calibrated: Calibrated, part: np.ndarray, area: float
) -> _Stretch:
    known = tuning.past(record.forcing, record.observed, states, part)
    rows = _rows(batch, known)
    moments, _ = tuning.analyses(rows, known, 1)
    found = tuning.forecasts(rows, known, moments[:: tuning.EVERY], lambda at: known.forcing[at])
    every = fitting.candidates(found, calibrated.correction, area, calibrated.residual_hours)
    errors = {
        name: np.stack([np.nanmean((of(values) - of(found.observed)) ** 2, 1) for of in (np.abs, np.sqrt)])
        for name, values in every.items()
    }
    return _Stretch(known, moments, errors)


def _rows(batch: Batch, known: tuning.Past) -> Batch:
    """The catchment once for every stretch."""
    return batch.rows(np.zeros(known.starts.size, np.int64))
