"""Cheaper, wider, steadier: what changes a filter without being one. Builders in, builders out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.linalg import solve_discrete_are
from torch import Tensor

from hydroda.filters.algebra import jacobian, joseph, transposed
from hydroda.filters.beliefs import Belief, Ensemble, Gaussian, chosen
from hydroda.filters.nested import Steady
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import (
    Build,
    Filter,
    Hour,
    Predicted,
    Recipe,
    System,
    Update,
    assemble,
    gaussian,
    kalman_gain,
)

CLASSES = (0.5, 2.0)  # multiples of the mean flow that part low, usual and high flow


def inflated(build: Build, *, factor: float = 1.0, to_prior_spread: float = 0.0, to_prior: float = 0.0) -> Build:
    """A filter whose analysis spread is widened where an observation reached, at most to the spread of the forecast.

    `factor` λ multiplies anomalies (λ² the covariance); `to_prior_spread` α multiplies them by 1 + α (σ^f − σ^a) / σ^a
    (RTPS, Whitaker & Hamill 2012); `to_prior` α blends members' anomalies with those of the forecast (RTPP, Zhang et
    al. 2004), for ensembles. What the gauge hardly sees would without the limit grow by λ every hour. Raises ValueError
    for a factor below one or α outside [0, 1].
    """
    if factor < 1.0 or not 0.0 <= to_prior_spread <= 1.0 or not 0.0 <= to_prior <= 1.0:
        raise ValueError(
            f"reduce.inflated: factor {factor} must be at least 1, to_prior_spread {to_prior_spread} and to_prior "
            f"{to_prior} from 0 to 1"
        )

    def change(recipe: Recipe) -> Recipe:
        def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
            found = recipe.correct(belief, predicted, update, r, hour)
            reached = (update.gain != 0.0).any(-1).unsqueeze(-2)
            if to_prior:
                if not isinstance(found, Ensemble):
                    raise ValueError("reduce.inflated: to_prior blends members, which this filter has not")
                mean = found.mean
                blend = (1.0 - to_prior) * (found.members - mean) + to_prior * (belief.members - belief.mean)
                found = Ensemble(torch.where(reached, mean + blend, found.members))
            if factor == 1.0 and not to_prior_spread:
                return found
            before, after = (torch.diagonal(b.cov, dim1=-2, dim2=-1).unsqueeze(-2) for b in (belief, found))
            positive = (before > 0.0) & (after > 0.0)
            ratio = torch.where(positive, before, 1.0).sqrt() / torch.where(positive, after, 1.0).sqrt()
            wider = torch.minimum(factor * (1.0 + to_prior_spread * (ratio - 1.0)), ratio.clamp(min=1.0))
            return found.widened(wider)

        return replace(recipe, correct=correct)

    return _changed(build, "reduce.inflated", change)


def simplified(build: Build, move: Callable[[Tensor, Tensor], Tensor]) -> Build:
    """A filter whose mean is moved by the model and whose spread by a cheaper one, `move(points, forcing)` (c, k, n).

    (Drécourt 2003, §5.5.) A model of reduced resolution is one too: bring the points to its state and back.
    """

    def made(system: System) -> Filter:
        cheap = build(replace(system, move=move))
        recipe = cheap.verbs("reduce.simplified")

        def forecast(belief: Belief, hour: Hour) -> Belief:
            spread = cheap.forecast(belief, hour)
            return spread.shifted(system.move(belief.mean, hour.forcing) - spread.mean)

        return assemble(replace(cheap.system, move=system.move), replace(recipe, forecast=forecast))

    return made


def fixed(system: System, *, forecast_cov: Tensor, observed: Tensor) -> Filter:
    """Steady-state filter: the forecast covariance (c or 1, n, n) is given, H = `observed` (c or 1, q, n) too.

    Only the mean is moved. Where some gauges are missing, the gain of the others follows from the same covariance.
    """

    def forecast(belief: Belief, hour: Hour) -> Gaussian:
        mean = system.move(belief.mean, hour.forcing)
        return Gaussian(mean, forecast_cov.expand(mean.shape[0], -1, -1))

    def observe(belief: Belief) -> Predicted:
        cross = belief.cov @ transposed(observed)
        return Predicted(system.see(belief.mean)[:, 0], cross, observed @ cross)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Gaussian:
        cov = joseph(belief.cov, update.gain, predicted.cross, update.innovation_cov)
        return Gaussian(belief.mean + update.shift, cov)

    return assemble(system, Recipe(gaussian, forecast, observe, kalman_gain, correct))


def riccati(system: System, mean: Tensor, forcing: Tensor) -> tuple[Tensor, Tensor]:
    """The steady forecast covariance (c, n, n) and H (c, q, n) of a system linearised at mean (c, 1, n) under forcing
    (c, 1, m), by the discrete algebraic Riccati equation (Drécourt 2003, §5.6), for `fixed`.

    Raises numpy.linalg.LinAlgError where there is no steady state.
    """
    moved = system.move(mean, forcing)
    f = jacobian(lambda x: system.move(x, forcing), mean, mean.shape[-1])
    seen = system.see(moved)[:, 0]
    h = jacobian(system.see, moved, seen.shape[-1])
    error, r = system.model_error(moved), system.observation_error(seen)
    q = (error @ transposed(error)).expand(mean.shape[0], -1, -1)
    every = zip(f.numpy(), h.numpy(), q.numpy(), r.expand(mean.shape[0], -1, -1).numpy(), strict=True)
    return torch.from_numpy(np.stack([solve_discrete_are(a.T, b.T, c, d) for a, b, c, d in every])), h


def steady(build: Build, *, warm_up: int = 2160) -> Build:
    """A filter that runs for `warm_up` observed hours and then keeps the covariances it had on average.

    They are kept for low, usual and high flow (below half, above twice the mean flow), since one gain suits no fast
    store; after the warm-up an hour costs one run of the model. Raises ValueError for less than a day.
    """
    if warm_up < 24:
        raise ValueError(f"reduce.steady: warm_up is {warm_up} hours, at least 24 are needed")

    def made(system: System) -> Filter:
        inner = build(system)
        recipe, world = inner.verbs("reduce.steady"), inner.system

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Steady:
            state = inner.init(mean, cov, noise)
            return _begun(state, world.see(state.mean).shape[-1])

        def ready(belief: Steady) -> Tensor:
            return belief.hours.sum(1) >= warm_up

        def forecast(belief: Belief, hour: Hour) -> Steady:
            done = ready(belief)
            mean = world.move(belief.mean, hour.forcing)
            kept = _averaged(belief, world.see(mean)[:, 0], belief.forecast)
            if done.all():
                return replace(belief, mean=mean, cov=kept)
            state = chosen(done, belief.state, inner.forecast(belief.state, hour))
            here = done[:, None, None]
            mean, cov = torch.where(here, mean, state.mean), torch.where(here, kept, state.cov)
            return replace(belief, state=state, mean=mean, cov=cov)

        def observe(belief: Belief) -> Predicted:
            done = ready(belief)
            mean = world.see(belief.mean)[:, 0]
            cross, seen = (_averaged(belief, mean, table) for table in (belief.cross, belief.seen))
            if done.all():
                return Predicted(mean, cross, seen)
            now, here = inner.observe(belief.state), done[:, None, None]
            return Predicted(
                torch.where(done[:, None], mean, now.mean),
                torch.where(here, cross, now.cross),
                torch.where(here, seen, now.cov),
                now.root,
            )

        def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Steady:
            done = ready(belief)
            cov = joseph(belief.cov, update.gain, predicted.cross, update.innovation_cov)
            after = replace(belief, mean=belief.mean + update.shift, cov=cov)
            if done.all():
                return after
            state = recipe.correct(belief.state, predicted, update, r, hour)
            running = replace(belief, state=state, mean=state.mean, cov=state.cov)
            learned = _learned(running, belief, predicted)
            return chosen(done, after, chosen(update.seen.all(-1), learned, running))

        return assemble(world, Recipe(init, forecast, observe, recipe.gain, correct))

    return made


def _begun(state: Belief, q: int) -> Steady:
    """Empty tables beside the belief of the filter that warms up, for q gauges."""
    c, _, n = state.mean.shape
    zero = torch.zeros(c, len(CLASSES) + 1, n, n).to(state.mean)
    hours, cross = zero[..., 0, 0], zero[..., :1].expand(-1, -1, -1, q)
    return Steady(
        state, state.mean, state.cov, hours, hours[:, :1], cross, zero[..., :1, :1].expand(-1, -1, q, q), zero
    )


def _class(flow: Tensor, usual: Tensor) -> Tensor:
    """The class of flow (c, r), one in the one of flow (c, q) beside the usual one (c, 1) by the first gauge."""
    ratio = flow[:, :1] / usual.clamp(min=torch.finfo(flow.dtype).tiny)
    place = (ratio >= torch.tensor(CLASSES).to(flow)).sum(-1)
    return torch.nn.functional.one_hot(place, len(CLASSES) + 1).to(flow)


def _averaged(belief: Steady, flow: Tensor, table: Tensor) -> Tensor:
    """The entry of a table (c, r, …) for flow (c, q); a class never met takes the mean of the others."""
    own = _class(flow, belief.flow)
    met = (own * belief.hours).sum(1, keepdim=True) > 0
    weights = torch.where(met, own, belief.hours / belief.hours.sum(1, keepdim=True).clamp(min=1.0))
    return (weights[..., None, None] * table).sum(1)


def _learned(after: Steady, prior: Steady, predicted: Predicted) -> Steady:
    """The tables with one hour more, in which `prior` predicted what it did."""
    total = prior.hours.sum(1, keepdim=True)
    flow = (prior.flow * total + predicted.mean[:, :1].clamp(min=0.0)) / (total + 1.0)
    own = _class(predicted.mean, flow)
    hours = prior.hours + own
    part = (own / hours.clamp(min=1.0))[..., None, None]

    def mean(old: Tensor, new: Tensor) -> Tensor:
        return old + part * (new.unsqueeze(1) - old)

    return replace(
        after,
        hours=hours,
        flow=flow,
        cross=mean(prior.cross, predicted.cross),
        seen=mean(prior.seen, predicted.cov),
        forecast=mean(prior.forecast, prior.cov),
    )


def _changed(build: Build, name: str, change: Callable[[Recipe], Recipe]) -> Build:
    def made(system: System) -> Filter:
        inner = build(system)
        return assemble(inner.system, change(inner.verbs(name)))

    return made
