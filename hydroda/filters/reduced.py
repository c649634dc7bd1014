"""Reduced-rank filters: covariances carried by a few directions, P ≈ L Lᵀ with fewer columns than states."""

import torch
from torch import Tensor

from hydroda.filters.algebra import centring, product, root, shrunk, split, transposed, within
from hydroda.filters.beliefs import Belief, Ensemble, SquareRoot
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import (
    Filter,
    Hour,
    Predicted,
    Recipe,
    System,
    Update,
    assemble,
    by_columns,
    by_members,
    columns,
    kalman_gain,
)


def rrsqrt(system: System, *, rank: int = 4, scaled: bool = True, step: float = 1.0) -> Filter:
    """Reduced-rank square-root filter (Verlaan & Heemink 1997; Drécourt 2003, §5.2).

    Columns are moved by differences of length `step` in standard deviations; [L, Q^½] and [L − K Ψ, K R^½] are cut to
    the `rank` leading directions, of components measured in their own standard deviations if `scaled`. Raises
    ValueError for a rank below one.
    """
    _check("rrsqrt", rank, step)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> SquareRoot:
        return _cut(mean, root(cov), rank, scaled)

    def forecast(belief: Belief, hour: Hour) -> SquareRoot:
        mean, moved = columns(lambda x: system.move(x, hour.forcing), belief.mean, belief.factor, step)
        return _cut(mean, torch.cat((moved, system.model_error(mean)), -1), rank, scaled)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> SquareRoot:
        assert predicted.root is not None
        left = belief.factor - update.gain @ predicted.root
        every = torch.cat((left, product(update.gain, transposed(root(update.observation_cov)))), -1)
        return _cut(belief.mean + update.shift, every, rank, scaled)

    return assemble(system, Recipe(init, forecast, by_columns(system, step), kalman_gain, correct))


def seek(
    system: System,
    *,
    rank: int = 4,
    scaled: bool = True,
    forgetting: float = 1.0,
    evolving: bool = True,
    step: float = 1.0,
) -> Filter:
    """Singular evolutive extended Kalman filter (Pham et al. 1998), P = V U Vᵀ kept as L Lᵀ with L = V U^½.

    It begins with the leading directions of its first covariance, which are the EOFs of a trajectory where that is the
    covariance of one. The model error counts within their span; `forgetting` ρ ≤ 1 divides P in every forecast instead
    of, or beside it; a basis that is not `evolving` is kept as it began. Raises ValueError for a rank below one, ρ
    outside (0, 1].
    """
    _check("seek", rank, step, forgetting)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> SquareRoot:
        return _cut(mean, root(cov), rank, scaled)

    def forecast(belief: Belief, hour: Hour) -> SquareRoot:
        def move(x: Tensor) -> Tensor:
            return system.move(x, hour.forcing)

        if evolving:
            mean, basis = columns(move, belief.mean, belief.factor, step)
        else:
            mean, basis = move(belief.mean), belief.factor
        return SquareRoot(mean, within(basis, system.model_error(mean), scaled, forgetting), belief.discarded)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> SquareRoot:
        assert predicted.root is not None
        factor = transposed(shrunk(transposed(belief.factor), predicted.root, r))
        return SquareRoot(belief.mean + update.shift, factor, belief.discarded)

    return assemble(system, Recipe(init, forecast, by_columns(system, step), kalman_gain, correct))


def seik(system: System, *, rank: int = 4, scaled: bool = True, forgetting: float = 1.0) -> Filter:
    """Singular evolutive interpolated Kalman filter (Pham 2001; Nerger et al. 2012): rank + 1 members.

    Members are second-order exact samples, X = x + √(N − 1) L Ωᵀ, drawn anew after every forecast and analysis with a
    fixed Ω of orthonormal columns that sum to zero; divisor N − 1, where the first papers have N. The model error
    counts within the span of the members. `forgetting` as in `seek`. Raises ValueError for a rank below one, ρ
    outside (0, 1].
    """
    _check("seik", rank, 1.0, forgetting)

    def sampled(mean: Tensor, factor: Tensor) -> Ensemble:
        rank = factor.shape[-1]
        basis = centring(mean.expand(-1, rank + 1, -1))
        return Ensemble(mean + rank**0.5 * basis @ transposed(factor))

    def factor(members: Tensor) -> Tensor:
        """The root (c, n, r) that members are a sample of."""
        return transposed(members) @ centring(members) / (members.shape[1] - 1) ** 0.5

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Ensemble:
        return sampled(mean, split(root(cov), rank, scaled)[0])

    def forecast(belief: Belief, hour: Hour) -> Ensemble:
        moved = system.move(belief.members, hour.forcing)
        mean = moved.mean(1, keepdim=True)
        return sampled(mean, within(factor(moved), system.model_error(mean), scaled, forgetting))

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        assert predicted.root is not None
        basis = centring(belief.members)
        shorter = shrunk(transposed(factor(belief.members)), predicted.root @ basis, r)
        return sampled(belief.mean + update.shift, transposed(shorter))

    return assemble(system, Recipe(init, forecast, by_members(system), kalman_gain, correct))


def _check(name: str, rank: int, step: float, forgetting: float = 1.0) -> None:
    if rank < 1:
        raise ValueError(f"reduced.{name}: rank is {rank}, at least 1 is needed")
    if not step > 0:
        raise ValueError(f"reduced.{name}: step is {step}, it must be positive")
    if not 0 < forgetting <= 1:
        raise ValueError(f"reduced.{name}: forgetting is {forgetting}, it must be above 0 and at most 1")


def _cut(mean: Tensor, every: Tensor, rank: int, scaled: bool) -> SquareRoot:
    factor, _, share = split(every, rank, scaled)
    return SquareRoot(mean, factor, share)
