"""Analyses as minima: variational with a static background covariance, its linear case, and its limit without one."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, jacobian, symmetric, transposed
from hydroda.filters.beliefs import Belief
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble, gaussian, kalman_gain

EXACT = 1e-12  # error variance of a bound, as a share of the component's: two bounds on one store stay solvable
EPSILON = torch.finfo(torch.float64).eps


def three_d_var(system: System, *, iterations: int = 4, bounded: bool | Sequence[bool] = True) -> Filter:
    """3D-Var (Drécourt 2003, eqs 3.16–3.17): the model moves the mean, the covariance B is what the belief began with.

    The analysis minimises J(x) = ½ (x − xᵇ)ᵀ B⁻¹ (x − xᵇ) + ½ (y − h(x))ᵀ R⁻¹ (y − h(x)) by Gauss-Newton, from xᵇ:

        x ← xᵇ + B Hᵀ (H B Hᵀ + R)⁻¹ [y − h(x) + H (x − xᵇ)],  H = ∂h/∂x at x

    The first iteration is the analysis of the extended Kalman filter with P = B, exact for a linear h. There is no line
    search: J may not fall where h bends much within the spread of B. `bounded` keeps components from falling below
    zero, as each iteration's minimum under that condition: the stores of the system, all where it does not say which,
    or those named.

    Only what B relates to the gauges is corrected: with a diagonal B, the stores h depends on and no others. B is
    static: an observation does not shrink it nor an hour widen it, so `cov` of the belief is the error before an
    observation, never after, and intervals do not grow with the lead. The system's model error is not used.
    `Update.gain` and `shift` are those of the first iteration without bounds, which alone all filters share; what the
    observation did in the end is the difference of the means. Raises ValueError for fewer than one iteration, and in
    the first analysis for a `bounded` of another length than the state.
    """
    if iterations < 1:
        raise ValueError(f"variational.three_d_var: {iterations} iterations, there must be one or more")

    def forecast(belief: Belief, hour: Hour) -> Belief:
        return replace(belief, mean=system.move(belief.mean, hour.forcing))

    def seen_from(x: Tensor) -> tuple[Tensor, Tensor]:
        """h(x) (c, q) and its slope (c, q, n) at x (c, 1, n)."""
        mean = system.see(x)[:, 0]
        return mean, jacobian(system.see, x, mean.shape[-1])

    def observe(belief: Belief) -> Predicted:
        mean, h = seen_from(belief.mean)
        cross = belief.cov @ transposed(h)
        return Predicted(mean, cross, symmetric(h @ cross))

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        observation = update.innovation + predicted.mean
        cross, s, d = predicted.cross, update.innovation_cov, update.innovation
        kept = system.stores if bounded is True and system.stores is not None else bounded
        x = _minimum(belief, cross, s, d, kept)
        for _ in range(iterations - 1):
            value, h = seen_from(x)
            h = torch.where(update.seen.unsqueeze(-1), h, 0.0)  # as `without_missing` does for the first
            cross = belief.cov @ transposed(h)
            s = symmetric(h @ cross) + r
            d = observation - value + ((x - belief.mean) @ transposed(h))[:, 0]
            x = _minimum(belief, cross, s, d, kept)
        return replace(belief, mean=x)

    return assemble(system, Recipe(gaussian, forecast, observe, kalman_gain, correct))


def _minimum(belief: Belief, cross: Tensor, s: Tensor, d: Tensor, bounded: bool | Sequence[bool] | Tensor) -> Tensor:
    """The minimum (c, 1, n) of a J whose h is linear, with components `bounded` at zero or above.

    `cross` (c, n, q) is B Hᵀ, `s` (c, q, q) is H B Hᵀ + R, `d` (c, q) the innovation. A bound that acts is a perfect
    observation of zero (a set of them is tried, as in Hintermüller et al. 2002): a component that would be negative
    gets one, and one that pulls down, not up, is taken away. Where that goes on after n passes bounds are only added,
    so that 2n + 1 end it with no component negative. The pull is the multiplier of the bound, the observation's weight
    in the analysis, so that nothing is divided by B, which may be singular.
    """
    b, mean = belief.cov, belief.mean[:, 0]
    unbounded = belief.mean + divided(d.unsqueeze(-2), s) @ transposed(cross)
    q, n = d.shape[-1], mean.shape[-1]
    if not isinstance(bounded, bool) and len(bounded) != n:
        raise ValueError(f"variational.three_d_var: bounded names {len(bounded)} components, there are {n}")
    allowed = torch.as_tensor(bounded).expand(n)
    variance = torch.diagonal(b, dim1=-2, dim2=-1)
    movable = allowed & (variance > 0.0)  # no observation moves what is certain
    if not ((unbounded[:, 0] < 0.0) & allowed).any():
        return unbounded
    columns = torch.cat((cross, b), -1)
    rows = torch.cat((transposed(cross), b + torch.diag_embed(EXACT * variance)), -2)
    full = torch.cat((torch.cat((s, cross), -2), rows), -1)
    departure = torch.cat((d, -mean), -1)
    x, active = unbounded[:, 0], torch.zeros_like(movable)
    wrong = (x < 0.0) & movable
    for attempt in range(2 * n + 1):
        active = active ^ wrong
        used = torch.cat((torch.ones_like(d, dtype=torch.bool), active), -1)
        matrix = torch.where(used.unsqueeze(-1) & used.unsqueeze(-2), full, torch.eye(q + n).to(full))
        weights = divided(torch.where(used, departure, 0.0).unsqueeze(-2), matrix)
        x = (belief.mean + weights @ transposed(columns))[:, 0]
        down = weights[:, 0, q:] < 0.0 if attempt < n else torch.zeros_like(active)
        wrong = torch.where(active, down, (x < 0.0) & movable)
        if not wrong.any():
            break
    return torch.where(active, 0.0, torch.where(allowed, x.clamp(min=0.0), x)).unsqueeze(1)


def minimum_variance(mean: Tensor, cov: Tensor, h: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The linear analysis in information form (Lorenc 1986): mean (c, 1, n) and covariance (c, n, n).

    Pᵃ = (P⁻¹ + Hᵀ R⁻¹ H)⁻¹ and xᵃ = x + Pᵃ Hᵀ R⁻¹ (y − H x), for a mean (c, 1, n) and covariance (c, n, n) known
    before, H (c, q, n), y (c, q) without gaps, R (c, q, q). Raises ValueError naming the catchments whose covariance is
    not positive definite; the filters, which need no inverse of it, go on there.
    """
    lower, info = torch.linalg.cholesky_ex(cov)
    _refuse(info > 0, "variational.minimum_variance: the covariance known before is not positive definite")
    weighted = divided(transposed(h), r)
    precision = torch.linalg.cholesky(torch.cholesky_inverse(lower) + symmetric(weighted @ h))
    d = y.unsqueeze(-2) - mean @ transposed(h)
    shift = torch.cholesky_solve(weighted @ transposed(d), precision)
    return mean + transposed(shift), torch.cholesky_inverse(precision)


def least_squares(h: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The state of greatest likelihood (Drécourt 2003, §2.1.4), nothing being known before: (c, 1, n), cov (c, n, n).

    x = (Hᵀ R⁻¹ H)⁻¹ Hᵀ R⁻¹ y with covariance (Hᵀ R⁻¹ H)⁻¹, the limit of `minimum_variance` for a covariance without
    bound; h (c, q, n), y (c, q) without gaps, r (c, q, q). Raises ValueError naming the catchments whose observations
    do not determine every component, H not having full column rank.
    """
    lower = torch.linalg.cholesky_ex(r)[0]
    whitened = torch.linalg.solve_triangular(lower, h, upper=False)
    length = torch.linalg.vector_norm(whitened.detach(), dim=-2, keepdim=True)
    # columns of length one: the unit of a component does not decide whether it is determined
    values = torch.linalg.svdvals(whitened.detach() / torch.where(length > 0.0, length, 1.0))
    n = h.shape[-1]
    limit = max(h.shape[-2:]) * EPSILON * values[:, :1]
    _refuse((values > limit).sum(-1) < n, f"variational.least_squares: observations do not determine all {n} states")
    q, upper = torch.linalg.qr(whitened)
    z = torch.linalg.solve_triangular(lower, y.unsqueeze(-1), upper=False)
    x = torch.linalg.solve_triangular(upper, transposed(q) @ z, upper=True)
    inverse = torch.linalg.solve_triangular(upper, torch.eye(n).to(upper).expand_as(upper), upper=True)
    return transposed(x), symmetric(inverse @ transposed(inverse))


def _refuse(bad: Tensor, reason: str) -> None:
    """Raises ValueError for the catchments where `bad` (c,) is true."""
    if bad.any():
        raise ValueError(f"{reason} (catchment {', '.join(str(i) for i in bad.nonzero()[:, 0].tolist())})")
