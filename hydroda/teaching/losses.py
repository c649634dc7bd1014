"""What a learned filter is trained on: series, runs of a filter along them, and losses of the runs."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.beliefs import Belief
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour

FIRST = ("mean", "cov", "parameters")  # what has none of time
ALONG = ("forcing", "observation", "truth")  # what has one before that of the catchments


@dataclass(frozen=True)
class Series:
    """T hours of c catchments: how a belief begins (c, 1, n), (c, n, n), parameters (c, 1, p), forcing (T, c, m),
    observation (T, c, q) with NaN where missing, and the truth (T, c, n), NaN where nobody knows it; which of several
    places each is (c,); the seed and first hour of the random numbers of filters that draw."""

    mean: Tensor
    cov: Tensor
    parameters: Tensor
    forcing: Tensor
    observation: Tensor
    truth: Tensor
    place: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    seed: int = 0
    hour: int = 0

    def rows(self, index: Tensor) -> "Series":
        """The same of some catchments."""
        first = {name: getattr(self, name)[index] for name in FIRST}
        first["place"] = self.place.expand(len(self.mean))[index]
        return replace(self, **first, **{name: getattr(self, name)[:, index] for name in ALONG})

    def hours(self, start: int, end: int) -> "Series":
        """The same for some hours."""
        return replace(self, hour=self.hour + start, **{name: getattr(self, name)[start:end] for name in ALONG})

    def noise(self, k: int) -> Noise:
        """The random numbers of an hour, counted from zero."""
        c = self.mean.shape[0]
        return Noise(self.seed, np.arange(c), np.full(c, self.hour + k))

    @property
    def digest(self) -> str:
        """SHA-256 of all numbers."""
        total = hashlib.sha256()
        for tensor in (value for value in vars(self).values() if isinstance(value, Tensor)):
            total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().numpy().tobytes())
        return total.hexdigest()


class Run(NamedTuple):
    """What a filter did: means (T, c, n), covariances (T, c, n, n), innovations (T, c, q), zero where nothing was seen,
    and the belief it ended with."""

    mean: Tensor
    cov: Tensor
    innovation: Tensor
    belief: Belief


Objective = Callable[[Filter, Belief, Series], tuple[Tensor, Belief]]  # loss (c,), and the belief at the end
Loss = Callable[[Run, Series], Tensor]  # a run along series → loss (T, c)


def joined(every: Sequence[Series]) -> Series:
    """Series of several places, as long as each other, side by side; the first is place 0."""
    places = [torch.full((len(one.mean),), i) for i, one in enumerate(every)]
    mean, cov, parameters = (torch.cat([getattr(one, name) for one in every]) for name in FIRST)
    forcing, observation, truth = (torch.cat([getattr(one, name) for one in every], 1) for name in ALONG)
    return Series(mean, cov, parameters, forcing, observation, truth, torch.cat(places))


def follow(made: Filter, belief: Belief, series: Series, doubt: Tensor | None = None) -> Run:
    """A filter run over series, its observations doubted by `doubt` (T, c, q)."""
    found = []
    for k, (u, y) in enumerate(zip(series.forcing.unsqueeze(2), series.observation, strict=True)):
        belief, update = made.step(belief, Hour(u, y, series.noise(k), None if doubt is None else doubt[k]))
        found.append((belief.mean.squeeze(1), belief.cov, update.innovation))
    mean, cov, innovation = (torch.stack(each) for each in zip(*found, strict=True))
    return Run(mean, cov, innovation, belief)


def begin(made: Filter, series: Series) -> Belief:
    """The belief series begin with."""
    return made.init(series.mean, series.cov, series.noise(-1))


def along(loss: Loss) -> Objective:
    """The mean of a loss over the hours of a window."""

    def objective(made: Filter, belief: Belief, series: Series) -> tuple[Tensor, Belief]:
        run = follow(made, belief, series)
        return loss(run, series).mean(0), run.belief

    return objective


def squared_error(run: Run, series: Series) -> Tensor:
    """Σ (x̂ − x)²."""
    return (run.mean - series.truth).square().sum(-1)


def surprise(run: Run, series: Series) -> Tensor:
    """eᵀ P⁻¹ e + log det P: twice the negative log-likelihood of a Gaussian, without its constant."""
    square, determinant = mahalanobis(series.truth - run.mean, run.cov)
    return square + determinant


def second_moment(run: Run, series: Series, beta: float = 0.05) -> Tensor:
    """(1 − β) Σ e² + β Σ |e eᵀ − P| (Ko & Shafieezadeh 2025)."""
    e = run.mean - series.truth
    departure = e.unsqueeze(-1) * e.unsqueeze(-2) - run.cov
    return (1.0 - beta) * e.square().sum(-1) + beta * departure.abs().sum((-2, -1))


def innovation(run: Run, series: Series) -> Tensor:
    """Σ d²: the error of the next observation, for use where nobody knows the truth."""
    return run.innovation.square().sum(-1)


def mahalanobis(e: Tensor, p: Tensor, jitter: float = 1e-10) -> tuple[Tensor, Tensor]:
    """eᵀ P⁻¹ e and log det P for e (…, n), P (…, n, n): Cholesky without roots, one component after the other.

    Written on whole batches: factorising 10⁵ small matrices one by one would cost as much as a network. `jitter` times
    its diagonal is added to P.
    """
    p = p + jitter * torch.diag_embed(p.diagonal(dim1=-2, dim2=-1))
    square = determinant = torch.zeros_like(e[..., 0])
    for _ in range(e.shape[-1]):
        pivot = p[..., :1, :1]
        square = square + e[..., 0].square() / pivot[..., 0, 0]
        determinant = determinant + pivot[..., 0, 0].log()
        e = e[..., 1:] - e[..., :1] * p[..., 1:, 0] / pivot[..., 0]
        p = p[..., 1:, 1:] - p[..., 1:, :1] * p[..., :1, 1:] / pivot
    return square, determinant
