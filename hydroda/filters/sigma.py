"""Unscented filters: covariances carried by a few points that have exactly the belief's mean and covariance."""

import math

import torch
from torch import Tensor

from hydroda.filters.algebra import joseph, root, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, kalman_gain


def ukf(system: System, *, alpha: float = 1.0, beta: float = 0.0, kappa: float = 0.0) -> Filter:
    """Unscented Kalman filter with scaled points (van der Merwe 2004, alg. 3.1), drawn anew after the forecast.

    α = 1, β = 0 is Julier's form; the defaults are the cubature points (Arasaratnam & Haykin 2009). α² (n + κ) must be
    positive; a negative weight of the centre, κ < 0, can make covariances indefinite. Raises ValueError.
    """
    if alpha <= 0:
        raise ValueError(f"sigma.ukf: alpha is {alpha}, it must be positive")

    def weights(n: int) -> tuple[float, float, float]:
        """(weight of the centre in the mean, in the covariance, of every other point)."""
        if n + kappa <= 0:
            raise ValueError(f"sigma.ukf: kappa is {kappa}, it must be above {-n} for {n} states")
        scaled = alpha**2 * (n + kappa)
        centre = (scaled - n) / scaled
        return centre, centre + 1.0 - alpha**2 + beta, 0.5 / scaled

    def points(belief: Gaussian) -> Tensor:
        """The centre and ± the columns of the root, (c, 2n + 1, n)."""
        spread = math.sqrt(alpha**2 * (belief.mean.shape[-1] + kappa)) * transposed(root(belief.cov))
        return torch.cat((belief.mean, belief.mean + spread, belief.mean - spread), 1)

    def weighted(values: Tensor, n: int) -> tuple[Tensor, Tensor, float]:
        """(mean (c, 1, k), anomalies scaled so that their products add up to the covariance, sign of the centre)."""
        centre, centre_cov, other = weights(n)
        mean = centre * values[:, :1] + other * values[:, 1:].sum(1, keepdim=True)
        scale = torch.full((values.shape[1], 1), math.sqrt(other), dtype=values.dtype, device=values.device)
        scale[0] = math.sqrt(abs(centre_cov))
        return mean, (values - mean) * scale, math.copysign(1.0, centre_cov)

    def products(a: Tensor, b: Tensor, sign: float) -> Tensor:
        """Σ Wc a bᵀ."""
        total = transposed(a) @ b
        return total if sign > 0 else total - 2.0 * transposed(a[:, :1]) @ b[:, :1]

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Gaussian:
        return Gaussian(mean, cov)

    def forecast(belief: Belief, hour: Hour) -> Gaussian:
        mean, a, sign = weighted(system.move(points(belief), hour.forcing), belief.mean.shape[-1])
        error = system.model_error(mean)
        return Gaussian(mean, symmetric(products(a, a, sign)) + error @ transposed(error))

    def observe(belief: Belief) -> Predicted:
        x = points(belief)
        mean, y, sign = weighted(system.see(x), x.shape[-1])
        _, a, _ = weighted(x, x.shape[-1])
        return Predicted(mean[:, 0], products(a, y, sign), symmetric(products(y, y, sign)))

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Gaussian:
        shift = (update.gain @ update.innovation.unsqueeze(-1)).transpose(-1, -2)
        return Gaussian(belief.mean + shift, joseph(belief.cov, update.gain, predicted.cross, update.innovation_cov))

    return assemble(system, Recipe(init, forecast, observe, kalman_gain, correct))
