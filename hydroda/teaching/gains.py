"""What a gain inside a model is trained on: windows of the past, forecast for all leads from every other hour.

The model is differentiable, so a forecast made a day ago can be traced back to the gains that led to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.beliefs import Belief, mapped
from hydroda.filters.recipe import Filter, Hour
from hydroda.forecast.cycle import Batch
from hydroda.forecast.predictive import NO_FLOW
from hydroda.schema import LEADS
from hydroda.teaching.losses import Objective, Series

WINDOW, SETTLE, EVERY = 240, 24, 2  # hours of a window, of these without forecasts, and between forecasts
LENGTH = WINDOW + LEADS.size
WINDOWS = 1500  # for each network to choose from
DISTURBED = 0.3  # spread of the logarithm of stores a window begins with
CHUNK, WARM, SCORED = 1500, 500, 3  # the same of a long run for validation; short ones hide a drift of stores
FOLDS = 3  # parts of a record at least, each of which a network is not trained on, chunk after chunk in turn


@dataclass(frozen=True)
class Analysed:
    """A record: forcing (T, m), runoff (T,) [mm/h] with NaN, a filter's states (T, n) after each hour to start from."""

    forcing: Tensor
    observed: Tensor
    states: Tensor


@dataclass(frozen=True)
class Reference:
    """Mean squared errors (24, place) of the best classical forecast for each lead, of runoff and of its root."""

    runoff: Tensor
    root: Tensor


def chunk(hours: Sequence[int], folds: int) -> int:
    """Hours of a chunk of records that are so long, the shortest of which has at least one for each of the folds.

    Raises ValueError when two of them have no room for a window.
    """
    length = min(CHUNK, min(hours) // folds)
    if 2 * length < LENGTH:
        raise ValueError(f"{min(hours)} hours to train on are too few; {folds * LENGTH // 2 + folds} are needed")
    return length


def parts(scored: np.ndarray, length: int, folds: int) -> np.ndarray:
    """Which fold each hour (T,) of a record is of, chunk after chunk in turn so that all have all seasons; -1 for hours
    that are not `scored` (T,)."""
    first, last = np.flatnonzero(scored)[[0, -1]]
    since = np.arange(len(scored)) - first
    return np.where((since >= 0) & (since <= last - first), since // length % folds, -1)


def windows(analysed: Analysed, batch: Batch, part: np.ndarray, nets: int, seed: int) -> tuple[Series, Tensor]:
    """Windows for each network within the parts of a record (T,) that are not its own, and which (net, window).

    Drawn in proportion to the root of their peak, since most weeks teach nothing; the stores they begin with are
    disturbed, so that a network learns to correct them and not only to keep what another filter left.
    """
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_drawn(analysed, (part >= 0) & (part != net), rng) for net in range(nets)])
    x = analysed.states[drawn - 1]
    factor = np.exp(DISTURBED * rng.normal(size=x.shape))
    assert batch.system.stores is not None
    x = torch.where(batch.system.stores, x * torch.from_numpy(factor), x)
    every = series(analysed, batch, x, drawn, LENGTH)
    return every, torch.arange(nets * WINDOWS).reshape(nets, WINDOWS)


def _drawn(analysed: Analysed, allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first hours (window,) of windows of which all hours are allowed (T,)."""
    inside = np.lib.stride_tricks.sliding_window_view(allowed, LENGTH).all(axis=1)
    starts = 1 + np.flatnonzero(np.asarray(inside)[1:])
    flow = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(analysed.observed.numpy()), WINDOW)[starts]
    weight = np.sqrt(flow.max(1))
    return rng.choice(starts, (WINDOWS,), p=weight / weight.sum())


def chunks(analysed: Analysed, batch: Batch, part: np.ndarray, length: int, nets: int) -> tuple[Series, Tensor]:
    """A record cut into chunks of this length that are run side by side, and those of each network's part (net, chunk),
    as many for each; before the record and after its last hour that counts nothing is observed."""
    counted = np.flatnonzero(part >= 0)
    first, last = counted[[0, -1]]
    starts = np.arange(first, last + 1, length)
    warm = starts - WARM
    made = series(analysed, batch, analysed.states[np.maximum(warm - 1, 0)], warm, WARM + length + LEADS.size)
    hour = torch.from_numpy(warm) + torch.arange(made.observation.shape[0]).unsqueeze(1)
    inside = (hour >= 0) & (hour <= last)
    own = [np.flatnonzero(part[starts] == net) for net in range(nets)]
    rows = np.stack([each[: min(map(len, own))] for each in own])
    seen = torch.where(inside.unsqueeze(-1), made.observation, torch.nan)
    return replace(made, observation=seen), torch.from_numpy(rows)


def series(analysed: Analysed, batch: Batch, x: Tensor, starts: np.ndarray, length: int) -> Series:
    """`length` hours from each of some starts (s,) with states x (s, n) nothing was observed of yet."""
    at = torch.from_numpy(starts + np.arange(length)[:, None]).clamp(0, len(analysed.observed) - 1)
    count, mean = len(x), x.unsqueeze(1)
    return Series(
        mean,
        batch.uncertainty(mean),
        batch.parameters.expand(count, -1, -1),
        analysed.forcing[at],
        analysed.observed[at].unsqueeze(-1),
        x.new_zeros(length, count, 0),
    )


def errors(
    made: Filter, belief: Belief, series: Series, issues: Sequence[int], leads: Sequence[int]
) -> tuple[Tensor, Tensor, Belief]:
    """Squared errors (lead, issue, c) of the forecasts issued in some hours of series for `leads` [h], of runoff and of
    its square root, NaN where nothing was observed, and the belief at the end."""
    wanted, kept = set(issues), []
    for i in range(max(issues) + 1):
        hour = Hour(series.forcing[i].unsqueeze(1), series.observation[i], series.noise(i))
        belief, _ = made.step(belief, hour)
        if i in wanted:
            kept.append(belief.mean)
    at = torch.tensor(sorted(wanted)) + torch.arange(1, max(leads) + 1).unsqueeze(1)  # (hour ahead, issue)
    start = torch.stack(kept, 1).flatten(1, 2)  # (c, issue, n): issue times are points of one catchment
    flow, root_of_flow = _rolled(made, start, series, at)
    asked = torch.tensor(leads) - 1
    return flow[asked], root_of_flow[asked], belief


def _rolled(made: Filter, x: Tensor, series: Series, at: Tensor) -> tuple[Tensor, Tensor]:
    flows = []
    for hours in at:
        x = made.system.move(x, series.forcing[hours].transpose(0, 1))
        flows.append(made.system.see(x)[..., 0].T)
    flow, seen = torch.stack(flows), series.observation[at][..., 0]
    there = torch.isfinite(seen)
    real = torch.where(there, seen, flow.detach())

    def square(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(there, (a - b).square(), torch.nan)

    return square(flow, real), square(root(flow), root(real))


def root(runoff: Tensor) -> Tensor:
    """The square root of runoff, with a finite derivative."""
    return runoff.clamp(min=NO_FLOW).sqrt()


def teaching(reference: Reference, nets: int, leads: Sequence[int]) -> Objective:
    """Half the mean over `leads` [h] of log(1 + MSE / MSE of the reference), half the same of the root of runoff.

    The ratio makes the first hour and the last count alike, and places too; the logarithm keeps one flood from owning
    the gradient.
    """

    def objective(made: Filter, belief: Belief, series: Series) -> tuple[Tensor, Belief]:
        *squares, belief = errors(made, belief, series, range(SETTLE, WINDOW, EVERY), leads)
        pairs = zip(squares, (reference.runoff, reference.root), strict=True)
        each = [torch.log1p(_ratio(square, base, series, leads, nets)).mean(0) for square, base in pairs]
        loss = 0.5 * (each[0] + each[1])
        return loss.repeat_interleave(belief.mean.shape[0] // nets), mapped(torch.detach, belief)

    return objective


def judging(reference: Tensor, nets: int, leads: Sequence[int]) -> Objective:
    """The mean over `leads` [h] of MSE over that of the reference (24, place), from every third hour of long runs."""

    def objective(made: Filter, belief: Belief, series: Series) -> tuple[Tensor, Belief]:
        issues = range(WARM, len(series.observation) - LEADS.size, SCORED)
        square, _, belief = errors(made, belief, series, issues, leads)
        score = _ratio(square, reference, series, leads, nets).mean(0)
        return score.repeat_interleave(belief.mean.shape[0] // nets), belief

    return objective


def _ratio(square: Tensor, reference: Tensor, series: Series, leads: Sequence[int], nets: int) -> Tensor:
    """Means (lead, net) of squares (lead, issue, c) over those of a reference (24, place)."""
    base = reference[torch.tensor(leads) - 1][:, series.place].unsqueeze(1)
    return torch.nanmean((square / base).unflatten(-1, (nets, -1)), dim=(1, 3))
