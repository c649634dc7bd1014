"""Networks for one catchment, from the store: training, what it is measured against, what is issued then."""

from collections.abc import Mapping
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
from hydroda.filters import guided
from hydroda.filters.recipe import Filter
from hydroda.fitting import Judged, Record
from hydroda.gains import Past, Reference
from hydroda.groups import batch as batch_of
from hydroda.losses import Series
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


def learn(
    settings: Settings,
    store: Store,
    catchment: Catchment,
    found: Calibrated,
    start: np.datetime64,
    validation: np.datetime64,
    end: np.datetime64,
    effort: Effort,
    design: str,
    checkpoint: Path,
    progress: Progress,
) -> Lesson:
    """Networks of a design (see `designs`) for a calibrated catchment, trained from `start` to `validation` and judged
    from there to `end`.

    Validation decides at which leads they, their mean with the filter, or something else is issued. Raises ValueError,
    naming the catchment, when a period is too short.
    """
    kind = designs.design(design)
    record = fitting.record_of(settings, store, catchment, start, end)
    batch = batch_of([found], settings)
    parameters = batch.parameters[0, 0].numpy()
    states = open_loop(record.model, parameters, record.forcing)
    unseen = record.scored & (record.hours >= validation)
    hours = np.flatnonzero(unseen)
    if not hours.size:
        raise ValueError(f"{catchment.id}: there is nothing to validate on; end later than validation starts")
    parts = (record.scored & ~unseen, unseen)
    area = catchment.area_km2
    try:
        taught, untaught = (_stretch(record, states, batch, found, part, area) for part in parts)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    analysed = states.clone()
    for part in (taught, untaught):
        for moment in part.moments:
            analysed[part.known.starts + moment.hour] = moment.belief.mean[:, 0, : states.shape[1]]
    past = Past(torch.from_numpy(record.forcing), torch.from_numpy(record.observed), analysed)
    goal, bar = _reference(taught), _reference(untaught)
    nets, seed = effort.networks, settings.filter.seed
    first, last = (int(hour) for hour in np.flatnonzero(parts[0])[[0, -1]])
    series, rows = gains.windows(past, batch, first, last, nets, seed)
    held = gains.chunks(past, batch, int(hours[0]), int(hours[-1]))
    stores = batch.system.stores
    assert stores is not None
    scales = guided.scales(states[parts[0]], past.observed[parts[0]], stores)

    learned = kind.learned(batch.build)

    def build(weights: Mapping[str, Tensor], some: Series) -> Filter:
        every = batch.rows(np.zeros(len(some.parameters), np.int64))
        return learned(every.system, weights=weights)

    every = torch.arange(held.mean.shape[0]).expand(nets, -1)
    teaching, judging = gains.teaching(goal, nets, effort.leads), gains.judging(bar.runoff, nets, effort.leads)
    task = Task(build, teaching, judging, series, rows, held, every)
    lengths, rates = ((0, gains.LENGTH),), (effort.rate, effort.rate / 20)
    plan = Plan(effort.steps, effort.windows, gains.LENGTH, lengths, rates, DECAY, every=EVERY, patience=6, seed=seed)
    begun = kind.initial(scales, stores, range(seed, seed + nets), found.residual_hours)
    if effort.parameters:
        begun[guided.PARAMETERS] = torch.zeros(nets, parameters.size, dtype=torch.float64)
    weights, state = training.train(begun, task, plan, checkpoint, lambda f, text: progress(0.9 * f, text))
    whole = tuning.past(record.forcing, record.observed, states, record.scored)
    rows_of_whole = _rows(designs.beside(batch, design, [weights]), whole)
    judged = fitting.judged(rows_of_whole, whole, found.correction, area, found.residual_hours, unseen)
    return Lesson(design, weights, judged, bar.runoff.numpy(), int(state.skipped.sum()))


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
    found = tuning.forecasts(rows, known, moments[:: tuning.EVERY], known.forcing)
    every = fitting.candidates(found, calibrated.correction, area, calibrated.residual_hours)
    errors = {
        name: np.stack([np.nanmean((of(values) - of(found.observed)) ** 2, 1) for of in (np.abs, np.sqrt)])
        for name, values in every.items()
    }
    return _Stretch(known, moments, errors)


def _reference(part: _Stretch) -> Reference:
    """The least error of all classical forecasts, for every lead."""
    return Reference(*torch.from_numpy(np.min(list(part.errors.values()), axis=0)))


def _rows(batch: Batch, known: tuning.Past) -> Batch:
    """The catchment once for every stretch."""
    return batch.rows(np.zeros(known.starts.size, np.int64))
