"""Ensemble filters: covariances carried by members."""

import math

import torch
from torch import Tensor

from hydroda.filters.algebra import root, square_root, transposed
from hydroda.filters.beliefs import Belief, Ensemble
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, kalman_gain


def etkf(system: System, *, members: int = 40) -> Filter:
    """Ensemble transform Kalman filter with the symmetric root (Bishop et al. 2001; Hunt et al. 2007, eqs 20–25).

    Deterministic in the analysis: anomalies are multiplied by (I + Ỹᵀ Ỹ)^(−½), Ỹ = R^(−½) Y / √(N − 1), here in the
    space of the observations, of which there are fewer than members. Raises ValueError for fewer than 2 members.
    """
    if members < 2:
        raise ValueError(f"ensemble.etkf: {members} members, at least 2 are needed")

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Ensemble:
        draws = noise.normal("initial state", members, mean.shape[-1]).to(mean)
        a = draws @ transposed(root(cov))
        return Ensemble(mean + a - a.mean(1, keepdim=True))

    def forecast(belief: Belief, hour: Hour) -> Ensemble:
        moved = system.move(belief.members, hour.forcing)
        error = system.model_error(moved.mean(1, keepdim=True))
        draws = hour.noise.normal("model error", members, error.shape[-1]).to(moved)
        return Ensemble(moved + draws @ transposed(error))

    def observe(belief: Belief) -> Predicted:
        scale = 1.0 / math.sqrt(belief.members.shape[1] - 1)
        a = (belief.members - belief.mean) * scale
        seen = system.see(belief.members)
        mean = seen.mean(1, keepdim=True)
        y = (seen - mean) * scale
        return Predicted(mean[:, 0], transposed(a) @ y, transposed(y) @ y, transposed(y))

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        assert predicted.root is not None
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(r)[0], predicted.root, upper=False)
        m = whitened @ transposed(whitened) + torch.eye(whitened.shape[-2]).to(whitened)
        # (I + Ỹᵀ Ỹ)^(−½) = I − Ỹᵀ (M + M^½)⁻¹ Ỹ with M = I + Ỹ Ỹᵀ
        lower = torch.linalg.cholesky_ex(m + square_root(m))[0]
        a = belief.members - belief.mean
        a = a - transposed(whitened) @ torch.cholesky_solve(whitened @ a, lower)
        return Ensemble(belief.mean + update.shift + a)

    return assemble(system, Recipe(init, forecast, observe, kalman_gain, correct))
