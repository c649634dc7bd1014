"""What filters with a learned gain share: how a belief begins and moves, and what a network is told of it.

States and observations have scales, stored with the weights, in which a network sees them and in which it answers: a
change of units is a change of scales and of nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hydroda.filters.algebra import jacobian, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian, Point
from hydroda.filters.nested import Learned
from hydroda.filters.networks import shared, unstacked
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Hour, Predicted, System


@dataclass(frozen=True)
class Features:
    """What a network is told in an hour, in the stored scales of states and observations, so without units: innovation
    and change of the observation (c, q), correction and change of the analysis (c, n)."""

    innovation: Tensor
    step: Tensor
    correction: Tensor
    change: Tensor


def features(
    w: Mapping[str, Tensor], belief: Learned, predicted: Predicted, innovation: Tensor, seen: Tensor
) -> Features:
    """Of a belief after its forecast; zero for what was not observed."""
    x, y = scales(w, belief)
    step = torch.where(seen, innovation + predicted.mean - belief.observation, 0.0)
    return Features(innovation / y, step / y, belief.correction.squeeze(1) / x, belief.change.squeeze(1) / x)


def derivative(predicted: Predicted) -> Tensor:
    """H (c, q, n) of a filter that takes it, zero for what was not observed."""
    assert predicted.slope is not None
    return predicted.slope


def scaled_derivative(w: Mapping[str, Tensor], belief: Learned, predicted: Predicted) -> Tensor:
    """H (c, q, n) in the stored scales, so without units."""
    x, y = scales(w, belief)
    return derivative(predicted) * x.unsqueeze(-2) / y.unsqueeze(-1)


def scales(w: Mapping[str, Tensor], belief: Learned) -> tuple[Tensor, Tensor]:
    """The stored scales of states (c, n) and observations (c, q)."""
    c = belief.mean.shape[0]
    return shared(w["fixed.state"], c).to(belief.mean), shared(w["fixed.observation"], c).to(belief.mean)


def remembering(belief: Learned, memory: Tensor, predicted: Predicted, innovation: Tensor, seen: Tensor) -> Learned:
    """The belief with a new memory (net, k, row), and what was observed."""
    observation = torch.where(seen, innovation + predicted.mean, belief.observation)
    return replace(belief, memory=unstacked(memory, belief.memory).unsqueeze(1), observation=observation)


class Carried(NamedTuple):
    """The verbs that need no network: how a belief begins, moves and is seen."""

    init: Callable[[Tensor, Tensor, Noise], Learned]
    forecast: Callable[[Learned, Hour], Learned]
    observe: Callable[[Learned], Predicted]


def with_mean(system: System, w: Mapping[str, Tensor], *, slope: bool = False) -> Carried:
    """A mean alone is carried, covariances that are asked for are NaN; `slope`: H is taken."""

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Learned:
        return _begun(w, Point(mean), system.see(mean)[:, 0])

    def forecast(belief: Learned, hour: Hour) -> Learned:
        return belief.moved(Point(system.move(belief.mean, hour.forcing)))

    def observe(belief: Learned) -> Predicted:
        mean = system.see(belief.mean)[:, 0]
        unknown = torch.full((1, 1, 1), torch.nan).to(mean)
        (c, q), n = mean.shape, belief.mean.shape[-1]
        h = jacobian(system.see, belief.mean, q) if slope else None
        return Predicted(mean, unknown.expand(c, n, q), unknown.expand(c, q, q), slope=h)

    return Carried(init, forecast, observe)


def with_covariance(system: System, w: Mapping[str, Tensor]) -> Carried:
    """Mean and covariance are carried, F P Fᵀ over an hour: these filters know of no Q, so that it grows by what the
    model does to it only."""

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Learned:
        return _begun(w, Gaussian(mean, cov), system.see(mean)[:, 0])

    def forecast(belief: Learned, hour: Hour) -> Learned:
        mean = system.move(belief.mean, hour.forcing)
        f = jacobian(lambda x: system.move(x, hour.forcing), belief.mean, mean.shape[-1])
        return belief.moved(Gaussian(mean, symmetric(f @ belief.cov @ transposed(f))))

    def observe(belief: Learned) -> Predicted:
        mean = system.see(belief.mean)[:, 0]
        h = jacobian(system.see, belief.mean, mean.shape[-1])
        cross = belief.cov @ transposed(h)
        return Predicted(mean, cross, symmetric(h @ cross), slope=h)

    return Carried(init, forecast, observe)


def _begun(w: Mapping[str, Tensor], state: Belief, seen: Tensor) -> Learned:
    """No correction, no change, and of an observation what is expected."""
    mean = state.mean
    nothing, memory = torch.zeros_like(mean), shared(w["fixed.memory"], mean.shape[0]).unsqueeze(1).clone()
    return Learned(state, mean, mean, nothing, nothing, seen, memory)
