"""Kalman and extended Kalman filter: covariances carried by derivatives."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, jacobian, joseph, product, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, gaussian, kalman_gain

LINEAR = 1e-9  # departure from the tangent, relative to its terms, that rounding alone may cause


def extended(system: System) -> Filter:
    """Extended Kalman filter (Drécourt 2003, §4.1), the derivative of the model taken where its step began."""
    return assemble(system, _recipe(system))


def kalman(system: System) -> Filter:
    """Kalman filter (Kalman 1960; Drécourt 2003, eqs 3.7–3.12) of a linear system.

    Its matrices are the derivatives of the system, so it needs no other description of it. Raises ValueError in the
    first hour that shows the system is not linear.
    """
    recipe = _recipe(system)

    def proven(function: Callable[[Tensor], Tensor], x: Tensor, value: Tensor) -> None:
        origin = torch.zeros_like(x)
        start = function(origin)
        slope = transposed(jacobian(function, origin, start.shape[-1]))
        if ((start + x @ slope - value).abs() > LINEAR * (start.abs() + x.abs() @ slope.abs())).any():
            raise ValueError("linear.kalman needs a linear system, this one is not; take linear.extended or sigma.ukf")

    def forecast(belief: Belief, hour: Hour) -> Belief:
        moved = recipe.forecast(belief, hour)
        proven(lambda x: system.move(x, hour.forcing), belief.mean, moved.mean)
        return moved

    def observe(belief: Belief) -> Predicted:
        seen = recipe.observe(belief)
        proven(system.see, belief.mean, seen.mean.unsqueeze(1))
        return seen

    return assemble(system, Recipe(recipe.init, forecast, observe, recipe.gain, recipe.correct))


def iterated(system: System, *, iterations: int = 3) -> Filter:
    """Iterated extended Kalman filter (Jazwinski 1970, §8.3): Gauss–Newton on the cost of the analysis.

    x ← x^f + K_j (y − h(x_j) − H_j (x^f − x_j)), H_j and K_j at x_j; the first iteration is the extended filter, whose
    gain is that of the `Update`. Raises ValueError for less than one iteration.
    """
    if iterations < 1:
        raise ValueError(f"linear.iterated: {iterations} iterations, at least 1 is needed")

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        x, gain, cross, s = belief.mean + update.shift, update.gain, predicted.cross, update.innovation_cov
        for _ in range(iterations - 1):
            seen = system.see(x)[:, 0]
            h = torch.where(update.seen.unsqueeze(-1), jacobian(system.see, x, seen.shape[-1]), 0.0)
            cross = belief.cov @ transposed(h)
            s = symmetric(h @ cross) + r
            gain = divided(cross, s)
            left = torch.where(update.seen, update.innovation + update.predicted.mean - seen, 0.0)
            x = belief.mean + product(left.unsqueeze(-2) - product(belief.mean - x, h), gain)
        return Gaussian(x, joseph(belief.cov, gain, cross, s))

    return assemble(system, replace(_recipe(system), correct=correct))


def _recipe(system: System) -> Recipe:
    def forecast(belief: Belief, hour: Hour) -> Gaussian:
        mean = system.move(belief.mean, hour.forcing)
        # F at the previous analysis
        slope = jacobian(lambda x: system.move(x, hour.forcing), belief.mean, mean.shape[-1])
        error = system.model_error(mean)
        return Gaussian(mean, symmetric(slope @ belief.cov @ transposed(slope)) + error @ transposed(error))

    def observe(belief: Belief) -> Predicted:
        mean = system.see(belief.mean)[:, 0]
        h = jacobian(system.see, belief.mean, mean.shape[-1])
        cross = belief.cov @ transposed(h)
        return Predicted(mean, cross, symmetric(h @ cross))

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        cov = joseph(belief.cov, update.gain, predicted.cross, update.innovation_cov)
        return Gaussian(belief.mean + update.shift, cov)

    return Recipe(gaussian, forecast, observe, kalman_gain, correct)
