"""What a filter knows, and all it needs tomorrow: frozen dataclasses of tensors whose first axis is the catchment.

The type says how the covariance is represented. Saving is naming each tensor by its path, loading is the reverse; no
filter writes code for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
class WithBias:
    """A belief about the biased state a model integrates, the bias (c, 1, n) of its forecasts, and the offset (c, 1, n)
    that is taken off for output."""

    state: "Belief"
    bias: Tensor
    offset: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n), without the bias."""
        return self.state.mean - self.offset

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        return self.state.cov

    def shifted(self, d: Tensor) -> "WithBias":
        """The belief with its state moved by d (c, 1, n)."""
        return replace(self, state=self.state.shifted(d))


@dataclass(frozen=True)
class Separate:
    """A Gaussian belief that knows nothing of a constant bias b, the bias (c, 1, k) with its covariance (c, k, k), and
    V (c, n, k): what the bias has done to the state."""

    free: Gaussian
    bias: Tensor
    bias_cov: Tensor
    effect: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return self.free.mean + self.bias @ self.effect.transpose(-1, -2)

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        return self.free.cov + self.effect @ self.bias_cov @ self.effect.transpose(-1, -2)

    def shifted(self, d: Tensor) -> "Separate":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, free=self.free.shifted(d))


@dataclass(frozen=True)
class Steady:
    """A mean (c, 1, n) and covariance (c, n, n) under a gain that is no longer computed, and where it comes from.

    The belief of the filter that is run during the warm-up, hours so far in each class of flow (c, r), the mean flow of
    those (c, 1), and the means of cov(x, y) (c, r, n, q), cov(y) (c, r, q, q) and of the forecast covariance
    (c, r, n, n).
    """

    state: "Belief"
    mean: Tensor
    cov: Tensor
    hours: Tensor
    flow: Tensor
    cross: Tensor
    seen: Tensor
    forecast: Tensor

    def shifted(self, d: Tensor) -> "Steady":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, state=self.state.shifted(d), mean=self.mean + d)


@dataclass(frozen=True)
class Adaptive:
    """A belief, and factors on the error variances of gauges (c, q) and of the model (c,) that follow innovations."""

    state: "Belief"
    gauge: Tensor
    model: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return self.state.mean

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        return self.state.cov

    def shifted(self, d: Tensor) -> "Adaptive":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, state=self.state.shifted(d))


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
class Learned:
    """A belief, and what a network is told of the past: the forecast of this hour and the analysis of the hour before
    (c, 1, n), how that differed from its own forecast (`correction`) and from the analysis before it (`change`), the
    last observation (c, q), and the memory of the network (c, 1, k)."""

    state: "Belief"
    prior: Tensor
    analysed: Tensor
    correction: Tensor
    change: Tensor
    observation: Tensor
    memory: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return self.state.mean

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        return self.state.cov

    def shifted(self, d: Tensor) -> "Learned":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, state=self.state.shifted(d))

    def moved(self, state: "Belief") -> "Learned":
        """The belief an hour later, when the model has made `state` of it."""
        return replace(
            self,
            state=state,
            prior=state.mean,
            analysed=self.mean,
            correction=self.mean - self.prior,
            change=self.mean - self.analysed,
        )


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
class Committee:
    """The belief of a filter, and of s networks beside it what a `Guided` holds: states with output error (c, s, 1, ·),
    memory (c, s, 1, h) twice, innovation and observation (c, s, q), rain (c, s, 1, 3)."""

    state: "Belief"
    guided: Tensor
    hidden: Tensor
    cell: Tensor
    innovation: Tensor
    observation: Tensor
    rain: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n + s ·): of the filter, and of each network."""
        return torch.cat((self.state.mean, self.guided.flatten(1).unsqueeze(1)), -1)

    @property
    def cov(self) -> Tensor:
        """(c, n, n), of the filter."""
        return self.state.cov

    def shifted(self, d: Tensor) -> "Committee":
        """The belief with its mean moved by d (c, 1, n + s ·)."""
        n = self.state.mean.shape[-1]
        guided = self.guided + d[..., n:].reshape(self.guided.shape)
        return replace(self, state=self.state.shifted(d[..., :n]), guided=guided)


Belief = Any  # one of the classes above; filters agree on its attributes, not on a common ancestor
HOLDING = (WithBias, Separate, Steady, Adaptive, Learned, Committee)
PLAIN = (Gaussian, SquareRoot, Ensemble, Mixed, PartlyOrthogonal, Particles, Point, GaussianSum, Guided)
KINDS: Mapping[str, type] = {made.__name__: made for made in (*PLAIN, *HOLDING)}


def kind(belief: Belief) -> str:
    """The class of a belief, and after a colon that of the belief it holds: `Ensemble`, `WithBias:Gaussian`."""
    inner = [value for field in fields(belief) if is_dataclass(value := getattr(belief, field.name))]
    return ":".join([type(belief).__name__, *map(kind, inner)])


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


def built(kind: str, tensors: Mapping[str, Tensor]) -> Belief:
    """The belief of a `kind` from the tensors of `named`. Raises ValueError naming what does not fit."""
    outer, _, inner = kind.partition(":")
    if outer not in KINDS:
        raise ValueError(f"there is no belief {outer!r}; there are {', '.join(KINDS)}")
    wanted = {field.name for field in fields(KINDS[outer])}
    found = {path.partition(".")[0] for path in tensors}
    if wanted != found:
        raise ValueError(f"a {outer} holds {', '.join(sorted(wanted))}; found {', '.join(sorted(found)) or 'nothing'}")
    parts: dict[str, Any] = {path: tensor for path, tensor in tensors.items() if "." not in path}
    for name in wanted - set(parts):
        parts[name] = built(inner, {path.removeprefix(f"{name}."): t for path, t in tensors.items() if "." in path})
    return KINDS[outer](**parts)


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
