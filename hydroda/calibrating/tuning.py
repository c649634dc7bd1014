"""Error levels of a filter from its own past forecasts: what makes the analyses that forecast best.

The gain of a filter depends on the proportions of the error levels only, so they are searched for small forecast errors
at all leads; their common size is then set by the innovations, and the width of the intervals at each lead by coverage.
A generation of candidates is run on all stretches of the record at once (`stretches`), in a few seconds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from hydroda.calibrating.search import minimised
from hydroda.calibrating.stretches import EVERY, STRETCH, Analyses, Past, analyses, issues
from hydroda.filters.recipe import Filter, System
from hydroda.forecast import correction, intervals, quarters
from hydroda.forecast.cycle import Batch, Levels, ahead
from hydroda.models.model import Model, Parameter
from hydroda.progress import Progress, silent
from hydroda.schema import LEADS

EVERY_LEAD = tuple(LEADS.tolist())
# hours, of the residual of an analysis: the two memories, and all pairs of them
LONG, SHORT = np.append(0.0, np.geomspace(0.5, 500.0, 61)), np.append(0.0, 2.0 ** np.arange(-1, 5))
MEMORIES = np.array([(a, b) for a in LONG for b in SHORT if b < a or a == b == 0.0])
NONE = MEMORIES[:1]  # nothing of the residual is left
AT_ONCE = 8  # pairs of memories whose arrays stay in the cache, which is twenty times faster than all at once
TYPICAL = 0.1  # share of its mean content a store is in error when it is empty


def table(model: Model) -> tuple[Parameter, ...]:
    """What there is to tune: an error for each state, those of the gauge, and the model's own `filter` parameters."""
    states = [
        Parameter(f"{s.name}_error", "1", f"hourly error of {s.long_name} over its content", 1e-4, 0.5, 0.01, True)
        if s.relative
        else Parameter(f"{s.name}_error", s.unit, f"hourly error of {s.long_name}", 1e-3, 0.5, 0.05, True)
        for s in model.states
    ]
    gauge = [
        Parameter("gauge_share", "1", "error of the gauge over its flow", 0.005, 0.3, 0.05, True),
        Parameter("gauge_base", "1", "error of the gauge at no flow over mean flow", 1e-3, 0.3, 0.02, True),
    ]
    return (*states, *gauge, *(p for p in model.parameters if p.role == "filter"))


def levels(model: Model, values: np.ndarray, content: np.ndarray, flow: float) -> Levels:
    """Error levels (k,) from values (k, d) ordered as `table`, mean content of the states (n,), mean flow [mm/h]."""
    n = len(model.states)
    errors = torch.from_numpy(values)
    relative = torch.tensor([float(s.relative) for s in model.states], dtype=torch.float64)
    base = torch.from_numpy(np.where([s.relative for s in model.states], TYPICAL * content, 1.0))
    state = errors[:, None, :n]
    return Levels(state * relative, state * base, errors[:, n : n + 1], errors[:, n + 1 : n + 2] * flow)


def rows(
    model: Model, build: Callable[[System], Filter], parameters: np.ndarray, past: Past, values: np.ndarray
) -> Batch:
    """Every candidate (k, d) on every stretch as a batch: candidate after candidate."""
    count = past.starts.size
    flow = float(torch.nanmean(past.observed))
    content = past.states.mean(0).numpy()
    own = np.repeat(parameters[None], len(values), 0)
    own[:, [i for i, p in enumerate(model.parameters) if p.role == "filter"]] = values[:, len(model.states) + 2 :]
    single = Batch(
        model,
        torch.from_numpy(own)[:, None],
        levels(model, values, content, flow),
        build,
        np.arange(len(values), dtype=np.int64),
    )
    return single.rows(np.repeat(np.arange(len(values)), count))


class Squares(NamedTuple):
    """Means (quarter of a year, candidate, lead) [mm²/h²] over forecasts of the model run from analyses: of the squared
    error e², of its products with the residual ρ of the analysis and with that of the hour before, ρ₋ (as
    `correction.known` has them), and of the products of these."""

    error: np.ndarray
    with_now: np.ndarray
    with_before: np.ndarray
    now: np.ndarray
    both: np.ndarray
    before: np.ndarray

    def corrected(self, memory: np.ndarray, leads: np.ndarray = LEADS) -> np.ndarray:
        """The squared error (memory, quarter, candidate, lead) with what memories (memory, 2) [h] leave of the
        residual after `leads` [h]."""
        now, before = (share[:, None, None] for share in correction.left(leads, memory[:, None]))
        linear = now * self.with_now + before * self.with_before
        return self.error + 2.0 * (linear + now * before * self.both) + now**2 * self.now + before**2 * self.before


def squares(batch: Batch, past: Past, found: Analyses) -> Squares:
    """Those of every candidate of a batch, in the quarters in which anything was observed."""
    count = past.starts.size
    times = batch.parameters.shape[0] // count
    blocks = quarters.count(count * STRETCH)
    quarter = torch.arange(count) * blocks // count
    total = torch.zeros(len(Squares._fields), times, blocks, LEADS.size, dtype=torch.float64)
    number = torch.zeros(times, blocks, LEADS.size)

    def summed(values: Tensor) -> Tensor:
        by_stretch = values.reshape(-1, times, count).sum(0)
        return torch.zeros(times, blocks, dtype=values.dtype).index_add(1, quarter, by_stretch)

    for wider, moment, _, residuals, at in issues(batch, past, found):
        system, observed = wider.filter.system, past.observed[at]
        seen = torch.isfinite(observed)
        residual, earlier = (torch.from_numpy(each) for each in correction.known(*residuals))
        with torch.inference_mode():
            for lead, flow in enumerate(ahead(system, moment.belief.mean, past.forcing[at])):
                error = torch.where(seen[lead], flow[:, 0] - observed[lead], 0.0)
                now, before = (torch.where(seen[lead], each, 0.0) for each in (residual, earlier))
                parts = (error.square(), error * now, error * before, now.square(), now * before, before.square())
                total[..., lead] += torch.stack([summed(part) for part in parts])
                number[..., lead] += summed(seen[lead].float())
    some = (number > 0).all(0).all(-1)
    return Squares(*(total / number)[:, :, some].transpose(1, 2).numpy())


def residual_memory(
    found: Squares, variance: float, leads: Sequence[int] = EVERY_LEAD, memories: np.ndarray = MEMORIES
) -> tuple[np.ndarray, np.ndarray]:
    """For each candidate which of these memories (m, 2) [h] of the residual of an analysis are best for `leads` [h],
    (k, 2), and the loss (k,) that is then left: the mean over the leads of `quarters.loss`, errors being divided by the
    variance of what is observed.

    A second memory must be worth more than a difference that does not count, which is added to the loss with it: what
    it gains by less in the hours it is fitted to it does not in others.
    """
    counted = np.array(leads)
    own = Squares(*(each[..., counted - 1] for each in found))
    loss = np.concatenate(
        [
            quarters.loss(np.moveaxis(own.corrected(some, counted), 1, 0) / variance).mean(-1)
            for some in np.array_split(memories, max(len(memories) // AT_ONCE, 1))
        ]
    )
    loss += np.where(memories[:, 1:] > 0.0, quarters.HARDLY, 0.0)
    return memories[loss.argmin(0)], loss.min(0)


def tune(
    model: Model,
    build: Callable[[System], Filter],
    parameters: np.ndarray,
    past: Past,
    *,
    seed: int = 0,
    generations: int = 20,
    population: int = 32,
    leads: Sequence[int] = EVERY_LEAD,
    memories: np.ndarray = MEMORIES,
    progress: Progress = silent,
) -> np.ndarray:
    """The error levels (d,), in the order of `table`, that forecast best with the residual of the analysis added, which
    has one of these `memories`.

    Least is the mean over `leads` [h] of a logarithm (`residual_memory`): every lead counts alike, and what is won in
    the first hours does not pay for forecasts of a day that are worse than without the filter. A gain that would make
    the first hour right by stores alone is thus not asked for: the residual does that, and is forgotten sooner than
    stores are. Found among `generations` × `population` candidates.
    """

    def loss(values: np.ndarray) -> np.ndarray:
        candidates = rows(model, build, parameters, past, values)
        found = squares(candidates, past, analyses(candidates, past, EVERY))
        return residual_memory(found, past.variance, leads, memories)[1]

    return minimised(
        loss,
        table(model),
        generations=generations,
        population=population,
        seed=seed,
        told=lambda fraction, loss: progress(fraction, f"filter: {np.exp(loss):.4f} of the variance"),
    )


def sized(
    model: Model, build: Callable[[System], Filter], parameters: np.ndarray, past: Past, values: np.ndarray
) -> np.ndarray:
    """The error levels (d,), all errors multiplied by one number that makes the innovations consistent.

    Nine in ten normalised innovations squared are then below what a χ² variable with one degree of freedom is.
    """
    nis = analyses(rows(model, build, parameters, past, values[None]), past, EVERY).nis
    seen = nis[torch.isfinite(nis)].numpy()
    errors = len(model.states) + 2
    factor = float(np.sqrt(np.quantile(seen, intervals.SHARE) / chi2.ppf(intervals.SHARE, 1)))
    return np.concatenate((factor * values[:errors], values[errors:]))
