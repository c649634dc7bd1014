"""Ensemble filters: covariances carried by members."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import centring, divided, product, root, shrunk, transposed
from hydroda.filters.beliefs import Belief, Ensemble
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, by_members, kalman_gain

Correct = Callable[[Belief, Predicted, Update, Tensor, Hour], Ensemble]


def enkf(system: System, *, members: int = 40) -> Filter:
    """Ensemble Kalman filter with perturbed observations (Evensen 1994; Burgers et al. 1998; Drécourt 2003, §5.1).

    E ← E + K (y + ε_i − Z_i), ε_i ~ N(0, R) centred, so that the mean moves by exactly K d. Raises ValueError for fewer
    than 2 members.
    """

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        draws = hour.noise.normal("observation error", belief.members.shape[1], r.shape[-1]).to(r)
        e = draws @ transposed(root(update.observation_cov))
        target = update.innovation.unsqueeze(-2) + e - e.mean(1, keepdim=True) - _seen(belief, predicted)
        return Ensemble(belief.members + product(target, update.gain))

    return assemble(system, _recipe(system, members, correct))


def etkf(system: System, *, members: int = 40, rotated: bool = False) -> Filter:
    """Ensemble transform Kalman filter with the symmetric root (Bishop et al. 2001; Hunt et al. 2007, eqs 20–25).

    Deterministic in the analysis: anomalies are multiplied by (I + Ỹᵀ Ỹ)^(−½), Ỹ = R^(−½) Y / √(N − 1). `rotated`: then
    turned at random about their mean, which keeps members of a nonlinear model from clustering. Raises ValueError for
    fewer than 2 members.
    """

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        assert predicted.root is not None
        a = shrunk(belief.members - belief.mean, predicted.root, r)
        return Ensemble(belief.mean + update.shift + a)

    return assemble(system, _recipe(system, members, _turned(correct) if rotated else correct))


def estkf(system: System, *, members: int = 40) -> Filter:
    """Error subspace transform Kalman filter (Nerger et al. 2012): the transform in the N − 1 directions there are.

    The members are those of `etkf`. Raises ValueError for fewer than 2 members.
    """

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        assert predicted.root is not None
        basis = centring(belief.members)
        a = shrunk(transposed(basis) @ belief.members, predicted.root @ basis, r)
        return Ensemble(belief.mean + update.shift + basis @ a)

    return assemble(system, _recipe(system, members, correct))


def denkf(system: System, *, members: int = 40) -> Filter:
    """Deterministic ensemble Kalman filter (Sakov & Oke 2008): anomalies A − ½ K Y.

    Approximate: the covariance is too large by ¼ K H P Hᵀ Kᵀ, little where the gain is small. Raises ValueError for
    fewer than 2 members.
    """

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        half = 0.5 * product(_seen(belief, predicted), update.gain)
        return Ensemble(belief.members + update.shift - half)

    return assemble(system, _recipe(system, members, correct))


def ensrf(
    system: System,
    *,
    members: int = 40,
    rotated: bool = False,
    taper: Tensor | None = None,
    gauge_taper: Tensor | None = None,
) -> Filter:
    """Serial ensemble square-root filter (Whitaker & Hamill 2002): one observation after the other.

    K = A hᵀ / s with s = h hᵀ + 1 (whitened, so that errors of gauges may be correlated), A ← A − K h / (1 + s^(−½)).
    What members see is corrected as the state is, so nothing has to be observed again. `taper` (n, q) multiplies the
    gain of the state and `gauge_taper` (q, q) that of the observations still to come, for R diagonal; the gain of the
    `Update` is then not what was used. `rotated` as in `etkf`. Raises ValueError for fewer than 2 members.
    """

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        assert predicted.root is not None
        exact = torch.diagonal(r, dim1=-2, dim2=-1) == 0.0  # gauges whose noise is a state; nothing is divided by it
        lower = torch.linalg.cholesky_ex(r + torch.diag_embed(exact.to(r)))[0]
        error = (~exact).to(r).unsqueeze(-1)
        y = torch.linalg.solve_triangular(lower, predicted.root, upper=False)
        d = torch.linalg.solve_triangular(lower, update.innovation.unsqueeze(-1), upper=False)
        scale = math.sqrt(belief.members.shape[1] - 1)
        mean, a = transposed(belief.mean), transposed(belief.members - belief.mean) / scale
        for j in range(r.shape[-1]):
            h = transposed(y[:, :1])
            own = error[:, j : j + 1]
            s = (h * h).sum(1, keepdim=True) + own
            k, ahead = a @ h / s, y @ h / s
            if taper is not None:
                k = k * taper[:, j : j + 1]
            if gauge_taper is not None:
                ahead = ahead * gauge_taper[j:, j : j + 1]
            alpha = 1.0 / (1.0 + own * s.rsqrt())
            mean, a = mean + k * d[:, :1], a - alpha * k * transposed(h)
            d, y = (d - ahead * d[:, :1])[:, 1:], (y - alpha * ahead * transposed(h))[:, 1:]
        return Ensemble(transposed(mean + scale * a))

    return assemble(system, _recipe(system, members, _turned(correct) if rotated else correct))


def letkf(system: System, *, members: int = 40, taper: Tensor | None = None) -> Filter:
    """Local ensemble transform Kalman filter (Hunt et al. 2007): for every component a transform of its own.

    `taper` w (n, q), from zero to one, multiplies the inverse error of each observation for each component, here as
    w^½ Y beside R, which is the same and divides by nothing; without it the filter is `etkf`. R diagonal where it is
    given. Raises ValueError for fewer than 2 members.
    """

    def weight(predicted: Predicted) -> Tensor:
        """w^½ (n, q)."""
        return torch.ones_like(predicted.cross[0]) if taper is None else taper.to(predicted.cross).sqrt()

    def local(predicted: Predicted) -> Tensor:
        """What members see as every component weighs it (c, n, q, N)."""
        assert predicted.root is not None
        return weight(predicted).unsqueeze(-1) * predicted.root.unsqueeze(1)

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        y, w = local(predicted), weight(predicted)
        k = divided((predicted.cross * w).unsqueeze(-2), y @ transposed(y) + r.unsqueeze(1))
        return k[..., 0, :] * w

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        a = transposed(belief.members - belief.mean).unsqueeze(-1)
        y = local(predicted)
        shrunken = transposed(shrunk(a, y, r.unsqueeze(1).expand(*y.shape[:2], -1, -1))[..., 0])
        return Ensemble(belief.mean + update.shift + shrunken)

    return assemble(system, replace(_recipe(system, members, correct), gain=gain))


def _recipe(system: System, members: int, correct: Correct) -> Recipe:
    """Members that are drawn, moved with model errors drawn for each, and looked at."""
    if members < 2:
        raise ValueError(f"an ensemble of {members} members, at least 2 are needed")

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Ensemble:
        draws = noise.normal("initial state", members, mean.shape[-1]).to(mean)
        a = draws @ transposed(root(cov))
        return Ensemble(mean + a - a.mean(1, keepdim=True))

    def forecast(belief: Belief, hour: Hour) -> Ensemble:
        moved = system.move(belief.members, hour.forcing)
        error = system.model_error(moved.mean(1, keepdim=True))
        draws = hour.noise.normal("model error", moved.shape[1], error.shape[-1]).to(moved)
        return Ensemble(moved + draws @ transposed(error))

    return Recipe(init, forecast, by_members(system), kalman_gain, correct)


def _seen(belief: Ensemble, predicted: Predicted) -> Tensor:
    """What members see around their mean (c, N, q), zero where nothing was observed."""
    assert predicted.root is not None
    return math.sqrt(belief.members.shape[1] - 1) * transposed(predicted.root)


def _turned(correct: Correct) -> Correct:
    """A correction whose anomalies are then turned by a random orthogonal matrix that keeps their mean (Sakov & Oke
    2008, MWR 136, 1042)."""

    def turn(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Ensemble:
        found = correct(belief, predicted, update, r, hour)
        count = found.members.shape[1]
        basis = centring(found.members)
        draws = hour.noise.normal("rotation", count - 1, count - 1).to(found.members)
        upright, upper = torch.linalg.qr(draws)
        # with positive diagonals the orthogonal factor of normal numbers is uniformly distributed
        signs = torch.where(torch.diagonal(upper, dim1=-2, dim2=-1) < 0.0, -1.0, 1.0).to(upper)
        mean = found.mean
        return Ensemble(mean + basis @ ((upright * signs.unsqueeze(-2)) @ (transposed(basis) @ (found.members - mean))))

    return turn
