"""Unscented filters: covariances carried by a few points that have exactly the belief's mean and covariance."""

import math

import torch
from torch import Tensor

from hydroda.filters.algebra import joseph, root, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, gaussian, kalman_gain


def ukf(system: System, *, alpha: float = 1.0, beta: float = 0.0, kappa: float = 0.0) -> Filter:
    """Unscented Kalman filter with scaled points (van der Merwe 2004, alg. 3.1), drawn anew after the forecast.

    α = 1, β = 0 is Julier's form; the defaults are the cubature points (Arasaratnam & Haykin 2009). α² (n + κ) must be
    positive; a negative weight of the centre, κ < 0, can make covariances indefinite. Raises ValueError.

    Everything is computed from the differences D of the other points, of weight w = 1 / 2α²(n + κ), to the centre X₀:
    with s = w Σ D the mean is X₀ + s and the covariance w D Dᵀ + (β − α²) s sᵀ, in which the weights of the centre,
    large and of opposite sign for small α, have cancelled.
    """
    if alpha <= 0:
        raise ValueError(f"sigma.ukf: alpha is {alpha}, it must be positive")

    def scaled(n: int) -> float:
        """α² (n + κ), the squared distance of the points in standard deviations."""
        if n + kappa <= 0:
            raise ValueError(f"sigma.ukf: kappa is {kappa}, it must be above {-n} for {n} states")
        return alpha**2 * (n + kappa)

    def points(belief: Gaussian) -> tuple[Tensor, Tensor]:
        """The centre and ± the columns of the spread, (c, 2n + 1, n), and the spread (c, n, n).

        In memory the components come first, as in what a model returns.
        """
        spread = math.sqrt(scaled(belief.mean.shape[-1])) * root(belief.cov)
        centre, columns = belief.mean.permute(2, 0, 1), spread.permute(1, 0, 2)
        return torch.cat((centre, centre + columns, centre - columns), -1).permute(1, 2, 0), spread

    def moments(values: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (c, 1, k) and covariance (c, k, k) of values (c, 2n + 1, k) at the points, and D (c, 2n, k)."""
        weight = 0.5 / scaled(n)
        centre = values[:, :1]
        d = values[:, 1:] - centre
        s = weight * d.sum(1, keepdim=True)
        cov = torch.baddbmm((beta - alpha**2) * s * transposed(s), transposed(d), d, alpha=weight)
        return centre + s, symmetric(cov), d

    def forecast(belief: Belief, hour: Hour) -> Gaussian:
        x, _ = points(belief)
        mean, cov, _ = moments(system.move(x, hour.forcing), x.shape[-1])
        error = system.model_error(mean)
        return Gaussian(mean, torch.baddbmm(cov, error, transposed(error)))

    def observe(belief: Belief) -> Predicted:
        x, spread = points(belief)
        n = x.shape[-1]
        mean, cov, d = moments(system.see(x), n)
        return Predicted(mean[:, 0], (0.5 / scaled(n)) * (spread @ (d[:, :n] - d[:, n:])), cov)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Gaussian:
        cov = joseph(belief.cov, update.gain, predicted.cross, update.innovation_cov)
        return Gaussian(belief.mean + update.shift, cov)

    return assemble(system, Recipe(gaussian, forecast, observe, kalman_gain, correct))
