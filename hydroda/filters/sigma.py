"""Unscented filters: covariances carried by a few points that have exactly the belief's mean and covariance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hydroda.filters.algebra import joseph, product, root, symmetric, transposed, triangle
from hydroda.filters.beliefs import Belief, Gaussian, SquareRoot
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, gaussian, kalman_gain

SINGLE = 0.1  # alpha below which single precision loses the covariance in rounding


@dataclass(frozen=True)
class Points:
    """Scaled sigma points (van der Merwe 2004, alg. 3.1).

    Everything is computed from the differences D of the other points, of weight w = 1 / 2α²(n + κ), to the centre X₀:
    with s = w Σ D the mean is X₀ + s and the covariance w D Dᵀ + (β − α²) s sᵀ, in which the weights of the centre,
    large and of opposite sign for small α, have cancelled.
    """

    alpha: float
    beta: float
    kappa: float

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"sigma points: alpha is {self.alpha}, it must be positive")

    def scaled(self, n: int) -> float:
        """α² (n + κ), the squared distance of the points in standard deviations."""
        if n + self.kappa <= 0:
            raise ValueError(f"sigma points: kappa is {self.kappa}, it must be above {-n} for {n} states")
        return self.alpha**2 * (n + self.kappa)

    def around(self, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The centre and ± the columns of the spread, (c, 2n + 1, n), and the spread (c, n, n) of a root of P.

        In memory the components come first, as in what a model returns.
        """
        if self.alpha < SINGLE and mean.dtype == torch.float32:
            raise ValueError(f"sigma points: alpha is {self.alpha}, below {SINGLE} only float64 carries the covariance")
        spread = math.sqrt(self.scaled(mean.shape[-1])) * factor
        centre, columns = mean.permute(2, 0, 1), spread.permute(1, 0, 2)
        return torch.cat((centre, centre + columns, centre - columns), -1).permute(1, 2, 0), spread

    def moments(self, values: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (c, 1, k) and covariance (c, k, k) of values (c, 2n + 1, k) at the points, and D (c, 2n, k)."""
        weight = 0.5 / self.scaled(n)
        centre = values[:, :1]
        d = values[:, 1:] - centre
        s = weight * d.sum(1, keepdim=True)
        cov = torch.baddbmm((self.beta - self.alpha**2) * s * transposed(s), transposed(d), d, alpha=weight)
        return centre + s, symmetric(cov), d

    def anomalies(self, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Mean (c, 1, k), and a root (c, k, 2n + 1) of the covariance: deviations times roots of weights."""
        weight = 0.5 / self.scaled(n)
        centre = 2.0 - n / self.scaled(n) - self.alpha**2 + self.beta
        if centre < 0:
            raise ValueError(
                f"sigma.srukf: the centre of {n} states has the negative weight {centre:.3g}, which no root has; raise "
                "beta or kappa"
            )
        d = values[:, 1:] - values[:, :1]
        s = weight * d.sum(1, keepdim=True)
        return values[:, :1] + s, transposed(torch.cat((-math.sqrt(centre) * s, math.sqrt(weight) * (d - s)), 1))


def ukf(system: System, *, alpha: float = 1.0, beta: float = 0.0, kappa: float = 0.0) -> Filter:
    """Unscented Kalman filter (Julier & Uhlmann 1997; Drécourt 2003, §4.2), points drawn anew after the forecast.

    α = 1, β = 0 is Julier's form. α² (n + κ) must be positive; a negative weight of the centre, κ < 0, can make
    covariances indefinite. Raises ValueError.
    """
    points = Points(alpha, beta, kappa)

    def forecast(belief: Belief, hour: Hour) -> Gaussian:
        x, _ = points.around(belief.mean, root(belief.cov))
        mean, cov, _ = points.moments(system.move(x, hour.forcing), x.shape[-1])
        error = system.model_error(mean)
        return Gaussian(mean, torch.baddbmm(cov, error, transposed(error)))

    def observe(belief: Belief) -> Predicted:
        x, spread = points.around(belief.mean, root(belief.cov))
        n = x.shape[-1]
        mean, cov, d = points.moments(system.see(x), n)
        return Predicted(mean[:, 0], (0.5 / points.scaled(n)) * (spread @ (d[:, :n] - d[:, n:])), cov)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Gaussian:
        cov = joseph(belief.cov, update.gain, predicted.cross, update.innovation_cov)
        return Gaussian(belief.mean + update.shift, cov)

    return assemble(system, Recipe(gaussian, forecast, observe, kalman_gain, correct))


def ckf(system: System) -> Filter:
    """Cubature Kalman filter (Arasaratnam & Haykin 2009): 2n points of equal weight and none in the centre."""
    return ukf(system, alpha=1.0, beta=0.0, kappa=0.0)


def srukf(system: System, *, alpha: float = 1.0, beta: float = 0.0, kappa: float = 0.0) -> Filter:
    """Square-root unscented filter (van der Merwe & Wan 2001; Drécourt 2003, §4.2.2) in array form.

    The root after a forecast is the triangle of [X − x, Q^½], after an observation that of [X − K Z, K R^½], X and Z
    the weighted anomalies of state and observation: no downdate, so it stays real, for any gain. Needs a centre of
    non-negative weight. Raises ValueError.
    """
    points = Points(alpha, beta, kappa)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> SquareRoot:
        return SquareRoot(mean, root(cov), torch.zeros_like(mean[:, 0, 0]))

    def forecast(belief: Belief, hour: Hour) -> SquareRoot:
        x, _ = points.around(belief.mean, belief.factor)
        mean, a = points.anomalies(system.move(x, hour.forcing), x.shape[-1])
        return SquareRoot(mean, triangle(torch.cat((a, system.model_error(mean)), -1)), belief.discarded)

    def observe(belief: Belief) -> Predicted:
        x, _ = points.around(belief.mean, belief.factor)
        mean, y = points.anomalies(system.see(x), x.shape[-1])
        return Predicted.of_root(mean[:, 0], state(belief), y)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> SquareRoot:
        assert predicted.root is not None
        left = state(belief) - update.gain @ predicted.root
        factor = triangle(torch.cat((left, product(update.gain, transposed(root(update.observation_cov)))), -1))
        return SquareRoot(belief.mean + update.shift, factor, belief.discarded)

    def state(belief: Belief) -> Tensor:
        """The weighted anomalies (c, n, 2n + 1) of the points themselves."""
        x, _ = points.around(belief.mean, belief.factor)
        return points.anomalies(x, x.shape[-1])[1]

    return assemble(system, Recipe(init, forecast, observe, kalman_gain, correct))
