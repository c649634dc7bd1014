"""The test case of Recursive KalmanNet: a body of nearly constant speed, seen with errors of two sizes.

Mortada et al. 2025 (EUSIPCO, arXiv 2506.11639), section IV: x = (position, speed), F = [[1, 1], [0, 1]], H = [1 0],
Q = diag(0, 10⁻⁴), 150 steps from x₀ ~ N((0, 1), diag(1, 0.01)). The error variance of an observation is 1.5625 σ² with
probability 0.6, else 0.15625 σ²; σ² = 10⁻⁴ · 10^(ν/10), ν the heterogeneity in dB.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.recipe import System
from hydroda.teaching.losses import Series

LEVELS = (20, 30, 40, 50, 60)  # ν [dB]
STEPS = 150
FACTORS, SHARES = (1.5625, 0.15625), (0.6, 0.4)  # of σ², and how often
MOVE = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
ERROR = torch.tensor([[0.0], [1e-2]], dtype=torch.float64)  # a root of Q
START = torch.tensor([0.0, 1.0], dtype=torch.float64)
SPREAD = torch.tensor([1.0, 0.1], dtype=torch.float64)  # standard deviations of the start


@dataclass(frozen=True)
class Drawn:
    """Series, and for each of their observations (T, c, 1) the factor on σ² that no filter but the oracle is told."""

    series: Series
    factor: Tensor


def variance(level: float) -> float:
    """σ² of a heterogeneity."""
    return 1e-4 * 10.0 ** (level / 10.0)


def system(parameters: Tensor) -> System:
    """The system a filter is told of, σ² (c, 1, 1) for the variance of the gauge."""
    return System(
        lambda x, u: x @ MOVE.to(x).T,
        lambda x: x[..., :1],
        lambda mean: ERROR.to(mean).expand(mean.shape[0], -1, -1),
        lambda y: parameters.to(y).expand(y.shape[0], -1, -1),
    )


def drawn(level: float, count: int, seed: int, steps: int = STEPS, mixed: bool = True) -> Drawn:
    """`count` series of a heterogeneity; not `mixed`: every error of variance σ², a linear Gaussian system."""
    random = np.random.default_rng((seed, round(10 * level)))
    x = START + SPREAD * torch.from_numpy(random.standard_normal((count, 2)))
    noise = torch.from_numpy(random.standard_normal((steps, count, 1)))
    large = torch.from_numpy(random.random((steps, count, 1))) < SHARES[0]
    factor = torch.where(large, *FACTORS) if mixed else torch.ones(steps, count, 1, dtype=torch.float64)
    seen = torch.from_numpy(random.standard_normal((steps, count, 1)))
    states = []
    for w in noise:
        x = x @ MOVE.T + w @ ERROR.T
        states.append(x)
    truth = torch.stack(states)
    observation = truth[..., :1] + (variance(level) * factor).sqrt() * seen
    return Drawn(
        Series(
            START.expand(count, 1, 2),
            torch.diag(SPREAD.square()).expand(count, 2, 2),
            torch.full((count, 1, 1), variance(level), dtype=torch.float64),
            torch.zeros(steps, count, 0, dtype=torch.float64),
            observation,
            truth,
        ),
        factor,
    )
