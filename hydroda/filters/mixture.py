"""Observation errors of several sizes, not known which: what a filter can reach that does not see it.

Both weigh the hypotheses by how likely they make what was observed; the first merges them every hour, the second keeps
many histories of them. They are what a learned gain is to be compared with where errors are not normal.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, jacobian, joseph, log_density, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian, GaussianSum
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, System, Update, assemble, kalman_gain, weighed


def gpb1(build: Build, *, factor: float = 25.0, share: float = 0.05) -> Build:
    """Generalised pseudo-Bayes of first order (Ackerson & Fu 1970): two sizes of observation error, merged every hour.

    With probability `share` the error variance is `factor` times that of the system, as where a gauge has outliers. One
    forecast, an analysis for each size, and of their mixture the mean and covariance, spread of means included. Takes
    filters that carry a mean and covariance. Raises ValueError for any other, or a share outside [0, 1].
    """
    if not 0.0 <= share <= 1.0 or factor <= 0.0:
        raise ValueError(f"mixture.gpb1: share is {share}, factor {factor}; they must be in [0, 1] and above 0")
    priors = torch.tensor([1.0 - share, share], dtype=torch.float64).log()

    def made(system: System) -> Filter:
        plain = build(system)
        analysis = assemble(plain.system, replace(plain.verbs("mixture.gpb1"), forecast=lambda belief, hour: belief))

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Belief:
            belief = plain.init(mean, cov, noise)
            if not isinstance(belief, Gaussian):
                raise ValueError(f"mixture.gpb1 merges means and covariances, a {type(belief).__name__} has no such")
            return belief

        def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
            prior = plain.forecast(belief, hour)
            doubt = torch.ones_like(hour.observation) if hour.doubt is None else hour.doubt
            beliefs, updates = zip(
                *(analysis.step(prior, hour._replace(doubt=size * doubt)) for size in (1.0, factor)), strict=True
            )
            logs = torch.stack([u.log_likelihood for u in updates], -1) + priors.to(belief.mean)
            likelihood = torch.logsumexp(logs, -1)
            means, covs = torch.cat([b.mean for b in beliefs], 1), torch.stack([b.cov for b in beliefs], 1)
            merged = GaussianSum(means, covs, logs - likelihood.unsqueeze(-1))
            some = updates[0].seen.any(-1)
            keep = some[:, None, None]
            posterior = Gaussian(
                torch.where(keep, merged.mean, prior.mean), torch.where(keep, symmetric(merged.cov), prior.cov)
            )
            return posterior, updates[0]._replace(own_likelihood=torch.where(some, likelihood, 0.0))

        return Filter(plain.system, init, plain.forecast, plain.observe, step)

    return made


def rao_blackwell(system: System, *, factors: Tensor, shares: Tensor, members: int = 200) -> Filter:
    """Rao–Blackwellised particle filter (Doucet et al. 2000): each member has a history of sizes, and the Kalman filter
    that belongs to it.

    The error variance is that of the system times one of `factors` (k,), with probabilities `shares` (k,). A member
    draws its size from what the observation makes of the probabilities; members are resampled where fewer than half
    count. F and H are taken at the mean: for linear systems. Tends to the exact answer as members grow.
    """

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> GaussianSum:
        equal = torch.full_like(mean[:, :, 0], -math.log(members)).expand(-1, members)
        return GaussianSum(mean.expand(-1, members, -1), cov.unsqueeze(1).expand(-1, members, -1, -1), equal)

    def forecast(belief: Belief, hour: Hour) -> GaussianSum:
        f = jacobian(lambda x: system.move(x, hour.forcing), belief.mean, belief.mean.shape[-1]).unsqueeze(1)
        error = system.model_error(system.move(belief.mean, hour.forcing))
        covs = f @ belief.covs @ transposed(f) + (error @ transposed(error)).unsqueeze(1)
        return replace(belief, means=system.move(belief.means, hour.forcing), covs=symmetric(covs))

    def observe(belief: Belief) -> Predicted:
        seen = system.see(belief.mean)[:, 0]
        h = jacobian(system.see, belief.mean, seen.shape[-1])
        cross = belief.cov @ transposed(h)
        return Predicted(seen, cross, symmetric(h @ cross), slope=h)

    def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
        prior = forecast(belief, hour)
        expected = observe(prior)
        predicted, r, innovation, seen = weighed(system, expected, hour)
        assert predicted.slope is not None
        c, k, q = prior.means.shape[0], factors.numel(), innovation.shape[-1]
        pairs = (seen.unsqueeze(-1) & seen.unsqueeze(-2))[:, None, None]
        errors = torch.where(pairs, factors[:, None, None].to(r) * r[:, None, None], r[:, None, None])
        departure = (innovation + expected.mean).unsqueeze(1) - system.see(prior.means)
        departure = torch.where(seen.unsqueeze(1), departure, 0.0)
        crosses = prior.covs @ transposed(predicted.slope).unsqueeze(1)  # (c, N, n, q)
        s = (predicted.slope.unsqueeze(1) @ crosses).unsqueeze(2) + errors  # (c, N, k, q, q)
        flat = departure.unsqueeze(2).expand(-1, -1, k, -1).reshape(-1, 1, q)
        count = seen.sum(-1)[:, None, None].expand(-1, members, k).flatten()
        logs = log_density(flat, s.reshape(-1, q, q), count).reshape(c, members, k) + shares.to(r).log()
        own = torch.logsumexp(logs, -1)
        weights = prior.log_weights + own
        likelihood = torch.logsumexp(weights, 1)
        chance = (logs - own.unsqueeze(-1)).exp().cumsum(-1)[..., :-1]
        which = (hour.noise.uniform("size of the error", members, 1).to(r) > chance).sum(-1)
        s = s.gather(2, which[..., None, None, None].expand(-1, -1, 1, q, q)).squeeze(2)
        gains = divided(crosses.flatten(0, 1), s.flatten(0, 1)).unflatten(0, (c, members))
        some = seen.any(-1)[:, None, None]
        means = prior.means + (gains @ departure.unsqueeze(-1)).squeeze(-1)
        covs = joseph(prior.covs, gains, crosses, s)
        posterior = GaussianSum(
            torch.where(some, means, prior.means),
            torch.where(some.unsqueeze(-1), covs, prior.covs),
            torch.where(some.squeeze(-1), weights - likelihood.unsqueeze(-1), prior.log_weights),
        )
        gain = kalman_gain(prior, predicted, innovation, r)
        likelihood = torch.where(some.flatten(), likelihood, 0.0)
        update = Update(innovation, predicted.cov + r, gain, seen, expected, r, likelihood)
        return _resampled(posterior, hour.noise), update

    return Filter(system, init, forecast, observe, step)


def _resampled(belief: GaussianSum, noise: Noise) -> GaussianSum:
    """Systematically (Kitagawa 1996), where fewer than half of the members count."""
    weights = belief.log_weights.exp()
    count = weights.shape[1]
    few = 1.0 / weights.square().sum(1) < 0.5 * count
    if not few.any():
        return belief
    at = (torch.arange(count).to(weights) + noise.uniform("resampling", 1).to(weights)) / count
    which = torch.searchsorted(weights.detach().cumsum(1), at.contiguous()).clamp(max=count - 1)
    n = belief.means.shape[-1]
    means = belief.means.gather(1, which.unsqueeze(-1).expand(-1, -1, n))
    covs = belief.covs.gather(1, which[..., None, None].expand(-1, -1, n, n))
    return GaussianSum(
        torch.where(few[:, None, None], means, belief.means),
        torch.where(few[:, None, None, None], covs, belief.covs),
        torch.where(few[:, None], torch.full_like(weights, -math.log(count)), belief.log_weights),
    )
