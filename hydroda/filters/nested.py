"""Beliefs that hold another one: with biases, with a gain or error levels that go on, with networks beside a filter."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hydroda.filters.beliefs import Belief, Gaussian, mapped


@dataclass(frozen=True)
class WithBias:
    """A belief about the biased state a model integrates, the bias (c, 1, n) of its forecasts, and the offset (c, 1, n)
    that is taken off for output."""

    state: Belief
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
class TwoBiases:
    """A belief about the biased state a model integrates, the bias of that state (c, 1, n) and of what gauges read
    (c, 1, q), each with a covariance: positive is too high. The second is in units of `scale` (c, 1, q), one or flow.
    """

    state: Belief
    bias: Tensor
    bias_cov: Tensor
    share: Tensor
    share_cov: Tensor
    scale: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n), without the bias."""
        return self.state.mean - self.bias

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        return self.state.cov

    @property
    def gauge(self) -> Tensor:
        """The bias (c, 1, q) of what gauges read, in the unit of observations."""
        return self.share * self.scale

    @property
    def gauge_error(self) -> Tensor:
        """Its standard deviation (c, 1, q)."""
        return self.share_cov.diagonal(dim1=-2, dim2=-1).unsqueeze(-2).sqrt() * self.scale

    def shifted(self, d: Tensor) -> "TwoBiases":
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

    state: Belief
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

    state: Belief
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
class Learned:
    """A belief, and what a network is told of the past: the forecast of this hour and the analysis of the hour before
    (c, 1, n), how that differed from its own forecast (`correction`) and from the analysis before it (`change`), the
    last observation (c, q), and the memory of the network (c, 1, k)."""

    state: Belief
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

    def moved(self, state: Belief) -> "Learned":
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
class Steered:
    """A belief whose error levels a network sets hour by hour, an output error (c, 1, k) beside it, and what the
    network remembers: its own memory (c, 1, h) twice, the last innovation of the model alone, the observation it
    belongs to and what the analysis left of it (c, q), and the rain of the last hours (c, 1, 3)."""

    state: Belief
    error: Tensor
    hidden: Tensor
    cell: Tensor
    innovation: Tensor
    observation: Tensor
    residual: Tensor
    rain: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n + k)."""
        return torch.cat((self.state.mean, self.error), -1)

    @property
    def cov(self) -> Tensor:
        """(c, n, n), of the state."""
        return self.state.cov

    def shifted(self, d: Tensor) -> "Steered":
        """The belief with its mean moved by d (c, 1, n + k)."""
        n = self.state.mean.shape[-1]
        return replace(self, state=self.state.shifted(d[..., :n]), error=self.error + d[..., n:])


@dataclass(frozen=True)
class Committee:
    """The belief of a filter, and of s networks beside it, whose tensors have an axis for these after that of the
    catchments (c, s, …)."""

    state: Belief
    networks: Belief

    @classmethod
    def of(cls, state: Belief, rows: Belief, seeds: int) -> "Committee":
        """A filter's belief with that of networks that are catchments of their own, (c·s, …)."""
        return cls(state, mapped(lambda x: x.unflatten(0, (-1, seeds)), rows))

    @property
    def rows(self) -> Belief:
        """The networks as catchments of their own."""
        return mapped(lambda x: x.flatten(0, 1), self.networks)

    @property
    def mean(self) -> Tensor:
        """(c, 1, n + s ·): of the filter, and of each network."""
        return torch.cat((self.state.mean, self.rows.mean.reshape(len(self.state.mean), 1, -1)), -1)

    @property
    def cov(self) -> Tensor:
        """(c, n, n), of the filter."""
        return self.state.cov

    def shifted(self, d: Tensor) -> "Committee":
        """The belief with its mean moved by d (c, 1, n + s ·)."""
        n, theirs = self.state.mean.shape[-1], self.rows
        moved = theirs.shifted(d[..., n:].reshape(theirs.mean.shape))
        return Committee.of(self.state.shifted(d[..., :n]), moved, len(theirs.mean) // len(d))
