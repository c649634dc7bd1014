"""Models and filters through time: the loops over hours, for many catchments at once. Tensors only.

Axes as everywhere: (catchment, point, component); runoff in mm/h. A `Batch` is what is known of catchments that share a
model and a filter, a `Moment` what is known at the end of an hour and all the next hour needs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.algebra import product
from hydroda.filters.beliefs import Belief, Ensemble, chosen, named
from hydroda.filters.nested import Committee, TwoBiases
from hydroda.filters.networks import Trained
from hydroda.filters.noise import Noise, address
from hydroda.filters.recipe import Filter, Hour, System, Unknowns
from hydroda.models.model import Model
from hydroda.schema import LEADS

ACCUMULATED = 100  # hours of model error that stores are wrong by at a cold start; the filter settles within days


@dataclass(frozen=True)
class Levels:
    """Error levels. The standard deviation of an hour's model error of a state x is share · x + base, that of a gauge
    share · y + base.

    State (c, 1, n), gauge (c, 1) [mm/h].
    """

    state_share: Tensor
    state_base: Tensor
    gauge_share: Tensor
    gauge_base: Tensor


@dataclass(frozen=True)
class Batch:
    """Catchments (c,) of one model and filter: parameters (c, 1, k), error levels, addresses of their noise (c,),
    and networks where some were trained."""

    model: Model
    parameters: Tensor
    levels: Levels
    build: Callable[[System], Filter]
    addresses: np.ndarray
    seed: int = 0
    networks: Trained | None = None

    @cached_property
    def system(self) -> System:
        """The catchments as a filter sees them."""
        model, p, levels = self.model, self.parameters, self.levels

        def model_error(mean: Tensor) -> Tensor:
            return torch.diag_embed((levels.state_share * mean.clamp(min=0.0) + levels.state_base)[:, 0])

        def observation_error(y: Tensor) -> Tensor:
            return torch.diag_embed((levels.gauge_share * y.clamp(min=0.0) + levels.gauge_base).square())

        table = model.parameters
        return System(
            *model.bound(p),
            model_error,
            observation_error,
            torch.tensor([s.water for s in model.states]),
            Unknowns(
                tuple(parameter.name for parameter in table),
                p,
                torch.tensor([parameter.lower for parameter in table], dtype=p.dtype),
                torch.tensor([parameter.upper for parameter in table], dtype=p.dtype),
                model.step,
                model.discharge,
            ),
            self.networks,
        )

    @cached_property
    def filter(self) -> Filter:
        """The filter of these catchments."""
        return self.build(self.system)

    def rows(self, index: np.ndarray) -> "Batch":
        """The catchments at these positions, in this order, as often as they are named."""
        at = torch.from_numpy(index)
        levels = Levels(*(getattr(self.levels, field.name)[at] for field in fields(Levels)))
        networks = None if self.networks is None else self.networks.rows(at)
        own = self.addresses[index]
        return replace(self, parameters=self.parameters[at], levels=levels, addresses=own, networks=networks)

    def noise(self, hours: np.ndarray) -> Noise:
        """The random numbers of these hours since 1970 (c,)."""
        return Noise(self.seed, self.addresses, hours)

    def uncertainty(self, x: Tensor) -> Tensor:
        """The covariance (c, n, n) of states x (c, 1, n) nothing was observed of yet.

        Errors of stores add up, independent from hour to hour, those that are states themselves fade. With a fixed
        error the first gains, and those of a slow store for months, would depend on the size of the error levels,
        which are found by their proportions on short stretches of the past.
        """
        adds_up = torch.tensor([s.relative for s in self.model.states])
        root = self.system.model_error(x) * torch.where(adds_up, math.sqrt(ACCUMULATED), 1.0).unsqueeze(-1)
        return product(root, root)

    def believe(self, x: Tensor, hour: int) -> Belief:
        """What is believed of states x (c, 1, n) nothing was observed of yet."""
        return self.filter.init(x, self.uncertainty(x), self.noise(np.full(x.shape[0], hour)))


def batch(
    model: Model, parameters: Tensor, levels: Levels, build: Callable[[System], Filter], ids: Sequence[str], seed: int
) -> Batch:
    """The batch of catchments with these ids."""
    return Batch(model, parameters, levels, build, np.array([address(i) for i in ids], np.int64), seed)


@dataclass(frozen=True)
class Moment:
    """The end of an hour (since 1970): the belief, and the open-loop state (c, 1, n) that never saw an observation."""

    hour: int
    belief: Belief
    open_loop: Tensor


class Biases(NamedTuple):
    """What a filter found of biases, positive too high, with standard deviations: of the gauge (c,) [mm/h], of the
    states (c, n) that the model integrates."""

    gauge: Tensor
    gauge_error: Tensor
    states: Tensor
    state_errors: Tensor


class Analysis(NamedTuple):
    """One hour of a filter in runoff (c,) [mm/h]: before and after its observation, with the error of the latter.

    `normalised_innovation` (c,) is d / √S, white and of variance one in a consistent filter, NaN where none was seen.
    `repaired` (c,) marks catchments whose belief broke down in this hour and was set back to the open loop. `biases`
    are there where the filter estimates any; the estimate is without them, the background is what the gauge would read.
    """

    moment: Moment
    background: Tensor
    estimate: Tensor
    standard_error: Tensor
    open_loop: Tensor
    normalised_innovation: Tensor
    repaired: Tensor
    biases: Biases | None = None


class Rollout(NamedTuple):
    """24 hours (24, c) [mm/h]: the model from the mean of a belief, the variance of what a gauge will see, the model
    from the open loop; members (24, N, c) where the belief has some, networks beside it (24, s, c) likewise."""

    median: Tensor
    variance: Tensor
    open_loop: Tensor
    members: Tensor | None
    networks: Tensor | None


def trajectory(model: Model, x: Tensor, forcing: Tensor, p: Tensor) -> Iterator[Tensor]:
    """The states (catchment, point, n) after each hour of `forcing` (T, catchment, m), without assimilation.

    `p` is (catchment or 1, 1 or point, parameter): a population of parameter sets may stand on the point axis.
    """
    for u in forcing:
        x = model.step(x, u.unsqueeze(1), p)
        yield x


def assimilate(batch: Batch, start: Moment, forcing: Tensor, observation: Tensor, doubt: Tensor) -> Iterator[Analysis]:
    """Every hour after `start`: forcing (T, c, m), runoff (T, c) with NaN where missing, doubt (T, c).

    A catchment whose belief is no longer finite goes on from its open loop; the others do not notice, and neither does
    a filter when networks beside it break down.
    """
    belief, open_loop = start.belief, start.open_loop
    for i in range(forcing.shape[0]):
        hour = start.hour + 1 + i
        u = forcing[i].unsqueeze(1)
        with torch.inference_mode():
            noise = batch.noise(np.full(u.shape[0], hour))
            arriving = Hour(u, observation[i].unsqueeze(-1), noise, doubt[i].unsqueeze(-1))
            belief, update = batch.filter.step(belief, arriving)
            open_loop = batch.system.move(open_loop, u)
            belief, sound = _mended(batch, belief, open_loop, hour)
            moment = Moment(hour, belief, open_loop)
            spread, error = update.predicted.cov[:, 0, 0], update.observation_cov[:, 0, 0]
            seen = update.seen[:, 0]
            # one scalar observation leaves P − P S⁻¹ P of the variance P of what it measures
            variance = torch.where(seen, spread * error / (spread + error), spread)
            yield Analysis(
                moment,
                update.predicted.mean[:, 0],
                batch.filter.system.see(belief.mean)[:, 0, 0],
                variance.clamp(min=0.0).sqrt(),
                batch.system.see(open_loop)[:, 0, 0],
                torch.where(seen, update.innovation[:, 0] / update.innovation_cov[:, 0, 0].sqrt(), torch.nan),
                ~sound,
                _found(belief),
            )


def _found(belief: Belief) -> Biases | None:
    """The biases a belief holds, below whatever changes them."""
    held = _two_biases(belief)
    if held is None:
        return None
    states = held.bias_cov.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()
    return Biases(held.gauge[:, 0, 0], held.gauge_error[:, 0, 0], held.bias[:, 0], states)


def _two_biases(belief: Belief) -> TwoBiases | None:
    while not isinstance(belief, TwoBiases):
        belief = getattr(belief, "state", None)
        if belief is None:
            return None
    return belief


def _mended(batch: Batch, belief: Belief, open_loop: Tensor, hour: int) -> tuple[Belief, Tensor]:
    """A belief of which what is not of finite numbers begins anew from the open loop, and which catchments (c,) have a
    sound one: that of the filter counts, which networks that break down beside it leave alone."""
    if isinstance(belief, Committee):
        sound, learned = _sound(belief.state), _sound(belief.networks)
        if (sound & learned).all():
            return belief, sound
        anew = batch.believe(open_loop, hour)
        assert isinstance(anew, Committee)
        state, networks = chosen(sound, belief.state, anew.state), chosen(learned, belief.networks, anew.networks)
        return Committee(state, networks), sound
    sound = _sound(belief)
    return belief if sound.all() else chosen(sound, belief, batch.believe(open_loop, hour)), sound


def _sound(belief: Belief) -> Tensor:
    """Which catchments (c,) have a belief of finite numbers."""
    tensors = named(belief).values()
    return torch.stack([torch.isfinite(tensor).reshape(tensor.shape[0], -1).all(1) for tensor in tensors]).all(0)


def ahead(world: System, x: Tensor, forcing: Tensor, bias: Tensor | float = 0.0) -> Iterator[Tensor]:
    """Runoff (c, k) [mm/h] in each hour of `forcing` (T, c, m) after states (c, k, n), without errors.

    A `bias` (c, k, n) of the states the model integrates is there all the way, and not seen. Networks beside a filter
    have columns of their own behind it, (c, k + k s).
    """
    x = x + bias
    for u in forcing:
        x = world.move(x, u.unsqueeze(1))
        flow = world.see(x - bias)[..., 0]
        yield flow if world.beside is None else torch.cat((flow, world.beside(x).flatten(1)), 1)


def rollout(batch: Batch, belief: Belief, open_loop: Tensor, forcing: Tensor, hours: np.ndarray) -> Rollout:
    """The 24 hours after the hours (c,) a belief is of, with forcing (24, c, m): many issue times are many catchments.

    The median is the model run from the mean, as a forecaster would run it; the filter's own forecast supplies the
    variance, to which the error of the gauge is added.
    """
    world, variance, members, networks = batch.filter.system, [], [], None
    with torch.inference_mode():
        held = _two_biases(belief)
        bias = torch.zeros_like(belief.mean) if held is None else held.bias
        if world is batch.system:  # one model for both, so one call an hour
            both, biases = torch.cat((belief.mean, open_loop), 1), torch.cat((bias, torch.zeros_like(bias)), 1)
            median, background = torch.stack(list(ahead(world, both, forcing, biases))).unbind(-1)
        else:
            median, *theirs = torch.stack(list(ahead(world, belief.mean, forcing, bias))).unbind(-1)
            networks = torch.stack(theirs, 1) if theirs else None
            background = torch.stack(list(ahead(batch.system, open_loop, forcing)))[..., 0]
        alone = batch.filter.alone or batch.filter  # spread and members are the filter's: networks need not come along
        if isinstance(belief, Committee):
            belief = belief.state
        for i in range(LEADS.size):
            u = forcing[i].unsqueeze(1)
            nothing = torch.full((u.shape[0], 1), torch.nan, dtype=u.dtype)
            belief = alone.forecast(belief, Hour(u, nothing, batch.noise(hours + 1 + i)))
            spread = alone.observe(belief).cov + world.observation_error(median[i, :, None])
            variance.append(spread[:, 0, 0])
            whole = belief.state if isinstance(belief, TwoBiases) else belief
            if isinstance(whole, Ensemble):
                truth = whole.members if held is None else whole.members - bias
                members.append(alone.system.see(truth)[..., 0].T)
        every = torch.stack(members) if members else None
        return Rollout(median, torch.stack(variance), background, every, networks)
