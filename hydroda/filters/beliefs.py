"""What a filter knows, and all it needs tomorrow: frozen dataclasses of tensors whose first axis is the catchment.

The type says how the covariance is represented. A belief that holds another is in `nested`, and so is how one is made
of its tensors again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hydroda.filters.algebra import deviations


@dataclass(frozen=True)
class Gaussian:
    """Mean (c, 1, n) and full covariance (c, n, n)."""

    mean: Tensor
    cov: Tensor

    def shifted(self, d: Tensor) -> "Gaussian":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, mean=self.mean + d)

    def widened(self, f: Tensor) -> "Gaussian":
        """The belief with the deviation of every component multiplied by f (c, 1, n)."""
        return replace(self, cov=self.cov * f * f.transpose(-1, -2))


@dataclass(frozen=True)
class SquareRoot:
    """Mean (c, 1, n) and a root (c, n, r) of the covariance, of reduced rank where r < n.

    `discarded` (c,) is the share of the variance that the last truncation left out.
    """

    mean: Tensor
    factor: Tensor
    discarded: Tensor

    @property
    def root(self) -> Tensor:
        """(c, n, r)."""
        return self.factor

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        return self.factor @ self.factor.transpose(-1, -2)

    def shifted(self, d: Tensor) -> "SquareRoot":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, mean=self.mean + d)

    def widened(self, f: Tensor) -> "SquareRoot":
        """The belief with the deviation of every component multiplied by f (c, 1, n)."""
        return replace(self, factor=self.factor * f.transpose(-1, -2))


@dataclass(frozen=True)
class Ensemble:
    """Members (c, N, n); the covariance is that of their anomalies, divisor N − 1."""

    members: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return self.members.mean(1, keepdim=True)

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        a = self.members - self.mean
        return a.transpose(-1, -2) @ a / (a.shape[1] - 1)

    def shifted(self, d: Tensor) -> "Ensemble":
        """The belief with every member moved by d (c, 1, n)."""
        return Ensemble(self.members + d)

    def widened(self, f: Tensor) -> "Ensemble":
        """The belief with every anomaly multiplied by f (c, 1, n)."""
        mean = self.mean
        return Ensemble(mean + (self.members - mean) * f)


@dataclass(frozen=True)
class Mixed:
    """Leading directions and members: mean (c, 1, n), root (c, n, r) of what the directions carry, and members
    (c, N, n) whose deviations from their own mean carry the rest, divisor N − 1. `discarded` as in `SquareRoot`."""

    mean: Tensor
    factor: Tensor
    members: Tensor
    discarded: Tensor

    @property
    def rest(self) -> Tensor:
        """A root (c, n, N) of the covariance the members carry."""
        a = self.members - self.members.mean(1, keepdim=True)
        return a.transpose(-1, -2) / math.sqrt(a.shape[1] - 1)

    @property
    def root(self) -> Tensor:
        """A root (c, n, r + N) of the covariance."""
        return torch.cat((self.factor, self.rest), -1)

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        root = self.root
        return root @ root.transpose(-1, -2)

    def shifted(self, d: Tensor) -> "Mixed":
        """The belief with its mean and members moved by d (c, 1, n)."""
        return replace(self, mean=self.mean + d, members=self.members + d)

    def widened(self, f: Tensor) -> "Mixed":
        """The belief with the deviation of every component multiplied by f (c, 1, n)."""
        mean = self.members.mean(1, keepdim=True)
        return replace(self, factor=self.factor * f.transpose(-1, -2), members=mean + (self.members - mean) * f)


@dataclass(frozen=True)
class PartlyOrthogonal(Mixed):
    """The same with members of the full noise, which count only outside the span of the directions.

    Orthogonal are components measured in their standard deviations, or units would decide.
    """

    @property
    def rest(self) -> Tensor:
        """A root (c, n, N) of the covariance the members add."""
        a = super().rest
        d = deviations(torch.cat((self.factor, a), -1))
        basis = torch.linalg.qr(self.factor / d)[0]
        return a - d * (basis @ (basis.transpose(-1, -2) @ (a / d)))


@dataclass(frozen=True)
class Particles:
    """Members (c, N, n) with the logarithms (c, N) of weights that sum to one."""

    members: Tensor
    log_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """(c, N, 1)."""
        return self.log_weights.exp().unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return (self.weights * self.members).sum(1, keepdim=True)

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        a = self.members - self.mean
        return (self.weights * a).transpose(-1, -2) @ a

    def shifted(self, d: Tensor) -> "Particles":
        """The belief with every member moved by d (c, 1, n)."""
        return replace(self, members=self.members + d)

    def widened(self, f: Tensor) -> "Particles":
        """The belief with every anomaly multiplied by f (c, 1, n)."""
        mean = self.mean
        return replace(self, members=mean + (self.members - mean) * f)


@dataclass(frozen=True)
class Point:
    """A mean (c, 1, n) of a filter that knows nothing of its error: the covariance is NaN, so that nobody takes it for
    certainty."""

    mean: Tensor

    @property
    def cov(self) -> Tensor:
        """(c, n, n), NaN."""
        return torch.full_like(self.mean.transpose(-1, -2) * self.mean, torch.nan)

    def shifted(self, d: Tensor) -> "Point":
        """The belief with its mean moved by d (c, 1, n)."""
        return Point(self.mean + d)


@dataclass(frozen=True)
class GaussianSum:
    """Means (c, N, n) and covariances (c, N, n, n) of Gaussians, with the logarithms (c, N) of weights that sum to
    one."""

    means: Tensor
    covs: Tensor
    log_weights: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return (self.log_weights.exp().unsqueeze(-1) * self.means).sum(1, keepdim=True)

    @property
    def cov(self) -> Tensor:
        """(c, n, n), the spread of the means included."""
        a = self.means - self.mean
        spread = a.unsqueeze(-1) * a.unsqueeze(-2)
        return (self.log_weights.exp()[..., None, None] * (self.covs + spread)).sum(1)

    def shifted(self, d: Tensor) -> "GaussianSum":
        """The belief with every mean moved by d (c, 1, n)."""
        return replace(self, means=self.means + d)


@dataclass(frozen=True)
class Guided:
    """States with an output error (c, 1, n + k), and what a network that corrects them remembers: its own memory
    (c, 1, h) twice, the last innovation of the model alone and the observation it belongs to (c, q), and the rain of
    the last hours (c, 1, 3)."""

    guided: Tensor
    hidden: Tensor
    cell: Tensor
    innovation: Tensor
    observation: Tensor
    rain: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n + k)."""
        return self.guided

    @property
    def cov(self) -> Tensor:
        """(c, n + k, n + k), NaN."""
        return torch.full_like(self.mean.mT * self.mean, torch.nan)

    def shifted(self, d: Tensor) -> "Guided":
        """The belief with its mean moved by d (c, 1, n + k)."""
        return replace(self, guided=self.guided + d)


Belief = Any  # one of the classes here and in `nested`; filters agree on its attributes, not on a common ancestor


def named(belief: Belief) -> dict[str, Tensor]:
    """Every tensor of a belief by its path, such as `mean` or `state.members`."""
    found: dict[str, Tensor] = {}
    for field in fields(belief):
        value = getattr(belief, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": tensor for name, tensor in named(value).items()}
        else:
            found[field.name] = value
    return found


def mapped(function: Callable[..., Tensor], *beliefs: Belief) -> Belief:
    """The belief whose every tensor is `function` of the same tensors of some beliefs of one kind."""
    first = beliefs[0]
    parts = {}
    for field in fields(first):
        values = [getattr(belief, field.name) for belief in beliefs]
        parts[field.name] = mapped(function, *values) if is_dataclass(values[0]) else function(*values)
    return type(first)(**parts)


def chosen(condition: Tensor, first: Belief, second: Belief) -> Belief:
    """`first` where `condition` (c,) is true, `second` elsewhere."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition.reshape(-1, *(1,) * (a.dim() - 1)), a, b)

    return mapped(choose, first, second)


def joined(beliefs: Sequence[Belief]) -> Belief:
    """The catchments of all beliefs, one after the other."""
    return mapped(lambda *tensors: torch.cat(tensors), *beliefs)
