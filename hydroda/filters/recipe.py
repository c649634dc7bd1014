"""Three nouns and four verbs: what every filter is made of, and the one place where observations may be missing.

A `System` is what a filter is told about the world, a belief (see `beliefs`) what it knows, an `Hour` what arrives. A
`Recipe` says how to *forecast*, *observe*, *gain* and *correct*; `assemble` makes the filter of it. Axes are
(catchment, point, component); matrices (catchment, n, n).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, log_density, product, transposed
from hydroda.filters.beliefs import Belief, Gaussian, chosen
from hydroda.filters.networks import Trained
from hydroda.filters.noise import Noise


@dataclass(frozen=True)
class System:
    """The world as a filter sees it: pure functions, parameters bound inside.

    `move(points, forcing)` (c, k, n) → (c, k, n) over one hour, `see(points)` → (c, k, q); `model_error(mean)` gives a
    root (c, n, j) of the covariance that an hour adds for a state (c, 1, n), `observation_error(observation)` the
    covariance R (c, q, q) of an observation (c, q), since gauge errors grow with flow. `stores` (n,) marks components
    that cannot be negative, `unknowns` are parameters a filter may estimate, `networks` were trained for these
    catchments. `beside(points)` → (c, k, s) is what each of s networks beside a filter sees of the same points.
    """

    move: Callable[[Tensor, Tensor], Tensor]
    see: Callable[[Tensor], Tensor]
    model_error: Callable[[Tensor], Tensor]
    observation_error: Callable[[Tensor], Tensor]
    stores: Tensor | None = None
    unknowns: "Unknowns | None" = None
    networks: Trained | None = None
    beside: Callable[[Tensor], Tensor] | None = None

    def with_errors(self, model: Tensor, gauge: Tensor) -> "System":
        """The same with the error of every state multiplied by `model` (c, n or 1), of every gauge by `gauge` (c, q or
        1)."""
        variance = gauge.unsqueeze(-1) * gauge.unsqueeze(-2)
        return replace(
            self,
            model_error=lambda mean: self.model_error(mean) * model.unsqueeze(-1),
            observation_error=lambda y: self.observation_error(y) * variance,
        )


@dataclass(frozen=True)
class Unknowns:
    """The parameters bound in a system, for filters that estimate some: names, values (c, 1, k), bounds (k,), and the
    same functions with parameters (c, 1 or point, k) as their last argument."""

    names: tuple[str, ...]
    values: Tensor
    lower: Tensor
    upper: Tensor
    move: Callable[[Tensor, Tensor, Tensor], Tensor]
    see: Callable[[Tensor, Tensor], Tensor]


class Hour(NamedTuple):
    """What arrives in one time step.

    Forcing (c, 1, m), observation (c, q) with NaN where missing, the random numbers of the hour, and how much the
    observation is doubted (c, q): a factor on its error variance, one where nothing speaks against it.
    """

    forcing: Tensor
    observation: Tensor
    noise: Noise
    doubt: Tensor | None = None


class Predicted(NamedTuple):
    """What a belief expects to be observed.

    Mean (c, q), cov(x, y) (c, n, q), cov(y) (c, q, q) without the observation error, a root (c, q, k) of it if the
    belief has one, and the derivative H (c, q, n) of what is seen if the filter takes it.
    """

    mean: Tensor
    cross: Tensor
    cov: Tensor
    root: Tensor | None = None
    slope: Tensor | None = None

    @classmethod
    def of_members(cls, members: Tensor, seen: Tensor) -> "Predicted":
        """What members (c, N, n) expect that would see (c, N, q), divisor N − 1."""
        scale = 1.0 / math.sqrt(members.shape[1] - 1)
        a = (members - members.mean(1, keepdim=True)) * scale
        mean = seen.mean(1, keepdim=True)
        y = (seen - mean) * scale
        return cls(mean[:, 0], transposed(a) @ y, transposed(y) @ y, transposed(y))

    @classmethod
    def of_root(cls, mean: Tensor, a: Tensor, y: Tensor) -> "Predicted":
        """What is expected from a root A (c, n, k) of the covariance whose columns are seen as Y (c, q, k)."""
        return cls(mean, product(a, y), product(y, y), y)


class Update(NamedTuple):
    """What an observation did: to be looked at, and dropped.

    Innovation d (c, q), zero where nothing was observed; the covariance S = cov(y) + R (c, q, q) it should have; gain
    (c, n, q); what was seen (c, q); the prediction it is the correction of; R; and the log-likelihood of what was seen
    (c,) where it is not that of d and S.
    """

    innovation: Tensor
    innovation_cov: Tensor
    gain: Tensor
    seen: Tensor
    predicted: Predicted
    observation_cov: Tensor
    own_likelihood: Tensor | None = None

    @property
    def log_likelihood(self) -> Tensor:
        """Of what was seen (c,); computed when asked for, which hourly runs never do."""
        if self.own_likelihood is not None:
            return self.own_likelihood
        return likelihood(self.innovation, self.innovation_cov, self.seen)

    @property
    def shift(self) -> Tensor:
        """K d (c, 1, n), what the observation adds to the mean."""
        return product(self.innovation.unsqueeze(-2), self.gain)

    @property
    def nis(self) -> Tensor:
        """Normalised innovation squared dᵀ S⁻¹ d (c,), of mean q in a consistent filter; NaN when nothing was seen."""
        d = self.innovation.unsqueeze(-2)
        square = (divided(d, self.innovation_cov) * d).sum((-2, -1))
        return torch.where(self.seen.any(-1), square, torch.nan)


@dataclass(frozen=True)
class Recipe:
    """The four verbs, and how a belief begins.

    init(mean (c, 1, n), cov (c, n, n), noise) → belief
    forecast(belief, hour) → belief
    observe(belief) → Predicted
    attend(belief, predicted, innovation, seen, hour) → belief, if it learns: what an innovation does to its memory,
    from which the gain is then read
    gain(belief, predicted, innovation, R) → K (c, n, q)
    correct(belief, predicted, update, R, hour) → belief

    R is the error the gain reckons with, as a transform of members must; `update.observation_cov` is that of the
    observation, which a gain of any other size lets in. They differ where a modifier says so only.
    """

    init: Callable[[Tensor, Tensor, Noise], Belief]
    forecast: Callable[[Belief, Hour], Belief]
    observe: Callable[[Belief], Predicted]
    gain: Callable[[Belief, Predicted, Tensor, Tensor], Tensor]
    correct: Callable[[Belief, Predicted, Update, Tensor, Hour], Belief]
    attend: Callable[[Belief, Predicted, Tensor, Tensor, Hour], Belief] | None = None


@dataclass(frozen=True)
class Filter:
    """`step(belief, hour)` → (belief, update) carries the belief over one hour; its first half can be had alone.

    `system` is the world whose state the belief is of, which is larger than the one the filter was asked for where
    noise or biases are estimated with the state. `recipe` is what a modifier changes; None where there are no verbs.
    `alone` is the filter itself where networks run beside it, its belief being the `state` of that of both.
    """

    system: System
    init: Callable[[Tensor, Tensor, Noise], Belief]
    forecast: Callable[[Belief, Hour], Belief]
    observe: Callable[[Belief], Predicted]
    step: Callable[[Belief, Hour], tuple[Belief, Update]]
    recipe: Recipe | None = None
    alone: "Filter | None" = None

    def verbs(self, modifier: str) -> Recipe:
        """The recipe, for a modifier of this name. Raises ValueError where there is none."""
        if self.recipe is None:
            raise ValueError(
                f"{modifier} needs a filter with a gain; this one weighs its members, or was changed by a modifier "
                f"that has to come after {modifier}"
            )
        return self.recipe

    def begun(self, init: Callable[[Tensor, Tensor, Noise], Belief]) -> "Filter":
        """The filter with another beginning of its beliefs."""
        recipe = None if self.recipe is None else replace(self.recipe, init=init)
        return replace(self, init=init, recipe=recipe)


Build = Callable[[System], Filter]  # what a filter is before it is told about the world; a modifier maps one to another


def kalman_gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
    """K = cov(x, y) (cov(y) + R)⁻¹."""
    return divided(predicted.cross, predicted.cov + r)


def without_missing(predicted: Predicted, r: Tensor, seen: Tensor) -> tuple[Predicted, Tensor]:
    """Prediction and R in which a component not `seen` (c, q) has no covariance with anything and unit error.

    With a zero innovation that is exactly the problem without the component, for any filter, differentiably.
    """
    if seen.all():
        return predicted, r
    pairs = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    predicted = predicted._replace(
        cross=torch.where(seen.unsqueeze(-2), predicted.cross, 0.0),
        cov=torch.where(pairs, predicted.cov, 0.0),
        root=None if predicted.root is None else torch.where(seen.unsqueeze(-1), predicted.root, 0.0),
        slope=None if predicted.slope is None else torch.where(seen.unsqueeze(-1), predicted.slope, 0.0),
    )
    return predicted, torch.where(pairs, r, torch.eye(seen.shape[-1]).to(r))


def assemble(system: System, recipe: Recipe) -> Filter:
    """The filter of a recipe. A catchment of which nothing is observed keeps its forecast, bit for bit."""

    def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
        prior = recipe.forecast(belief, hour)
        expected = recipe.observe(prior)
        predicted, r, innovation, seen = weighed(system, expected, hour)
        s = predicted.cov + r
        told = recipe.attend(prior, predicted, innovation, seen, hour) if recipe.attend else prior
        gain = torch.where(seen.unsqueeze(-2), recipe.gain(told, predicted, innovation, r), 0.0)
        update = Update(innovation, s, gain, seen, expected, r)
        posterior = recipe.correct(told, predicted, update, r, hour)
        some = seen.any(-1)
        return posterior if some.all() else chosen(some, posterior, prior), update

    return Filter(system, recipe.init, recipe.forecast, recipe.observe, step, recipe)


def weighed(system: System, expected: Predicted, hour: Hour) -> tuple[Predicted, Tensor, Tensor, Tensor]:
    """What is `expected` beside what was observed: the prediction and R (c, q, q) without what is missing, the
    innovation (c, q), zero where nothing was observed, and what was seen (c, q)."""
    seen = torch.isfinite(hour.observation)
    observation = torch.where(seen, hour.observation, expected.mean)  # a missing one is what was expected
    r = system.observation_error(observation)
    if hour.doubt is not None:
        scale = hour.doubt.sqrt()
        r = r * (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    return *without_missing(expected, r, seen), observation - expected.mean, seen


def likelihood(innovation: Tensor, s: Tensor, seen: Tensor) -> Tensor:
    """The log-density (c,) of an innovation d (c, q) of covariance S (c, q, q), of what was `seen` (c, q) only."""
    return log_density(innovation.unsqueeze(-2), s, seen.sum(-1))[:, 0]


def columns(function: Callable[[Tensor], Tensor], mean: Tensor, a: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """f(x) (c, 1, k), and what f makes of the columns of A (c, n, r): [f(x + ε a) − f(x)] / ε, (c, k, r)."""
    points = function(torch.cat((mean, mean + step * transposed(a)), 1))
    return points[:, :1], transposed(points[:, 1:] - points[:, :1]) / step


def by_columns(system: System, step: float = 1.0) -> Callable[[Belief], Predicted]:
    """How a belief with a root (c, n, k) of its covariance observes: column by column, at differences of a length."""

    def observe(belief: Belief) -> Predicted:
        root = belief.root
        mean, seen = columns(system.see, belief.mean, root, step)
        return Predicted.of_root(mean[:, 0], root, seen)

    return observe


def by_members(system: System) -> Callable[[Belief], Predicted]:
    """How an ensemble observes."""
    return lambda belief: Predicted.of_members(belief.members, system.see(belief.members))


def gaussian(mean: Tensor, cov: Tensor, noise: Noise) -> Gaussian:
    """How a belief that carries its covariance begins."""
    return Gaussian(mean, cov)
