"""Particle filters: members are not shifted, their weights change."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import log_density, root, transposed
from hydroda.filters.beliefs import Belief, Particles
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, System, Update, kalman_gain, weighed

Resample = Callable[[Tensor, Noise], Tensor]  # weights (c, N) → which member (c, N) each new one copies


def bootstrap(system: System, *, members: int = 200, threshold: float = 0.5) -> Filter:
    """Bootstrap particle filter (Gordon et al. 1993), systematic resampling (Kitagawa 1996).

    Members are resampled where 1 / Σ w² < `threshold` N. Weights are changed by p(y | x). Copies differ again only by
    the model error of the next hour, which must therefore be positive. Raises ValueError for fewer than 2 members.
    """

    def systematic(weights: Tensor, noise: Noise) -> Tensor:
        count = weights.shape[1]
        at = (torch.arange(count).to(weights) + noise.uniform("resampling", 1).to(weights)) / count
        return _below(weights, at)

    return _particles(system, members, threshold, systematic)


def variance_minimising(system: System, *, members: int = 200, threshold: float = 1.0) -> Filter:
    """Variance-minimising filter (van Leeuwen 2003; Drécourt 2003, §6): residual resampling.

    ⌊N w⌋ copies of each member, the rest drawn from what is left of N w. Resampled after every observation unless
    `threshold` is below one. Raises ValueError for fewer than 2 members.
    """

    def residual(weights: Tensor, noise: Noise) -> Tensor:
        count = weights.shape[1]
        copies = (count * weights + 1e-9).floor()  # rounding must not take a copy from N equal weights
        left = (count * weights - copies).clamp(min=0.0)
        certain = copies.sum(1, keepdim=True)
        places = torch.arange(count).to(weights).expand_as(weights)
        whole = torch.searchsorted(copies.cumsum(1), places.contiguous(), right=True)
        total = left.sum(1, keepdim=True)
        drawn = _below(left / torch.where(total > 0.0, total, 1.0), noise.uniform("resampling", count).to(weights))
        return torch.where(places < certain, whole, drawn).clamp(max=count - 1)

    return _particles(system, members, threshold, residual)


def _below(weights: Tensor, at: Tensor) -> Tensor:
    """The member whose share of the line from 0 to 1 holds each of `at` (c, N)."""
    return torch.searchsorted(weights.cumsum(1), at.contiguous()).clamp(max=weights.shape[1] - 1)


def _particles(system: System, members: int, threshold: float, resample: Resample) -> Filter:
    if members < 2:
        raise ValueError(f"a particle filter of {members} members, at least 2 are needed")

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Particles:
        draws = noise.normal("initial state", members, mean.shape[-1]).to(mean)
        equal = torch.full_like(draws[..., 0], -math.log(members))
        return Particles(mean + draws @ transposed(root(cov)), equal)

    def forecast(belief: Belief, hour: Hour) -> Particles:
        moved = system.move(belief.members, hour.forcing)
        error = system.model_error((belief.weights * moved).sum(1, keepdim=True))
        draws = hour.noise.normal("model error", members, error.shape[-1]).to(moved)
        return replace(belief, members=moved + draws @ transposed(error))

    def observe(belief: Belief) -> Predicted:
        half = belief.weights.sqrt()
        seen = system.see(belief.members)
        mean = (belief.weights * seen).sum(1, keepdim=True)
        a, y = half * (belief.members - belief.mean), half * (seen - mean)
        return Predicted.of_root(mean[:, 0], transposed(a), transposed(y))

    def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
        prior = forecast(belief, hour)
        expected = observe(prior)
        predicted, r, innovation, seen = weighed(system, expected, hour)
        departure = torch.where(seen, innovation + expected.mean, 0.0).unsqueeze(1) - system.see(prior.members)
        departure = torch.where(seen.unsqueeze(1), departure, 0.0)
        log_weights = prior.log_weights + log_density(departure, r, seen.sum(-1))
        likelihood = torch.logsumexp(log_weights, 1)
        log_weights = log_weights - likelihood.unsqueeze(-1)
        some = seen.any(-1)
        weighted = replace(prior, log_weights=torch.where(some.unsqueeze(-1), log_weights, prior.log_weights))
        few = some & (1.0 / weighted.weights.square().sum((1, 2)) < threshold * members)
        posterior = weighted
        if few.any():
            weights = torch.where(torch.isfinite(weighted.weights[..., 0]), weighted.weights[..., 0].detach(), 0.0)
            which = resample(weights, hour.noise).unsqueeze(-1).expand_as(prior.members)
            copied = torch.gather(prior.members, 1, which)
            equal = torch.full_like(log_weights, -math.log(members))
            posterior = Particles(
                torch.where(few[:, None, None], copied, prior.members),
                torch.where(few[:, None], equal, weighted.log_weights),
            )
        gain = kalman_gain(prior, predicted, innovation, r)
        likelihood = torch.where(some, likelihood, 0.0)
        return posterior, Update(innovation, predicted.cov + r, gain, seen, expected, r, likelihood)

    return Filter(system, init, forecast, observe, step)
