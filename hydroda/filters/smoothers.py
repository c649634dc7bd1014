"""Smoothers: what later observations say of earlier hours. Backwards after a filter, or forwards within one.

`smooth` and `rts` go back over a record with the gain that leads from an hour to the one before it. `lagged` turns any
filter into one that corrects its last hours with its newest. Axes as everywhere: (catchment, point, component).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import jacobian, joseph, product, root, symmetric, transposed
from hydroda.filters.beliefs import Belief, Ensemble, Gaussian, Particles
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, System

Cross = Callable[[System, Belief, Hour], Tensor]  # cov(x_k, x_{k+1}) (c, n, n) of an analysis and its forecast
CERTAIN = 100.0  # roundings of a correlation matrix, per component, below which a direction has no variance


def smooth(made: Filter, start: Belief, hours: Sequence[Hour], cross: Cross, lag: int | None = None) -> list[Gaussian]:
    """What is known of the start and of the end of every hour once all hours, or `lag` more, have been observed.

    The filter `made` goes forward from `start` and `rts` back, so T hours give T + 1 beliefs; `cross` says how an hour
    relates to the next, as that filter sees it: `smooth(kalman(system), start, hours, tangent)`.
    """
    beliefs = [start]
    for hour in hours:
        beliefs.append(made.step(beliefs[-1], hour)[0])
    return rts(made, beliefs, hours, cross, lag)


def rts(
    made: Filter, beliefs: Sequence[Belief], hours: Sequence[Hour], cross: Cross, lag: int | None = None
) -> list[Gaussian]:
    """Rauch–Tung–Striebel smoother (Rauch et al. 1965; Särkkä 2013, §8.2) after a filter that carries a covariance.

        G = cov(x_k, x_{k+1}) (P_{k+1}^f)⁻¹
        x_k^s = x_k^a + G (x_{k+1}^s − x_{k+1}^f)
        P_k^s = P_k^a + G (P_{k+1}^s − P_{k+1}^f) Gᵀ

    `beliefs` are the T + 1 analyses of T `hours`, the start first; all of them come back, mean (c, 1, n) and covariance
    (c, n, n), the last as it was. With `lag` the belief of an hour knows the observations of that many hours after it
    and no more, in `lag` passes over the record. A gap needs nothing said: there the analysis is the forecast. With
    `tangent` this is the smoother of `linear.kalman` and `linear.extended`, with `unscented` that of `sigma`. The
    forecasts are made again, so they must be no draws; for members take `lagged`. Raises ValueError for a negative lag
    and where beliefs and hours do not fit.
    """
    if len(beliefs) != len(hours) + 1:
        raise ValueError(f"smoothers.rts: {len(hours)} hours and {len(beliefs)} beliefs, there must be one more")
    if lag is not None and lag < 0:
        raise ValueError(f"smoothers.rts: the lag is {lag} hours, it must be zero or more")
    backs = [_back(made, belief, hour, cross) for belief, hour in zip(beliefs[:-1], hours, strict=True)]
    smoothed = [Gaussian(belief.mean, belief.cov) for belief in beliefs]
    if lag is None:
        for k in reversed(range(len(hours))):
            smoothed[k] = backs[k](smoothed[k + 1])
        return smoothed
    for _ in range(min(lag, len(hours))):  # every pass tells every hour of one observation more
        smoothed = [*(back(later) for back, later in zip(backs, smoothed[1:], strict=True)), smoothed[-1]]
    return smoothed


def tangent(system: System, belief: Belief, hour: Hour) -> Tensor:
    """cov(x_k, x_{k+1}) = P^a Fᵀ (c, n, n), F = ∂M/∂x at the analysis, where the step began (Särkkä 2013, §9.1)."""
    f = jacobian(lambda x: system.move(x, hour.forcing), belief.mean, belief.mean.shape[-1])
    return belief.cov @ transposed(f)


def unscented(system: System, belief: Belief, hour: Hour, *, alpha: float = 1.0, kappa: float = 0.0) -> Tensor:
    """cov(X_k, M(X_k)) (c, n, n) of the sigma points of the analysis (Särkkä 2013, §9.3); α and κ of the filter.

    The centre deviates from nothing, so its weight, and with it β, has no part in this.
    """
    n = belief.mean.shape[-1]
    scaled = alpha**2 * (n + kappa)
    spread = math.sqrt(scaled) * root(belief.cov)
    moved = system.move(
        torch.cat((belief.mean + transposed(spread), belief.mean - transposed(spread)), 1), hour.forcing
    )
    return (0.5 / scaled) * (spread @ (moved[:, :n] - moved[:, n:]))


def lagged(build: Build, lag: int) -> Build:
    """The fixed-lag smoother of a filter: the same filter on the state of this hour and of the `lag` hours before it.

    The state (x_k, x_{k−1}, …, x_{k−lag}), n (lag + 1) components, moves by its newest part, which alone gets model
    error and alone is seen; the others shift (Anderson & Moore 1979, §7.3). At the start all parts are the same.
    `at_lag` takes one out. For a linear system the Kalman filter so extended is `rts`; the members of an ensemble
    filter are those of the ensemble Kalman smoother (Evensen & van Leeuwen 2000), which applies the weights of an
    analysis to stored ensembles, as its newest part is the filter itself; particles keep their ancestors (Kitagawa
    1996). An unscented filter draws other points in the larger space, so there it is another approximation. What a
    filter is told per component (tapers, rank) is meant for the larger state. Raises ValueError for a negative lag.
    """
    if lag < 0:
        raise ValueError(f"smoothers.lagged: the lag is {lag} hours, it must be zero or more")
    parts = lag + 1

    def built(system: System) -> Filter:
        alone, whole = build(system), build(_delayed(system, parts))

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Belief:
            first = alone.init(mean, cov, noise)
            if isinstance(first, Ensemble | Particles):
                # drawn from the larger covariance, which is singular, the parts would differ by roots of roundings
                return replace(first, members=first.members.repeat(1, 1, parts))
            return whole.init(mean.repeat(1, 1, parts), cov.repeat(1, parts, parts), noise)

        return replace(whole, init=init, recipe=whole.recipe and replace(whole.recipe, init=init))

    return built


def at_lag(belief: Belief, lag: int, n: int) -> Belief:
    """What a belief of a `lagged` filter says of the state, of `n` components, `lag` hours ago.

    Members where the belief has nothing else, mean (c, 1, n) and covariance (c, n, n) otherwise. Raises ValueError for
    a lag the belief does not reach.
    """
    reach = belief.mean.shape[-1] // n - 1
    if not 0 <= lag <= reach:
        raise ValueError(f"smoothers.at_lag: the lag is {lag} hours, the belief holds 0 to {reach}")
    part = slice(lag * n, (lag + 1) * n)
    if isinstance(belief, Ensemble | Particles):
        return replace(belief, members=belief.members[..., part])
    return Gaussian(belief.mean[..., part], belief.cov[:, part, part])


def _back(made: Filter, belief: Belief, hour: Hour, cross: Cross) -> Callable[[Gaussian], Gaussian]:
    """The step from the smoothed belief of the end of an hour to that of its beginning."""
    prior, c = made.forecast(belief, hour), cross(made.system, belief, hour)
    gain = _divided(c, prior.cov)
    # what of x_k the next hour leaves open; in this form an error of the gain counts only by its square
    left = joseph(belief.cov, gain, c, prior.cov)

    def back(later: Gaussian) -> Gaussian:
        mean = belief.mean + product(later.mean - prior.mean, gain)
        return Gaussian(mean, symmetric(left + gain @ later.cov @ transposed(gain)))

    return back


def _divided(c: Tensor, p: Tensor) -> Tensor:
    """C P⁺ for C (c, n, m) and a covariance P (c, m, m) that may be singular, as that of a store certainly empty is.

    Components are measured in their standard deviations, or units would decide which direction has no variance. A
    catchment that is not finite gets NaN and disturbs no other.
    """
    variance = torch.diagonal(p, dim1=-2, dim2=-1)
    d = torch.where(variance > 0.0, variance, 1.0).sqrt().unsqueeze(-2)
    finite = torch.isfinite(p).all(-1).all(-1)[:, None, None]
    correlation = torch.where(finite, p / (d * transposed(d)), torch.eye(p.shape[-1]).to(p))
    small = CERTAIN * p.shape[-1] * torch.finfo(p.dtype).eps
    inverse = torch.linalg.pinv(correlation, rtol=small, hermitian=True)
    return torch.where(finite, (c / d) @ inverse / d, torch.nan)


def _delayed(system: System, parts: int) -> System:
    """The world of the states of `parts` hours (c, k, n · parts), the newest first."""

    def newest(points: Tensor) -> Tensor:
        return points[..., : points.shape[-1] // parts]

    def move(points: Tensor, forcing: Tensor) -> Tensor:
        x = newest(points)
        return torch.cat((system.move(x, forcing), points[..., : points.shape[-1] - x.shape[-1]]), -1)

    def model_error(mean: Tensor) -> Tensor:
        error = system.model_error(newest(mean))
        return torch.nn.functional.pad(error, (0, 0, 0, mean.shape[-1] - error.shape[-2]))

    return System(move, lambda points: system.see(newest(points)), model_error, system.observation_error)
