"""Leading directions and members together: the directions carry most of the covariance, members what they leave out."""

import torch
from torch import Tensor

from hydroda.filters.algebra import product, root, split, transposed
from hydroda.filters.beliefs import Belief, Mixed, PartlyOrthogonal
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, by_columns, kalman_gain


def poenkf(system: System, *, rank: int = 3, members: int = 20, scaled: bool = True) -> Filter:
    """Partially orthogonal ensemble Kalman filter (Heemink, Verlaan & Segers 2001; Drécourt 2003, §5.3).

    `rank` directions by RRSQRT and members with the full noise, which count only outside the span of the directions.
    The covariance between the span and the rest is left out, and what members know within the span, however little the
    directions say there: better than either with few model runs, not exact with many, and below full rank it can say so
    little of its error that it loses stores which are hardly observed (`coffee` cannot). Observations of members are
    perturbed. Raises ValueError for a rank below one or fewer than 2 members.
    """
    _check("poenkf", rank, members)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> PartlyOrthogonal:
        every = root(cov)
        factor, _, share = split(every, rank, scaled)
        draws = noise.normal("initial state", members, mean.shape[-1]).to(mean)
        a = draws @ transposed(every)
        return PartlyOrthogonal(mean, factor, mean + a - a.mean(1, keepdim=True), share)

    def forecast(belief: Belief, hour: Hour) -> PartlyOrthogonal:
        mean, moved, others = _moved(system, belief, hour)
        error = system.model_error(mean)
        factor, _, share = split(torch.cat((moved, error), -1), rank, scaled)
        draws = hour.noise.normal("model error", members, error.shape[-1]).to(mean)
        return PartlyOrthogonal(mean, factor, others + draws @ transposed(error), share)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> PartlyOrthogonal:
        k, e = update.gain, root(update.observation_cov)
        factor, _, share = split(_kept(belief, predicted, k, e), rank, scaled)
        draws = hour.noise.normal("observation error", members, e.shape[-1]).to(e)
        target = update.innovation.unsqueeze(-2) + draws @ transposed(e) - _seen(system, belief, update)
        return PartlyOrthogonal(belief.mean + update.shift, factor, belief.members + product(target, k), share)

    return assemble(system, Recipe(init, forecast, by_columns(system), kalman_gain, correct))


def coffee(system: System, *, rank: int = 3, members: int = 20, scaled: bool = True) -> Filter:
    """Complementary orthogonal subspace filter for efficient ensembles (Heemink, Verlaan & Segers 2001).

    Members carry what truncation removes and nothing else: with each reduction they draw from the root of what was left
    out. Converges to the Kalman filter with the number of members for every rank. Observations of members are not
    perturbed, because K R^½ is among the columns that are split: to do both counts K R Kᵀ twice. Raises ValueError for
    a rank below one or fewer than 2 members.
    """
    _check("coffee", rank, members)

    def divided(mean: Tensor, every: Tensor, others: Tensor, noise: Noise, purpose: str) -> Mixed:
        factor, rest, share = split(every, rank, scaled)
        draws = noise.normal(purpose, members, rest.shape[-1]).to(mean)
        return Mixed(mean, factor, others + draws @ transposed(rest), share)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Mixed:
        return divided(mean, root(cov), mean, noise, "initial state")

    def forecast(belief: Belief, hour: Hour) -> Mixed:
        mean, moved, others = _moved(system, belief, hour)
        return divided(mean, torch.cat((moved, system.model_error(mean)), -1), others, hour.noise, "model error")

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Mixed:
        k = update.gain
        others = belief.members + update.shift - product(_seen(system, belief, update), k)
        every = _kept(belief, predicted, k, root(update.observation_cov))
        return divided(belief.mean + update.shift, every, others, hour.noise, "observation error")

    return assemble(system, Recipe(init, forecast, by_columns(system), kalman_gain, correct))


def _check(name: str, rank: int, members: int) -> None:
    if rank < 1:
        raise ValueError(f"mixed.{name}: rank is {rank}, at least 1 is needed")
    if members < 2:
        raise ValueError(f"mixed.{name}: {members} members, at least 2 are needed")


def _moved(system: System, belief: Mixed, hour: Hour) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (c, 1, n), directions (c, n, r) and members (c, N, n) an hour later, in one call of the model."""
    r = belief.factor.shape[-1]
    points = torch.cat((belief.mean, belief.mean + transposed(belief.factor), belief.members), 1)
    moved = system.move(points, hour.forcing)
    mean = moved[:, :1]
    return mean, transposed(moved[:, 1 : r + 1] - mean), moved[:, r + 1 :]


def _kept(belief: Mixed, predicted: Predicted, gain: Tensor, e: Tensor) -> Tensor:
    """[L − K Ψ, K R^½] for the part Ψ of what is seen that belongs to the directions."""
    assert predicted.root is not None
    left = belief.factor - gain @ predicted.root[..., : belief.factor.shape[-1]]
    return torch.cat((left, gain @ e), -1)


def _seen(system: System, belief: Mixed, update: Update) -> Tensor:
    """What members see beyond what the mean sees (c, N, q)."""
    return system.see(belief.members) - update.predicted.mean.unsqueeze(-2)
