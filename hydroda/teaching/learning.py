"""Networks for catchments, from the store: training, what it is measured against, what is issued then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.calibrating import judging, stretches, tuning
from hydroda.calibrating.calibration import open_loop
from hydroda.calibrating.history import Record, record_of
from hydroda.calibrating.judging import Judged
from hydroda.filters import guided
from hydroda.filters.networks import FIXED
from hydroda.filters.recipe import Filter
from hydroda.forecast import choice, designs, quarters
from hydroda.forecast.batches import batch as batch_of
from hydroda.forecast.calibrated import Calibrated
from hydroda.forecast.cycle import Batch, Moment
from hydroda.forecast.designs import Design
from hydroda.progress import Progress, among
from hydroda.settings import Catchment, Settings
from hydroda.storage.store import Store
from hydroda.teaching import gains, training
from hydroda.teaching.gains import Analysed, Reference
from hydroda.teaching.losses import Series, joined
from hydroda.teaching.training import Plan, Task
from hydroda.units import parse_utc

DECAY = 1e-2  # of weights, in a step of rate one
EVERY = 25  # steps between validations
MEMORY = 40  # steps of which the mean weights are judged and kept


@dataclass(frozen=True)
class Effort:
    """How to train: networks, steps of Adam, windows in each, rate at the beginning, the leads [h] that count, whether
    each network learns parameters of the model too, and whether it may correct the error of the rain."""

    networks: int = 3
    steps: int = 400
    windows: int = 24
    rate: float = 2e-3
    leads: tuple[int, ...] = tuning.EVERY_LEAD
    parameters: bool = False
    rain: bool = False


@dataclass(frozen=True)
class Lesson:
    """What was learned: networks of which design, their weights (network, …), how forecasts with and without them did
    in hours they were not trained on, SHA-256 of what they were trained on, how many gradients were skipped; and of all
    designs that were tried the squared error of what would be issued, as in `ratios`."""

    design: str
    weights: Mapping[str, Tensor]
    judged: Judged
    data: str
    skipped: int
    tried: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """Of every method, the mean over leads of its squared error over that of the best classical forecast, every
        quarter of a year having a say (`quarters.loss`)."""
        every = self.judged.errors | {"issued": self.judged.issued}
        losses = {name: quarters.loss(each) for name, each in every.items()}
        classical = np.min([losses[name] for name in choice.CLASSICAL], 0)
        return {name: round(float(np.exp(own - classical).mean()), 4) for name, own in losses.items()}

    def report(self) -> dict[str, Any]:
        """What is kept beside the weights."""
        return {
            "design": self.design,
            "validation_ratios": self.ratios,
            "data_sha256": self.data,
            "gradients_skipped": self.skipped,
            "designs_tried": dict(self.tried),
        }

    def summary(self, station: str) -> str:
        """What was found, in words."""
        shown = (choice.FILTER, choice.NETWORKS, choice.BOTH, "issued")
        told = ", ".join(f"{name.replace('_', ' ')} {self.ratios[name]:.3f}" for name in shown)
        issued = choice.in_words(self.judged.choice["observed"])
        others = ", ".join(f"{name} {ratio:.3f}" for name, ratio in self.tried.items() if name != self.design)
        return (
            f"{station}: squared error over that of the best classical forecast, mean of all leads and every quarter "
            f"of a year having a say, in hours not trained on: {told}; issued: {issued}; networks are of design "
            f"{self.design}"
            f"{f' (what would be issued with {others})' if others else ''}"
        )


class Pupil(NamedTuple):
    """A calibrated catchment, the first hour it is taught and judged on, not before that of its calibration, and the
    last."""

    catchment: Catchment
    found: Calibrated
    start: np.datetime64
    end: np.datetime64


class Prepared(NamedTuple):
    """A pupil with its record, that in stretches, its batch, the analyses to begin windows with, the least mean squared
    errors (2, 24) of its classical forecasts, of runoff and of its root, and the scales of its networks."""

    pupil: Pupil
    record: Record
    past: stretches.Past
    batch: Batch
    analysed: Analysed
    goal: np.ndarray
    scales: dict[str, Tensor]


def learned(
    settings: Settings,
    store: Store,
    pupils: Sequence[Pupil],
    others: Sequence[Pupil],
    effort: Effort,
    design: str,
    checkpoint: Path,
    progress: Progress,
) -> list[Lesson]:
    """Networks, the same for all pupils, trained on them and judged for each, and for `others` they are not trained on;
    in this order. They are of the design that is asked for; the best is the first, which costs least, unless what is
    issued with another errs clearly less.

    Where there are several catchments the networks are told static attributes of each. A design the filter does not go
    with is left out. Each design has a checkpoint of its own, named after this one. Raises ValueError, naming the
    catchment, when a period is too short, the model of one is not that of the first, or no design goes with the filter.
    """
    every = (*pupils, *others)
    for pupil in every:
        if (pupil.found.model, pupil.found.temperature) != (pupils[0].found.model, pupils[0].found.temperature):
            raise ValueError(
                f"{pupil.catchment.id} has not the model of {pupils[0].catchment.id} ({pupil.found.model} and "
                f"{pupils[0].found.model}, with snow or without), and no networks can be of both; train it apart, or "
                "calibrate both without alternatives to their model"
            )
    records = [_prepared(settings, store, pupil, effort, several=len(every) > 1) for pupil in every]
    taught, unseen = records[: len(pupils)], records[len(pupils) :]
    names = tuple(designs.DESIGNS) if design == designs.BEST else (design,)
    found, failed = {}, []
    for i, name in enumerate(names):
        told, path = among(progress, i, len(names), name), checkpoint.with_name(f"{checkpoint.name}.{name}")
        try:
            found[name] = learn(settings, taught, unseen, effort, name, path, told)
        except ValueError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    issued = {
        name: round(float(np.mean([lesson.ratios["issued"] for lesson in lessons[: len(pupils)]])), 4)
        for name, lessons in found.items()
    }
    return [replace(lesson, tried=issued) for lesson in found[quarters.best(issued)]]


def learn(
    settings: Settings,
    taught: Sequence[Prepared],
    others: Sequence[Prepared],
    effort: Effort,
    design: str,
    checkpoint: Path,
    progress: Progress,
) -> list[Lesson]:
    """Networks of one design (see `designs`).

    Each network is trained on all but a third of the record, another for each, and judged in that (cross-fitting): so
    all years teach, and all years decide at which leads networks, their mean with the filter, or something else is
    issued. One year would decide by its weather. Raises ValueError for a record too short, or a filter that the design
    does not go with.
    """
    kind = designs.design(design)
    every = (*taught, *others)
    nets, seed = effort.networks, settings.filter.seed
    folds = max(gains.FOLDS, nets)
    try:
        length = gains.chunk([int(one.record.scored.sum()) for one in taught], folds)
    except ValueError as error:
        raise ValueError(f"{', '.join(one.pupil.catchment.id for one in taught)}: {error}") from error
    parts = [gains.parts(one.record.scored, length, folds) for one in taught]
    task = _task(settings, taught, parts, length, kind, effort)
    stores, first = taught[0].batch.system.stores, taught[0].pupil
    assert stores is not None
    lengths, rates = ((0, gains.LENGTH),), (effort.rate, effort.rate / 20)
    plan = Plan(
        effort.steps, effort.windows, gains.LENGTH, lengths, rates, DECAY, every=EVERY, memory=MEMORY, seed=seed
    )
    begun = kind.initial(taught[0].scales, stores, range(seed, seed + nets), first.found.residual_hours)
    if effort.parameters:
        begun[guided.PARAMETERS] = torch.zeros(nets, taught[0].batch.parameters.shape[-1], dtype=torch.float64)
    weights, state = training.train(begun, task, plan, checkpoint, lambda f, text: progress(0.9 * f, text))
    skipped = int(state.skipped.sum())
    lessons = []
    for i, one in enumerate(every):
        own = {f"{FIXED}{name}": value.expand(nets, -1) for name, value in one.scales.items()}
        held = np.where(parts[i] < nets, parts[i], -1) if i < len(taught) else None
        lessons.append(_judged(one, settings, design, {**weights, **own}, held, task.digest, skipped))
    return lessons


def _prepared(settings: Settings, store: Store, pupil: Pupil, effort: Effort, *, several: bool) -> Prepared:
    catchment, found = pupil.catchment, pupil.found
    # stretches lie where those of the calibration did, or a filter would be judged in hours that it was tuned to
    record = record_of(settings, store, catchment, found.model, parse_utc(found.report["start"]), pupil.end)
    tuned, record = record.scored, record._replace(scored=record.hours >= pupil.start)
    batch = batch_of([found], settings)
    states = open_loop(record.model, batch.parameters[0, 0].numpy(), record.forcing)
    try:
        past = stretches.past(record.forcing, record.observed, states, tuned)
        past = past.since(int(np.argmax(record.scored)))
        moments, goal = _classical(past, batch, found, catchment.area_km2)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    corrected = states.clone()
    for moment in moments:
        corrected[past.starts + moment.hour] = moment.belief.mean[:, 0, : states.shape[1]]
    analysed = Analysed(torch.from_numpy(record.forcing), torch.from_numpy(record.observed), corrected)
    assert batch.system.stores is not None
    flow = analysed.observed[record.scored]
    scales = guided.scales(states[record.scored], flow, batch.system.stores, rain=effort.rain)
    if several:
        rain = analysed.forcing[record.scored][:, record.model.forcings.index("precipitation")]
        scales["attributes"] = guided.attributes(catchment.area_km2, rain, flow)
    return Prepared(pupil, record, past, batch, analysed, goal, scales)


def _task(
    settings: Settings,
    taught: Sequence[Prepared],
    parts: Sequence[np.ndarray],
    length: int,
    kind: Design,
    effort: Effort,
) -> Task:
    """What networks learn from the records of all pupils, each catchment as likely as another, and the chunks of this
    length of those parts (T,) of each that they do not learn from."""
    nets, seed = effort.networks, settings.filter.seed
    series, rows, held, held_rows = [], [], [], []
    before, before_held = 0, 0
    for one, part in zip(taught, parts, strict=True):
        windows, own = gains.windows(one.analysed, one.batch, part, nets, seed)
        chunks, unseen = gains.chunks(one.analysed, one.batch, part, length, nets)
        series.append(windows)
        rows.append(own + before)
        held.append(chunks)
        held_rows.append(unseen + before_held)
        before, before_held = before + len(windows.mean), before_held + len(chunks.mean)
    goal = Reference(
        *(torch.from_numpy(np.stack(each, -1)) for each in zip(*(one.goal for one in taught), strict=True))
    )
    whole = batch_of([one.pupil.found for one in taught], settings)
    learned = kind.learned(whole.build)
    scales = {f"{FIXED}{name}": torch.cat([one.scales[name] for one in taught]) for name in taught[0].scales}

    def build(weights: Mapping[str, Tensor], some: Series) -> Filter:
        place = some.place.expand(len(some.mean))
        own = weights if len(taught) == 1 else {**weights, **{name: value[place] for name, value in scales.items()}}
        return learned(whole.rows(place.numpy()).system, weights=own)

    teaching, judging = gains.teaching(goal, nets, effort.leads), gains.judging(goal.runoff, nets, effort.leads)
    return Task(build, teaching, judging, joined(series), torch.cat(rows, 1), joined(held), torch.cat(held_rows, 1))


def _judged(
    one: Prepared,
    settings: Settings,
    design: str,
    weights: Mapping[str, Tensor],
    held: np.ndarray | None,
    data: str,
    skipped: int,
) -> Lesson:
    found = one.pupil.found
    each = judging.apart(found)
    batch = designs.beside(batch_of(each, settings), design, [weights] * len(each))
    judged = judging.judged(batch, one.past, found, one.pupil.catchment.area_km2, held, one.record.archived)
    return Lesson(design, weights, judged, data, skipped)


def _classical(
    past: stretches.Past, batch: Batch, calibrated: Calibrated, area: float
) -> tuple[Sequence[Moment], np.ndarray]:
    """The analyses of all hours of the stretches, and the least mean squared errors (2, 24) of all classical forecasts
    from every third of them, of runoff and of its root."""
    rows = batch.rows(np.zeros(past.starts.size, np.int64))
    analysed = stretches.analyses(rows, past, 1)
    some = analysed._replace(moments=analysed.moments[:: stretches.EVERY])
    found = stretches.forecasts(rows, past, some, lambda at: past.forcing[at])
    memory = np.tile(calibrated.residual_hours, (found.issue.size, 1))
    every = judging.candidates(found, calibrated.correction, area, memory)
    classical = [every[name] for name in choice.CLASSICAL]
    errors = [
        [np.nanmean((of(values) - of(found.observed)) ** 2, 1) for of in (np.abs, np.sqrt)] for values in classical
    ]
    return analysed.moments, np.min(errors, 0)
